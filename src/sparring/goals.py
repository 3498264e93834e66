"""Goals: what counts as success, judged on the outputs alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Untargeted:
    """Leave the true label: the largest output is another one. `labels` is `(B,)`."""

    labels: Tensor
    sign: int = 1

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows whose decision is not the label. NaN outputs are no decision, and no success."""
        return (outputs.argmax(1) != self.labels) & ~outputs.isnan().any(1)

    def __getitem__(self, rows: Tensor) -> Untargeted:
        """The goal of some of the rows."""
        return Untargeted(self.labels[rows])


@dataclass(frozen=True)
class Targeted:
    """Reach a label that the attacker chose. `labels` is `(B,)`."""

    labels: Tensor
    sign: int = -1

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows whose decision is the target."""
        return (outputs.argmax(1) == self.labels) & ~outputs.isnan().any(1)

    def __getitem__(self, rows: Tensor) -> Targeted:
        """The goal of some of the rows."""
        return Targeted(self.labels[rows])


@dataclass(frozen=True)
class Never(Untargeted):
    """Climb away from the label to the very end: no output is enough. What training's inner maximum asks for."""

    def reached(self, outputs: Tensor) -> Tensor:
        """No row."""
        return torch.zeros_like(self.labels, dtype=torch.bool)

    def __getitem__(self, rows: Tensor) -> Never:
        """The goal of some of the rows."""
        return Never(self.labels[rows])


@dataclass(frozen=True)
class Towards:
    """Leave the true label by way of a chosen wrong class. `labels` and `targets` are `(B,)`.

    Any other class is success too; the targeted losses climb towards the chosen one.
    """

    labels: Tensor
    targets: Tensor
    sign: int = 1

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows whose decision is not the label."""
        return Untargeted(self.labels).reached(outputs)

    def __getitem__(self, rows: Tensor) -> Towards:
        """The goal of some of the rows."""
        return Towards(self.labels[rows], self.targets[rows])
