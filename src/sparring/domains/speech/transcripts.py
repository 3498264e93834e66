"""How far a transcript is from what was said: word and character error rates (Levenshtein, 1966).

Both texts are normalised first, always in the same way, or rates would count capitals and commas.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence

import numpy as np

from sparring.errors import BadInput


def normal(text: str) -> str:
    """Lower case, without punctuation and accents, one space between words; an apostrophe inside a word stays.

    Numbers stay as they are written: what is said in words and written in digits counts as wrong.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    words = re.sub(r"[^\w']+|_", " ", plain.replace("’", "'")).split()
    return " ".join(filter(None, (word.strip("'") for word in words)))


def edits(said: Sequence[Hashable], written: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other."""
    codes = {part: i for i, part in enumerate(dict.fromkeys((*said, *written)))}
    other = np.array([codes[part] for part in written], dtype=np.int64)
    steps = np.arange(len(written) + 1)
    row = steps
    for i, part in enumerate(said, 1):
        # without insertions first; then each cell may be reached from any to its left, at one edit a step
        changed = np.minimum(row[1:] + 1, row[:-1] + (other != codes[part]))
        best = np.concatenate([[i], changed])
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def word_error_rate(said: str | Sequence[str], written: str | Sequence[str]) -> float:
    """Edits of words for each word that was said, over all texts together; above 1 where many were made up.

    Raises:
        BadInput: as many transcripts as texts are needed, and a word that was said.
    """
    return _rate(said, written, str.split)


def character_error_rate(said: str | Sequence[str], written: str | Sequence[str]) -> float:
    """Edits of characters, spaces included, for each that was said."""
    return _rate(said, written, list)


def _rate(said: str | Sequence[str], written: str | Sequence[str], parts: object) -> float:
    truth, other = ([text] if isinstance(text, str) else list(text) for text in (said, written))
    if len(truth) != len(other):
        raise BadInput(f"{len(truth)} texts and {len(other)} transcripts", "one transcript a text", "align them")
    assert callable(parts)
    pairs = [(parts(normal(text)), parts(normal(heard))) for text, heard in zip(truth, other, strict=True)]
    total = sum(len(text) for text, _ in pairs)
    if not total:
        raise BadInput("texts without a word", "something that was said", "leave silence out")
    return sum(edits(*pair) for pair in pairs) / total
