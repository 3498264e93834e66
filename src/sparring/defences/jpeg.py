"""JPEG: what a file takes away."""

from __future__ import annotations

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


def compressed(x: Tensor, *, quality: int) -> Tensor:
    """Images in [0, 1], grey or RGB, as Pillow reads the JPEG that it wrote, in steps of 1/255."""
    if images(x).shape[1] not in (1, 3):
        raise BadInput(f"images of {x.shape[1]} channels", "1 or 3 for JPEG", "use another defence")
    levels = (x.detach() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    back = np.stack([_through_file(one.squeeze(2) if x.shape[1] == 1 else one, quality) for one in levels])
    return torch.from_numpy(back).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2).to(x) / 255


def _through_file(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        return np.asarray(read)


def unrounded(x: Tensor) -> Tensor:
    """What JPEG is without its rounding: brightness as it is, colours at half the resolution. Grey images stay."""
    if x.shape[1] == 1:
        return x
    to = LUMA.to(x)
    planes = torch.einsum("ij,bjhw->bihw", to, x)
    small = functional.avg_pool2d(planes[:, 1:], 2, ceil_mode=True)
    colours = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : x.shape[2], : x.shape[3]]
    return torch.einsum("ij,bjhw->bihw", to.inverse(), torch.cat([planes[:, :1], colours], 1))


@register("defences", "jpeg", shape="image", paper="Das et al., 2018")
def jpeg(*, quality: int = 75) -> Cleaning:
    """Write the image as a JPEG file, and read it again (Das et al., 2018).

    The gradient is that of JPEG without its rounding, which for a grey image is the identity.
    """
    if not 1 <= quality <= 95:
        raise BadInput(f"quality {quality}", "1 to 95", "75 is usual")
    return Cleaning(clean=settled(compressed, quality=quality), surrogate=unrounded)
