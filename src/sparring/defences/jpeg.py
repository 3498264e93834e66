"""JPEG: what a file takes away, and the same as a function with a gradient."""

from __future__ import annotations

import math
from functools import cache
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sparring.defences.cleaning import Cleaning, images
from sparring.errors import BadInput
from sparring.registry import register
from sparring.views import settled

LUMA = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
"""RGB to YCbCr (ITU-T T.871), without the offset of the colours."""

BLOCK = 8
"""Pixels to a side of what is transformed at a time (ITU-T T.81)."""


def compressed(x: Tensor, *, quality: int) -> Tensor:
    """Images in [0, 1], grey or RGB, as Pillow reads the JPEG that it wrote, in steps of 1/255."""
    if images(x).shape[1] not in (1, 3):
        raise BadInput(f"images of {x.shape[1]} channels", "1 or 3 for JPEG", "use another defence")
    levels = (x.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    for one in levels:
        one[:] = _through_file(one.squeeze(2) if x.shape[1] == 1 else one, quality).reshape(one.shape)
    return torch.from_numpy(levels).permute(0, 3, 1, 2).to(x) / 255


def _through_file(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        return np.asarray(read)


def softly(x: Tensor, *, quality: int) -> Tensor:
    """JPEG with a gradient: as written and read, but for the rounding of coefficients (Shin and Song, 2017).

    `round(c)` becomes `round(c) + (c - round(c))^3`: what a file throws away has next to no slope, so that a search
    does not waste its budget on it. Colours are halved and widened bilinearly, blocks at the edge filled up with it.
    """
    height, width = x.shape[2:]
    luma, chroma = _tables(quality)
    planes = 255 * x if x.shape[1] == 1 else torch.einsum("ij,bjhw->bihw", LUMA.to(x), 255 * x)
    filled = functional.pad(planes, (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK)), mode="replicate")
    read = _through_blocks(filled[:, :1] - 128, luma) + 128
    if x.shape[1] == 3:
        small = _through_blocks(functional.avg_pool2d(filled[:, 1:], 2), chroma)
        colours = functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        read = torch.einsum("ij,bjhw->bihw", LUMA.to(x).inverse(), torch.cat([read, colours], 1))
    return read[..., :height, :width].clamp(0, 255) / 255


def _through_blocks(planes: Tensor, table: Tensor) -> Tensor:
    """Each block to its cosines, in steps of the table, rounded softly, and back."""
    waves, steps = cosines().to(planes), table.to(planes).view(-1, 1, 1)
    one = planes.flatten(0, 1).unsqueeze(1)
    c = functional.conv2d(one, waves, stride=BLOCK) / steps
    rounded = c.detach().round()
    back = functional.conv_transpose2d(steps * (rounded + (c - rounded) ** 3), waves, stride=BLOCK)
    return back.view_as(planes)


@cache
def cosines() -> Tensor:
    """The 64 waves of a block, `(64, 1, 8, 8)`, by down and then across: orthonormal (ITU-T T.81, A.3.3)."""
    k = torch.arange(BLOCK, dtype=torch.float64)
    lines = torch.cos((2 * k + 1) * k.unsqueeze(1) * math.pi / (2 * BLOCK)) / 2
    lines[0] /= math.sqrt(2)
    return torch.einsum("ui,vj->uvij", lines, lines).reshape(BLOCK**2, 1, BLOCK, BLOCK).float()


@cache
def _tables(quality: int) -> tuple[Tensor, Tensor]:
    """The steps to which coefficients are rounded, `(64,)` each for brightness and for colours: those of Pillow."""
    file = BytesIO()
    Image.new("RGB", (BLOCK, BLOCK)).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        luma, chroma = (torch.tensor(steps, dtype=torch.float32) for steps in read.quantization.values())  # type: ignore[attr-defined]
    return luma, chroma


@register("defences", "jpeg", shape="image", paper="Das et al., 2018")
def jpeg(*, quality: int = 75) -> Cleaning:
    """Write the image as a JPEG file, and read it again (Das et al., 2018).

    The gradient is that of a JPEG whose rounding has a slope (Shin and Song, 2017).
    """
    if not 1 <= quality <= 95:
        raise BadInput(f"quality {quality}", "1 to 95", "75 is usual")
    return Cleaning(clean=settled(compressed, quality=quality), surrogate=settled(softly, quality=quality))
