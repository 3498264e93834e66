"""One text for many conversations, learned on some and tried on others (Zou et al., 2023, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from sparring.domains.chat.assistant import Around, Assistant, Slot
from sparring.domains.chat.cases import Case
from sparring.domains.chat.gcg import GCG
from sparring.domains.chat.goals import Says
from sparring.domains.chat.threats import Suffix
from sparring.streams import Streams


@dataclass
class Many(Around):
    """An assistant in whose place one text stands in several conversations at once."""

    cases: Sequence[Case] = field(kw_only=True)

    def slot(self, x: Case, wanted: str) -> Together:
        """The places of all of them, each with what is wanted there."""
        return Together([self.model.slot(case, case.wanted) for case in self.cases])


@dataclass
class Together:
    """Several places as one: losses are means over them, and reached is what is reached in all."""

    slots: Sequence[Slot]

    def start(self, length: int, allowed: Tensor, rng: Streams) -> Tensor:
        """What the first of them begins with."""
        return self.slots[0].start(length, allowed, rng)

    def text(self, ids: Tensor) -> str:
        """The same in all."""
        return self.slots[0].text(ids)

    def tokens(self, text: str) -> Tensor:
        """The same in all."""
        return self.slots[0].tokens(text)

    def fits(self, ids: Tensor) -> Tensor:
        """Which rows are read as they were written in all of them."""
        return torch.stack([slot.fits(ids) for slot in self.slots]).all(0)

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses. A forward pass a row and place."""
        return mean([slot.loss(ids) for slot in self.slots])

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Mean losses of texts."""
        return mean([slot.scores(texts) for slot in self.slots])

    def slope(self, ids: Tensor) -> Tensor:
        """The mean gradient."""
        return torch.stack([slot.slope(ids) for slot in self.slots]).mean(0)


def mean(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The mean of several losses, and what all of them reach."""
    losses, reached = zip(*found, strict=True)
    return torch.stack(losses).mean(0), torch.stack(reached).all(0)


@dataclass(frozen=True)
class Fixed:
    """Write the same text in every case: one that was learned before, or found elsewhere."""

    threat: Suffix
    _: KW_ONLY
    text: str
    rounds: int = 1

    def __call__(self, model: Assistant, x: Case, goal: Says, rng: Streams) -> str:
        """The text; the model is not asked."""
        return self.text


def learned(model: Assistant, cases: Sequence[Case], gcg: GCG, *, seed: int = 0) -> str:
    """The text with the least mean loss over some cases: GCG on all of them at once (Zou et al., 2023, Algorithm 2).

    The paper takes the cases in one after another, each once those before it are reached. What it is worth is asked of
    other cases: `audit(..., attacks={"universal": partial(Fixed, text=text)})`. Costs what `gcg` does for a case, as
    many times as there are cases.
    """
    first = cases[0]
    return gcg(Many(model, cases=cases), first, Says(first.wanted), Streams.of(seed, [0]).at("universal"))
