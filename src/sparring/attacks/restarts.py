"""Any attack, several times, on the rows that still stand."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparring.losses import margin
from sparring.search import Search
from sparring.streams import Streams
from sparring.types import Attack, Goal, Model, Threat


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """Run attacks in turn, `times` runs in all, each on the rows that have not reached the goal yet.

    Costs their passes, and one forward pass a run to see which rows still stand.
    """

    attacks: tuple[Attack, ...]
    times: int

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attacks[0].threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The first success of each row, or the best of its tries, `(B, *shape)`."""
        search = Search(model, x, goal, margin)
        for run in search.steps(self.times):
            attack = self.attacks[run % len(self.attacks)]
            z = attack(model, x, search.goal, rng.at(run))
            _, x, rng = search.judge(z, x, rng)
        return search.best
