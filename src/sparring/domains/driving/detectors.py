"""Detectors as models: images of any size in, predictions out, with what lies between them inside of the model.

An attack changes the image that the camera gave, so resizing and normalising belong to what it climbs through: a
change that only exists behind them would not survive them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.domains.driving.heads import Head, fastest_det
from sparring.errors import BadInput

Place = tuple[float, float, float, float]
"""Where the image lies in what the network sees: left, top, width and height, as shares of it."""

Fit = Callable[[Tensor, int, int], tuple[Tensor, Place]]
GREY = 114 / 255
"""What YOLO puts beside an image of another shape."""


def stretched(x: Tensor, height: int, width: int) -> tuple[Tensor, Place]:
    """Images resized bilinearly, each side by itself."""
    return _resized(x, height, width), (0.0, 0.0, 1.0, 1.0)


def letterboxed(x: Tensor, height: int, width: int) -> tuple[Tensor, Place]:
    """Images resized bilinearly in their proportions, with grey on both sides of what is left."""
    scale = min(height / x.shape[2], width / x.shape[3])
    down, across = max(round(x.shape[2] * scale), 1), max(round(x.shape[3] * scale), 1)
    top, left = (height - down) // 2, (width - across) // 2
    seen = functional.pad(
        _resized(x, down, across), (left, width - across - left, top, height - down - top), value=GREY
    )
    return seen, (left / width, top / height, across / width, down / height)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[2:] == (height, width):
        return x
    return functional.interpolate(x, (height, width), mode="bilinear", align_corners=False)


class Detector(nn.Module):
    """A network that finds objects, as a model: images `(B, 3, H, W)` in [0, 1] to predictions `(B, A, 5 + K)`.

    `head` says how the network's outputs are read (`sparring.domains.driving.heads`), `size` what height and width it
    wants (as the image is, unless given) and `fit` how images get there; with `bgr` it wants blue first. `mean` and
    `deviation` of the three channels are what it was trained with. Boxes come back as shares of the image.

    Raises:
        BadInput: when called, inputs that are no images, or outputs that the head can't read.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: Callable[[Tensor], Any],
        head: Head,
        *,
        size: tuple[int, int] | None = None,
        fit: Fit = letterboxed,
        bgr: bool = False,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        deviation: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.network, self.head, self.size, self.fit, self.bgr = network, head, size, fit, bgr
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The predictions of some images."""
        if x.dim() != 4 or x.shape[1] != 3:
            raise BadInput(f"inputs of shape {tuple(x.shape)}", "images (B, 3, H, W)", "hand over colours first")
        height, width = self.size or (x.shape[2], x.shape[3])
        seen, (left, top, across, down) = self.fit(x, height, width)
        seen = (seen.flip(1) if self.bgr else seen).sub(self.mean).div(self.deviation)
        said = self.head(self.network(seen), height, width)
        corner, share = said.new_tensor([left, top, left, top]), said.new_tensor([across, down, across, down])
        return torch.cat([(said[..., :4] - corner) / share, said[..., 4:]], 2)


def load_fastest_det(path: str | Path) -> Detector:
    """FastestDet from its ONNX file, with gradients: one grid of 22 by 22, the 80 classes of COCO.

    It takes images of 352 by 352, stretched to that whatever their shape, blue first.

    Raises:
        BadInput: not that file, or onnx or onnxruntime is not installed.
    """
    from sparring.models.onnx import load

    victim = load(path)
    if victim.module is None:
        said = "; ".join(victim.notes)
        raise BadInput(f"{path} ({said})", "an ONNX file that can be imported", "export it with plain operators")
    return Detector(
        victim.module.eval().requires_grad_(False), fastest_det, size=(352, 352), fit=stretched, bgr=True
    ).eval()
