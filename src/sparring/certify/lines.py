"""Relaxations: what is not linear, between a line below and a line above that hold from `low` to `high`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certify.graph import Bend, MaxPool, Rectifier, Sigmoid, Softplus
from sparring.certify.region import dot

PAD = 1e-9
"""Taken off the lines of curved functions, for the rounding of what they are computed from."""


@dataclass(frozen=True)
class Lines:
    """`below x + below_at <= f(x) <= above x + above_at`, for every coordinate, `(B, *shape)`.

    Where `open` is true the slope below may be anything between `least` and one: alpha-CROWN chooses it.
    """

    below: Tensor
    below_at: Tensor | None
    above: Tensor
    above_at: Tensor
    open: Tensor | None = None
    least: float = 0.0

    def back(self, a: Tensor, alpha: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A lower bound `a f(x) >= a' x + constant`: `a'` `(B, S, *shape)`, and the constant `(B, S)`."""
        below, above = _beside(self.below, a), _beside(self.above, a)
        if alpha is not None and self.open is not None:
            free = _beside(self.open, a).to(below.dtype)  # products: torch.where is slower
            below = alpha * free + below * (1 - free)
        up = a.relu()
        down = a - up
        constant = dot(down, self.above_at)
        if self.below_at is not None:
            constant = constant + dot(up, self.below_at)
        return up * below + down * above, constant

    def each(self, part: Callable[[Tensor], Tensor]) -> Lines:
        """The lines of a part of the coordinates for every row, `(B, S, ...)`."""
        below_at = None if self.below_at is None else part(self.below_at)
        return Lines(part(self.below), below_at, part(self.above), part(self.above_at))


def _beside(part: Tensor, a: Tensor) -> Tensor:
    """What is the same for all rows of `a`, beside them."""
    return part if part.dim() == a.dim() else part.unsqueeze(1)


@dataclass(frozen=True)
class Constants:
    """`low <= f(x) <= high`, whatever `x`: with these CROWN is interval arithmetic."""

    low: Tensor
    high: Tensor

    def back(self, a: Tensor, alpha: Tensor | None = None) -> tuple[None, Tensor]:
        """Nothing goes further back."""
        return None, dot(a, (self.high + self.low) / 2) - dot(a.abs(), (self.high - self.low) / 2)


