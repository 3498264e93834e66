"""Decoupled direction and norm: the smallest L2 perturbation (Rony et al., 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest
from sparring.losses import cross_entropy
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


@dataclass(frozen=True, kw_only=True)
class DDN:
    """Climb along the gradient, on a sphere that shrinks while the goal is reached and grows while it is not.

    Rony et al. (2019), algorithm 1, without the rounding to 8 bits (the evaluator stores and judges again). Returns
    the smallest success, whatever its size: `threat.eps` only says what counts. Costs `steps` forward and backward
    passes. `first`, the size it begins with, is a share of the width of the box, and so is its step.
    """

    threat: Ball
    loss: Loss = cross_entropy
    steps: int = 100
    first: float = 1.0
    gamma: float = 0.05

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        low, high, size = self.threat.low, self.threat.high, self.threat.norm.size
        search = Nearest(model, x, goal, self.threat, self.loss)
        x = z = x.detach()
        eps = torch.full_like(size(x), self.first * self.threat.width)
        for i in search.steps(self.steps):
            gradient, _, reached, x, z, eps = search.climb(z, x, z, eps)
            eps = torch.where(reached, 1 - self.gamma, 1 + self.gamma) * eps
            eps = eps.minimum(size(torch.maximum(x - low, high - x)))
            length = self.threat.width * (0.01 + 0.99 * (1 + math.cos(math.pi * i / self.steps)) / 2)  # section 4
            delta = z - x + length * self.threat.norm.steepest(gradient)
            z = (x + rows(eps, x) * self.threat.norm.steepest(delta)).clamp(low, high)
        return search.best


@register(
    "attacks",
    "ddn",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("l2",),
    passes="steps + steps",
    paper="Rony et al., 2019",
)
def ddn(threat: Ball, *, steps: int = 100) -> DDN:
    """The smallest L2 change: direction from the gradient, length by trial (Rony et al., 2019)."""
    return DDN(threat=threat, steps=steps)
