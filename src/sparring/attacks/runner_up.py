"""Any attack, towards a class that it is likely to reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.goals import Towards
from sparring.streams import Streams
from sparring.types import Attack, Goal, Model, Threat


def runners_up(outputs: Tensor, labels: Tensor) -> Tensor:
    """The wrong classes of every row, the likeliest first, `(B, K - 1)`."""
    return outputs.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]


@dataclass(frozen=True, kw_only=True)
class RunnerUp:
    """Climb towards the wrong class of this rank at `x`, 0 for the likeliest; any other class is success too.

    Without a rank every row draws its own. For an attack with a targeted loss. Costs one forward pass more than the
    attack.
    """

    attack: Attack
    rank: int | None = 0

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """What the attack found, `(B, *shape)`.

        Raises:
            BadInput: a goal that has a target already.
        """
        if goal.sign < 0:
            raise BadInput("a targeted goal", "an untargeted one: this attack picks its targets", "use apgd-dlr")
        with torch.no_grad():
            outputs = model(x)
        wrong = runners_up(outputs, goal.labels)
        if self.rank is None:
            place = (rng.at("rank").uniform(1, device=x.device).flatten() * wrong.shape[1]).long()
        else:
            place = torch.full_like(goal.labels, self.rank % wrong.shape[1])
        return self.attack(model, x, Towards(goal.labels, wrong.gather(1, place.unsqueeze(1)).squeeze(1)), rng)
