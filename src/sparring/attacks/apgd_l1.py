"""Attacks for L1: sparse steps up the gradient, whose sparsity follows what they find."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.pgd import PGD
from sparring.attacks.through import Through
from sparring.losses import cross_entropy
from sparring.norms import NORMS, rows
from sparring.registry import register
from sparring.search import Search
from sparring.steps import ascent, chain, cosine
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model
from sparring.views import boxed, settled


def largest_signs(gradient: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` largest coordinates of each row, divided by their number: a direction of L1 size one.

    `count` is `(B,)`; it is rounded down, and one at least.
    """
    sizes = gradient.flatten(1).abs()
    rank = count.long().clamp(1, sizes.shape[1]) - 1
    least = sizes.sort(dim=1, descending=True).values.gather(1, rank.unsqueeze(1))
    signs = torch.where(sizes >= least, gradient.flatten(1).sign(), 0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp(min=1)).view_as(gradient)


@dataclass(frozen=True)
class sparsest:  # noqa: N801  (a step, as those of `sparring.steps`)
    """The direction of L1 size one along the largest `share` of the coordinates (Tramer and Boneh, 2019)."""

    share: float

    def init(self, x: Tensor) -> None:
        """No state."""

    def update(self, g: Tensor, state: None, i: int) -> tuple[Tensor, None]:
        """The direction."""
        return largest_signs(g, torch.full((len(g),), self.share * g.shape[1:].numel(), device=g.device)), None


def _inside(threat: Ball) -> settled:
    """The view whose gradients pass over the coordinates that the box stops."""
    return settled(boxed, low=threat.low, high=threat.high)


@register("attacks", "slide", norms=("l1",), passes="steps + steps", paper="Tramer and Boneh, 2019")
def slide(threat: Ball, *, steps: int = 40, share: float = 0.01, loss: Loss = cross_entropy) -> Through:
    """Sparse L1 descent: PGD along the hundredth of the coordinates whose gradient is largest (Tramer and Boneh, 2019).

    Coordinates that the box stops are passed over, and the projection is on ball and box together.
    """
    step = chain(sparsest(share), cosine(threat.eps, steps))
    return Through(view=_inside(threat), attack=PGD(threat=threat, step=step, loss=loss, steps=steps))


@dataclass(frozen=True)
class _Climb:
    """What every row carries from step to step: its best point, its step size, and along how many coordinates."""

    x: Tensor
    best: Tensor
    best_gradient: Tensor
    best_score: Tensor
    size: Tensor
    count: Tensor
    changed: Tensor

    def __getitem__(self, kept: Tensor) -> _Climb:
        return _Climb(**{name: value[kept] for name, value in vars(self).items()})


def sparser(search: Search, x: Tensor, z: Tensor, threat: Ball, steps: int) -> None:
    """Climb along the largest coordinates, ever fewer of them (Croce and Hein, 2021, algorithm 1).

    Every 4 % of the steps, their number becomes two thirds of the coordinates that the best point changes. Where
    those have fallen by 5 %, the row goes back to its best point with a full step of eps; elsewhere the step
    shrinks by a third, down to a tenth of eps.
    """
    gradient, score, x, z = search.climb(z, x, z)
    changed = _changed(z, x, threat.eps)
    count = (changed / 1.5).clamp(max=0.2 * x.shape[1:].numel())
    row = _Climb(x, z, gradient, score, torch.full_like(score, threat.eps), count, changed)
    for i in search.steps(steps):
        z = threat.project(z + rows(row.size, z) * largest_signs(gradient, row.count), row.x)
        gradient, score, z, row = search.climb(z, z, row)
        better = score > row.best_score
        row = replace(
            row,
            best=torch.where(rows(better, z), z, row.best),
            best_gradient=torch.where(rows(better, z), gradient, row.best_gradient),
            best_score=torch.where(better, score, row.best_score),
        )
        if (i + 1) % max(int(0.04 * steps), 1) == 0:
            changed = _changed(row.best, row.x, threat.eps)
            fewer = changed < 0.95 * row.changed
            z = torch.where(rows(fewer, z), row.best, z)
            gradient = torch.where(rows(fewer, z), row.best_gradient, gradient)
            size = torch.where(fewer, threat.eps, (row.size / 1.5).clamp(min=threat.eps / 10))
            row = replace(row, size=size, count=changed / 1.5, changed=changed)


