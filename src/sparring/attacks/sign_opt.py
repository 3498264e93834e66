"""Sign-OPT: descend on the distance to the boundary as a function of the direction (Cheng et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.decisions import Decisions, approach, bisect, lean, length, unit
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model


@dataclass(frozen=True, kw_only=True)
class SignOPT:
    """Turn the way from `x` to the boundary to where it is shorter, by single questions (Cheng et al., 2020).

    Algorithm 1, in at most `queries` questions a row: whether a way nearby is shorter takes one question, at the
    present length; `probes` of these give the step. `first` is the step's first length, on ways of length one; it
    doubles while that helps and shrinks to a quarter where it does not. Departure: ways are tried at the present
    length less `precision` first, so that the longer ones cost one question, and not a bisection.
    """

    threat: Ball
    queries: int = 4000
    probes: int = 200
    radius: float = 0.01
    precision: float = 0.001
    first: float = 0.2

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        decisions = Decisions(model, x, goal, self.threat, self.queries)
        x = decisions.x
        z = approach(decisions, decisions.start(rng.at("start")), self.precision)
        way, size, step = unit(z - x), length(z - x), torch.full_like(decisions.nearest, self.first)
        for i in decisions.rounds():
            z = x + rows(size, x) * way
            move = unit(lean(decisions, z, radius=self.radius * size, count=self.probes, rng=rng.at(i)))
            way, size, step = self._turn(decisions, way, size, step, move)
        return decisions.best

    def _turn(
        self, decisions: Decisions, way: Tensor, size: Tensor, step: Tensor, move: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The way turned towards `move` as far as it gets shorter, its length, and the step to begin with next."""
        before, trying, gained, none = way, decisions.open, torch.zeros_like(decisions.open), torch.zeros_like(size)
        for _ in range(10):
            trial = unit(before + rows(step, way) * move)
            ray = self._ray(decisions.x, trial)
            shorter = (1 - self.precision) * size
            better = decisions.ask(ray(shorter), trying)
            found = bisect(
                decisions, ray, low=none, high=shorter, wanted=better, tolerance=self.precision * size, stride=4
            )
            way, size = torch.where(rows(better, way), trial, way), torch.where(better, found, size)
            factor = torch.where(better, 2.0, torch.where(gained, 0.5, 0.25)).to(step.dtype)
            step = torch.where(trying, factor * step, step)
            trying = trying & (better | ~gained)
            gained = gained | better
        return way, size, torch.where(gained, step, self.first)

    def _ray(self, x: Tensor, way: Tensor) -> Callable[[Tensor], Tensor]:
        """The points of a way from `x`, by their distance `(B,)`."""
        return lambda size: x + rows(size, x) * way


@register(
    "attacks",
    "sign-opt",
    needs="labels",
    norms=("l2",),
    aims="smallest perturbation",
    family="decisions",
    passes="queries + 0",
    paper="Cheng et al., 2020",
)
def sign_opt(threat: Ball, *, queries: int = 4000) -> SignOPT:
    """The shortest way to the boundary, turned by the signs of single questions (Cheng et al., 2020)."""
    return SignOPT(threat=threat, queries=queries)
