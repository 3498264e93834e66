"""The fast minimum-norm attack: one search for the smallest change in any norm (Pintor et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest, dual
from sparring.attacks.through import Through
from sparring.losses import margin
from sparring.norms import NORMS, divisor, rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Loss, Model
from sparring.views import settled, smoothed


@dataclass(frozen=True, kw_only=True)
class FMN:
    """Climb inside a ball that shrinks while the goal is reached, and grows while it is not.

    Pintor et al. (2021), algorithm 1. Until a row has its first success, its ball reaches as far as the boundary would
    be if the loss were linear, `|z - x| + |loss| / |gradient|*`, and grows by half at the least. Returns the nearest
    success, whatever its size: `threat.eps` is not looked at. It begins where another attack ends, if there is a
    `start`. Costs that attack's passes, and `steps` forward and backward passes.

    Departures: a step is the norm's own direction of ascent, in units of the ball as it is, where the paper's has a
    fixed Euclidean length in every norm (with which Linf hardly moves); and `gamma`, the share by which the ball
    changes, begins at 0.2, not 0.05.
    """

    threat: Ball
    loss: Loss = margin
    steps: int = 100
    step: float = 1.0
    last_step: float = 0.01
    gamma: float = 0.2
    last_gamma: float = 0.001
    start: Attack | None = None

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        threat, norm = self.threat, self.threat.norm
        grain = 1.0 if norm.counts else 0.0  # what a size changes by at the least
        least = grain or 1e-6 * threat.width  # a ball of no size would never leave a point whose logits tie
        search = Nearest(model, x, goal, threat, self.loss)
        x = z = x.detach()
        if self.start is not None:
            z = self.start(model, x, goal, rng)
        eps = norm.size(z - x)
        for i in search.steps(self.steps):
            gradient, loss, reached, x, z, eps = search.climb(z, x, z, eps)
            falls = (1 + math.cos(math.pi * i / self.steps)) / 2
            length = self.last_step + (self.step - self.last_step) * falls
            gamma = self.last_gamma + (self.gamma - self.last_gamma) * falls
            found = search.near.isfinite()
            slope = dual(gradient, norm) * (threat.width if norm.counts else 1.0)
            boundary = norm.size(z - x) + loss.abs() / divisor(slope)
            shrunk = torch.minimum(eps * (1 - gamma), search.near - grain)
            grown = torch.maximum(eps * (1 + gamma), eps + grain)
            eps = torch.where(reached, shrunk, torch.where(found, grown, torch.maximum(boundary, 1.5 * eps + grain)))
            eps = eps.clamp(min=least).minimum(norm.size(torch.maximum(x - threat.low, threat.high - x)))
            unit = threat.width if norm.counts else rows(eps, x)
            z = norm.project(z + length * unit * norm.ascent(gradient), x, eps, threat.low, threat.high)
        return search.best


STEPS = {"linf": (1.0, 0.01), "l2": (1.0, 0.01), "l1": (0.05, 0.01), "l0": (0.3, 0.1)}
"""The first step and the last, in units of the ball; ascent for L1 and L0 is long already."""


@register(
    "attacks",
    "fmn",
    aims="smallest perturbation",
    family="minimum norm",
    passes="steps + steps",
    paper="Pintor et al., 2021",
)
def fmn(threat: Ball, *, steps: int = 100) -> FMN:
    """The smallest change in any norm: a ball that shrinks at every success and grows at every failure.

    Pintor et al. (2021). Short runs shrink it faster.
    """
    step, last_step = STEPS[threat.norm.name]
    gamma = min(0.2, max(0.05, 10 / max(steps, 1)))
    return FMN(threat=threat, steps=steps, step=step, last_step=last_step, gamma=gamma)


@register(
    "attacks",
    "smallest",
    aims="smallest perturbation",
    family="minimum norm",
    passes="steps + steps",
    paper="Pintor et al., 2021",
)
def smallest(threat: Ball, *, steps: int = 100) -> FMN:
    """The smallest change that a number of steps can find, in any norm: the one to begin with.

    FMN (Pintor et al., 2021), three quarters of it on a view that lets gradients past dead units (`views.smoothed`),
    which finds other and nearer boundaries, then on the model itself, from there, in smaller steps. For L0 the first
    part looks for the smallest L1 change: it is sparse, and a count has no slope to follow.
    """
    early = 3 * steps // 4
    near = replace(threat, norm=NORMS["l1"]) if threat.norm.counts else threat
    start = Through(view=settled(smoothed, beta=10.0), attack=fmn(near, steps=early))
    late = fmn(threat, steps=steps - early)
    return replace(late, start=start, step=0.3 * late.step, last_step=0.3 * late.last_step)
