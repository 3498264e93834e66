"""Augmentations: a batch as it might have looked, `(x, rng) -> x`. `rng` holds a stream for each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.streams import Streams


@dataclass(frozen=True)
class shifts:  # noqa: N801  (reads as the function it stands for)
    """Move every image `(C, H, W)` by up to `pixels` in each direction; what comes in from outside is 0."""

    pixels: int = 1

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The moved images, `(B, C, H, W)`."""
        margin = functional.pad(x, (self.pixels,) * 4)
        corner = rng.at("shift").integers(2 * self.pixels + 1, 2, device=x.device)
        row = corner[:, :1] + torch.arange(x.shape[2], device=x.device)
        column = corner[:, 1:] + torch.arange(x.shape[3], device=x.device)
        batch = torch.arange(len(x), device=x.device)
        return margin[batch[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2).contiguous()
