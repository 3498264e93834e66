"""Linear models, on which the best attack is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.streams import Streams
from sparring.threats import Ball


@dataclass(frozen=True)
class Linear:
    """Four logits: class 1 leads class 0 by `<w, z> - bias`, and classes 2 and 3 never matter."""

    w: Tensor
    bias: float

    def lead(self, z: Tensor) -> Tensor:
        """By how much class 1 leads, `(B,)`."""
        return (z * self.w).flatten(1).sum(1) - self.bias

    def __call__(self, z: Tensor) -> Tensor:
        lead = self.lead(z)
        never = torch.full_like(lead, -20.0)
        return torch.stack([-lead / 2, lead / 2, never, never - 10], 1)


def _before(amounts: Tensor) -> Tensor:
    """The sums of what comes before each: not less the amount itself, beside which the others would round away."""
    return torch.cat([torch.zeros_like(amounts[:, :1]), amounts[:, :-1]], 1).cumsum(1)


def _fill(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Spend eps on the steepest coordinates first, each as far as it has room."""
    size, order = size.sort(dim=1, descending=True)
    room = room.gather(1, order)
    spent = _before(room)
    return (size * (eps - spent).clamp(min=0).minimum(room)).sum(1)


def _stretch(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Walk along `min(t size, room)` until it is eps long, or the box is full: what fills first is done first."""
    size = size.clamp(min=1e-30)  # what gains nothing is last to fill
    full, order = (room / size).sort(dim=1)
    size, room = size.gather(1, order), room.gather(1, order)
    filled = _before(room.square())
    open_ = size.square().flip(1).cumsum(1).flip(1)
    t = ((eps.square() - filled).clamp(min=0) / open_).sqrt()
    walk = torch.minimum(t, full).amax(1, keepdim=True)
    return (size * (walk * size).minimum(room)).sum(1)


def _best_few(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Change the `floor(eps)` coordinates that gain most."""
    gains = (size * room).sort(dim=1, descending=True).values
    return (gains * (torch.arange(gains.shape[1]) < eps.floor())).sum(1)


_BEST = {
    "linf": lambda size, room, eps: (size * room.minimum(eps)).sum(1),
    "l2": _stretch,
    "l1": _fill,
    "l0": _best_few,
}


def gain(w: Tensor, x: Tensor, threat: Ball, eps: Tensor | None = None) -> Tensor:
    """The most that `<w, z - x>` can be inside ball and box, `(B,)` float64, for the threat's eps or one a row.

    `w` is `(*shape)` or `(B, *shape)`.
    """
    room = torch.where(w > 0, threat.high - x, x - threat.low).flatten(1).double()
    room = room.clamp(max=1e9)  # where there is no box
    size = w.abs().expand_as(x).flatten(1).double()
    eps = torch.full((len(x),), threat.eps) if eps is None else eps
    return _BEST[threat.norm.name](size, room, eps.double().unsqueeze(1))


def reach(w: Tensor, x: Tensor, threat: Ball, lead: Tensor) -> Tensor:
    """The smallest eps at which the gain is `lead`, for every row: how far the boundary of a linear model is."""
    low, high = torch.zeros(len(x)).double(), torch.full((len(x),), 1e6).double()
    for _ in range(60):
        eps = (low + high) / 2
        short = gain(w, x, threat, eps) < lead
        low, high = torch.where(short, eps, low), torch.where(short, high, eps)
    return high


def puzzle(shape: tuple[int, ...], threat: Ball, count: int, seed: int) -> tuple[Linear, Tensor, Tensor]:
    """A model, inputs of class 0, and the gain of the best attack on each: a tenth short of success on the nearest.

    The best attack is worth about 5 logits, so that the cross-entropy does not saturate.
    """
    rng = Streams.of(seed, range(count))
    w = Streams.of(seed, [count]).normal(*shape)[0]
    x = rng.uniform(*shape)
    w = w * (5 / gain(w, x, threat).mean().item())
    best = gain(w, x, threat)
    return Linear(w, ((x * w).flatten(1).sum(1) + 1.1 * best).max().item()), x, best
