"""The contract of a recommender: a function that is trained each time it is called, so that poison reaches it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams


class Recommender(Protocol):
    """`fit(data) -> scores`: what DESIGN calls a model, one level up, for training is a part of it."""

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """Train on the data, and score all items for all users, `(users, items)`; more is better.

        What is random comes from `rng`, which has one row.
        """
        ...


class Attack(Protocol):
    """A search for fake users, within a threat, that bring a goal about."""

    def __call__(self, model: Recommender, x: Interactions, goal: Placement, rng: Streams) -> Interactions:
        """The data `x` with fake users after the real ones."""
        ...
