"""Schedules of the threat: how much of it is in force, and how hard the attack of training looks for its worst.

The strength is a pure function of `progress`, the share of all updates that are done, from 0 to 1:
`linear(progress, share=0.3) * threat.eps` is the size in force. (The learning rate has its shapes in `rates`.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparring.limits import fractions
from sparring.threats import Ball
from sparring.types import Attack


def linear(progress: float, *, share: float = 0.3) -> float:
    """From 0 to 1 in a line during a share of the updates. 0: all in force at once.

    Raises:
        BadInput: `share` is not from 0 to 1.
    """
    fractions(share=share)
    return min(1.0, progress / share) if share else 1.0


def cosine(progress: float, *, share: float = 0.3) -> float:
    """From 0 to 1 along half a cosine during a share of the updates: slow at both ends."""
    return (1 - math.cos(math.pi * linear(progress, share=share))) / 2


RAMPS: Mapping[str, Callable[..., float]] = {"linear": linear, "cosine": cosine}
"""The ramps of the strength, by name."""


@dataclass(frozen=True)
class growing:  # noqa: N801  (reads as the function it stands for)
    """As many steps as the threat that is in force is large, all `steps` of them at the size `eps`.

    `adversarial(threat, growing(inner_pgd, threat.eps))` begins with one step a batch. A curriculum of attacks
    (Cai et al., 2018) that goes by the ramp, not by the loss; it costs half of the passes for as long as that lasts.
    """

    attack: Callable[..., Attack]
    eps: float
    steps: int = 7

    def __call__(self, threat: Ball) -> Attack:
        """The attack, with its share of the steps: one or more."""
        share = threat.eps / self.eps if self.eps else 1.0
        return self.attack(threat, steps=max(1, math.ceil(self.steps * share - 1e-9)))
