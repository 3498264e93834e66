"""Boundary attack: a walk beside the boundary, a little nearer at every step (Brendel et al., 2018). Labels alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.decisions import Decisions, approach, length, unit
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

CHECK = 5
"""After how many steps the step sideways is judged by itself."""


def adapt(size: Tensor, reached: Tensor, asked: Tensor, share: float) -> Tensor:
    """A step that grows with success and shrinks with failure, and rests where this share of them succeeds."""
    factor = torch.where(reached, 1.1 ** (1 - share), 1.1**-share).to(size.dtype)
    return torch.where(asked, size * factor, size)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """A step sideways at random, a step inwards, and stay if the goal is lost (Brendel et al., 2018, algorithm 1).

    Both steps are shares of the distance, and adapt by themselves in each row: the one sideways to succeed every
    second time, both together every fourth. Costs at most `queries` questions a row. Departure: steps adapt a little
    with each answer, and not by the count over a window, which takes hundreds of questions to move.
    """

    threat: Ball
    queries: int = 4000
    sideways: float = 0.1
    inwards: float = 0.01

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        decisions = Decisions(model, x, goal, self.threat, self.queries)
        x = decisions.x
        z = approach(decisions, decisions.start(rng.at("start")), 0.01)
        sideways, inwards = (torch.full_like(decisions.nearest, share) for share in (self.sideways, self.inwards))
        for i in decisions.rounds():
            distance, away = length(z - x), unit(z - x)
            noise = rng.at(i).normal(*x.shape[1:], device=x.device).to(x.dtype)
            along = unit(noise - rows((noise * away).flatten(1).sum(1), x) * away)
            aside = x + rows(distance, x) * unit(away + rows(sideways, x) * along)
            if i % CHECK == 0:
                asked = decisions.open
                sideways = adapt(sideways, decisions.ask(aside, asked), asked, 1 / 2)
            trial = (x + rows(1 - inwards, x) * (aside - x)).clamp(self.threat.low, self.threat.high)
            asked = decisions.open
            reached = decisions.ask(trial, asked)
            z = torch.where(rows(reached, x), trial, z)
            inwards = adapt(inwards, reached, asked, 1 / 4).clamp(max=0.5)
        return decisions.best


@register(
    "attacks",
    "boundary",
    needs="labels",
    norms=("l2",),
    aims="smallest perturbation",
    family="decisions",
    passes="queries + 0",
    paper="Brendel et al., 2018",
)
def boundary(threat: Ball, *, queries: int = 4000) -> Boundary:
    """A random walk beside the boundary, inwards, from decisions alone (Brendel et al., 2018)."""
    return Boundary(threat=threat, queries=queries)
