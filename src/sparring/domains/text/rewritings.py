"""What may stand in a text in place of a word: typing errors, letters that look alike, synonyms.

A rewriting is a function of a word to what may replace it. None of them adds, drops or moves a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparring.domains.text.function_words import FUNCTION_WORDS
from sparring.errors import BadInput, line

Rewriting = Callable[[str], Iterable[str]]
"""A word to what may stand in its place, the likeliest first."""

SHORTEST = 4
"""Letters of the shortest word that people misread (Pruthi et al., 2019)."""

KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""Rows of a keyboard; each begins a little further right than the one above."""


def _beside() -> Mapping[str, str]:
    """The letters whose keys touch that of a letter."""
    place = {key: (row, column + row / 2) for row, keys in enumerate(KEYS) for column, key in enumerate(keys)}
    return {
        key: "".join(
            other for other, (i, j) in place.items() if other != key and abs(i - row) <= 1 and abs(j - column) <= 1
        )
        for key, (row, column) in place.items()
    }


BESIDE = _beside()


def typing_errors(word: str) -> Iterable[str]:
    """One slip inside of the word: two letters swapped, one left out, doubled, or hit beside (Pruthi et al., 2019).

    Its first and its last letter stay, and words of less than four letters: people read on over the others. The
    paper adds any letter, and not only the same again.
    """
    if len(word) < SHORTEST or not word.isalpha():
        return
    for i in range(1, len(word) - 2):
        yield word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    for i in range(1, len(word) - 1):
        before, letter, after = word[:i], word[i], word[i + 1 :]
        yield before + after
        yield before + 2 * letter + after
        for other in BESIDE.get(letter.lower(), ""):
            yield before + (other.upper() if letter.isupper() else other) + after


ALIKE = str.maketrans("acehijopsxyABCEHIJKMNOPSTXYZ", "асеһіјорѕхуАВСЕНІЈКМΝОРЅТХΥΖ")
"""Latin letters to Cyrillic or Greek ones that most fonts draw alike (Unicode's table of confusables)."""


def lookalikes(word: str) -> Iterable[str]:
    """One letter, or all of them, in another alphabet: the same to the eye (Boucher et al., 2022)."""
    for i, letter in enumerate(word):
        yield word[:i] + letter.translate(ALIKE) + word[i + 1 :]
    yield word.translate(ALIKE)


@dataclass(frozen=True)
class Synonyms:
    """Other words of the same meaning, from a table. Words without a meaning of their own stay, unless `all_words`.

    The case of the word is kept: Good becomes Fine. Words that mean the contrary, which tables of words that occur in
    like places hold, are for the table to leave out.
    """

    table: Mapping[str, tuple[str, ...]]
    all_words: bool = False

    @classmethod
    def read(cls, path: Path | str) -> Synonyms:
        """A table in JSON, `{"word": ["another", ...]}`, as those of counter-fitted neighbours come.

        Raises:
            BadInput: no such file, or no such table in it.
        """
        need = 'a table {"word": ["another", ...]} in JSON'
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read '{path}' ({line(error)})", need, "check the path") from None
        if not isinstance(found, dict) or not all(
            isinstance(others, list) and all(isinstance(other, str) for other in others) for others in found.values()
        ):
            raise BadInput(f"'{path}' holds something else", need, "write it so")
        return cls({word: tuple(others) for word, others in found.items()})

    def __call__(self, word: str) -> Iterable[str]:
        """What the table has for a word."""
        plain = word.lower()
        if plain in FUNCTION_WORDS and not self.all_words:
            return
        for other in self.table.get(plain, ()):
            yield cased(other, word)


def cased(word: str, like: str) -> str:
    """A word in the case of another one."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word
