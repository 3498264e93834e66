"""How batches are read: by index, from memory where the data fit there, and from two sources at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.types import Data

IN_MEMORY = 2**30
"""Bytes of inputs up to which a data set is read once, and kept."""


@dataclass(frozen=True)
class Unlabelled:
    """Data whose labels are kept from training: -1 each, which an objective must know of (`vat`)."""

    data: Data

    @property
    def name(self) -> str:
        """The name of the data."""
        return self.data.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the data."""
        return self.data.classes

    def __len__(self) -> int:
        return len(self.data)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs, and labels of -1."""
        x, labels = self.data.take(indices)
        return x, torch.full_like(labels, -1)


@dataclass(frozen=True)
class Mixed:
    """Data and extra data, one after the other.

    Raises:
        BadInput: there are no extra data, or they have another shape.
    """

    data: Data
    extra: Data

    def __post_init__(self) -> None:
        if not len(self.extra):
            raise BadInput(f"{self.extra.name} is empty", "at least 1 example", "leave 'extra' out")
        here, there = (tuple(one.take([0])[0].shape[1:]) for one in (self.data, self.extra))
        if here != there:
            raise BadInput(f"inputs {there} of {self.extra.name}", f"{here}, as {self.data.name} has", "resize them")

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.data.name} and {self.extra.name}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the data."""
        return self.data.classes

    def __len__(self) -> int:
        return len(self.data) + len(self.extra)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and labels, the rows of the data before those of the extra data."""
        here = [int(i) for i in indices if i < len(self.data)]
        there = [int(i) - len(self.data) for i in indices if i >= len(self.data)]
        parts = [source.take(rows) for source, rows in ((self.data, here), (self.extra, there)) if rows]
        return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])


def reader(data: Data) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What gives the examples at some positions, `(B,)` int64: from memory where all of them fit there."""
    x, _ = data.take([0])
    if len(data) * x.nbytes > IN_MEMORY:
        return lambda rows: data.take(rows.tolist())
    everything, labels = data.take(range(len(data)))
    return lambda rows: (everything.index_select(0, rows), labels[rows])
