"""What a user types after `--data`, as a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.data.arrays import Array, Arrays, Lazy, numbers
from sparring.data.folders import splits
from sparring.data.hugging_face import alone, load_hugging_face, parted
from sparring.data.named import DATASETS
from sparring.data.npz import arrays, load_npz
from sparring.data.pictures import load_folder
from sparring.data.sounds import has_sounds, load_sounds
from sparring.data.table import load_csv
from sparring.data.texts import Texts, load_tsv
from sparring.errors import BadInput, named
from sparring.factories import build
from sparring.spelling import hint
from sparring.types import Data

GIVES = "a Data, a pair (x, y) of arrays, or a torch Dataset of pairs (x, label)"


def load(spec: str, *, split: str = "test") -> Data:
    """Labelled examples from whatever `spec` names.

    - a name in `DATASETS`: `digits`, `mnist:train`
    - an `.npz` with `x` and `y`, or `x_test` and `y_test`; a `.csv` with a label column; a `.tsv` of texts and labels
    - a folder of images or of WAV files, one subfolder a class or with a `labels.csv`
    - `hf:NAME` or `hf:NAME/SPLIT`, for the library `datasets`
    - `package.module:factory` or `path/to/file.py:factory`, giving a `Data`, a pair `(x, y)` or `(texts, y)`, or a
      torch `Dataset` of pairs; its code runs

    `:train`, or another split, after a name, an `.npz` or a folder asks for that split; else `split` counts, where
    the source has several. One that has none is taken whole; `load_split` refuses it.

    Raises:
        BadInput: nothing of that name, or what the loader of its kind refuses.

    """
    return _taken(Source.of(spec), split)


def load_split(spec: str, split: str) -> Data:
    """`load`, for a split that somebody asked for: what has none is not taken whole instead.

    Raises:
        BadInput: data without splits, or `spec` names another one; and what `load` refuses.

    """
    source = Source.of(spec)
    if source.split not in (None, split):
        raise BadInput(f"--split {split} for {spec}", "one split", "leave one of them out")
    found = _taken(source, split)  # first, for what is not there has no splits either
    if source.split is None and not source.has_splits():
        raise BadInput(f"--split {split} for {spec}", "data with splits", "leave it out")
    return found


@dataclass(frozen=True)
class Source:
    """What stands after `--data`, taken apart: of which kind it is, its name there, and the split, if one is said."""

    kind: Literal["hub", "name", "path", "factory"]
    name: str
    split: str | None = None

    @classmethod
    def of(cls, spec: str) -> Source:
        """What a spec means: whatever `load` can read, or a factory."""
        if spec.startswith("hf:"):
            name, split = parted(spec[3:])
            return cls("hub", name, split or None)
        if spec in DATASETS:
            return cls("name", spec)
        before, _, after = spec.rpartition(":")
        if before in DATASETS:
            return cls("name", before, after)
        if not spec:  # which a path takes for the current folder
            raise _unknown(spec)
        if Path(spec).exists() or Path(spec).suffix.lower() in (".npz", ".csv", ".tsv"):
            return cls("path", spec)
        if before and not before.endswith(".py") and Path(before).exists():
            if not after:
                raise BadInput(f"'{spec}'", "a split after the colon", f"say '{before}', or '{before}:train'")
            return cls("path", before, after)
        return cls("factory", spec)

    def has_splits(self) -> bool:
        """Whether a split makes a difference to what is loaded, where none is said."""
        path = Path(self.name)
        if self.kind == "path" and path.is_dir():
            return bool(splits(path))
        if self.kind == "path":
            return path.suffix.lower() == ".npz" and not {"x", "y"} <= arrays(path)
        return self.kind == "name" or (self.kind == "hub" and not alone(self.name))


def _taken(source: Source, split: str) -> Data:
    """What a source gives; `split`, where it says none itself."""
    name, said = source.name, source.split
    match source.kind:
        case "hub":
            return load_hugging_face(name if said is None else f"{name}/{said}", split)
        case "name":
            return DATASETS[name](split if said is None else said)
        case "path":
            return _from_path(Path(name), split) if said is None else _split_of(Path(name), said)
        case "factory":
            return _made(name)


def _made(spec: str) -> Data:
    """What a factory gives, as a data set."""
    module, _, _ = spec.rpartition(":")
    if not module:
        raise _unknown(spec)
    try:
        value = build(spec)
    except BadInput as error:
        if error.given == f"no module '{module}'":
            raise _unknown(module) from None
        raise
    return _from_value(spec, value)


@dataclass(frozen=True, eq=False)
class Pairs:
    """A torch `Dataset`, or any indexed collection, of pairs `(x, label)`."""

    name: str
    pairs: Any
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs `(B, *shape)` float32, as `Arrays` makes them, and labels `(B,)` int64.

        Raises:
            BadInput: an item that cannot be had, not pairs, shapes that differ, or what `Arrays` refuses.

        """
        try:
            items = [self.pairs[int(i)] for i in indices]
        except Exception as error:  # the user's code, which may raise anything
            raise BadInput(f"{self.name} gives no item ({named(error)})", GIVES, "mend the items") from error
        try:
            x, y = (np.stack([_plain(item[part], self.name) for item in items]) for part in (0, 1))
        except BadInput:
            raise
        except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
            said = named(error)
            raise BadInput(f"{self.name} gives items that do not stack ({said})", GIVES, "mend the items") from error
        return Arrays(self.name, x, y).take(range(len(items)))


