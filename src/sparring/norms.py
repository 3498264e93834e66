"""Norms as objects: the functions from which every continuous threat, step and attack is made.

No attack asks which norm it has. `delta`, `x` and `z` are `(B, *shape)`; `eps` is `(B,)`, or a number for all rows;
`low` and `high` bound every coordinate, and those of `x` are between them. Projections are exact: the nearest point
of ball and box together, not one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from sparring.streams import Streams
from sparring.types import Norm


def rows(per_example: Tensor | float, like: Tensor) -> Tensor:
    """A value for each example, `(B,)`, or one for all, in a shape that broadcasts over `like`, `(B, *shape)`."""
    mask = isinstance(per_example, Tensor) and per_example.dtype == torch.bool
    value = torch.as_tensor(per_example, device=like.device, dtype=torch.bool if mask else like.dtype)
    return value.expand(len(like)).view(-1, *[1] * (like.dim() - 1))


def divisor(value: Tensor) -> Tensor:
    """`value` where something may be divided by it: never below the least normal number of its type."""
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def _where_outside(
    norm: Norm,
    points: tuple[Tensor, Tensor],
    eps: Tensor | float,
    box: tuple[float, float],
    nearest: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """The point of the box nearest to `z` where that is in the ball around `x` already.

    Elsewhere `x` and the change that `nearest` gives, on flat rows, for the change wanted, its bounds, and eps: all in
    float32 at the least, because sums and squares of half precision are no longer exact.
    """
    z, x = points
    limit = rows(eps, x).flatten()
    point = z.clamp(*box)
    outside = norm.size(point - x) > limit
    if not bool(outside.any()):
        return point
    near = x[outside]
    exact = torch.promote_types(x.dtype, torch.float32)
    v, low, high = ((end - near).flatten(1).to(exact) for end in (z[outside], *box))
    change = nearest(v, low, high, limit[outside].unsqueeze(1).to(exact))
    point[outside] = (near + change.view_as(near).to(x.dtype)).clamp(*box)
    return point


@dataclass(frozen=True)
class Around:
    """The allowed points around `x`, where nothing of the projection can be worked out once: `project(z, x)`."""

    project: Callable[[Tensor, Tensor], Tensor]
    x: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """The one nearest to `z`."""
        return self.project(z, self.x)

    def __getitem__(self, rows: Tensor) -> Around:
        """Those around some of the rows."""
        return Around(self.project, self.x.index_select(0, rows))


def around(norm: Norm, x: Tensor, eps: float, low: float, high: float) -> Around:
    """A norm's `around` where nothing can be worked out once."""
    return Around(partial(norm.project, eps=eps, low=low, high=high), x)


def in_eps(norm: Norm, eps: float, width: float) -> float:
    """A norm's `unit` where eps is in input units."""
    return eps


def in_input_units(norm: Norm, x: Tensor) -> float:
    """A norm's `measure` where eps is in input units."""
    return 1.0


def as_it_is(norm: Norm, eps: float) -> float:
    """A norm's `said` where eps is said as it is."""
    return eps


@dataclass(frozen=True)
class Between:
    """All points between two others, coordinate by coordinate."""

    least: Tensor
    most: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """The one nearest to `z`."""
        return z.clamp(self.least, self.most)

    def __getitem__(self, rows: Tensor) -> Between:
        """Those of some of the rows."""
        return Between(self.least.index_select(0, rows), self.most.index_select(0, rows))


