"""Rectangles in images, each at a place of its own: what random searches paint, and where patches lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.streams import Streams


@dataclass(frozen=True)
class Window:
    """A rectangle in every image, each at its own place: `top`, `left` are `(B,)`. Images are `(B, C, H, W)`."""

    top: Tensor
    left: Tensor
    height: int
    width: int

    @classmethod
    def draw(cls, share: float, like: Tensor, rng: Streams, least: int = 1) -> Window:
        """A square that covers this share of the image, anywhere (a strip, where the image is lower than that)."""
        full_height, full_width = like.shape[2:]
        side = max(round(math.sqrt(share * full_height * full_width)), least)
        height = min(side, full_height)
        width = min(side if height == side else max(round(share * full_width), 1), full_width)
        return cls.anywhere(height, width, like, rng)

    @classmethod
    def anywhere(cls, height: int, width: int, like: Tensor, rng: Streams) -> Window:
        """A rectangle of this size, which is no larger than the image, at a place drawn for each."""
        top = rng.at("top").integers(like.shape[2] - height + 1, 1, device=like.device).flatten()
        left = rng.at("left").integers(like.shape[3] - width + 1, 1, device=like.device).flatten()
        return cls(top, left, height, width)

    @classmethod
    def of(cls, first: Tensor, side: int, like: Tensor) -> Window:
        """Squares by the numbers of their first pixels, `(B,)`; less where the image is lower or narrower."""
        height, width = like.shape[2:]
        return cls(first // width, first % width, min(side, height), min(side, width))

    def place(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column inside the window of every pixel `(B, H, 1)`, `(B, 1, W)`, and which pixels are inside."""
        i = torch.arange(like.shape[2], device=like.device)[:, None] - self.top[:, None, None]
        j = torch.arange(like.shape[3], device=like.device)[None, :] - self.left[:, None, None]
        inside = ((i >= 0) & (i < self.height)) & ((j >= 0) & (j < self.width))
        return i.clamp(0, self.height - 1), j.clamp(0, self.width - 1), inside.unsqueeze(1)

    def nearby(self, like: Tensor, rng: Streams) -> Window:
        """The window elsewhere: as often within a pixel as within two, four, ... or anywhere."""
        height, width = like.shape[2:]
        # exp, not a power: torch rounds powers differently from one batch to another
        reach = (rng.at("reach").uniform(1, device=like.device).flatten() * math.log(max(height, width))).exp()

        def moved(first: Tensor, room: int, axis: str) -> Tensor:
            by = (2 * rng.at(axis).uniform(1, device=like.device).flatten() - 1) * reach
            return (first + by.sign() * by.abs().ceil()).long().clamp(0, room)

        top = moved(self.top, height - self.height, "down")
        return replace(self, top=top, left=moved(self.left, width - self.width, "across"))

    def carried(self, z: Tensor, x: Tensor, old: Window) -> Tensor:
        """What `z` shows in the old window, in this one of the same size; `x` around it."""
        i, j, inside = self.place(x)
        source = (old.top[:, None, None] + i) * x.shape[3] + old.left[:, None, None] + j
        shown = z.flatten(2).gather(2, source.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)).view_as(z)
        return torch.where(inside, shown, x)
