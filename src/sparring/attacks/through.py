"""Any attack, on a view of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sparring.streams import Streams
from sparring.types import Attack, Goal, Model, Threat


@dataclass(frozen=True, kw_only=True)
class Through:
    """Attack what a view shows of the model, as in `Through(view=smoothed, attack=pgd(threat))`.

    Costs what the attack costs on the view.
    """

    view: Callable[[Model], Model]
    attack: Attack

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """What the attack found, `(B, *shape)`."""
        return self.attack(self.view(model), x, goal, rng)
