"""Threats: which inputs the attacker may hand over in place of `x`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.norms import NORMS, Around, divisor
from sparring.registry import members, register
from sparring.streams import Streams
from sparring.types import Boxed, Near, Norm

TOLERANCE = 1e-6
"""What float32 may add to a sum of changes, relative to eps."""


@dataclass(frozen=True)
class Ball:
    """Every `z` within `eps` of `x` in a norm, and within the box of valid inputs.

    `eps`, `low` and `high` are in input units; for L0 `eps` counts coordinates, for patches it is a share of the image,
    and for `snr` of the length of `x` itself.
    """

    norm: Norm
    eps: float
    low: float = 0.0
    high: float = 1.0

    discrete: ClassVar[bool] = False
    """Whether coordinates are names and no amounts, as the numbers of words: they have no slope, and no noise."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise BadInput(f"eps {self.eps}", "a finite number, zero or more", "give eps in the unit of the inputs")
        if not self.low < self.high:
            raise BadInput(f"bounds {self.low}..{self.high}", "low < high", "give the range of valid inputs")

    @property
    def width(self) -> float:
        """The range of a coordinate; one, where the box has no bounds."""
        width = self.high - self.low
        return width if math.isfinite(width) else 1.0

    @property
    def unit(self) -> float:
        """What steps are measured in, in input units."""
        return self.norm.unit(self.eps, self.width)

    def at(self, eps: float) -> Ball:
        """The same threat at another size."""
        return replace(self, eps=eps)

    def times(self, share: float) -> Ball:
        """The same threat at a share of its size."""
        return self.at(share * self.eps)

    def whole(self, x: Tensor) -> Ball:
        """The threat at the size at which it holds the whole box, around inputs like the first of these."""
        measure = float(torch.as_tensor(self.norm.measure(x[:1])).max()) or 1.0
        return self.at(float(self.norm.size(torch.full_like(x[:1], self.high - self.low))) / measure)

    def reach(self, x: Tensor) -> Tensor | float:
        """How far the ball goes, in the unit of `norm.size`: a number, or `(B,)` where rows differ."""
        return self.eps * self.norm.measure(x)

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """The norm of `z - x` in the unit of eps, `(B,)`."""
        size, measure = self.norm.size(z - x), self.norm.measure(x)
        return size / divisor(measure) if isinstance(measure, Tensor) else size

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether `z` is within `eps` of `x` and in the box, `(B,)` bool. NaN and infinity are never inside.

        Every coordinate is forgiven what rounding `x` and `z` to their float type can have added: next to nothing
        in a pixel, but it adds up over a large image, and it grows with the values.
        """
        inside = ((z >= self.low) & (z <= self.high) & z.isfinite()).flatten(1).all(1)
        rounding = 2 * torch.finfo(z.dtype).eps * torch.maximum(z.abs(), x.abs())
        change = ((z - x).abs() - rounding).clamp(min=0)
        return inside & (self.norm.size(change) <= self.reach(x) * (1 + TOLERANCE))

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """The allowed point nearest to `z` (Euclidean)."""
        return self.norm.project(z, x, self.reach(x), self.low, self.high)

    def around(self, x: Tensor) -> Near:
        """`project`, for one `x` and many `z`."""
        reach = self.reach(x)
        if isinstance(reach, Tensor):  # which would have to lose rows as x does
            return Around(self.project, x)
        return self.norm.around(x, reach, self.low, self.high)

    def sample(self, x: Tensor, rng: Streams) -> Tensor:
        """A uniform draw from the ball, inside the box."""
        return self.norm.sample(x, self.reach(x), self.low, self.high, rng)

    def __str__(self) -> str:
        return f"{self.norm.name}:{self.norm.said(self.eps):g}"

    @property
    def identity(self) -> str:
        """What tells it from any other one."""
        return f"{self} in {self.low:g}..{self.high:g}"


@register("threats", "linf")
def linf(eps: float, *, low: float = 0.0, high: float = 1.0) -> Ball:
    """No coordinate changes by more than `eps`."""
    return Ball(NORMS["linf"], eps, low, high)


@register("threats", "l2")
def l2(eps: float, *, low: float = 0.0, high: float = 1.0) -> Ball:
    """The change is at most `eps` long."""
    return Ball(NORMS["l2"], eps, low, high)


@register("threats", "l1")
def l1(eps: float, *, low: float = 0.0, high: float = 1.0) -> Ball:
    """The changes add up to at most `eps`."""
    return Ball(NORMS["l1"], eps, low, high)


@register("threats", "l0")
def l0(eps: float, *, low: float = 0.0, high: float = 1.0) -> Ball:
    """At most `eps` coordinates change.

    Raises:
        BadInput: an `eps` that is not a whole number.
    """
    if not (eps >= 0 and float(eps).is_integer()):
        raise BadInput(f"eps {eps:g} of l0", "a whole number of values", "write for example l0:20")
    return Ball(NORMS["l0"], eps, low, high)


def parse(text: str, *, low: float = 0.0, high: float = 1.0) -> Boxed:
    """`NAME:SIZE`, as in `linf:8/255` or `l2:0.5`, or in `pose:30`: every threat of the registry.

    Those that replace words are read by `sparring.domains.text.threats.rewriting`.

    Raises:
        BadInput: an unknown name, a size that is no number, or one that reaches past the box (`linf:8` on inputs
            between 0 and 1 is nearly always a forgotten `/255`).
    """
    name, _, size = text.partition(":")
    known = members("threats")
    if name in members("rewritings"):
        need = "a threat on numbers"
        raise BadInput(f"threat {text!r}, which replaces words", need, "give it to sparring audit or sparring attack")
    if name not in known:
        others = ", ".join([*(other for other in known if other not in NORMS), *members("rewritings")])
        raise BadInput(
            f"threat {text!r}",
            f"NORM:EPS with a norm of {', '.join(NORMS)}, or one of {others} with its size",
            "write for example linf:8/255",
        )
    try:
        over, slash, under = size.partition("/")
        eps = float(over) / (float(under) if slash else 1.0)
        if not math.isfinite(eps):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise BadInput(f"eps {size!r} in {text!r}", "a number or a fraction", "write for example linf:8/255") from None
    if name == "linf" and eps > high - low:
        raise BadInput(
            f"eps {size} in {text!r}",
            f"at most the range of the inputs, {low:g} to {high:g}",
            f"write {name}:{size}/255 if eps is in steps of 8-bit pixels, or give --bounds if the inputs reach further",
        )
    threat: Boxed = known[name].make(eps, low=low, high=high)
    return threat
