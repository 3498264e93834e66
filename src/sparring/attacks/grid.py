"""The smallest of several sizes at which an attack succeeds: one run gives a whole robustness curve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Model


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Try an attack at each of some sizes, from the largest down; a row that stands at one is not tried at a smaller.

    Successes end early and are cheap, and each row fails at most once: several sizes cost little more than one.
    `sizes` are in input units; `make` gives the attack for a threat.
    """

    make: Callable[[Ball], Attack]
    ball: Ball
    sizes: tuple[float, ...]

    @property
    def threat(self) -> Ball:
        """The largest ball that is searched."""
        return self.ball.at(max(self.sizes))

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The success at the smallest size, or `x` where there was none, `(B, *shape)`."""
        best, falling = x.clone(), torch.arange(len(x), device=x.device)
        for size in sorted(self.sizes, reverse=True):
            attack = self.make(self.ball.at(size))
            z = attack(model, x[falling], goal[falling], rng[falling].at(repr(size)))
            with torch.no_grad():
                fell = goal[falling].reached(model(z))
            falling = falling[fell]
            best[falling] = z[fell]
            if not len(falling):
                break
        return best
