"""What an objective is: a loss of the weights, that may search for its inputs first, and may remember."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from sparring.streams import Streams


class Objective(Protocol):
    """The loss of a batch, a scalar with a gradient in the weights.

    `labels` are classes `(B,)`, or shares of all classes `(B, K)`.
    """

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        ...


class Searching(ABC):
    """An objective that looks for its inputs first, and takes a loss there."""

    @abstractmethod
    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The loss as a function of the weights alone, at what the search finds now: one search, and no other."""

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        return self.pinned(network, x, labels, strength, rng)()


def pinned(  # noqa: PLR0917  (those of an objective)
    objective: Objective, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
) -> Callable[[], Tensor]:
    """The loss of a batch as a function of the weights alone, the worst inputs searched for once.

    What a neighbourhood of weights asks for (Wu et al., 2020, equation 7): it takes the loss at more than one place,
    and the search costs most of it.
    """
    if isinstance(objective, Searching):
        return objective.pinned(network, x, labels, strength, rng)
    return partial(objective, network, x, labels, strength, rng)


@runtime_checkable
class Remembering(Protocol):
    """A module that takes something along from one update to the next."""

    def forget(self) -> None:
        """Be as before the first update."""
        ...


def memory(objective: object) -> nn.Module | None:
    """What an objective remembers from one update to the next: the modules that it is, or that it wraps (mixup)."""
    if isinstance(objective, nn.Module):
        return objective
    if hasattr(objective, "objective"):
        return memory(objective.objective)
    held = [part for one in getattr(objective, "objectives", ()) if (part := memory(one)) is not None]
    return nn.ModuleList(held) if held else None


def fresh(objective: Objective) -> Objective:
    """The objective for a training of its own: what remembers is copied, and has forgotten what it saw before."""
    if memory(objective) is None:
        return objective
    own = copy.deepcopy(objective)
    held = memory(own)
    assert held is not None
    for part in held.modules():
        if isinstance(part, Remembering):
            part.forget()
    return own
