"""CSV tables: a label column, and features."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sparring.data.arrays import Array, Arrays
from sparring.errors import BadInput, line

LABELS = (("label", "y"), ("target",))
"""What a column of labels is called; the second, only where none is called the first: it may be a feature then."""
LARGEST = float(np.finfo(np.float32).max)
NEED = "numbers up to 3.4e+38 in every cell"
DO = "encode text as numbers, fill gaps"


def load_csv(path: Path) -> Arrays:
    """A table as a data set: see `read_csv`.

    Raises:
        BadInput: what `read_csv` or `Arrays` refuses.
    """
    return Arrays(path.name, *read_csv(path))


def read_csv(path: Path) -> tuple[Array, Array, tuple[str, ...]]:
    """Inputs, labels and class names of a comma-separated table with a header.

    The label is in the column `label` or `y`, else `target`; the rest are numbers. Inputs are `(B, features)` float32,
    columns in the order of the file. Labels are numbers, or words: these become classes in alphabetical order, as
    scikit-learn's `classes_` are. The table is held in memory.

    Raises:
        BadInput: no such file, one that is not UTF-8, no or two label columns, a column without a name (as pandas
            writes its row numbers), text in other columns, words and numbers in that of the label, missing cells (nan
            too), numbers that float32 cannot hold, rows of unequal length, no rows.

    """
    if not path.is_file():
        raise BadInput(f"no file '{path}'", "a .csv", "check the path")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            columns = [name.strip() for name in next(csv.reader(stream, skipinitialspace=True), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    found = next((places for names in LABELS if (places := _called(columns, names))), [])
    if len(found) != 1 or len(columns) < 2:
        raise _without_label(path, columns, len(found))
    if "" in columns:
        raise BadInput(
            f"column {columns.index('') + 1} of '{path.name}' has no name",
            "a name for every column",
            "name it, or leave it out (pandas: index=False)",
        )
    words, text = Words(), found[0] if _has_words(path, found[0]) else None
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
                converters=None if text is None else {text: words},
            )
    except (OSError, UnicodeDecodeError) as error:  # the second is a ValueError, too
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise _fault(path, columns, text) from error
    if not cells.size:
        raise BadInput(f"'{path.name}' is empty", "at least 1 row below the header", "check how it was made")
    if cells.shape[1] != len(columns):
        raise BadInput(
            f"'{path.name}' has {len(columns)} names and {cells.shape[1]} columns", "one name each", "mend the header"
        )
    if not (np.abs(cells) <= LARGEST).all():  # NaN is not, too
        raise _fault(path, columns, text)
    x, y = np.delete(cells, found[0], axis=1).astype(np.float32), cells[:, found[0]]
    return x, y if text is None else words.ranked(y), words.classes


class Words:
    """Labels that are words, numbered in the order in which they come: what numpy reads that column with."""

    def __init__(self) -> None:
        """None has come yet."""
        self.places: dict[str, int] = {}

    def __call__(self, cell: str) -> float:
        """The number of the word in a cell.

        Raises:
            ValueError: there is no word in it.

        """
        word = _bare(cell)
        if word not in self.places and not _is_word(cell):
            raise ValueError(cell)
        return self.places.setdefault(word, len(self.places))

    @property
    def classes(self) -> tuple[str, ...]:
        """The words, in alphabetical order."""
        return tuple(sorted(self.places))

    def ranked(self, y: Array) -> Array:
        """Numbers of words as places in `classes`."""
        ranks = {word: i for i, word in enumerate(self.classes)}
        return np.array([ranks[word] for word in self.places])[y.astype(np.int64)]


def _called(columns: list[str], names: tuple[str, ...]) -> list[int]:
    """The places of the columns that have one of some names, in capitals or not."""
    return [i for i, column in enumerate(columns) if column.lower() in names]


def _unreadable(path: Path, error: Exception) -> BadInput:
    """The file is no text, or cannot be had."""
    return BadInput(f"'{path.name}' cannot be read ({line(error)})", "a UTF-8 CSV", "save it again")


def _without_label(path: Path, columns: list[str], count: int) -> BadInput:
    """The columns that there are, and what to do about them."""
    named = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    other = next((f"separate the cells by commas, not by {mark!r}" for mark in ";\t|" if mark in named), "")
    return BadInput(
        f"'{path.name}' has {count} columns called label, y or target ({named or 'no header'})",
        "a header, commas, one label column, and features",
        other or "rename the columns",
    )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line in which each row below the header ends, and its cells.

    Raises:
        BadInput: what is no table, such as a cell of more than 131,072 characters.

    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = csv.reader(stream)
        try:
            next(rows)
            yield from ((rows.line_num, row) for row in rows if row)
        except csv.Error as error:
            raise BadInput(f"line {rows.line_num} of '{path.name}' cannot be read ({error})", NEED, DO) from error


def _has_words(path: Path, column: int) -> bool:
    """Whether the first label is a word: if so, all must be."""
    _, row = next(_rows(path), (0, []))
    return len(row) > column and _is_word(row[column])


def _bare(cell: str) -> str:
    """A word without the blanks around it, and the quotes around it that a blank before them leaves standing."""
    word = cell.strip()
    quoted = cell[:1].isspace() and len(word) > 1 and word[0] == word[-1] == '"'
    return word[1:-1].replace('""', '"').strip() if quoted else word


def _fault(path: Path, columns: list[str], text: int | None) -> BadInput:
    """Where a table is at fault: a row of another length, else the first cell that is no number.

    In the column of `text`, if there is one, the first cell that is no word. Lengths go first: a row that is too
    short, or too long, has its cells in the wrong columns.
    """
    for n, row in _rows(path):
        if len(row) != len(columns):
            given = f"line {n} of '{path.name}' has {len(row)} cells, the header {len(columns)}"
            return BadInput(given, "a cell for every column", "mend the line")
    for n, row in _rows(path):
        for i, (name, cell) in enumerate(zip(columns, row, strict=True)):
            given = f"column '{name}' of '{path.name}' has '{cell[:40]}' in line {n}"
            if i == text and not _is_word(cell):
                return BadInput(given, "words or numbers as labels, not both", "write all as words, fill gaps")
            if i != text and not _usable(cell):
                return BadInput(given, NEED, DO)
    return BadInput(f"'{path.name}' cannot be read as numbers", NEED, DO)


def _is_word(cell: str) -> bool:
    """Whether a cell holds a word: it is not empty, and Python reads no number in it, `nan` and `inf` among them."""
    try:
        float(_bare(cell))
    except ValueError:
        return bool(_bare(cell))
    return False


def _usable(cell: str) -> bool:
    """Whether a cell is a number that float32 can hold, in a notation that numpy reads."""
    try:
        return abs(float(cell)) <= LARGEST and "_" not in cell
    except ValueError:
        return False