def _plain(value: Any, name: str) -> Array:
    """One input or label as an array; pictures with a palette in their colours, not in the numbers of these."""
    if isinstance(value, Tensor):
        return numbers(value, f"the items of {name}")
    if isinstance(value, Image.Image) and value.mode in ("P", "PA"):
        value = value.convert("RGB")
    return np.asarray(value)


def _from_path(path: Path, split: str) -> Data:
    """A file or folder that is there, or an `.npz` or `.csv` that may not be."""
    if path.is_dir():
        return _folder(path, split)
    if path.suffix.lower() == ".npz":
        return load_npz(path, [("x", "y"), (f"x_{split}", f"y_{split}")])
    if path.suffix.lower() == ".csv":
        return load_csv(path)
    if path.suffix.lower() == ".tsv":
        return load_tsv(path)
    raise BadInput(f"'{path}'", "an .npz, a .csv, a .tsv of texts, or a folder", "convert it, or give file.py:factory")


def _folder(path: Path, split: str = "test") -> Lazy:
    """A folder of recordings, if there are any in it, else of images."""
    return load_sounds(path, split) if has_sounds(path) else load_folder(path, split)


def _split_of(path: Path, split: str) -> Data:
    """The split that was asked for after a colon."""
    name = f"{path.resolve().name}:{split}"
    if path.is_dir():
        if not (path / split).is_dir():
            raise BadInput(f"'{path}' has no folder '{split}'", "the split as a subfolder", "check the name")
        found = _folder(path, split) if split in splits(path) else _folder(path / split)
        return replace(found, name=name)
    if path.suffix.lower() == ".npz":
        return load_npz(path, [(f"x_{split}", f"y_{split}")], name)
    raise BadInput(f"'{path}:{split}'", "a file without a split", f"say '{path}'")


def _from_value(spec: str, value: Any) -> Data:
    """What a factory gave, as a data set."""
    if type(value).__name__ == "DataFrame":  # of pandas or another library; by its name, to import none
        raise BadInput(f"'{spec}' gave a DataFrame", GIVES, "return the features and the labels as two arrays")
    if all(hasattr(value, part) for part in ("name", "classes", "take", "__len__")):
        data = cast(Data, value)
    elif isinstance(value, tuple | list) and len(value) == 2 and len(value[0]) and isinstance(value[0][0], str):
        data = Texts(spec, *value)
    elif isinstance(value, tuple | list) and len(value) == 2:
        data = Arrays(spec, *value)
    elif all(hasattr(value, part) for part in ("__getitem__", "__len__")) and not isinstance(
        value, Mapping | str | Tensor | np.ndarray
    ):
        data = Pairs(spec, value, tuple(map(str, getattr(value, "classes", ()))))
    else:
        raise BadInput(f"'{spec}' gave {type(value).__name__}", GIVES, "return one of these")
    if not len(data):
        raise BadInput(f"'{spec}' is empty", "at least 1 example", "check how it was made")
    return agreed(data)


def agreed(data: Data) -> Data:
    """A data set of one's own, whose first label has the type that `Data` agrees on; tasks may have numbers.

    Raises:
        BadInput: labels of other whole numbers than int64: smaller ones are masks to torch, or no labels at all.
    """
    _, labels = data.take([0])
    if labels.dim() == 1 and not labels.is_floating_point() and labels.dtype != torch.int64:
        raise BadInput(f"labels of {labels.dtype} in {data.name}", "int64", "let take() give labels.long()")
    return data


def _unknown(name: str) -> BadInput:
    """There is nothing of that name."""
    return BadInput(
        f"no data set, file, folder or module '{name}'",
        f"{', '.join(DATASETS)}, a path, hf:NAME or module:factory",
        hint(name, DATASETS, "check the spelling"),
    )
