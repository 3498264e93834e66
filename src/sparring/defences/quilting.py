"""Quilting: the image sewn together from patches of clean ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.defences.cleaning import Cleaning, Learning, images
from sparring.errors import BadInput
from sparring.limits import one_or_more
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Defence, Model
from sparring.views import mean

SOFTNESSES = (0.1, 0.01, 0.001)
"""By which squared distances are divided where the choice of a patch is soft: each in its turn, and the mean of all."""


class Quilt(nn.Module):
    """Every patch of an image, replaced by the nearest in a bank `(N, C size^2)`; the mean where they overlap.

    It looks for them in the bank's precision, whatever that of the images is.
    """

    bank: Tensor

    def __init__(self, bank: Tensor, size: int, stride: int) -> None:
        super().__init__()
        self.register_buffer("bank", bank)
        self.size, self.stride = size, stride
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The quilted images."""
        return self._sewn(x, lambda patches: self.bank[self._far(patches).argmin(1)])

    def soft(self, x: Tensor) -> Tensor:
        """The same with a mean over the bank, the nearer the heavier, in place of the nearest.

        Softly weighed, patches lead from far off to where the choice can be changed; sharply, across the last step.
        """
        return self._sewn(x, self._weighed)

    def _weighed(self, patches: Tensor) -> Tensor:
        far = self._far(patches)
        return mean([(-far / softness).softmax(1) for softness in SOFTNESSES]) @ self.bank

    def _sewn(self, x: Tensor, chosen: Callable[[Tensor], Tensor]) -> Tensor:
        over = [-(length - self.size) % self.stride for length in _room(x, self.size)]
        wide = functional.pad(x.to(self.bank.dtype), (0, over[1], 0, over[0]), mode="replicate")
        patches = functional.unfold(wide, self.size, stride=self.stride)
        flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        found = torch.cat([chosen(some) for some in torch.split(flat, 2048)])
        sewn = found.view(len(x), patches.shape[2], patches.shape[1]).transpose(1, 2)
        folded = [
            functional.fold(part, wide.shape[2:], self.size, stride=self.stride)
            for part in (sewn, torch.ones_like(sewn[:1]))
        ]
        return (folded[0] / folded[1])[:, :, : x.shape[2], : x.shape[3]].to(x.dtype)

    def _far(self, patches: Tensor) -> Tensor:
        """`|a - b|^2`, without what all members of the bank have in common."""
        return self.bank.square().sum(1) - 2 * patches @ self.bank.T


def _room(x: Tensor, size: int) -> tuple[int, int]:
    """Height and width of images that hold a patch of this size."""
    height, width = images(x).shape[2:]
    if min(height, width) < size:
        given = f"images of {height} by {width} for patches of {size} pixels"
        raise BadInput(given, "patches no larger than the image", "give a smaller size")
    return height, width


def bank_of(x: Tensor, count: int, size: int) -> Tensor:
    """Patches of these images, from places drawn with a fixed seed, `(count, C size^2)` float32."""
    height, width = _room(x, size)
    rows, down, right = (
        (Streams.of(0, range(count)).at(name).uniform() * high).long()
        for name, high in (("row", len(x)), ("down", height - size + 1), ("right", width - size + 1))
    )
    cut = [x[i, :, j : j + size, k : k + size] for i, j, k in zip(rows, down, right, strict=True)]
    return torch.stack(cut).flatten(1).float()


@register("defences", "quilting", shape="image", paper="Guo et al., 2018")
def quilting(*, size: int = 5, stride: int = 3, patches: int = 2000) -> Learning:
    """Sew the image together from patches of clean ones (Guo et al., 2018).

    Each patch becomes the nearest of the bank, where the paper draws one of the ten nearest; overlaps are averaged, not
    cut. The gradient is the mean of those of softer and sharper choices: of a single one it is weaker, and weaker yet
    of the identity (Athalye et al., 2018, section 5.3.1).
    """
    one_or_more(size=size, stride=stride, patches=patches)
    if stride > size:
        raise BadInput(f"a stride of {stride} for patches of {size}", "one that leaves no gaps", f"take {size} or less")

    def fit(model: Model, x: Tensor, labels: Tensor) -> Defence:
        quilt = Quilt(bank_of(x, patches, size), size, stride)
        return Cleaning(clean=quilt, surrogate=quilt.soft)

    return Learning(fit)
