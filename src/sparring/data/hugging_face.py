"""Data sets of the Hugging Face library `datasets`, by name or from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring.data.arrays import Lazy, fitting, floats, labels
from sparring.data.pictures import UNREADABLE, deep
from sparring.errors import BadInput, line, require

SPLITS = ("train", "test", "validation", "val", "valid", "dev")
NEED = "one column of images, one of arrays, or numeric columns only"


def load_hugging_face(name: str, split: str = "test") -> Lazy:
    """A data set of the Hub, a folder that `load_dataset` reads, or one written by `save_to_disk`.

    `name` may end in the split: `owner/set/validation`; else `split` counts, where there are several. The label is the
    column of type `ClassLabel`, or the one called label, labels or y. Inputs are the column of images, `(B, 1, H, W)`
    in [0, 1] where the first is grey, else `(B, 3, H, W)`; or a column of arrays; or all other columns, if numeric,
    `(B, features)`. Rows are read from disk when asked for. No code that comes with a data set is run.

    Raises:
        BadInput: `datasets` is not installed, no such data set or split, no label, no usable inputs; when taken, an
            image that is missing, damaged, of another size, or grey with more than 8 bits (colours of 16 bits come
            from `datasets` as 8).

    """
    name, said = parted(name)
    split = said or split
    table = _open(name, split)
    if alone(name):  # it is not called another
        held = str(table.split or "")
        if said and held != split:
            what = f"only the split {held}" if held else "without splits"
            raise BadInput(f"hf:{name} is {what}", f"the split {split}", f"say hf:{name}")
        split = held
    column = _label(table, name)
    classes = tuple(getattr(table.features[column], "names", ()))
    y, notes = labels(np.asarray(table[column][:]), f"hf:{name}")
    return Lazy(f"hf:{name}/{split}" if split else f"hf:{name}", _reader(table, column, name), y, classes, notes)


def parted(name: str) -> tuple[str, str]:
    """The name of a data set, and the split that stands behind it; empty where none does."""
    folder, _, last = name.rpartition("/")
    return (folder, last) if folder and last in SPLITS and not Path(name).is_dir() else (name, "")


def alone(name: str) -> bool:
    """Whether `save_to_disk` wrote one split there by itself, or a set without any."""
    return (Path(name) / "state.json").is_file()


@dataclass(frozen=True)
class Images:
    """A column of images as inputs; all are read in the mode, and must have the size, of the first."""

    table: Any
    column: str

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Decode the images of some rows."""
        try:
            first, *images = self.table[[0, *rows]][self.column]
        except UNREADABLE as error:
            raise BadInput(f"an image cannot be read ({line(error)})", "whole images", "drop or mend it") from error
        for row, image in zip((0, *rows), (first, *images), strict=True):
            if image is None:
                raise BadInput(f"image {row} is missing", "an image in every row", "drop such rows")
            if deep(image):
                raise BadInput(f"image {row} has more than 8 bits a channel", "8-bit images", "convert it")
            if image.size != first.size:
                raise BadInput(f"image {row} is {image.size}, image 0 is {first.size}", "images of one size", "resize")
        mode = "L" if first.mode in ("1", "L") else "RGB"
        pixels = np.stack([np.asarray(image.convert(mode)).reshape(*first.size[::-1], -1) for image in images])
        return floats(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


@dataclass(frozen=True)
class Columns:
    """Numbers as inputs: one column of arrays, or several columns side by side. `scale` turns bytes into [0, 1]."""

    table: Any
    columns: tuple[str, ...]
    scale: float

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Read the numbers of some rows."""
        with fitting():  # `datasets` casts to float32 by itself
            taken = self.table.with_format("numpy")[list(rows)]
            parts = [taken[column] for column in self.columns]
            x = parts[0] if len(parts) == 1 and parts[0].ndim > 1 else np.stack(parts, axis=1)
            if x.dtype == object:
                have = f"rows of the column '{self.columns[0]}' differ in shape"
                raise BadInput(have, "one shape", "pad or cut them")
            return torch.from_numpy(x.astype(np.float32) / np.float32(self.scale))


def _open(name: str, split: str) -> Any:
    """One split as a table that is read from disk."""
    datasets = require("datasets", "datasets")
    try:
        if alone(name):
            return datasets.load_from_disk(name)
        if (Path(name) / "dataset_dict.json").is_file():
            splits = datasets.load_from_disk(name)
            if split not in splits:
                raise ValueError(f"it has {', '.join(splits)}, no {split}")
            return splits[split]
        return datasets.load_dataset(name, split=split)
    except Exception as error:  # the library raises what the web, the disk and its formats raise
        said = line(error)
        raise BadInput(f"hf:{name} ({said})", f"a data set with a split {split}", "say hf:NAME/SPLIT") from error


def _label(table: Any, name: str) -> str:
    """The column of labels."""
    typed = [column for column, kind in table.features.items() if type(kind).__name__ == "ClassLabel"]
    found = typed or [column for column in table.column_names if column.lower() in ("label", "labels", "y")]
    if len(found) != 1:
        have = ", ".join(table.column_names)
        raise BadInput(f"hf:{name} has columns {have}", "one label column", "rename it label, and drop any other")
    return str(found[0])


def _reader(table: Any, label: str, name: str) -> Images | Columns:
    """How inputs are read, from the types of the columns."""
    kinds = {column: kind for column, kind in table.features.items() if column != label}
    images = [column for column, kind in kinds.items() if type(kind).__name__ == "Image"]
    if len(images) == 1:
        return Images(table, images[0])
    types = {column: _number(kind) for column, kind in kinds.items()}
    arrays = [column for column, kind in kinds.items() if type(kind).__name__ != "Value" and types[column]]
    columns = arrays if len(arrays) == 1 else list(kinds)
    unusable = [column for column in columns if not types[column]]
    if images or len(arrays) > 1 or unusable or not columns:
        have = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in kinds.items())
        raise BadInput(f"hf:{name} has, besides the label, {have or 'nothing'}", NEED, "drop the other columns")
    return Columns(table, tuple(columns), 255.0 if {types[column] for column in columns} == {"uint8"} else 1.0)


def _number(kind: Any) -> str:
    """The numeric type inside a column's type; empty where it is none."""
    while (inner := getattr(kind, "feature", None)) is not None:
        kind = inner
    dtype = str(getattr(kind, "dtype", ""))
    return dtype if dtype.startswith(("int", "uint", "float", "bool")) else ""
