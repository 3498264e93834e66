"""Linear models, on which the best attack is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.threats import Ball


@dataclass(frozen=True)
class Linear:
    """Four logits: class 1 leads class 0 by `<w, z> - bias`, and classes 2 and 3 never matter."""

    w: Tensor
    bias: float

    def __call__(self, z: Tensor) -> Tensor:
        margin = (z * self.w).flatten(1).sum(1) - self.bias
        still = torch.zeros_like(margin)
        return torch.stack([-margin / 2, margin / 2, still - 20, still - 30], 1)


def gain(w: Tensor, x: Tensor, threat: Ball) -> Tensor:
    """The most that `<w, z - x>` can be inside ball and box, by a greedy fill (Linf, L1, L0) or a root (L2)."""
    room = torch.where(w > 0, threat.high - x, x - threat.low).flatten(1).double()
    size = w.abs().flatten().expand_as(room).double()
    order = size.argsort(1, descending=True)
    if threat.norm.name == "linf":
        return (size * room.clamp(max=threat.eps)).sum(1)
    if threat.norm.name == "l0":
        return (size * room).sort(1, descending=True).values[:, : int(threat.eps)].sum(1)
    if threat.norm.name == "l1":
        size, room = size.gather(1, order), room.gather(1, order)
        spent = room.cumsum(1) - room
        return (size * (threat.eps - spent).clamp(min=0).minimum(room)).sum(1)
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e9).double()
    for _ in range(200):  # min(t |w|, room) has length eps at the optimum
        t = (low + high) / 2
        short = (t * size).minimum(room).norm(dim=1, keepdim=True) < threat.eps
        low, high = torch.where(short, t, low), torch.where(short, high, t)
    return (size * (low * size).minimum(room)).sum(1)
