"""Linear models, on which the smallest perturbation is known in closed form: the truth for attacks and certificates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.norms import rows
from sparring.streams import Streams
from sparring.types import Norm


class Planes(nn.Module):
    """`W x + b` with `W` `(K, *shape)`: between any two classes the boundary is a plane."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        return x.flatten(1) @ self.get_buffer("weight").flatten(1).T + self.get_buffer("bias")

    def distance(self, x: Tensor, labels: Tensor, norm: Norm) -> Tensor:
        """How far each row is from another decision, `(B,)`, where inputs have no bounds; 0 where it has one already.

        The least, over the other classes, of the lead over the dual norm of the difference of weights. No counting
        norm: for L0 it is one coordinate, whatever the lead.
        """
        return self._boundary(x, labels, norm)[0]

    def nearest(self, x: Tensor, labels: Tensor, norm: Norm) -> Tensor:
        """The point on the boundary at that distance, `(B, *shape)`: along the norm's steepest direction."""
        weight = self.get_buffer("weight")
        size, other = self._boundary(x, labels, norm)
        return x + rows(size, x) * norm.steepest(weight[other] - weight[labels])

    def _boundary(self, x: Tensor, labels: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """The distance to the nearest boundary, and the class behind it."""
        if norm.counts:
            raise BadInput(f"{norm.name}", "a norm with a unit: linf, l2, l1", "choose another norm")
        weight, logits = self.get_buffer("weight"), self(x)
        lead = logits.gather(1, labels.unsqueeze(1)) - logits
        across = torch.stack([weight - own for own in weight])[labels].flatten(0, 1)  # from each label to each class
        dual = (across * norm.steepest(across)).flatten(1).sum(1).view_as(lead)
        same = torch.arange(len(weight), device=x.device) == labels.unsqueeze(1)
        size, other = torch.where(same, torch.inf, lead / dual.clamp(min=1e-30)).min(1)
        return size.clamp(min=0), other


def planes(shape: tuple[int, ...] = (1, 8, 8), classes: int = 5, *, seed: int = 0) -> Planes:
    """Gaussian weights, and a bias that centres every class on inputs of 0.5."""
    weight = Streams.of(seed, range(classes)).normal(*shape)
    return Planes(weight, -0.5 * weight.flatten(1).sum(1))
