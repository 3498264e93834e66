"""An attack for the smallest perturbation as one of a fixed budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.norms import rows
from sparring.streams import Streams
from sparring.types import Attack, Goal, Model, Threat


@dataclass(frozen=True, kw_only=True)
class Within:
    """Keep what an attack finds inside its threat, and take back the rest. Costs what the attack costs."""

    attack: Attack

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """What the attack found inside the threat, `x` elsewhere, `(B, *shape)`."""
        z = self.attack(model, x, goal, rng)
        return torch.where(rows(self.threat.contains(z, x), x), z, x)
