"""The set of inputs that a bound is over: a box, and inside of it a ball of a norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.threats import TOLERANCE, Ball


@dataclass(frozen=True)
class Region:
    """Every `z` from `low` to `high`, `(B, *shape)`, that is within `eps` `(B,)` of `x` in the norm of that name."""

    x: Tensor
    low: Tensor
    high: Tensor
    eps: Tensor
    norm: str

    @classmethod
    def of(cls, threat: Ball, x: Tensor) -> Region:
        """All that `threat.contains` lets pass, what it forgives for rounding included.

        Raises:
            BadInput: a norm without bounds here (L0), or inputs in another precision: half forgives more than this.
        """
        if threat.norm.name not in {"linf", "l2", "l1"}:
            raise BadInput(f"threat {threat}", "linf, l2 or l1", "give another threat")
        if x.dtype not in {torch.float32, torch.float64}:
            raise BadInput(f"inputs of {x.dtype}", "float32", "call x.float()")
        edges = [torch.tensor(edge, dtype=x.dtype).double() for edge in (threat.low, threat.high)]  # as torch has them
        x = x.detach().double()
        apart = 2 * torch.finfo(torch.float32).max * x[0].numel() if len(x) else 0.0  # as far as inputs can be
        eps = min(threat.eps * (1 + 2 * TOLERANCE), apart)
        forgiven = 2 * torch.finfo(torch.float32).eps * (x.abs() + eps) * (1 + 1e-6)
        total = forgiven if threat.norm.name == "linf" else threat.norm.size(forgiven).view(-1, *[1] * (x.dim() - 1))
        reach = eps + total
        low, high = (x - reach).clamp(min=edges[0]), (x + reach).clamp(max=edges[1])
        return cls(x, low, torch.maximum(low, high), reach.flatten(1).amax(1), threat.norm.name)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Region:
        """The regions of some of the rows."""
        return Region(self.x[rows], self.low[rows], self.high[rows], self.eps[rows], self.norm)

    def each(self, part: Callable[[Tensor], Tensor]) -> Region:
        """A part of every row's inputs, for coefficients that are zero elsewhere."""
        return Region(part(self.x), part(self.low), part(self.high), self.eps, self.norm)

    def least(self, a: Tensor) -> Tensor:
        """The least `<a, z>` over the region, `(B, S)`, of `a` `(B or 1, S, *shape)`.

        Exact for Linf and L1; for L2 a point of the dual function, which no primal point goes below.
        """
        if self.norm == "linf":
            return dot(a, (self.high + self.low) / 2) - dot(a.abs(), (self.high - self.low) / 2)
        down, up = (part.reshape(*_rows(part, a), -1) for part in (self.x - self.low, self.high - self.x))
        size = a.flatten(2)
        room = torch.where(size > 0, down, up)
        gain = _filled if self.norm == "l1" else _stretched
        return dot(a, self.x) - gain(size.abs().expand_as(room), room, self.eps.view(-1, 1, 1))


def _rows(part: Tensor, a: Tensor) -> tuple[int, ...]:
    return tuple(part.shape[:2]) if part.dim() == a.dim() else (len(part), 1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """`<a, b>`, `(B, S)`, of `a` `(B or 1, S, *shape)` and `b` `(B, *shape)`, or `(B, S, *shape)`."""
    if b.dim() == a.dim():
        return (a * b).flatten(2).sum(2)
    a, b = a.flatten(2), b.flatten(1)
    if len(a) == 1:
        return b @ a[0].T
    total: Tensor = torch.linalg.vecdot(a, b.unsqueeze(1))
    return total


def _filled(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """The most that sizes gain where moves add up to eps: the steepest coordinates first, as far as they have room."""
    size, order = size.sort(dim=2, descending=True)
    room = room.gather(2, order)
    spent = room.cumsum(2) - room
    return (size * torch.minimum((eps - spent).clamp(min=0), room)).sum(2)


def _stretched(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """The most that sizes gain where moves are eps long, from above.

    `max <size, d> - t/2 (|d|^2 - eps^2)` over `0 <= d <= room` bounds it for every `t >= 0`. The best `t` is where
    `d = min(size / t, room)` is eps long, which a few rounds come near from above.
    """
    with torch.no_grad():
        t = size.square().sum(2, keepdim=True).sqrt() / eps.clamp(min=1e-30)
        for _ in range(6):
            free = size < t * room
            left = eps**2 - (room.square() * ~free).sum(2, keepdim=True)
            inside = (size.square() * free).sum(2, keepdim=True)
            t = torch.where(left > 0, (inside / left.clamp(min=1e-300)).sqrt(), t)
            t = torch.where(room.square().sum(2, keepdim=True) <= eps**2, 0.0, t)
    d = torch.where(size < t * room, size / t.clamp(min=torch.finfo(t.dtype).tiny), room)  # 0 / 0 has no gradient
    return (size * d - t / 2 * d.square()).sum(2) + (t / 2 * eps * eps).squeeze(2)  # eps**2 may be infinite, t zero
