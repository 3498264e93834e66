"""Sigma-zero: the fewest changed coordinates, by a smooth stand-in for their count (Cina et al., 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest
from sparring.losses import margin
from sparring.norms import divisor, rows
from sparring.registry import register
from sparring.steps import adam
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model


def hinge(outputs: Tensor, goal: Goal) -> Tensor:
    """The margin while it is negative: nothing is left to climb where the goal is reached."""
    return margin(outputs, goal).clamp(max=0)


@dataclass(frozen=True, kw_only=True)
class SigmaZero:
    """Descend on the hinge and `mean d_i^2 / (d_i^2 + sigma)`; changes below a threshold are set to zero.

    Cina et al. (2024), algorithm 1, for changes `d` in units of the width of the box. The threshold rises while the
    goal is reached, and falls while it is not. Returns the success of fewest changes, whatever their number:
    `threat.eps` is not looked at. Costs `steps` forward passes, and as many backward passes less those of successes.
    """

    threat: Ball
    steps: int = 1000
    rate: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    adapts: float = 0.01

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The success of fewest changes, or `x` where there was none, `(B, *shape)`."""
        low, high, width, optimiser = self.threat.low, self.threat.high, self.threat.width, adam()
        search = Nearest(model, x, goal, self.threat, hinge)
        x = z = x.detach()
        state, rate = optimiser.init(x), self.rate
        tau = torch.full((len(x),), self.threshold, device=x.device, dtype=x.dtype)
        for i in search.steps(self.steps):
            gradient, _, reached, x, z, state, tau = search.climb(z, x, z, state, tau)
            square = ((z - x) / width).square()
            count = 2 * ((z - x) / width) * self.sigma / (square + self.sigma).square() / x.shape[1:].numel()
            uphill = gradient * width - count
            uphill = uphill / rows(divisor(uphill.flatten(1).abs().amax(1)), x)
            move, state = optimiser.update(uphill, state, i)
            delta = (z + rate * width * move).clamp(low, high) - x
            rate = self.rate * (0.1 + 0.9 * (1 + math.cos(math.pi * i / self.steps)) / 2)
            tau = (tau + torch.where(reached, self.adapts, -self.adapts) * rate).clamp(0, 1)
            z = torch.where(delta.abs() < rows(tau * width, x), x, (x + delta).clamp(low, high))
        return search.best


@register(
    "attacks",
    "sigma-zero",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("l0",),
    passes="steps + steps",
    paper="Cina et al., 2024",
)
def sigma_zero(threat: Ball, *, steps: int = 200) -> SigmaZero:
    """The fewest changes, by gradient descent on a smooth count of them (Cina et al., 2024)."""
    return SigmaZero(threat=threat, steps=steps)
