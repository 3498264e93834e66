"""How folders of labelled files are laid out, whatever is in the files."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparring.data.arrays import Array, labels
from sparring.errors import BadInput

SPLITS = ("train", "test", "val", "valid", "validation")


@dataclass(frozen=True, eq=False)
class Listing:
    """Files, their labels `(N,)` int64, and the names of the classes."""

    files: tuple[Path, ...]
    y: Array
    classes: tuple[str, ...]


def listing(folder: Path, split: str, endings: Collection[str], what: str) -> Listing:
    """A folder with a subfolder for each class, or files with a `labels.csv` (columns `file,label`).

    Classes are the sorted names of the subfolders, or of the labels where these are not all numbers. Where all
    subfolders are named like splits (train, test, val ...), the one of `split` is used, and classes are the subfolders
    of all of them, so that a label means the same in each. `what` is what the files are called in messages.

    Raises:
        BadInput: no such files, a class without any, a labels.csv that does not match.

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
        return _listed(folder, table)
    pairs = [(file, label) for label, name in enumerate(classes) for file in inside(folder / name, endings)]
    empty = [part for part in _subfolders(folder) if not inside(part, endings)] if pairs else []
    if empty:
        raise BadInput(f"'{empty[0]}' holds no {what}", f"{what} in every class", "remove or fill it")
    if not pairs:
        layout = f"a subfolder of {what} for each class, or {what} and a labels.csv with columns file,label"
        raise BadInput(f"'{folder}' holds no {what} in class folders", layout, "check the path")
    return Listing(tuple(file for file, _ in pairs), np.array([label for _, label in pairs], dtype=np.int64), classes)


def splits(folder: Path) -> tuple[str, ...]:
    """The names of its subfolders, where all of them are those of splits."""
    names = tuple(part.name for part in _subfolders(folder))
    return names if all(name in SPLITS for name in names) else ()


def _subfolders(folder: Path) -> list[Path]:
    """Visible subfolders, sorted."""
    return sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))


def inside(folder: Path, endings: Collection[str]) -> list[Path]:
    """Visible files with such endings at any depth, sorted."""
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in endings and not file.name.startswith(".")
    )


def _listed(folder: Path, table: Path) -> Listing:
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
    files = tuple(folder / row["file"] for row in rows)
    for file in files:
        if not file.is_file():
            raise BadInput(
                f"'{table}' lists '{file.name}', which is not there", "every listed file", "correct the list"
            )
    given = [row["label"].strip() for row in rows]
    numbers = _numbers(given)
    if numbers is not None:
        return Listing(files, labels(numbers, f"'{table}'")[0], ())
    classes = tuple(sorted(set(given)))
    place = {name: i for i, name in enumerate(classes)}
    return Listing(files, np.array([place[label] for label in given], dtype=np.int64), classes)


def _numbers(words: list[str]) -> Array | None:
    """Words as numbers; None where one is none."""
    if any("_" in word for word in words):  # float() reads 1_2 as 12
        return None
    try:
        return np.array([float(word) for word in words])
    except ValueError:
        return None