@dataclass(frozen=True)
class Picks:
    """A window's maximum is at least the input with the greatest lower bound (at `place`, flat in its channel).

    It is that input where no other can be greater (`sole`), and at most `high` elsewhere.
    """

    place: Tensor
    sole: Tensor
    high: Tensor
    shape: tuple[int, ...]

    def each(self, part: Callable[[Tensor], Tensor], begin: tuple[Tensor, Tensor], kernel: tuple[int, int]) -> Picks:
        """The picks of windows of the outputs, in windows of the inputs that begin in these rows and columns."""
        place = part(self.place.double()).long()
        down, right = (one.view(*one.shape, 1, 1, 1) for one in begin)
        inside = (place // self.shape[2] - down) * kernel[1] + place % self.shape[2] - right
        inside = inside.clamp(0, kernel[0] * kernel[1] - 1)  # off the map, where coefficients are zero
        return Picks(inside, part(self.sole.double()) > 0, part(self.high), (self.shape[0], *kernel))

    def back(self, a: Tensor, alpha: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `Lines.back`."""
        sole = _beside(self.sole, a)
        constant = dot(a.clamp(max=0) * ~sole, self.high)
        kept = torch.where(sole, a, a.clamp(min=0)).flatten(3)
        plane = kept.new_zeros(*kept.shape[:3], self.shape[1] * self.shape[2])
        place = _beside(self.place, a).flatten(3).expand_as(kept)
        return plane.scatter_add(3, place, kept).view(*kept.shape[:2], *self.shape), constant


Relaxation = Lines | Constants | Picks


def relax(op: Bend, low: Tensor, high: Tensor) -> Relaxation:
    """The lines of CROWN (Zhang et al., 2018) between the bounds of the inputs."""
    match op:
        case Rectifier(slope):
            return _rectified(slope, low, high)
        case Sigmoid():
            return _curved(op, low, high)
        case Softplus(beta):
            return _convex(op, lambda x: torch.sigmoid(beta * x), low, high)
        case MaxPool():
            return _picked(op, low, high)


def _rectified(slope: float, low: Tensor, high: Tensor) -> Lines:
    """Above, the chord; below, one of the two slopes: the one that leaves the smaller triangle."""
    undecided = (low < 0) & (high > 0)
    width = torch.where(undecided, high - low, 1.0)
    decided = torch.where(high <= 0, slope, 1.0).to(low)
    above = torch.where(undecided, (high - slope * low) / width, decided)
    above_at = torch.where(undecided, high * (1 - above), 0.0)
    below = torch.where(undecided, torch.where(high > -low, 1.0, slope).to(low), decided)
    return Lines(below, None, above, above_at, undecided, slope)


def _curved(op: Sigmoid, low: Tensor, high: Tensor) -> Lines:
    """The lines of tanh, moved and scaled; above, those below of its mirror image."""
    k, at = _under_tanh(low / op.width, high / op.width)
    up, up_at = _under_tanh(-high / op.width, -low / op.width)
    scale = op.scale / op.width
    return Lines(k * scale, at * op.scale + op.shift, up * scale, -up_at * op.scale + op.shift)


def _convex(f: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Lines:
    """Below, the tangent half-way; above, the chord, raised to both ends: what rounding does to its slope is made good.

    A convex function less a line is greatest at an end.
    """
    middle, left, right = (low + high) / 2, f(low), f(high)
    width = high - low
    below = slope(middle)
    above = torch.where(width > 1e-6, (right - left) / width.clamp(min=1e-6), below)
    pad = PAD * (1 + torch.maximum(low.abs(), high.abs()).clamp(max=1e3))
    above_at = torch.maximum(left - above * low, right - above * high)
    return Lines(below, f(middle) - below * middle - pad, above, above_at + pad)


def _under_tanh(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A line under tanh from `low` to `high`: the chord, or a tangent of its convex half.

    Tanh is convex below zero and concave above: the chord is under it where it starts flatter than tanh; a tangent
    at `d <= 0` is, where it ends under `tanh(high)`. Bisection finds the last such `d`, and stays on the safe side.
    """
    left, right = low.tanh(), high.tanh()
    width = high - low
    chord = torch.where(width > 1e-6, (right - left) / width.clamp(min=1e-6), torch.minimum(1 - left**2, 1 - right**2))
    first, last = low, high.clamp(max=0).maximum(low)
    middle = torch.minimum((low + high) / 2, last)  # where all is convex, the tangent half-way leaves least room
    for step in range(24):
        d = middle if step == 0 else (first + last) / 2
        under = d.tanh() + (1 - d.tanh() ** 2) * (high - d) <= right
        first, last = torch.where(under, d, first), torch.where(under, last, d)
    d = torch.where(high <= 0, torch.minimum((low + high) / 2, high), first)
    tangent = 1 - d.tanh() ** 2
    use_chord = (1 - left**2 >= chord) & (width > 1e-6)
    k = torch.where(use_chord, chord, tangent)
    k = torch.where(width > 1e-6, k, torch.minimum(1 - left**2, 1 - right**2))
    at = torch.where(use_chord | (width <= 1e-6), left - k * low, d.tanh() - k * d)
    return k, at - PAD * (1 + low.abs().clamp(max=1e3))


def _picked(op: MaxPool, low: Tensor, high: Tensor) -> Picks:
    best, place = functional.max_pool2d(low, op.kernel, op.stride, op.padding, return_indices=True)
    edge = (op.padding[1], op.padding[1], op.padding[0], op.padding[0])
    shape = (*low.shape[:2], op.kernel[0] * op.kernel[1], -1)
    number = torch.arange(low.shape[2] * low.shape[3], dtype=low.dtype).view(1, 1, *low.shape[2:])
    windows = functional.unfold(functional.pad(high, edge, value=-1e300), op.kernel, stride=op.stride).view(shape)
    at = functional.unfold(functional.pad(number, edge, value=-1.0), op.kernel, stride=op.stride).view(1, 1, *shape[2:])
    others = windows.masked_fill(at == place.flatten(2).unsqueeze(2), -1e300).amax(2)
    return Picks(place, others.view_as(best) <= best, windows.amax(2).view_as(best), tuple(low.shape[1:]))
