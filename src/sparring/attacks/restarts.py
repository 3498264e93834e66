"""Any attack, several times, on the rows that still stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.losses import margin
from sparring.search import Search
from sparring.streams import Streams
from sparring.types import Attack, Goal, Model, Threat


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """Run attacks in turn, `times` runs in all, each on the rows that have not reached the goal in the threat yet.

    An attack that looks for the nearest success hands over one that is too far: such a row still stands. Costs their
    passes, and one forward pass a run to see which rows still stand.
    """

    attacks: tuple[Attack, ...]
    times: int

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attacks[0].threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The first success of each row inside the threat, or the best of its tries, `(B, *shape)`.

        Tries inside the threat are better than those outside.
        """
        search = Inside(model, x, goal, self.threat)
        for run in search.steps(self.times):
            attack = self.attacks[run % len(self.attacks)]
            z = attack(model, x, search.goal, rng.at(run))
            x, rng = search.offer(z, x, rng)
        return search.best


class Inside(Search):
    """A search whose rows are done once they reach the goal inside a threat."""

    def __init__(self, model: Model, x: Tensor, goal: Goal, threat: object) -> None:
        super().__init__(model, x, goal, margin)
        self.threat = threat
        self.entered = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def offer(self, z: Tensor, x: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Score `z` with a forward pass, as `judge` does. Returns `x` and `carry`, for the rows that stay."""
        with torch.no_grad():
            outputs = self.model(z)
            score = self.loss(outputs, self.goal).to(z.dtype)
        inside = self._inside(z, x)
        before = self.entered[self.open]
        first = self.open[inside & ~before]
        self.best_score = self.best_score.index_fill(0, first, -torch.inf)  # whatever was better outside
        self.entered = self.entered.index_fill(0, first, True)
        score = score.masked_fill(before & ~inside, -torch.inf)
        return self._record(z, self.goal.reached(outputs) & inside, score, (x, *carry))

    def _inside(self, z: Tensor, x: Tensor) -> Tensor:
        """Whether points are inside the threat; all, where it cannot tell, as `Balls`: attacks on those stay inside."""
        if isinstance(self.threat, Threat):
            return self.threat.contains(z, x)
        return torch.ones(len(z), dtype=torch.bool, device=z.device)
