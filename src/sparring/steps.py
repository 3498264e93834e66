"""Steps: how a gradient becomes a move.

A rule is a pair, `init(x) -> state` and `update(g, state, i) -> (move, state)`.
Rules chain: `chain(momentum(0.9), ascent(norm), scale(0.01))`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.norms import divisor, rows
from sparring.types import Norm, Step


@dataclass(frozen=True)
class chain:  # noqa: N801  (reads as the function it stands for)
    """Feed the move of each rule to the next."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        object.__setattr__(self, "steps", steps)

    def init(self, x: Tensor) -> tuple[Any, ...]:
        """The states of all the rules."""
        return tuple(step.init(x) for step in self.steps)

    def update(self, g: Tensor, state: tuple[Any, ...], i: int) -> tuple[Tensor, tuple[Any, ...]]:
        """The last rule's move."""
        states = []
        for step, own in zip(self.steps, state, strict=True):
            g, own = step.update(g, own, i)
            states.append(own)
        return g, tuple(states)


@dataclass(frozen=True)
class momentum:  # noqa: N801
    """`v <- decay v + g / mean|g|` (Dong et al., 2018, equation 6, whose L1 norm is the mean times a constant)."""

    decay: float = 1.0

    def init(self, x: Tensor) -> Tensor:
        """No velocity."""
        return torch.zeros_like(x)

    def update(self, g: Tensor, state: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """The velocity is the move."""
        velocity = self.decay * state + g / rows(divisor(g.flatten(1).abs().mean(1)), g)
        return velocity, velocity


@dataclass(frozen=True)
class nesterov:  # noqa: N801
    """Momentum whose gradient is taken ahead, at `z + size decay v` (Lin et al., 2020, equations 6 and 7).

    The point that is carried is the one ahead (the change of variable of Bengio et al., 2013), so that the search
    needs to know nothing of it: `move = size ascent(v') + size decay (v' - v)`.
    """

    norm: Norm
    size: float
    decay: float = 1.0

    def init(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """No velocity, and the unit of eps."""
        return torch.zeros_like(x), ascent(self.norm).init(x)

    def update(self, g: Tensor, state: tuple[Tensor, Tensor | None], i: int) -> tuple[Tensor, Any]:
        """From one point ahead to the next."""
        before, measure = state
        velocity, _ = momentum(self.decay).update(g, before, i)
        move, _ = ascent(self.norm).update(velocity, measure, i)
        ahead = self.decay * (velocity - before)
        return self.size * (move + (ahead if measure is None else ahead * rows(measure, ahead))), (velocity, measure)


@dataclass(frozen=True)
class ascent:  # noqa: N801
    """The norm's direction of ascent, at size one in the unit of eps."""

    norm: Norm

    def init(self, x: Tensor) -> Tensor | None:
        """That unit at every row, where it is not that of the inputs."""
        measure = self.norm.measure(x)
        return measure if isinstance(measure, Tensor) else None

    def update(self, g: Tensor, state: Tensor | None, i: int) -> tuple[Tensor, Tensor | None]:
        """The direction. A new tensor, that may be written to."""
        move = self.norm.ascent(g)
        return move if state is None else move.mul_(rows(state, move)), state


@dataclass(frozen=True)
class scale:  # noqa: N801
    """A constant step size, in the unit of eps."""

    size: float

    def init(self, x: Tensor) -> None:
        """No state."""

    def update(self, g: Tensor, state: None, i: int) -> tuple[Tensor, None]:
        """`size g`."""
        return self.size * g, None


@dataclass(frozen=True)
class cosine:  # noqa: N801
    """A step size that falls from `size` to nearly zero over `steps` along half a cosine."""

    size: float
    steps: int

    def init(self, x: Tensor) -> None:
        """No state."""

    def update(self, g: Tensor, state: None, i: int) -> tuple[Tensor, None]:
        """`size (1 + cos(pi i / (steps + 1))) / 2`, times g."""
        return self.size * (1 + math.cos(math.pi * i / (self.steps + 1))) / 2 * g, None


@dataclass(frozen=True)
class adam:  # noqa: N801
    """Adam's move (Kingma and Ba, 2015): up to `size` in every coordinate, less where gradients disagree.

    `floor` is what a coordinate is divided by at least: gradients far below it move nothing.
    """

    size: float = 1.0
    floor: float = 1e-8

    def init(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """No moments."""
        return torch.zeros_like(x), torch.zeros_like(x)

    def update(self, g: Tensor, state: tuple[Tensor, Tensor], i: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The mean gradient over the root of its mean square, both corrected for their start at zero."""
        first, second = 0.9 * state[0] + 0.1 * g, 0.999 * state[1] + 0.001 * g.square()
        state = first, second
        return self.size * first / (1 - 0.9 ** (i + 1)) / self.metric(state, i), state

    def metric(self, state: tuple[Tensor, Tensor], i: int) -> Tensor:
        """The root: what each coordinate was divided by."""
        return (state[1] / (1 - 0.999 ** (i + 1))).sqrt() + self.floor
