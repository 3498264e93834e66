"""Any attack, one way only: where success lies on two sides, a climb to the nearer one may end at a dead end."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from sparring.attacks.restarts import Restarts
from sparring.goals import Values
from sparring.streams import Streams
from sparring.types import Attack, Goal, Model, Threat


@dataclass(frozen=True, kw_only=True)
class OneWay:
    """Climb one side of a goal about values: outputs that are too large (`way` 1), or too small (-1).

    Other goals, and those with a target, have no sides, and are climbed as they are.
    """

    attack: Attack
    way: int

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """What the attack found, `(B, *shape)`."""
        if isinstance(goal, Values) and goal.sign > 0:
            return self.attack(model, x, replace(goal, way=self.way), rng)
        return self.attack(model, x, goal, rng)


def each_way(attack: Attack) -> Restarts:
    """The attack upwards, and downwards on what still stands."""
    return Restarts(attacks=(OneWay(attack=attack, way=1), OneWay(attack=attack, way=-1)), times=2)