def _changed(z: Tensor, x: Tensor, eps: float) -> Tensor:
    """How many coordinates of each row differ, `(B,)`, by more than the dust that projections leave."""
    return ((z - x).abs() > 1e-4 * eps).flatten(1).sum(1).to(x.dtype)


def euclidean(search: Search, x: Tensor, z: Tensor, threat: Ball, steps: int) -> None:
    """Climb along the whole gradient, and let the projection choose coordinates: for L0.

    The step falls along a cosine, from twice the length of a change of `eps` coordinates by the width of the box.
    Longer ones choose all coordinates anew, which is exact on a linear model, and loses on networks what the larger
    balls have found.
    """
    step = chain(ascent(NORMS["l2"]), cosine(2 * math.sqrt(threat.eps) * threat.width, steps))
    state = step.init(x)
    for i in search.steps(steps):
        gradient, _, x, z, state = search.climb(z, x, z, state)
        move, state = step.update(gradient, state, i)
        z = threat.project(z + move, x)
    search.judge(z)


@dataclass(frozen=True, kw_only=True)
class Shrinking:
    """Climb in a ball larger than the threat, and on from there in ever smaller ones, down to the threat.

    Where a ball has few corners and much between them, as for L1 and L0, a search that begins in it stays at the
    first corner that it meets; from a larger one it comes down to the best (Croce and Hein, 2021, section 3.3).
    `stages` are pairs, the size of a ball in eps and its share of the steps, the threat itself last. Costs `steps`
    forward and backward passes, one or two more for each stage, and a forward pass for `x`; rows stop as they reach
    the goal, in a larger ball until the next stage.
    """

    threat: Ball
    climb: Callable[[Search, Tensor, Tensor, Ball, int], None]
    stages: tuple[tuple[float, float], ...]
    loss: Loss = cross_entropy
    steps: int = 100

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search = Search(model, x, goal, self.loss)
        _, x, rng = search.judge(x, x, rng)
        balls = [self.threat.times(size) for size, _ in self.stages]
        z, counts = balls[0].sample(x, rng), [max(round(part * self.steps), 1) for _, part in self.stages]
        for ball, steps in zip(balls[:-1], counts, strict=False):
            wide = Search(model, x, search.goal, self.loss)
            self.climb(wide, x, ball.project(z, x), ball, steps)
            z = wide.best
        self.climb(search, x, self.threat.project(z, x), self.threat, counts[-1])
        return search.best


@register("attacks", "apgd-l1", norms=("l1",), passes="steps + steps", paper="Croce and Hein, 2021")
def apgd_l1(threat: Ball, *, steps: int = 100, loss: Loss = cross_entropy) -> Through:
    """Auto-PGD for L1: sparse steps whose sparsity follows what they find (Croce and Hein, 2021).

    Coordinates that the box stops are passed over, unlike in the paper.
    """
    attack = Shrinking(threat=threat, climb=sparser, stages=((1.0, 1.0),), loss=loss, steps=steps)
    return Through(view=_inside(threat), attack=attack)


def _stages(first: float, count: int) -> tuple[tuple[float, float], ...]:
    """Balls from `first` eps down to one, each smaller by the same factor, for equal shares of the steps."""
    return tuple((first ** (1 - k / (count - 1)), 1 / count) for k in range(count))


@register("attacks", "apgd-l1-shrinking", norms=("l1",), passes="steps + steps", paper="Croce and Hein, 2021")
def apgd_l1_shrinking(threat: Ball, *, steps: int = 100, loss: Loss = cross_entropy) -> Through:
    """Auto-PGD for L1 from a ball of eight eps down to one of one (Croce and Hein, 2021, section 3.3).

    In twelve stages, where the paper has three: of three, two and one eps.
    """
    attack = Shrinking(threat=threat, climb=sparser, stages=_stages(8.0, 12), loss=loss, steps=steps)
    return Through(view=_inside(threat), attack=attack)


@register("attacks", "pgd-l0-shrinking", norms=("l0",), passes="steps + steps", paper="Croce and Hein, 2019")
def pgd_l0_shrinking(threat: Ball, *, steps: int = 100, loss: Loss = cross_entropy) -> Shrinking:
    """PGD for L0 that begins with five times the coordinates, and comes down to as many as allowed in eight stages.

    The projection of Croce and Hein (2019), and the larger balls that their paper of 2021 has for L1.
    """
    return Shrinking(threat=threat, climb=euclidean, stages=_stages(5.0, 8), loss=loss, steps=steps)
