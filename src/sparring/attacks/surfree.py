"""SurFree: turn in random planes as far as the goal holds, without estimating a gradient (Maho et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.decisions import Decisions, approach, bisect, length, smooth, unit
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model


def circle(x: Tensor, z: Tensor, across: Tensor) -> Callable[[Tensor], Tensor]:
    """Where `x` and `z` are opposite, turned by an angle `(B,)` from `z` towards `across`: nearer the larger it is."""
    distance, away = length(z - x), unit(z - x)

    def turned(angle: Tensor) -> Tensor:
        cos, sin = rows(angle.cos(), x), rows(angle.sin(), x)
        return x + rows(distance, x) * cos * (cos * away + sin * across)

    return turned


@dataclass(frozen=True, kw_only=True)
class SurFree:
    """Draw a plane through `x` and `z`, turn to either side on the circle over both (Maho et al., 2021, algorithm 1).

    At most `queries` questions a row. Directions are smooth, from the lowest share `frequencies` of each axis'
    frequencies, and orthogonal to the last `memory`, which are kept. The first angle to try, `widest` degrees at
    first, adapts in each row with success. Departures: all frequencies that are used weigh the same, not as in `x`;
    one angle is tried to each side before the next plane; 20 directions are kept, as 100 gained nothing measurable.
    """

    threat: Ball
    queries: int = 4000
    widest: float = 30.0
    memory: int = 20
    adapts: float = 0.98
    frequencies: float = 0.5

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        decisions = Decisions(model, x, goal, self.threat, self.queries)
        x = decisions.x
        z = approach(decisions, decisions.start(rng.at("start")), 0.01)
        memory = max(min(self.memory, x.shape[1:].numel() // 8), 1)
        past, angle = x.new_zeros(len(x), memory, *x.shape[1:]), torch.full_like(decisions.nearest, self.widest)
        for i in decisions.rounds():
            noise = smooth(rng.at(i).normal(*x.shape[1:], device=x.device).to(x.dtype), self.frequencies)
            across = self._orthogonal(noise, past, unit(z - x))
            past[:, i % memory] = across
            turned = circle(x, z, across)
            side = torch.zeros_like(angle)
            for trial in (angle.deg2rad(), -angle.deg2rad()):
                side = torch.where(decisions.ask(turned(trial), decisions.open & (side == 0)), trial, side)
            hit = side != 0
            z = torch.where(rows(hit, x), self._further(decisions, turned, side, hit), z)
            angle = (angle * torch.where(hit, 1 / self.adapts, self.adapts)).clamp(max=45.0)
        return decisions.best

    def _orthogonal(self, noise: Tensor, past: Tensor, away: Tensor) -> Tensor:
        """The direction of the noise, less what it shares with the directions before and with the one to `z`."""
        flat, past, away = noise.flatten(1), past.flatten(2), away.flatten(1)
        flat = flat - ((past * flat.unsqueeze(1)).sum(2, keepdim=True) * past).sum(1)
        return unit(flat - (flat * away).sum(1, keepdim=True) * away).view_as(noise)

    def _further(
        self, decisions: Decisions, turned: Callable[[Tensor], Tensor], side: Tensor, wanted: Tensor
    ) -> Tensor:
        """The point at the largest angle, up to twice the one that succeeded, that succeeds too."""

        def back(angle: Tensor) -> Tensor:
            return turned(2 * side - side.sign() * angle)

        size, none = side.abs(), torch.zeros_like(side)
        lost = wanted & ~decisions.ask(back(none), wanted)
        least = bisect(decisions, back, low=none, high=torch.where(lost, size, 0.0), wanted=lost, tolerance=size / 8)
        return back(least).clamp(self.threat.low, self.threat.high)


@register(
    "attacks",
    "surfree",
    needs="labels",
    norms=("l2",),
    aims="smallest perturbation",
    family="decisions",
    passes="queries + 0",
    paper="Maho et al., 2021",
)
def surfree(threat: Ball, *, queries: int = 4000, frequencies: float = 0.5) -> SurFree:
    """Turns in random planes: fast on few queries, from decisions alone (Maho et al., 2021)."""
    return SurFree(threat=threat, queries=queries, frequencies=frequencies)
