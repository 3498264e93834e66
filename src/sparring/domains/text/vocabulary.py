"""Which words a network knows, and by which numbers: whole words, and one for all that it doesn't."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sparring.data.lexicon import Lexicon, parted, pieces
from sparring.errors import BadInput, line


@dataclass(frozen=True)
class Vocabulary:
    """The ids of words in a network that reads whole words. `(network, vocabulary)` is a model of texts with gradients.

    A text is cut as `sparring.data.lexicon.pieces` cuts it: words, and signs one by one. Each piece has one id,
    whatever stands around it: that of its word, without the space before it and, unless `cased`, in lower case;
    `unknown` for all others. `padding` stands behind the text, as often as the longest text of the data asks for.

    Raises:
        BadInput: ids that are no whole numbers from 0.
    """

    words: Mapping[str, int] = field(repr=False)
    unknown: int
    padding: int
    cased: bool = False

    def __post_init__(self) -> None:
        for number in (*self.words.values(), self.unknown, self.padding):
            if not isinstance(number, int) or number < 0:
                raise BadInput(f"the id {number!r} in a vocabulary", "whole numbers from 0", "number the words anew")

    @classmethod
    def of(cls, texts: Iterable[str], *, least: int = 2, cased: bool = False) -> Vocabulary:
        """The words that occur at least so often in some texts, the commonest first, from 2 on; padding is 0."""
        found = (parted(piece)[1] for text in texts for piece in pieces(text))
        counts = Counter(word if cased else word.lower() for word in found if word)
        known = [word for word, count in counts.most_common() if count >= least]
        return cls({word: number for number, word in enumerate(known, 2)}, unknown=1, padding=0, cased=cased)

    @classmethod
    def read(cls, path: Path | str, *, unknown: str = "<unk>", padding: str = "<pad>") -> Vocabulary:
        """From a file: `{"word": id, ...}` in JSON, or a word in each line, numbered from 0. Both names are in it.

        Words are taken to be in lower case where all of them are.

        Raises:
            BadInput: no such file, something else in it, or one of the names is not there.
        """
        need = 'a table {"word": id} in JSON, or a word a line'
        try:
            text = Path(path).read_text(encoding="utf-8")
            found = json.loads(text) if text.lstrip().startswith("{") else dict(_numbered(text.splitlines()))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read '{path}' ({line(error)})", need, "check the path") from None
        for name in (unknown, padding):
            if name not in found:
                raise BadInput(f"'{path}' without '{name}'", "ids for what is unknown, and for padding", "say its name")
        cased = any(word != word.lower() for word in found if word not in (unknown, padding))
        return cls(found, found[unknown], found[padding], cased)

    def __len__(self) -> int:
        """How many rows an embedding of it has."""
        return max(*self.words.values(), self.unknown, self.padding) + 1

    def number(self, piece: str) -> int:
        """The id of a piece of a text."""
        word = parted(piece)[1]
        if not word:
            return self.padding
        return self.words.get(word if self.cased else word.lower(), self.unknown)

    def of_pieces(self, lexicon: Lexicon) -> Tensor:
        """The ids of all pieces of a lexicon, `(V,)` int64."""
        return torch.tensor([self.number(piece) for piece in lexicon.pieces])

    def counted(self, texts: Iterable[str]) -> Tensor:
        """How often each id occurs in some texts, `(len,)` float32; padding does not."""
        numbers = [self.number(piece) for text in texts for piece in pieces(text) if parted(piece)[1]]
        return torch.bincount(torch.tensor(numbers, dtype=torch.int64), minlength=len(self)).float()


def _numbered(words: Iterable[str]) -> Iterable[tuple[str, int]]:
    return ((word, number) for number, word in enumerate(words))
