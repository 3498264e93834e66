"""The contracts of this domain: an assistant as it is deployed, the attacker's place in it, and attacks on it.

An assistant is DESIGN's model: `model.answers(x, texts)`, with a `Case` as `x` and the attacker's text as `z`. One
whose weights or scores are known gives more: a `Slot` for a case, what the attack climbs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sparring.domains.chat.cases import Case
from sparring.domains.chat.goals import Says
from sparring.streams import Streams
from sparring.types import Access


class Slot(Protocol):
    """The attacker's place in one case, as the network reads it: losses and gradients of what stands there.

    A loss is the mean of `-log p` over the tokens of what is wanted, each told those before: the less, the nearer.
    `reached` says that each of them is the likeliest one.
    """

    def start(self, length: int, allowed: Tensor, rng: Streams) -> Tensor:
        """So many tokens `(n,)` to begin with, which are read as such."""
        ...

    def text(self, ids: Tensor) -> str:
        """What the attacker writes so that these tokens stand there."""
        ...

    def tokens(self, text: str) -> Tensor:
        """The tokens that stand there once the attacker has written a text, `(n,)`."""
        ...

    def fits(self, ids: Tensor) -> Tensor:
        """Which rows `(B, n)` are the tokens that the deployed assistant reads once they are written, `(B,)` bool."""
        ...

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and `reached` of rows of tokens `(B, n)`, each `(B,)`. Costs a forward pass a row."""
        ...

    def slope(self, ids: Tensor) -> Tensor:
        """The gradient of the loss in the one-hot rows of the tokens `(n,)`, `(n, V)`: a forward and a backward."""
        ...

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Losses and `reached` of texts, tokenised as they are deployed, each `(B,)`. A forward pass a text."""
        ...


class Assistant(Protocol):
    """A chatbot, with all that is around it."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def access(self) -> Access:
        """What an attacker has of it: "gradients", "scores" (losses of texts), or "labels": its answers alone."""
        ...

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """What it answers with each of the texts in the attacker's place: deployed, in a fresh call."""
        ...

    def slot(self, x: Case, wanted: str) -> Slot:
        """The attacker's place; only with access to gradients or scores."""
        ...

    def tokens(self, text: str) -> list[int] | None:
        """A text by itself as tokens; None where nobody knows the tokenizer, or a token is one of the template's."""
        ...

    def allowed(self, ascii_only: bool) -> Tensor:
        """Which tokens an attacker may write, `(V,)` bool."""
        ...

    def spelled(self, ids: Tensor) -> str:
        """Tokens as text."""
        ...


@dataclass
class Around:
    """Something around an assistant: what it does not change is the assistant's own."""

    model: Assistant

    @property
    def name(self) -> str:
        """That of the assistant."""
        return self.model.name

    @property
    def access(self) -> Access:
        """What the assistant gives."""
        return self.model.access

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """The assistant's."""
        return self.model.answers(x, texts)

    def slot(self, x: Case, wanted: str) -> Slot:
        """The assistant's."""
        return self.model.slot(x, wanted)

    def tokens(self, text: str) -> list[int] | None:
        """The assistant's."""
        return self.model.tokens(text)

    def allowed(self, ascii_only: bool) -> Tensor:
        """The assistant's."""
        return self.model.allowed(ascii_only)

    def spelled(self, ids: Tensor) -> str:
        """The assistant's."""
        return self.model.spelled(ids)


@dataclass
class AroundSlot:
    """Something around a slot: what it does not change is the slot's own."""

    inner: Slot

    def start(self, length: int, allowed: Tensor, rng: Streams) -> Tensor:
        """The slot's."""
        return self.inner.start(length, allowed, rng)

    def text(self, ids: Tensor) -> str:
        """The slot's."""
        return self.inner.text(ids)

    def tokens(self, text: str) -> Tensor:
        """The slot's."""
        return self.inner.tokens(text)

    def fits(self, ids: Tensor) -> Tensor:
        """The slot's."""
        return self.inner.fits(ids)

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The slot's."""
        return self.inner.loss(ids)

    def slope(self, ids: Tensor) -> Tensor:
        """The slot's."""
        return self.inner.slope(ids)

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The slot's."""
        return self.inner.scores(texts)


class Attack(Protocol):
    """A search for a text, within a threat, after which an assistant says what is wanted."""

    @property
    def rounds(self) -> int:
        """How many times it asks at most (each for as many passes as it has candidates)."""
        ...

    def __call__(self, model: Assistant, x: Case, goal: Says, rng: Streams) -> str:
        """The best text found; `rng` has one row. Nothing that it says is believed."""
        ...
