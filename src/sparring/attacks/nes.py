"""Gradients estimated from scores, and projected ascent on them: NES and SPSA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.losses import cross_entropy, margin
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.steps import adam, ascent, chain, momentum, scale
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model, Step

Draw = Callable[[Tensor, Streams], Tensor]
"""A random direction for every row, like the input, each coordinate with mean 0 and variance 1."""


def gaussian(like: Tensor, rng: Streams) -> Tensor:
    """Standard normal coordinates, as NES draws them."""
    return rng.normal(*like.shape[1:], device=like.device).to(like.dtype)


def rademacher(like: Tensor, rng: Streams) -> Tensor:
    """Coordinates of plus or minus one, as SPSA draws them."""
    return rng.sign(*like.shape[1:], device=like.device).to(like.dtype)


def estimated(model: Model, draw: Draw, rng: Streams, *, pairs: int, reach: float, low: float, high: float) -> Model:
    """The same outputs, with a pullback that asks for scores alone: what a white-box attack needs of a black box.

    `J^T v ~ 1/n sum_u u <v, f(x + r u) - f(x - r u)> / 2r` over `pairs` antithetic directions (Ilyas et al., 2018,
    equation 1, with the loss taken to first order). `reach` is in input units, and what is asked about is in the box
    `low..high`. Costs two passes a pair, for rows whose outputs are given a gradient. `rng` has a row for every input.
    """

    class Estimated(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return model(x)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            wanted = (gradients[0] != 0).flatten(1).any(1).nonzero().flatten()
            near, v, own = x[wanted], gradients[0][wanted], rng[wanted]
            total = torch.zeros_like(near)
            for i in range(pairs if len(wanted) else 0):
                u = draw(near, own.at(i))
                ahead, behind = (model((near + side * reach * u).clamp(low, high)) for side in (1, -1))
                total += u * rows(((ahead - behind) * v).flatten(1).sum(1) / (2 * reach * pairs), u)
            return torch.zeros_like(x).index_copy(0, wanted, total)

    pull: Model = Estimated.apply
    return pull


@dataclass(frozen=True, kw_only=True)
class EstimatedPGD:
    """Projected ascent on a model whose gradients are estimated from its scores.

    `draws` scores are asked for an estimate, in antithetic pairs; `reach` is how far from the point, in widths of the
    box. Costs at most `queries` forward passes: `x`, then a point and its estimate a step, then the last point.
    """

    threat: Ball
    step: Step
    draw: Draw
    reach: float
    draws: int = 50
    loss: Loss = cross_entropy
    queries: int = 5000

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search = Search(model, x, goal, self.loss)
        pairs, low, high = max(self.draws // 2, 1), self.threat.low, self.threat.high
        _, z, near, state, rng = search.judge(x, x, self.threat.around(x), self.step.init(x), rng)
        for i in search.steps(steps_within(self.queries, self.draws)):
            search.model = estimated(
                model, self.draw, rng.at(i), pairs=pairs, reach=self.reach * self.threat.width, low=low, high=high
            )
            gradient, _, z, near, state, rng = search.climb(z, z, near, state, rng)
            move, state = self.step.update(gradient, state, i)
            z = near(z + move)
        search.model = model
        search.judge(z)
        return search.best


def steps_within(queries: int, draws: int) -> int:
    """How many steps a budget allows, if each looks at its point and at `draws` more."""
    return max(queries - 2, 0) // (2 * max(draws // 2, 1) + 1)


@register(
    "attacks",
    "nes",
    needs="scores",
    norms=("linf", "l2"),
    family="scores",
    passes="queries + 0",
    paper="Ilyas et al., 2018",
)
def nes(threat: Ball, *, queries: int = 5000, draws: int = 50) -> EstimatedPGD:
    """PGD with momentum on gradients estimated from scores, along Gaussian directions (Ilyas et al., 2018)."""
    size = 4 * threat.unit / max(steps_within(queries, draws), 1)
    step = chain(momentum(0.9), ascent(threat.norm), scale(size))
    return EstimatedPGD(threat=threat, step=step, draw=gaussian, reach=0.001, draws=draws, queries=queries)


@register(
    "attacks",
    "spsa",
    needs="scores",
    norms=("linf",),
    family="scores",
    passes="queries + 0",
    paper="Uesato et al., 2018",
)
def spsa(threat: Ball, *, queries: int = 5000, draws: int = 128) -> EstimatedPGD:
    """Adam on the margin's gradient estimated from scores, along random signs (Uesato et al., 2018)."""
    step = adam(0.3 * threat.unit, floor=1e-20)
    return EstimatedPGD(
        threat=threat, step=step, draw=rademacher, reach=0.01, draws=draws, loss=margin, queries=queries
    )
