"""Texts with labels, as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparring.data.arrays import Subset, labels
from sparring.data.lexicon import Lexicon, pieces
from sparring.errors import BadInput, line
from sparring.types import Data


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts `(N)` with labels `(N,)` from 0: read as rows of numbered words `(N, length)`, as long as the longest.

    `lexicon` numbers the words; that of the texts themselves unless another is given, which has to hold theirs.

    Raises:
        BadInput: no texts, something else among them, or labels that `sparring.data.Arrays` refuses too.
    """

    name: str
    texts: Sequence[str]
    y: Sequence[int]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lexicon: Lexicon | None = None

    def __post_init__(self) -> None:
        odd = next((text for text in self.texts if not isinstance(text, str)), None)
        if odd is not None or not len(self.texts):
            given = f"{self.name} with a {type(odd).__name__} among its texts" if len(self.texts) else f"no {self.name}"
            raise BadInput(given, "texts", "give a list of strings")
        y, notes = labels(np.asarray(self.y), self.name)
        if len(y) != len(self.texts):
            raise BadInput(f"{self.name} has {len(self.texts)} texts and {len(y)} labels", "one label a text", "align")
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "notes", (*self.notes, *notes))
        object.__setattr__(self, "lexicon", self.lexicon or Lexicon.of(self.texts))

    @property
    def words(self) -> Lexicon:
        """What numbers its words."""
        assert self.lexicon is not None
        return self.lexicon

    @cached_property
    def length(self) -> int:
        """The pieces of the longest text."""
        return max(1, *(len(pieces(text)) for text in self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Texts({self.name!r}, {len(self)} texts of up to {self.length} words)"

    def stored(self, z: Tensor) -> Tensor:
        """Texts as files keep them: to the letter."""
        return z

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The numbers of the words `(B, length)` float32, and labels `(B,)` int64."""
        rows = np.asarray(indices, dtype=np.int64)
        some = [self.texts[row] for row in rows.tolist()]
        return self.words.encode(some, self.length), torch.from_numpy(np.asarray(self.y)[rows])


def whole(data: Data) -> Texts | None:
    """The texts of a data set, of as many of them as it has; nothing where it holds none."""
    if isinstance(data, Texts):
        return data
    if not isinstance(data, Subset) or (found := whole(data.data)) is None:
        return None
    rows = [int(row) for row in data.rows]
    texts, y = [found.texts[row] for row in rows], [found.y[row] for row in rows]
    return Texts(found.name, texts, y, found.classes, found.notes)


def load_tsv(path: Path) -> Texts:
    """Texts from a `.tsv` of two columns: a text and its label, a whole number or a name. A line each, in UTF-8.

    A first line of `text` and `label`, or `sentence` and `label`, is a head. Names are numbered as they sort.

    Raises:
        BadInput: no such file, lines of another form, or no UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read '{path}' ({line(error)})", "a .tsv in UTF-8", "check the path") from None
    rows = [one.split("\t") for one in lines if one.strip()]
    if rows and [cell.strip().lower() for cell in rows[0]] in (["text", "label"], ["sentence", "label"]):
        rows = rows[1:]
    odd = next((number for number, row in enumerate(rows, 1) if len(row) != 2), None)
    if odd is not None or not rows:
        given = f"'{path}' has {len(rows[odd - 1])} columns in row {odd}" if odd else f"'{path}' is empty"
        raise BadInput(given, "a text, a tab, and its label in each line", "write it so")
    texts, said = [row[0] for row in rows], [row[1].strip() for row in rows]
    if all(label.isdecimal() for label in said):
        return Texts(path.name, texts, [int(label) for label in said])
    names = tuple(sorted(set(said)))
    return Texts(path.name, texts, [names.index(label) for label in said], names)
