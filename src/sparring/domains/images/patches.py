"""Patches: anything inside of one square, which may lie anywhere in the image (Brown et al., 2017).

As a norm a patch is like L0: it bounds which pixels change, and the box how far. So the ball of that norm is the
threat, and whatever climbs in a ball climbs in it. Images are `(B, C, H, W)`; sizes are shares of the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparring.domains.images.threats import bounded, images, sized
from sparring.domains.images.windows import Window
from sparring.norms import L1, around, as_it_is, in_input_units
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball


def side_of(share: float, x: Tensor) -> int:
    """The side of a square that covers up to this share of the image, in whole pixels.

    Where the image is lower or narrower than that, the square sticks out.
    """
    images(x)
    return int(math.sqrt(share * x.shape[2] * x.shape[3]) + 1e-9)


def sums(worth: Tensor, side: int) -> Tensor:
    """What all squares of this side hold, by their first pixel, `(B, 1, rows, columns)`, of a worth `(B, C, H, W)`."""
    window = min(side, worth.shape[2]), min(side, worth.shape[3])
    return functional.avg_pool2d(worth.sum(1, keepdim=True), window, 1, divisor_override=1)


def best_place(worth: Tensor, side: int) -> Tensor:
    """The first pixel of the square that holds most, `(B,)`: the first of equals."""
    held = sums(worth, side)
    most = held.flatten(1).argmax(1)
    return most // held.shape[3] * worth.shape[3] + most % held.shape[3]


def grid(x: Tensor, side: int, most: int) -> tuple[list[int], list[int]]:
    """The rows and the columns in which squares begin that lie equally far apart, all over the image, to its far edges.

    As close to each other as `most` squares can be, but half a side apart at most, where there may be more of them.
    """
    for apart in range(1, max(side + 1, 2) // 2 + 1):
        down, across = ({*range(0, room, apart), room} for room in (max(n - side, 0) for n in x.shape[2:]))
        if len(down) * len(across) <= most:
            break
    return sorted(down), sorted(across)


def likely_places(worth: Tensor, side: int, most: int) -> Tensor:
    """The first pixels of the square that holds most, and of squares of a grid, by what they hold, `(B, n)`.

    No more than `most` of those.
    """
    down, across = grid(worth, side, most)
    held = sums(worth, side)[:, 0, down][:, :, across].flatten(1)
    first = torch.tensor([i * worth.shape[3] + j for i in down for j in across], device=worth.device)
    likely = first[held.topk(min(most, len(first)), 1).indices]
    return torch.cat([best_place(worth, side).unsqueeze(1), likely], 1)


def painted_on(z: Tensor, x: Tensor, side: int) -> Window:
    """Where the patch of this side lies that makes `z` of `x`."""
    return Window.of(best_place((z != x).to(x.dtype), side), side, x)


def carried(z: Tensor, x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """The patch that makes `z` of `x`, elsewhere in the image."""
    side = side_of(threat.eps, x)
    if not side:
        return x
    patch = painted_on(z, x, side)
    return patch.nearby(x, rng).carried(z, x, patch)


def _extent(changed: Tensor) -> Tensor:
    """From the first to the last true element of every row, both counted; 0 where there is none."""
    seen = changed.to(torch.uint8)
    return (seen.cummax(1).values & seen.flip(1).cummax(1).values.flip(1)).sum(1)


@dataclass(frozen=True)
class Square:
    """The share of the image that the smallest square around all changes covers."""

    name: str = "patch"
    counts: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    measure = in_input_units
    said = as_it_is
    around = around

    def unit(self, eps: float, width: float) -> float:
        """The width: every pixel of a patch moves across the box, however large the patch is."""
        return width

    def reach(self, delta: Tensor) -> Tensor:
        """The side of the smallest square around all changes, in pixels, `(B,)`."""
        images(delta)
        changed = (delta != 0).any(1)
        return torch.maximum(_extent(changed.any(2)), _extent(changed.any(1)))

    def size(self, delta: Tensor) -> Tensor:
        """`side^2 / (H W)`."""
        exact = torch.promote_types(delta.dtype, torch.float32)
        return self.reach(delta).to(exact).square() / (delta.shape[2] * delta.shape[3])

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """Keep the square whose loss would cost most, each pixel clipped to the box; the first one of equals."""
        point = z.clamp(low, high)
        v, change = z - x, point - x
        worth = change * (2 * v - change)  # v^2 - (v - change)^2, which would round away for a v far outside
        for side, some in _by_side(eps, x):
            some = some[self.reach(change[some]) > side]
            kept = Window.of(best_place(worth[some], max(side, 1)), side, x)
            point[some] = point[some].where(kept.place(x)[2], x[some])
        return point

    def steepest(self, gradient: Tensor) -> Tensor:
        """The signs, over the whole image: the ball bounds which pixels move, the box how far."""
        return gradient.sign()

    def ascent(self, gradient: Tensor) -> Tensor:
        """The whole gradient, thirty long at its largest coordinate: the projection leaves the square that gains most.

        Shorter moves would keep the square that was there first.
        """
        return 10 * L1().ascent(gradient)

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """A square anywhere, every pixel of it uniform in the box."""
        z = low + (high - low) * rng.at("value").uniform(*x.shape[1:], device=x.device).to(x.dtype)
        for side, some in _by_side(eps, x):
            height, width = (min(side, length) for length in x.shape[2:])
            patch = Window.anywhere(height, width, x[some], rng[some].at("place"))
            z[some] = z[some].where(patch.place(x)[2], x[some])
        return z


def _by_side(eps: Tensor | float, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The sides of the squares, and the rows that have them."""
    every = torch.arange(len(x), device=x.device)
    if not isinstance(eps, Tensor):
        yield side_of(eps, x), every
        return
    sides = torch.tensor([side_of(float(one), x) for one in eps.flatten()], device=x.device)
    for side in sorted(set(sides.tolist())):
        yield side, every[sides == side]


SQUARE = Square()


@register("threats", "patch")
def patch(share: float, *, low: float = 0.0, high: float = 1.0) -> Ball:
    """Anything inside of one square that covers EPS of the image.

    The side is rounded down to whole pixels: `patch:0.05` is a square of 6 by 6 in 28 by 28.
    """
    bounded(low, high)
    sized("a share", share, 1)
    return Ball(SQUARE, share, low, high)
