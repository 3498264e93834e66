"""HopSkipJump: along the boundary, by jumps that a vote of the points around decides (Chen et al., 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.decisions import Decisions, approach, lean, length
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

HALVINGS = 12
"""How often a jump that ends outside the goal is halved before the row stays where it is."""


@dataclass(frozen=True, kw_only=True)
class HopSkipJump:
    """Hop to the boundary, ask around which way it faces, jump that way; again from there (Chen et al., 2020).

    Algorithm 2, for every row by itself, in at most `queries` questions each: `probes sqrt(t)` points vote in round t.
    Departures: the points are at a set share of the distance, `radius` (the paper's share falls with the number of
    coordinates, to where rounding and kinks decide the vote), bisection stops at the precision that this needs, and
    earlier votes count on, `fade` as much with each round.
    """

    threat: Ball
    queries: int = 4000
    probes: int = 100
    radius: float = 0.01
    fade: float = 0.5

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        decisions = Decisions(model, x, goal, self.threat, self.queries)
        x, norm = decisions.x, self.threat.norm
        z, vote = decisions.start(rng.at("start")), torch.zeros_like(x)
        for i in decisions.rounds():
            z = approach(decisions, z, self.radius / math.sqrt(x.shape[1:].numel()))
            radius, count = self.radius * length(z - x), int(self.probes * math.sqrt(i + 1))
            vote = self.fade * vote + lean(decisions, z, radius=radius, count=count, rng=rng.at(i))
            z = self._jump(decisions, z, norm.steepest(vote), norm.size(z - x) / math.sqrt(i + 1))
        return decisions.best

    def _jump(self, decisions: Decisions, z: Tensor, way: Tensor, size: Tensor) -> Tensor:
        """As far as possible, of `size` and its halves, and still a success."""
        trying = decisions.open
        for _ in range(HALVINGS):
            trial = (z + rows(size, z) * way).clamp(self.threat.low, self.threat.high)
            reached = decisions.ask(trial, trying)
            z, size, trying = torch.where(rows(reached, z), trial, z), size / 2, trying & ~reached
        return z


@register(
    "attacks",
    "hop-skip-jump",
    needs="labels",
    norms=("linf", "l2"),
    aims="smallest perturbation",
    family="decisions",
    passes="queries + 0",
    paper="Chen et al., 2020",
)
def hop_skip_jump(threat: Ball, *, queries: int = 4000) -> HopSkipJump:
    """Follow the boundary towards the input, with nothing but decisions to go by (Chen et al., 2020)."""
    return HopSkipJump(threat=threat, queries=queries)
