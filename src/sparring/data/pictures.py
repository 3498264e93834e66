"""Folders of images, decoded when they are asked for."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.data.arrays import Array, Lazy, labels
from sparring.errors import BadInput

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
LAYOUT = "a subfolder of images for each class, or images and a labels.csv with columns file,label"
SPLITS = ("train", "test", "val", "valid", "validation")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises at a file that is no whole image, or has more pixels than it will decode."""


def load_folder(folder: Path, split: str = "test") -> Lazy:
    """A folder with a subfolder for each class, or images with a `labels.csv` (columns `file,label`).

    Inputs are `(B, 3, H, W)` in [0, 1]. Classes are the sorted names of the subfolders, or of the labels where these
    are not all numbers. Where all subfolders are named like splits (train, test, val ...), the one of `split` is used,
    and classes are the subfolders of all of them, so that a label means the same in each. Every file's header is read
    once (about 0.1 ms each), so that a file that does not fit is found before the run.

    Raises:
        BadInput: no images, a file that is no image or a huge one, more than 8 bits a channel (PNG, TIFF, PPM), sizes
            that differ, a labels.csv that does not match.

    """
    names = splits(folder)
    if names and split not in names:
        have = ", ".join(names)
        raise BadInput(f"'{folder}' has {have}, no {split}", "one of these", f"say {folder.name}:{names[0]}")
    roots = [folder / name for name in names] or [folder]
    classes = tuple(sorted({part.name for root in roots for part in _subfolders(root)}))
    folder = folder / split if names else folder
    table = folder / "labels.csv"
    if table.is_file():
        files, y, classes = _listed(folder, table)
    else:
        pairs = [(file, label) for label, name in enumerate(classes) for file in _images(folder / name)]
        files = [file for file, _ in pairs]
        y = np.array([label for _, label in pairs], dtype=np.int64)
        empty = [part for part in _subfolders(folder) if not _images(part)] if files else []
        if empty:
            raise BadInput(f"'{empty[0]}' holds no images", "images in every class", "remove or fill it")
    if not files:
        raise BadInput(f"'{folder}' holds no images in class folders", LAYOUT, "check the path")
    _same_size(files)
    return Lazy(folder.resolve().name, Files(tuple(files)), y, classes)


def splits(folder: Path) -> tuple[str, ...]:
    """The names of its subfolders, where all of them are those of splits."""
    names = tuple(part.name for part in _subfolders(folder))
    return names if all(name in SPLITS for name in names) else ()


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


def _subfolders(folder: Path) -> list[Path]:
    """Visible subfolders, sorted."""
    return sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Visible image files at any depth, sorted."""
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    )


def _listed(folder: Path, table: Path) -> tuple[list[Path], Array, tuple[str, ...]]:
    """Files, labels and classes from a `labels.csv`; labels that are not all numbers become classes in sorted order."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"'{table}' cannot be read ({error})", "a UTF-8 CSV", "save it again") from error
    if (
        not rows
        or not {"file", "label"} <= rows[0].keys()
        or any(not (row[column] or "").strip() for row in rows for column in ("file", "label"))
    ):
        raise BadInput(f"'{table}' is empty or incomplete", "columns file,label, filled in every row", "complete it")
    if long := next((row for row in rows if None in row), None):
        raise BadInput(f"'{table}' has too many cells for '{long['file']}'", "one a column", "quote labels with commas")
    files = [folder / row["file"] for row in rows]
    for file in files:
        if not file.is_file():
            raise BadInput(
                f"'{table}' lists '{file.name}', which is not there", "every listed file", "correct the list"
            )
    given = [row["label"].strip() for row in rows]
    numbers = _numbers(given)
    if numbers is not None:
        return files, labels(numbers, f"'{table}'")[0], ()
    classes = tuple(sorted(set(given)))
    place = {name: i for i, name in enumerate(classes)}
    return files, np.array([place[label] for label in given], dtype=np.int64), classes


def _numbers(words: list[str]) -> Array | None:
    """Words as numbers; None where one is none."""
    if any("_" in word for word in words):  # float() reads 1_2 as 12
        return None
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None


def _same_size(files: list[Path]) -> None:
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
