"""Turn and move: the worst pose on a grid, or the worst of a few (Engstrom et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.images.threats import Pose
from sparring.losses import margin
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.types import Finite, Goal, Loss, Model


@dataclass(frozen=True, kw_only=True)
class Exhaustive:
    """Try every member of a finite threat, from the largest down: what stands is safe, there is nothing else to try.

    Costs a forward pass for each member, or as many as a row needs.
    """

    threat: Finite
    loss: Loss = margin

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The worst member for each row, or the first that reaches the goal, `(B, C, H, W)`."""
        search, count = Search(model, x, goal, self.loss), len(self.threat.sizes)
        for i in search.steps(count):
            which = torch.full((len(x),), count - 1 - i, device=x.device)
            _, x = search.judge(self.threat.member(x.detach(), which), x)
        return search.best


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Try a few members of a finite threat at random, each row its own. Costs `draws` + 1 forward passes."""

    threat: Finite
    loss: Loss = margin
    draws: int = 10

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The worst of the draws and `x`, `(B, C, H, W)`."""
        search, count = Search(model, x, goal, self.loss), len(self.threat.sizes)
        _, x, rng = search.judge(x, x, rng)
        for i in search.steps(self.draws):
            which = rng.at(i).integers(count, 1, device=x.device).flatten()
            _, x, rng = search.judge(self.threat.member(x.detach(), which), x, rng)
        return search.best


@register(
    "attacks",
    "pose-grid",
    needs="scores",
    norms=(),
    threats=("pose",),
    shape="image",
    family="spatial",
    passes="775 + 0",
    paper="Engstrom et al., 2019",
)
def pose_grid(threat: Pose) -> Exhaustive:
    """Every turn and move on a grid: the exact worst case, for scores alone (Engstrom et al., 2019)."""
    return Exhaustive(threat=threat)


@register(
    "attacks",
    "pose-random",
    needs="scores",
    norms=(),
    threats=("pose",),
    shape="image",
    family="spatial",
    passes="draws + 0",
    paper="Engstrom et al., 2019",
)
def pose_random(threat: Pose, *, draws: int = 10) -> Sampled:
    """The worst of ten random turns and moves: strong for its cost (Engstrom et al., 2019).

    Drawn from the grid, and not from the whole range, so that every claim can be checked.
    """
    return Sampled(threat=threat, draws=draws)
