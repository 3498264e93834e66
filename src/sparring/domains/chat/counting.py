"""An assistant that counts what is asked of it, and keeps how near an attack has come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from sparring.domains.chat.assistant import Around, AroundSlot, Slot
from sparring.domains.chat.cases import Case
from sparring.domains.chat.result import Nearest, Spent


@dataclass
class Counted(Around):
    """An assistant as it is, with counts. `tick` is called after every round of questions."""

    tick: Callable[[], None]
    forward: int = 0
    backward: int = 0
    asked: int = 0
    claimed: bool = False
    trace: list[Nearest] = field(default_factory=list)

    @property
    def spent(self) -> Spent:
        """What was asked so far."""
        return Spent(forward=self.forward, backward=self.backward, answers=self.asked)

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """The assistant's."""
        self.asked += len(texts)
        said = self.model.answers(x, texts)
        self.tick()
        return said

    def slot(self, x: Case, wanted: str) -> Slot:
        """The assistant's, counted."""
        return CountedSlot(self.model.slot(x, wanted), self)

    def seen(self, losses: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
        """Note how near some rows came."""
        self.forward += len(losses)
        self.claimed |= bool(reached.any())
        least = float(losses.min()) if len(losses) else float("inf")
        if len(losses) and (not self.trace or least < self.trace[-1].loss):
            self.trace.append(Nearest(passes=self.forward, loss=round(least, 4)))
        self.tick()
        return losses, reached


@dataclass
class CountedSlot(AroundSlot):
    """A slot as it is, with counts."""

    counted: Counted

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The slot's."""
        return self.counted.seen(*self.inner.loss(ids))

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The slot's."""
        return self.counted.seen(*self.inner.scores(texts))

    def slope(self, ids: Tensor) -> Tensor:
        """The slot's."""
        self.counted.forward += 1
        self.counted.backward += 1
        return self.inner.slope(ids)
