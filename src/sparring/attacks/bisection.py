"""The smallest size at which any attack succeeds, for every row: an attack made of an attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest
from sparring.attacks.pgd import pgd_cosine
from sparring.losses import margin
from sparring.norms import Around, rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Model, Norm
from sparring.views import settled


@dataclass(frozen=True, eq=False)
class Balls:
    """A ball of its own size for every row, as one threat of size one: any attack that takes a ball takes it.

    Points are flat, and in units of the size of their ball (inputs as they are, where sizes are counts). Each carries
    the number of its row as one more coordinate, which the model does not see: rows may leave, and those that stay
    keep their balls. Points are float32 at the least, whatever the inputs are: bfloat16 cannot count beyond 256.
    Attacks that start at a random point start at `start` instead.
    """

    like: Ball
    sizes: Tensor
    start: Tensor
    eps: float = 1.0

    @property
    def norm(self) -> Norm:
        """That of all the balls."""
        return self.like.norm

    @property
    def unit(self) -> float:
        """What steps are measured in."""
        return self.like.width if self.norm.counts else 1.0

    def wrap(self, z: Tensor) -> Tensor:
        """Inputs, one for each ball, as points."""
        wide = torch.promote_types(z.dtype, torch.float32)
        return self._point(z.flatten(1).to(wide), torch.arange(len(z), device=z.device).to(wide).unsqueeze(1))

    def unwrap(self, point: Tensor) -> Tensor:
        """Points as inputs, flat."""
        inside = (point[:, :-1] * self._scale(point[:, -1:])).clamp(self.like.low, self.like.high)
        return inside.to(self.start.dtype)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The allowed point nearest to `z`, in the ball of its row."""
        number = x[:, -1:]
        return self._project(z[:, :-1] * self._scale(number), x)

    def around(self, x: Tensor) -> Around:
        """`project`, for one `x` and many `z`."""
        return Around(self.project, x)

    def sample(self, x: Tensor, rng: Streams) -> Tensor:
        """The starting points."""
        return self._project(self.start.flatten(1)[_index(x)].to(x.dtype), x)

    def _project(self, flat: Tensor, x: Tensor) -> Tensor:
        middle = self.unwrap(x).to(x.dtype)
        inside = self.norm.project(flat, middle, self.sizes[_index(x)], self.like.low, self.like.high)
        return self._point(inside, x[:, -1:])

    def _point(self, flat: Tensor, number: Tensor) -> Tensor:
        return torch.cat([flat / self._scale(number), number], 1)

    def _scale(self, number: Tensor) -> Tensor:
        sizes = self.sizes[number.detach().long()]
        return torch.ones_like(sizes) if self.norm.counts else sizes


def _index(point: Tensor) -> Tensor:
    return point[:, -1].long()


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Run an attack at half the size of the nearest success, or half-way back where it fails, `rounds` times.

    Every row has its own size, and starts a run at its nearest success, shrunk to that size: one call gives the whole
    robustness curve, the smallest size that breaks each example. `make` gives the attack for a threat (one that works
    on inputs of any shape). The first run is at `threat.eps`; until one succeeds, the next is at four times the size.
    Costs at most `rounds` runs of the attack, and a forward pass for each and for `x`; successes end runs early.
    """

    ball: Ball
    make: Callable[[Any], Attack]
    rounds: int = 12

    @property
    def threat(self) -> Ball:
        """The norm and the box."""
        return self.ball

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        size = self.ball.norm.size
        search = Nearest(model, x, goal, self.ball, margin)
        x = x.detach()
        _, x, rng = search.judge(x, x, rng)
        most = size(torch.maximum(x - self.ball.low, self.ball.high - x))
        failed = torch.zeros_like(most)
        for i in search.steps(self.rounds):
            found = search.near.isfinite()
            larger = torch.where(failed > 0, 4 * failed, self.ball.eps or torch.inf).minimum(most)
            sizes = torch.where(found, (failed + search.near) / 2, larger)
            toward = rows(sizes / search.near, x) * (search.best[search.open] - x)
            balls = Balls(self.ball, sizes, x + toward)
            z = self._run(balls, model, x, search.goal, rng.at(i))
            reached, x, sizes, failed, most, rng = search.judge(z, x, sizes, failed, most, rng)
            failed = torch.where(reached, failed, sizes)
        return search.best

    def _run(self, balls: Balls, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        def unwrapped(point: Tensor) -> Tensor:
            return model(balls.unwrap(point).view(-1, *x.shape[1:]))

        z = self.make(balls)(unwrapped, balls.wrap(x), goal, rng)
        return balls.unwrap(z).view_as(x)


@register(
    "attacks",
    "bisection",
    aims="smallest perturbation",
    family="minimum norm",
    passes="rounds x steps + rounds x steps",
    paper="Madry et al., 2018",
)
def bisection(threat: Ball, *, steps: int = 20, rounds: int = 12) -> Bisection:
    """The smallest size at which PGD succeeds, by bisection, each run from the nearest success so far.

    PGD of Madry et al. (2018) on the margin, with a step that falls along a cosine.
    """
    return Bisection(ball=threat, make=settled(pgd_cosine, steps=steps, loss=margin), rounds=rounds)
