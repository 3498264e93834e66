"""Words and numbers: a text is a row of pieces, a piece is a number, and nothing of the text is lost on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sparring.errors import BadInput

_ONE_BY_ONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
"""Kana and Chinese characters, which no spaces part: each is a word of its own."""

_LETTERS = rf"(?:(?![{_ONE_BY_ONE}])[^\W_])+"

_PIECE = re.compile(rf"\s*(?:{_LETTERS}(?:['’\-]{_LETTERS})*|\S)|\s+\Z")

LARGEST = 2**24
"""Float32 tells so many whole numbers apart."""


def pieces(text: str) -> list[str]:
    """The words, signs and characters of a text, each with the space before it: joined they are the text again."""
    return _PIECE.findall(text)


def parted(piece: str) -> tuple[str, str]:
    """The space before a word, and the word."""
    word = piece.lstrip()
    return piece[: len(piece) - len(word)], word


@dataclass(frozen=True)
class Lexicon:
    """All pieces of some texts, in an order: the number of a piece is its place. The first one is nothing.

    Raises:
        BadInput: more pieces than float32 can tell apart.
    """

    pieces: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.pieces) > LARGEST:
            raise BadInput(f"{len(self.pieces)} different words", f"{LARGEST} at most", "audit fewer texts (--limit)")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Lexicon:
        """What these texts are made of, as it first occurs."""
        return cls(tuple(dict.fromkeys(["", *(piece for text in texts for piece in pieces(text))])))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of every piece."""
        return {piece: number for number, piece in enumerate(self.pieces)}

    def __len__(self) -> int:
        return len(self.pieces)

    def encode(self, texts: Sequence[str], length: int) -> Tensor:
        """The numbers of the pieces of every text, `(B, length)` float32, and nothing, 0, behind them."""
        rows = torch.zeros(len(texts), length)
        for row, text in zip(rows, texts, strict=True):
            numbers = [self.numbers[piece] for piece in pieces(text)]
            row[: len(numbers)] = torch.tensor(numbers)
        return rows

    def decode(self, rows: Tensor) -> list[str]:
        """The texts that rows of numbers `(B, length)` stand for."""
        numbers = rows.round().long().clamp(0, len(self) - 1).tolist()
        return ["".join(self.pieces[number] for number in row) for row in numbers]

    def different(self, rows: Tensor) -> tuple[list[str], Tensor]:
        """The texts of some rows, each once, and which of them is that of each row, `(B,)` int64."""
        texts = self.decode(rows)
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        return list(place), torch.tensor([place[text] for text in texts], dtype=torch.int64)
