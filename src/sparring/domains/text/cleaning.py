"""Texts cleaned before a model reads them: against letters that look alike, and against typing errors.

A cleaner is a function of texts to texts, and a model behind it is a function of texts too: `behind(model, latin)`.
Attacks on words go by trying, through all of it, so that an audit of such a model knows the defence by itself.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparring.data.lexicon import parted, pieces
from sparring.domains.text.rewritings import ALIKE, cased, typing_errors

Cleaner = Callable[[Sequence[str]], list[str]]

_BACK = {alike: latin for latin, alike in ALIKE.items()}
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
"""Characters that take no place: spaces of no width, joiners, the soft hyphen."""


def latin(texts: Sequence[str]) -> list[str]:
    """Compatible characters made one (NFKC), characters of no width left out, look-alike letters as Latin ones.

    Words that are Cyrillic or Greek as a whole are left alone: only words with a Latin letter are taken for Latin, and
    those all of whose letters look like Latin ones.
    """
    return ["".join(map(_latin, pieces(unicodedata.normalize("NFKC", text).translate(_UNSEEN)))) for text in texts]


def _latin(piece: str) -> str:
    letters = [letter for letter in piece if letter.isalpha()]
    mixed = any(letter.isascii() for letter in letters) or all(ord(letter) in _BACK for letter in letters)
    return piece.translate(_BACK) if mixed else piece


@dataclass(frozen=True)
class Corrector:
    """Words that are not known become the known word of which they are a typing error (after Pruthi et al., 2019).

    Of several the commonest. The paper learns what to write from the words around; here it is looked up: what
    `typing_errors` does to one known word is undone, unless it makes another known word.
    """

    meant: Mapping[str, str]

    @classmethod
    def of(cls, texts: Iterable[str], least: int = 2) -> Corrector:
        """One that knows the words that occur at least so often in some texts."""
        counts = Counter(parted(piece)[1].lower() for text in texts for piece in pieces(text))
        known = [word for word, count in counts.most_common() if count >= least]
        meant = {error: word for word in reversed(known) for error in typing_errors(word)}
        return cls(meant | {word: word for word in known})

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The texts, corrected."""
        return ["".join(map(self._corrected, pieces(text))) for text in texts]

    def _corrected(self, piece: str) -> str:
        space, word = parted(piece)
        plain = word.lower()
        meant = self.meant.get(plain, plain)
        return piece if meant == plain else space + cased(meant, word)


@dataclass(frozen=True)
class Behind:
    """A model of texts that reads them cleaned."""

    model: Callable[[list[str]], Any]
    cleaners: tuple[Cleaner, ...]

    def __call__(self, texts: list[str]) -> Any:
        """What the model says of the clean texts."""
        for clean in self.cleaners:
            texts = clean(texts)
        return self.model(texts)


def behind(model: Callable[[list[str]], Any], *cleaners: Cleaner) -> Behind:
    """A model behind cleaners, the first of which sees the texts first."""
    return Behind(model, cleaners)