@dataclass(frozen=True)
class Linf:
    """The largest change of a coordinate."""

    name: str = "linf"
    counts: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    unit = in_eps
    measure = in_input_units
    said = as_it_is

    def size(self, delta: Tensor) -> Tensor:
        """`max |delta_i|`."""
        return delta.flatten(1).abs().amax(1)

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """Clamp every coordinate."""
        return self.around(x, eps, low, high)(z)

    def around(self, x: Tensor, eps: Tensor | float, low: float, high: float) -> Between:
        """Clamp every coordinate, to bounds worked out once."""
        limit = rows(eps, x) if isinstance(eps, Tensor) else eps  # a number need not be spread over the rows
        return Between((x - limit).clamp_(min=low), (x + limit).clamp_(max=high))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The signs."""
        return gradient.sign()

    def ascent(self, gradient: Tensor) -> Tensor:
        """The steepest direction."""
        return self.steepest(gradient)

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """Every coordinate uniform on what ball and box leave it."""
        near = self.around(x, eps, low, high)
        return rng.uniform(*x.shape[1:], device=x.device).to(x.dtype).mul_(near.most.sub_(near.least)).add_(near.least)


@dataclass(frozen=True)
class L2:
    """The Euclidean length."""

    name: str = "l2"
    counts: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    unit = in_eps
    measure = in_input_units
    said = as_it_is
    around = around

    def size(self, delta: Tensor) -> Tensor:
        """`sqrt(sum delta_i^2)`."""
        return delta.flatten(1).square().sum(1).sqrt()

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """`clip(t delta)` with the `t` at which it has length eps: a sort of the scales at which coordinates clip."""

        def nearest(v: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
            bound = torch.where(v > 0, high, -low)
            clips_at = torch.where(v != 0, bound / v.abs(), torch.inf)  # coordinate i clips for t >= clips_at_i
            order = clips_at.argsort(dim=1)
            t = clips_at.gather(1, order)
            clipped = (bound.gather(1, order) ** 2).cumsum(1)
            free = (v.gather(1, order) ** 2).flip(1).cumsum(1).flip(1)
            before = torch.cat([torch.zeros_like(eps), clipped[:, :-1]], 1)  # squared length of what clips below t_k
            grown = before + torch.where(t.isfinite(), t, 0) ** 2 * free
            grown = torch.where(t.isfinite(), grown, torch.inf)
            k = (grown >= eps**2).to(torch.uint8).argmax(1, keepdim=True)  # the first segment that reaches eps
            scale = ((eps**2 - before.gather(1, k)).clamp(min=0) / free.gather(1, k).clamp(min=1e-30)).sqrt()
            point = (v * scale).clamp(low, high)
            return point * (eps / self.size(point).unsqueeze(1).clamp(min=1e-30)).clamp(max=1)

        return _where_outside(self, (z, x), eps, (low, high), nearest)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient at length one."""
        unit = gradient / rows(divisor(Linf().size(gradient)), gradient)  # whose squares neither vanish nor overflow
        return unit / rows(divisor(self.size(unit)), unit)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The steepest direction."""
        return self.steepest(gradient)

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """A uniform direction, at a length of `eps u^(1/n)`: uniform in the ball, then clipped to the box."""
        direction = self.steepest(rng.at("direction").normal(*x.shape[1:], device=x.device).to(x.dtype))
        # exp and log, not a power: torch rounds powers differently from one batch to another
        length = (rng.at("length").uniform(1, device=x.device).to(x.dtype).log() / x.shape[1:].numel()).exp()
        return (x + direction * rows(length.flatten(), x) * rows(eps, x)).clamp(low, high)


@dataclass(frozen=True)
class L1:
    """The sum of the changes."""

    name: str = "l1"
    counts: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    unit = in_eps
    measure = in_input_units
    said = as_it_is
    around = around

    def size(self, delta: Tensor) -> Tensor:
        """`sum |delta_i|`."""
        return delta.flatten(1).abs().sum(1)

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """Soft-threshold and clip, at the threshold where the sum is eps (Croce and Hein, 2021, Proposition 2.1).

        The sum grows as the threshold comes down, linearly between the points at which a coordinate begins to count
        or stops at its bound: a sort of those points finds the piece. (Down, because sums from zero round least.)
        """

        def nearest(v: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
            size, bound = v.abs(), torch.where(v > 0, high, -low)
            stops = (size - bound).clamp(min=0)  # below this threshold the coordinate sits at its bound
            points, order = torch.cat([size, stops], 1).sort(dim=1, descending=True)
            counted = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order).cumsum(1)
            total = torch.zeros_like(points)
            total[:, 1:] = (counted[:, :-1] * -points.diff(dim=1)).cumsum(1)
            k = (total[:, 1:] < eps).sum(1, keepdim=True).clamp(max=total.shape[1] - 2)  # the piece that reaches eps
            further = (eps - total.gather(1, k)) / counted.gather(1, k).clamp(min=1)
            point = v.sign() * torch.minimum((size - points.gather(1, k) + further).clamp(min=0), bound)
            return point * (eps / point.abs().sum(1, keepdim=True).clamp(min=1e-30)).clamp(max=1)

        return _where_outside(self, (z, x), eps, (low, high), nearest)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the largest coordinate, alone."""
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).view_as(gradient)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The whole gradient, three long at its largest coordinate.

        The steepest direction is one coordinate, which the box stops at once. All of them move instead, far: the
        projection takes most of it back, and leaves the sum to those that gain most.
        """
        return 3 * (gradient / rows(divisor(Linf().size(gradient)), gradient))

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """`n` of `n + 1` normalised exponentials, with random signs: uniform in the ball, then clipped to the box."""
        shape, device = x.shape[1:], x.device
        draw = -torch.log1p(-rng.at("sizes").uniform(*shape, device=device))
        rest = -torch.log1p(-rng.at("rest").uniform(1, device=device))
        total = draw.flatten(1).sum(1) + rest.flatten()
        share = (rng.at("signs").sign(*shape, device=device) * draw).to(x.dtype) / rows(total, x)
        return (x + share * rows(eps, x)).clamp(low, high)


@dataclass(frozen=True)
class L0:
    """The number of coordinates that change."""

    name: str = "l0"
    counts: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    measure = in_input_units
    said = as_it_is
    around = around

    def unit(self, eps: float, width: float) -> float:
        """As if all of eps were at one coordinate."""
        return eps * width

    def size(self, delta: Tensor) -> Tensor:
        """The count of non-zero coordinates."""
        return (delta.flatten(1) != 0).sum(1).to(delta.dtype)

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """Keep the `floor(eps)` coordinates whose loss would cost most, each clipped to its bounds."""

        def nearest(v: Tensor, low: Tensor, high: Tensor, eps: Tensor) -> Tensor:
            point = v.clamp(low, high)
            gain = point * (2 * v - point)  # v^2 - (v - point)^2, which would round away for a v far outside
            ranks = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            return point * (ranks < eps.floor())

        return _where_outside(self, (z, x), eps, (low, high), nearest)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the largest coordinate, alone: the ball bounds how many move, the box how far."""
        return L1().steepest(gradient)

    def ascent(self, gradient: Tensor) -> Tensor:
        """The whole gradient, ten long at its mean coordinate: the projection picks the coordinates that gain most.

        Shorter moves would keep those that were picked first (Croce and Hein, 2019, take steps as long).
        """
        return 10 * (gradient / rows(divisor(gradient.flatten(1).abs().mean(1)), gradient))

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """`floor(eps)` coordinates at random, each uniform between its bounds (within one of `x` where it has none)."""
        shape, device = x.shape[1:], x.device
        order = rng.at("place").uniform(*shape, device=device).flatten(1).argsort(dim=1).argsort(dim=1).view_as(x)
        least = low if math.isfinite(low) else x - 1
        most = high if math.isfinite(high) else x + 1
        value = least + (most - least) * rng.at("value").uniform(*shape, device=device).to(x.dtype)
        return torch.where(order < rows(eps, x).floor(), value, x)


NORMS: dict[str, Norm] = {norm.name: norm for norm in (Linf(), L2(), L1(), L0())}
