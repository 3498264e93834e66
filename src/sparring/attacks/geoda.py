"""GeoDA: take the boundary for a plane, and head for its nearest point (Rahmati et al., 2020). Labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.decisions import Decisions, approach, bisect, lean, length
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model


@dataclass(frozen=True, kw_only=True)
class GeoDA:
    """Ask around a boundary point which way it faces, and leave `x` that way, by the norm (Rahmati et al., 2020).

    Algorithm 1 in each row, in at most `queries` questions: votes of `probes growth^t` points (the paper's best split
    of a budget), drawn smoothly, from the lowest share `frequencies` of each axis' frequencies, and added up. One body
    for all norms, and exact in the box: the way leads along the points of growing balls that are furthest along the
    normal. Departure: the points around are at a share of the distance, `radius`.
    """

    threat: Ball
    queries: int = 4000
    probes: int = 60
    growth: float = 1.4
    radius: float = 0.02
    frequencies: float = 0.5

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        decisions = Decisions(model, x, goal, self.threat, self.queries)
        x, share = decisions.x, self.radius / math.sqrt(x.shape[1:].numel())
        z, normal = approach(decisions, decisions.start(rng.at("start")), share), torch.zeros_like(decisions.x)
        for i in decisions.rounds():
            radius, count = self.radius * length(z - x), int(self.probes * self.growth**i)
            vote = lean(decisions, z, radius=radius, count=count, rng=rng.at(i), frequencies=self.frequencies)
            normal = normal + vote
            z = self._nearest(decisions, z, normal, share)
        return decisions.best

    def _nearest(self, decisions: Decisions, z: Tensor, normal: Tensor, share: float) -> Tensor:
        """Where the way along the normal meets the boundary; `z` where it does not, within 32 times the distance."""
        norm, low, high, x = self.threat.norm, self.threat.low, self.threat.high, decisions.x
        far = x + 100 * self.threat.width * norm.ascent(normal)

        def furthest(size: Tensor) -> Tensor:
            return norm.project(far, x, size, low, high)

        inside, size, looking = torch.zeros_like(decisions.nearest), self.threat.distance(z, x), decisions.open
        for _ in range(6):
            looking = looking & ~decisions.ask(furthest(size), looking)
            inside, size = torch.where(looking, size, inside), torch.where(looking, 2 * size, size)
        found = bisect(decisions, furthest, low=inside, high=size, wanted=~looking, tolerance=share * size)
        return torch.where(rows(looking, z), z, furthest(found))


@register(
    "attacks",
    "geoda",
    needs="labels",
    norms=("linf", "l2", "l1"),
    aims="smallest perturbation",
    family="decisions",
    passes="queries + 0",
    paper="Rahmati et al., 2020",
)
def geoda(threat: Ball, *, queries: int = 4000, frequencies: float = 0.5) -> GeoDA:
    """The nearest point of the boundary as if it were a plane, from decisions alone (Rahmati et al., 2020)."""
    return GeoDA(threat=threat, queries=queries, frequencies=frequencies)
