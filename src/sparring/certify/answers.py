"""What a certificate says of an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from sparring.certify.graph import Graph
from sparring.threats import Ball
from sparring.types import Model

Status = Literal["certified", "broken", "unknown"]


@dataclass(frozen=True)
class Answer:
    """What was found: a bound that holds, and where one was found an input `(1, *shape)` for which a claim fails.

    `parts` of the region were bounded.
    """

    status: Status
    lower: float
    z: Tensor | None = None
    parts: int = 1


class Certificate(Protocol):
    """Lower bounds of margins within a threat. It may search for inputs that break."""

    searches: ClassVar[bool]

    def at_once(self, net: Graph) -> int:
        """How many examples it takes together: so many are lost where a run is killed."""
        ...

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)` float32 rounded down."""
        ...

    def answers(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> list[Answer]:
        """What is found for every example."""
        ...


def rounded_down(bounds: Tensor) -> Tensor:
    """Bounds as float32, none above itself."""
    return torch.nextafter(bounds.float(), torch.tensor(-torch.inf))
