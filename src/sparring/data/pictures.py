"""Folders of images, decoded when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.data.arrays import Array, Lazy
from sparring.data.folders import listing
from sparring.errors import BadInput

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises at a file that is no whole image, or has more pixels than it will decode."""


def load_folder(folder: Path, split: str = "test") -> Lazy:
    """A folder of images, laid out as `listing` reads it.

    Inputs are `(B, 3, H, W)` in [0, 1]. Every file's header is read once (about 0.1 ms each), so that a file that does
    not fit is found before the run.

    Raises:
        BadInput: no images, a file that is no image or a huge one, more than 8 bits a channel (PNG, TIFF, PPM), sizes
            that differ, a labels.csv that does not match.

    """
    found = listing(folder, split, ENDINGS, "images")
    _same_size(found.files)
    return Lazy(folder.resolve().name, Files(found.files), found.y, found.classes)


@dataclass(frozen=True)
class Files:
    """Image files as inputs `(B, 3, H, W)`."""

    paths: tuple[Path, ...]

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Decode some of the files."""
        return _stack([decode(self.paths[i], f"'{self.paths[i]}'") for i in rows])


@dataclass(frozen=True, eq=False)
class Packed:
    """Encoded images, one after another in one array of bytes, as inputs `(B, 3, H, W)`."""

    encoded: Array
    offsets: Array

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Decode some of the images."""
        parts = ((i, self.encoded[self.offsets[i] : self.offsets[i + 1]].tobytes()) for i in rows)
        return _stack([decode(BytesIO(part), f"image {i}") for i, part in parts])


def decode(source: Path | BytesIO, what: str) -> Array:
    """One image as `(3, H, W)` uint8.

    Raises:
        BadInput: not an image, a truncated or a huge one.

    """
    try:
        with Image.open(source) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except UNREADABLE as error:
        raise BadInput(f"{what} cannot be read ({error})", "a whole image", "remove or replace it") from error


def deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits a channel.

    Grey ones have a mode of their own. Colours Pillow reads as 8 bits, and only what it will tell its decoder, before
    the pixels are read, gives them away.
    """
    if image.mode.startswith(("I", "F")):
        return True
    for decoder, _, _, told in getattr(image, "tile", []):
        words = told if isinstance(told, tuple) else (told,)
        if any(isinstance(word, str) and re.search(";16[BLN]", word) for word in words):  # BMP's BGR;16 is 5 or 6 bits
            return True
        if decoder.startswith("ppm") and any(isinstance(word, int) and word > 255 for word in words):
            return True
    return False


def _stack(images: list[Array]) -> Tensor:
    """`(B, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(np.stack(images)).float().div_(255) if images else torch.empty(0)


def _same_size(files: Sequence[Path]) -> None:
    """Every header says the same size and 8 bits a channel."""
    expected: tuple[int, int] | None = None
    for file in files:
        try:
            with Image.open(file) as image:
                size, too_deep = image.size, deep(image)
        except UNREADABLE as error:
            raise BadInput(f"'{file}' cannot be read ({error})", "whole images", "remove or replace it") from error
        if too_deep:
            raise BadInput(f"'{file}' has more than 8 bits a channel", "8-bit images", "convert it")
        expected = expected or size
        if size != expected:
            raise BadInput(
                f"'{file}' is {size[0]}x{size[1]}, '{files[0].name}' is {expected[0]}x{expected[1]}",
                "images of one size",
                "resize them as the model expects",
            )
