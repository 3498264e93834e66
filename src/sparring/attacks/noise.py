"""Noise: the controls. What they break, no attack may take the credit for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparring.losses import margin
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model


def uniform(threat: Ball, x: Tensor, rng: Streams) -> Tensor:
    """A point of the ball, each as likely as any other."""
    return threat.sample(x, rng)


def gaussian(threat: Ball, x: Tensor, rng: Streams) -> Tensor:
    """Gaussian noise, scaled to size eps."""
    noise = rng.normal(*x.shape[1:], device=x.device).to(x.dtype)
    return threat.project(x + noise * rows(threat.unit * threat.norm.measure(x) / threat.norm.size(noise), x), x)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Draw points from the threat, blindly; keep the best. Costs `draws` + 1 forward passes."""

    threat: Ball
    draw: Callable[[Ball, Tensor, Streams], Tensor] = uniform
    draws: int = 10

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best of the draws and `x`, `(B, *shape)`."""
        search = Search(model, x, goal, margin)
        _, x, rng = search.judge(x, x, rng)
        for i in search.steps(self.draws):
            _, x, rng = search.judge(self.draw(self.threat, x, rng.at(i)), x, rng)
        return search.best


CONTROL: dict[str, Any] = {
    "needs": "scores",
    "threats": ("patch", "snr"),
    "aims": "control",
    "family": "control",
    "passes": "draws + 0",
}


@register("attacks", "uniform-noise", **CONTROL)
def uniform_noise(threat: Ball, *, draws: int = 10) -> Noise:
    """Uniform draws from the ball: a control, not an attack."""
    return Noise(threat=threat, draws=draws)


@register("attacks", "gaussian-noise", **CONTROL)
def gaussian_noise(threat: Ball, *, draws: int = 10) -> Noise:
    """Gaussian noise of size eps: a control, not an attack."""
    return Noise(threat=threat, draw=gaussian, draws=draws)
