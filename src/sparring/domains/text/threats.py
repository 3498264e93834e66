"""Threats on texts: up to so many words are replaced, each by one of its rewritings.

As a norm this is L0: it counts the words that change. What a word may become is a table of numbers, so that the ball of
that norm is the threat, as patches are for images: finite, and every claim can be checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from sparring.data.lexicon import Lexicon, parted
from sparring.data.texts import Texts
from sparring.domains.text.rewritings import Rewriting, Synonyms, lookalikes, typing_errors
from sparring.errors import BadInput
from sparring.norms import around, as_it_is, in_input_units, rows
from sparring.registry import members, register
from sparring.streams import Streams
from sparring.threats import Ball

ANYTHING = 64
"""Other words that a word may become where anything goes."""


@dataclass(frozen=True, eq=False)
class Words:
    """The number of words that change; each may become what `table` has for it.

    `table` is `(V, C)` int64: for each of the first V numbers of the lexicon what may stand in its place, padded by the
    number itself. `x` and `z` are `(B, length)`.
    """

    name: str
    table: Tensor = field(repr=False)
    counts: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    measure = in_input_units
    said = as_it_is
    around = around

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Words) and (self.name, self.digest) == (other.name, other.digest)

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    @cached_property
    def digest(self) -> str:
        """A name for the table: another one makes another threat."""
        return hashlib.sha256(self.table.numpy().tobytes()).hexdigest()[:12]

    def unit(self, eps: float, width: float) -> float:
        """One word."""
        return 1.0

    def size(self, delta: Tensor) -> Tensor:
        """How many words are others."""
        return (delta.flatten(1) != 0).sum(1).to(delta.dtype)

    def choices(self, x: Tensor) -> Tensor:
        """What may stand in the place of every word, `(B, length, C)` int64; the word itself where there is no more."""
        return self.table.to(x.device)[x.round().long().clamp(0, len(self.table) - 1)]

    def holds(self, z: Tensor, x: Tensor) -> Tensor:
        """Which places hold the word of `x`, or one of its rewritings, `(B, length)` bool."""
        return (z == x) | (self.choices(x) == z.unsqueeze(2)).any(2)

    def project(self, z: Tensor, x: Tensor, eps: Tensor | float, low: float, high: float) -> Tensor:
        """The first changes, up to eps of them, that are rewritings; all other words are those of `x`."""
        kept = (z != x) & self.holds(z, x)
        return torch.where(kept & (kept.cumsum(1) <= rows(eps, x)), z, x)

    def sample(self, x: Tensor, eps: Tensor | float, low: float, high: float, rng: Streams) -> Tensor:
        """Up to eps words that can be rewritten, each as likely as the others, and what becomes of each of them."""
        choices = self.choices(x)
        fresh = choices != x.unsqueeze(2)
        draw = rng.at("place").uniform(*x.shape[1:], device=x.device) + ~fresh.any(2)
        chosen = (draw.argsort(1).argsort(1) < rows(eps, x)) & fresh.any(2)
        which = (rng.at("word").uniform(*x.shape[1:], device=x.device) * fresh.sum(2)).long()
        return torch.where(chosen, choices.gather(2, which.unsqueeze(2)).squeeze(2).to(x.dtype), x)

    def steepest(self, gradient: Tensor) -> NoReturn:
        """Words have no direction: refused in a line."""
        raise BadInput(f"a gradient in {self.name}", "an attack on words", "see: sparring list attacks")

    ascent = steepest


@dataclass(frozen=True)
class Wording(Ball):
    """Every text that differs from `x` in at most `eps` words, each one of its rewritings: finitely many."""

    norm: Words
    lexicon: Lexicon = field(kw_only=True, repr=False, compare=False)
    discrete: ClassVar[bool] = True

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """How many words are others, `(B,)`; infinity where some are no rewritings."""
        return self.norm.size(z - x).masked_fill(~self.norm.holds(z, x).all(1), torch.inf)

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether `z` is one of them, `(B,)` bool."""
        return self.distance(z, x) <= self.eps

    def whole(self, x: Tensor) -> Wording:
        """Any word may become any of `ANYTHING` others, spread over the lexicon: what breaks every model that reads."""
        places = torch.arange(self.norm.table.shape[0])
        step = max(1, len(self.lexicon) // ANYTHING)
        others = (places.unsqueeze(1) * 7919 + step * torch.arange(ANYTHING)) % len(self.lexicon)
        others = torch.where(places.unsqueeze(1) > 0, others, 0)  # nothing stays nothing
        return Wording(Words(self.norm.name, others), float(x.shape[1]), self.low, self.high, lexicon=self.lexicon)

    @property
    def identity(self) -> str:
        """What tells it from any other one."""
        return f"{self} by the table {self.norm.digest}"


@dataclass(frozen=True)
class Rewrites:
    """Up to `eps` words replaced, each by one of its rewritings: a threat before it has met the texts.

    `over` some texts it is a `Wording`: only then is it known which words there are.
    """

    name: str
    eps: float
    rewriting: Rewriting

    def __post_init__(self) -> None:
        if not (self.eps >= 0 and float(self.eps).is_integer()):
            raise BadInput(f"eps {self.eps:g} of {self.name}", "a whole number of words", f"write {self.name}:2")

    def over(self, data: Texts) -> tuple[Texts, Wording]:
        """The texts, numbered together with what their words may become, and the threat on these numbers.

        Raises:
            BadInput: no word of the texts can be rewritten.
        """
        own = Lexicon.of(data.texts).pieces
        become = [_rewritten(piece, self.rewriting) for piece in own]
        lexicon = Lexicon(tuple(dict.fromkeys([*own, *(other for others in become for other in others)])))
        most = max(map(len, become))
        if not most:
            raise BadInput(f"{self} on {data.name}", "texts with words that it can rewrite", "choose another threat")
        table = torch.arange(len(own)).unsqueeze(1).repeat(1, most)
        for row, others in zip(table, become, strict=True):
            row[: len(others)] = torch.tensor([lexicon.numbers[other] for other in others], dtype=torch.int64)
        numbered = Texts(data.name, data.texts, data.y, data.classes, data.notes, lexicon)
        return numbered, Wording(Words(self.name, table), self.eps, 0.0, float(len(lexicon)), lexicon=lexicon)

    def __str__(self) -> str:
        return f"{self.name}:{self.eps:g}"


def _rewritten(piece: str, rewriting: Rewriting) -> list[str]:
    """What a piece may become, each once, and never itself: with the same space before it."""
    space, word = parted(piece)
    return [space + other for other in dict.fromkeys(rewriting(word)) if other not in ("", word)] if word else []


@register("rewritings", "typos")
def typos(words: float) -> Rewrites:
    """A slip of the keyboard inside of each (Pruthi et al., 2019)."""
    return Rewrites("typos", words, typing_errors)


@register("rewritings", "lookalikes")
def alike(words: float) -> Rewrites:
    """Letters of another alphabet that look alike (Boucher et al., 2022)."""
    return Rewrites("lookalikes", words, lookalikes)


@register("rewritings", "synonyms")
def synonyms(words: float, table: Synonyms | None = None) -> Rewrites:
    """Other words of the same meaning, by a table (Alzantot et al., 2018).

    Without a table that of counter-fitted neighbours, `text/counterfitted_neighbors.json` in `SPARRING_DATA`.

    Raises:
        BadInput: there is none.
    """
    return Rewrites("synonyms", words, table or _neighbours())


def _neighbours() -> Synonyms:
    from sparring.data.named import given

    place = given("text/counterfitted_neighbors.json")
    if place is None:
        need = "a table of them: text/counterfitted_neighbors.json in SPARRING_DATA"
        raise BadInput("synonyms", need, "get it from robinjia/certified-word-sub, or write synonyms:WORDS:TABLE.json")
    return Synonyms.read(place)


def rewriting(text: str) -> Rewrites | None:
    """`typos:2`, `synonyms:3`, or `synonyms:3:TABLE.json`; nothing where a threat of another kind is meant.

    Raises:
        BadInput: a size that is no whole number, or a table where there is none to read.
    """
    name, _, size = text.partition(":")
    known = members("rewritings")
    if name not in known:
        return None
    words, _, table = size.partition(":")
    if not words.isdecimal():
        raise BadInput(f"eps {words!r} of {name}", "a whole number of words", f"write for example {name}:2")
    if table and name != "synonyms":
        raise BadInput(f"a table for {name}", "none", f"write {name}:{words}")
    made: Rewrites = known[name].make(float(words), *([Synonyms.read(table)] if table else []))
    return made


TOGETHER = 4096
"""Texts in a call of the model."""


def together(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of several tensors, as many at once as go into a call; none where there are no rows."""
    if len(parts[0]):
        yield from zip(*(torch.split(part, TOGETHER) for part in parts), strict=True)


def singles(x: Tensor, threat: Wording) -> tuple[Tensor, Tensor, Tensor]:
    """All single changes of all rows: the row, the place and the word of each, `(n,)` int64."""
    choices = threat.norm.choices(x)
    row, place, which = (choices != x.unsqueeze(2)).nonzero(as_tuple=True)
    return row, place, choices[row, place, which]
