"""Whether an explanation survives an attack (Ghorbani et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from sparring.explain.attributions import attribute
from sparring.models.loading import adopt
from sparring.models.victim import inference


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine between two attributions of each row, `(B,)`: 1 the same, 0 unrelated (or one of them all zeros)."""
    # in units of their largest value first: the squares of a sure model's gradients are too small for a float
    one, other = (normalize(part.flatten(1), torch.inf, eps=torch.finfo(part.dtype).tiny) for part in (a, b))
    return cosine_similarity(one, other, dim=1)


def overlap(a: Tensor, b: Tensor, share: float = 0.1) -> Tensor:
    """The part of the most important values that two attributions have in common, `(B,)` (top-k intersection).

    The most important are the `share` of the values that is largest in size, at least one; ties go to the first, and
    zeros never count: where one attribution has more values than the other, the part is of those. Chance alone gives
    `share`, 0 stands where both are all zeros.
    """
    k = max(1, round(share * a[0].numel()))
    chosen = [
        torch.zeros_like(part, dtype=torch.bool).scatter(
            1, part.abs().argsort(dim=1, descending=True, stable=True)[:, :k], True
        )
        & (part != 0)
        for part in (a.flatten(1), b.flatten(1))
    ]
    return (chosen[0] & chosen[1]).sum(1) / torch.maximum(*(part.sum(1) for part in chosen)).clamp(min=1)


@dataclass(frozen=True)
class Explanation:
    """A model's attributions of the same examples before (`x`) and under attack (`z`), all `(B, *shape)`.

    `labels` `(B,)` are the classes that the attributions explain, `decisions` what the model says of `x` and of `z`.
    """

    name: str
    x: Tensor
    z: Tensor
    labels: Tensor
    decisions: tuple[Tensor, Tensor]
    before: Tensor
    under: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Explanation:
        """Of some of the examples."""
        x, z, labels, before, under = (part[rows] for part in (self.x, self.z, self.labels, self.before, self.under))
        return Explanation(self.name, x, z, labels, (self.decisions[0][rows], self.decisions[1][rows]), before, under)

    @property
    def cosine(self) -> Tensor:
        """How far the attribution turns under attack, `(B,)`."""
        return cosine(self.before, self.under)

    @property
    def overlap(self) -> Tensor:
        """How much of what mattered most still does, `(B,)`."""
        return overlap(self.before, self.under)


def explain(
    model: object,
    x: Tensor,
    z: Tensor,
    labels: Tensor,
    *,
    method: str = "integrated-gradients",
    name: str | None = None,
) -> Explanation:
    """Attribute `labels` to `x` and to `z`, the same examples under attack.

    Raises:
        BadInput: as `attribute`.

    """
    victim = adopt(model, name=name)
    before, under = (attribute(victim, part, labels, method) for part in (x, z))
    with inference(victim), torch.no_grad():
        decisions = victim(x).argmax(1), victim(z).argmax(1)
    return Explanation(victim.name, x, z, labels, decisions, before, under)
