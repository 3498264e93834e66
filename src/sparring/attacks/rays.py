"""RayS: which corner of the box to head for, so that the boundary is nearest (Chen and Gu, 2020). Labels alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.decisions import DRAWS, TRIES, Decisions, bisect
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model


def blocks(size: int) -> Iterator[tuple[int, int]]:
    """The coordinates to turn, first to last: none, all, halves, quarters, ..., single ones; single ones again."""
    yield 0, 0
    width = size
    while True:
        for first in range(0, size, width):
            yield first, min(first + width, size)
        width = -(-width // 2)


@dataclass(frozen=True, kw_only=True)
class RayS:
    """Turn the signs of a block of coordinates, keep that if the boundary is nearer that way (Chen and Gu, 2020).

    Algorithms 1 and 3: blocks are halved until they are single coordinates. Finds the smallest Linf change, in at most
    `queries` questions a row. Departures: where none of the first corners is a success, others are drawn at random; a
    turn must shorten the way by the share `precision`, times the share of the coordinates that it turns; and the search
    for where the boundary then is strides down from there instead of halving the whole way.
    """

    threat: Ball
    queries: int = 4000
    precision: float = 0.05

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        decisions = Decisions(model, x, goal, self.threat, self.queries)
        decisions.close(decisions.ask(decisions.x, decisions.open))
        signs, size = torch.ones_like(x.detach().flatten(1)), torch.full_like(decisions.nearest, torch.inf)
        count = max(signs.shape[1], 1)
        turns = blocks(count)
        for i in decisions.rounds():
            first, last = next(turns)
            trial = signs.clone()
            trial[:, first:last] *= -1
            if i >= DRAWS and bool(size.isinf().any()):
                corner = rng.at(i).sign(signs.shape[1], device=x.device).to(x.dtype)
                trial = torch.where(rows(size.isinf(), trial), corner, trial)
            share = max(self.precision * ((last - first) or count) / count, 1e-5)  # less would drown in rounding
            shorter = torch.where(size.isinf(), self.threat.width, (1 - share) * size)
            better = decisions.ask(self._ray(decisions.x, trial)(shorter), decisions.open)
            found = self._shorten(decisions, trial, shorter, share, better)
            size, signs = torch.where(better, found, size), torch.where(rows(better, signs), trial, signs)
            if i == TRIES:
                decisions.close(size.isinf())
        return decisions.best

    def _ray(self, x: Tensor, signs: Tensor) -> Callable[[Tensor], Tensor]:
        """The points at a distance `(B,)` from `x` towards a corner."""
        return lambda size: x + (rows(size, signs) * signs).view_as(x)

    def _shorten(self, decisions: Decisions, signs: Tensor, size: Tensor, share: float, wanted: Tensor) -> Tensor:
        ray, none = self._ray(decisions.x, signs), torch.zeros_like(size)
        return bisect(decisions, ray, low=none, high=size, wanted=wanted, tolerance=share * size, stride=2)


@register(
    "attacks",
    "rays",
    needs="labels",
    norms=("linf",),
    aims="smallest perturbation",
    family="decisions",
    passes="queries + 0",
    paper="Chen and Gu, 2020",
)
def rays(threat: Ball, *, queries: int = 4000) -> RayS:
    """The smallest Linf change, block by block of signs, from decisions alone (Chen and Gu, 2020)."""
    return RayS(threat=threat, queries=queries)
