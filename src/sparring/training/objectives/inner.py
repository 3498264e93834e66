"""The inner maximum as training can afford it: gradient ascent that judges nothing, and its recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.limits import not_negative
from sparring.losses import cross_entropy
from sparring.registry import find, members
from sparring.search import finite, forward, slope
from sparring.steps import ascent
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.fitting import counted, fits, settings_of
from sparring.training.objectives.minmax import Maximiser
from sparring.types import Goal, Loss, Model
from sparring.views import settled


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Climb the loss from a random point of `start`, and hand over where that ends (Madry et al., 2018).

    `z <- project(z + size ascent(gradient))` (section 2.1 there), with `size` in the unit of eps. Costs `steps` forward
    and backward passes and not one more: `PGD` judges what it found, and keeps the best, which an evaluation needs and
    training does not. Gradients are exact ones; training on smoothed gradients teaches a network to fool them.
    """

    threat: Ball
    start: Ball
    size: float
    steps: int
    loss: Loss = cross_entropy

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The last point, `(B, *shape)`."""
        z, project, step = self.start.sample(x, rng), self.threat.around(x), ascent(self.threat.norm)
        unit = step.init(x)
        for i in range(self.steps):
            point, outputs = forward(model, z)
            with torch.enable_grad():
                gradient = slope(self.loss(outputs, goal).sum(), point)
            move, unit = step.update(finite(gradient), unit, i)
            z = project(torch.add(z, move, alpha=self.size, out=move))  # memory written to a moment ago is the fastest
        return z


def inner_pgd(threat: Ball, *, steps: int = 7, length: float = 2.5) -> Ascent:
    """Few steps of `length eps / steps` from a random start (Madry et al., 2018): cheap enough for every batch.

    Raises:
        BadInput: no steps, or steps backwards.
    """
    if steps < 1:
        raise BadInput(f"an inner attack of {steps} steps", "1 or more", "take 7")
    not_negative(length=length)
    return Ascent(threat=threat, start=threat, size=length / steps * threat.unit, steps=steps)


def random_start(threat: Ball, *, alpha: float = 1.25) -> Ascent:
    """One step of `alpha eps` from a random start, brought back into the ball (Wong et al., 2020, FGSM-RS)."""
    not_negative(alpha=alpha)
    return Ascent(threat=threat, start=threat, size=alpha * threat.unit, steps=1)


def single_step(threat: Ball) -> Ascent:
    """One step of eps from the input itself (Goodfellow et al., 2015)."""
    return Ascent(threat=threat, start=threat.at(0.0), size=threat.unit, steps=1)


def noisy(threat: Ball, *, noise: float = 2.0, alpha: float = 1.0) -> Ascent:
    """One step of `alpha eps` from a point of `noise` times the ball, not brought back (de Jorge et al., 2022).

    Hands over points outside the threat, up to `noise + alpha` times its size: on purpose, for training alone. Inside
    the box they stay, as in the authors' code.
    """
    not_negative(noise=noise, alpha=alpha)
    wide = threat.times(noise + alpha)
    return Ascent(threat=wide, start=threat.times(noise), size=alpha * threat.unit, steps=1)


INNER: Mapping[str, Callable[..., Ascent]] = {
    "ascent": inner_pgd,
    "fgsm-rs": random_start,
    "single-step": single_step,
    "n-fgsm": noisy,
}
"""The maximisers made for training, by name."""


def maximiser(name: str, **settings: Any) -> Maximiser:
    """The inner maximum by its name, one of `INNER` or any attack of the registry.

    Raises:
        BadInput: an unknown name, or settings that it does not take.
    """
    if name not in INNER and name not in members("attacks"):
        near = f"one of {', '.join(INNER)}, or an attack of `sparring list attacks`"
        raise BadInput(f"unknown inner attack {name!r}", near, "check the spelling")
    make = INNER[name] if name in INNER else find("attacks", name).make
    fits(name, settings_of(make), settings)
    if name not in INNER:  # those look themselves
        counted(name, settings_of(make), settings)
    return settled(make, **settings)
