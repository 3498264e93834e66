"""CSV tables: a label column, and features."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np

from sparring.data.arrays import Arrays
from sparring.errors import BadInput

LABELS = ("label", "y", "target")
LARGEST = float(np.finfo(np.float32).max)
NEED = "numbers up to 3.4e+38 in every cell"
DO = "encode text as numbers, fill gaps"


def load_csv(path: Path) -> Arrays:
    """A comma-separated table with a header: the label in the column `label`, `y` or `target`, numbers in all others.

    Inputs are `(B, features)` float32, columns in the order of the file. Labels are numbers, or words: these become
    classes in alphabetical order, as scikit-learn's `classes_` are. The table is held in memory.

    Raises:
        BadInput: no such file, no or two label columns, a column without a name (as pandas writes its row numbers),
            text in other columns, words and numbers in that of the label, missing cells (nan too), numbers that
            float32 cannot hold, rows of unequal length, no rows.

    """
    if not path.is_file():
        raise BadInput(f"no file '{path}'", "a .csv", "check the path")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            columns = [name.strip() for name in next(csv.reader(stream, skipinitialspace=True), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"'{path.name}' cannot be read ({error})", "a UTF-8 CSV", "save it again") from error
    found = [i for i, name in enumerate(columns) if name.lower() in LABELS]
    if len(found) != 1 or len(columns) < 2:
        raise _without_label(path, columns, len(found))
    if "" in columns:
        raise BadInput(
            f"column {columns.index('') + 1} of '{path.name}' has no name",
            "a name for every column",
            "name it, or leave it out (pandas: index=False)",
        )
    words = _words(path, found[0])
    text, classes = found[0] if words else None, tuple(sorted(set(words)))
    places = {word: float(i) for i, word in enumerate(classes)}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input contained no data", category=UserWarning)
            cells = np.loadtxt(
                path,
                delimiter=",",
                skiprows=1,
                ndmin=2,
                comments=None,
                quotechar='"',
                encoding="utf-8-sig",
                converters={found[0]: lambda cell: places.get(_bare(cell), np.nan)} if words else None,
            )
    except (OSError, ValueError) as error:
        raise BadInput(_fault(path, columns, text), NEED, DO) from error
    if not cells.size:
        raise BadInput(f"'{path.name}' is empty", "at least 1 row below the header", "check how it was made")
    if cells.shape[1] != len(columns):
        raise BadInput(
            f"'{path.name}' has {len(columns)} names and {cells.shape[1]} columns", "one name each", "mend the header"
        )
    if not (np.abs(cells) <= LARGEST).all():  # NaN is not, too
        raise BadInput(_fault(path, columns, text), NEED, DO)
    return Arrays(path.name, np.delete(cells, found[0], axis=1).astype(np.float32), cells[:, found[0]], classes)


def _without_label(path: Path, columns: list[str], count: int) -> BadInput:
    """The columns that there are, and what to do about them."""
    named = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    other = next((f"separate the cells by commas, not by {mark!r}" for mark in ";\t|" if mark in named), "")
    return BadInput(
        f"'{path.name}' has {count} columns called label, y or target ({named or 'no header'})",
        "a header, commas, one label column, and features",
        other or "rename the columns",
    )


def _words(path: Path, column: int) -> list[str]:
    """The labels of all rows, if they are words: not one of them a number, and none missing. Else an empty list."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = csv.reader(stream)
        try:
            next(rows)
            found = [_bare(row[column]) if len(row) > column else "" for row in rows if row]
        except csv.Error:  # `_fault` will say which
            return []
    return [] if any(not word or _is_number(word) for word in found) else found


def _bare(cell: str) -> str:
    """A word without the blanks around it, and the quotes that a blank before them leaves standing."""
    return cell.strip().strip('"')


def _fault(path: Path, columns: list[str], text: int | None) -> str:
    """Where the first cell is that is no number, but for the column that may hold text."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = csv.reader(stream)
        try:
            next(rows)
            for row in rows:
                if row and len(row) != len(columns):
                    return f"line {rows.line_num} of '{path.name}' has {len(row)} cells, the header {len(columns)}"
                for i, (name, cell) in enumerate(zip(columns, row, strict=False)):
                    if i != text and not _usable(cell):
                        return f"column '{name}' of '{path.name}' has '{cell[:40]}' in line {rows.line_num}"
        except csv.Error as error:  # such as a cell of more than 131,072 characters
            return f"line {rows.line_num} of '{path.name}' cannot be read ({error})"
    return f"'{path.name}' cannot be read as numbers"


def _is_number(cell: str) -> bool:
    """Whether Python reads a cell as a number, `nan` and `inf` among them."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _usable(cell: str) -> bool:
    """Whether a cell is a number that float32 can hold, in a notation that numpy reads."""
    try:
        return abs(float(cell)) <= LARGEST and "_" not in cell
    except ValueError:
        return False
