"""Sparse-RS: random search for the few coordinates that matter, or a patch (Croce et al., 2022). Scores alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sparring.attacks.restarts import Restarts
from sparring.attacks.square import RandomSearch, Stairs, square
from sparring.domains.images.patches import painted_on, side_of
from sparring.domains.images.windows import Window
from sparring.errors import BadInput
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack


def few(x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """`eps` coordinates at random, each at a corner of the box: the start."""
    return swap(x, x, threat, 1.0, rng)


def swap(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """Restore a share of the changed coordinates, and set as many others to a corner of the box (algorithm 2).

    Coordinates of the input that are at a corner go to the opposite one: the paper draws its colours blindly, and
    spends queries on no change where images are black or white.
    """
    budget = min(int(threat.eps), x.shape[1:].numel())
    count = min(max(int(share * threat.eps), 1), budget)
    changed = (z != x).flatten(1)
    draw = rng.at("out").uniform(changed.shape[1], device=x.device)
    restored = _least(draw + ~changed, count, torch.full_like(changed[:, 0], count, dtype=torch.int64))
    kept = changed & ~restored
    draw = rng.at("in").uniform(changed.shape[1], device=x.device)
    fresh = _least(draw + changed + kept.float(), budget, budget - kept.sum(1))
    corners = _corner(x, threat, rng.at("corner"))
    return torch.where(fresh.view_as(x), corners, torch.where(kept.view_as(x), z, x))


def _least(keys: Tensor, most: int, count: Tensor) -> Tensor:
    """Which are the `count` smallest keys of a row, `(B, n)` bool; `count` is `(B,)`, and nowhere above `most`."""
    places = keys.topk(most, dim=1, largest=False).indices
    chosen = torch.arange(most, device=keys.device) < count[:, None]
    return torch.zeros_like(keys, dtype=torch.bool).scatter(1, places, chosen)


def _corner(x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """For every coordinate an end of the box that it is not at (one more or less, where the box is open)."""
    low = torch.full_like(x, threat.low) if math.isfinite(threat.low) else x - 1
    high = torch.full_like(x, threat.high) if math.isfinite(threat.high) else x + 1
    up = rng.sign(*x.shape[1:], device=x.device) > 0
    return torch.where((up & (x < high)) | (x <= low), high, low)


def somewhere(x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """A patch anywhere, every coordinate at a corner of the box: the start."""
    side = side_of(threat.eps, x)
    patch = Window.anywhere(min(side, x.shape[2]), min(side, x.shape[3]), x, rng)
    return _corner(x, threat, rng.at("corner")).where(patch.place(x)[2], x)


def carry_or_paint(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """One time in four carry the patch elsewhere; else paint a square inside of it in one of the corners of the box.

    After section 5 of the paper, but for how far a patch is carried: that does not come down with `share`, since where
    small patches lie matters to the end.
    """
    side = side_of(threat.eps, x)
    if not side:
        return x
    patch = painted_on(z, x, side)
    carried = patch.nearby(x, rng.at("carry")).carried(z, x, patch)
    painted = _painted(z, threat, patch, share, rng.at("paint"))
    return torch.where(rows(rng.at("which").uniform(1, device=x.device).flatten() < 0.25, x), carried, painted)


def _painted(z: Tensor, threat: Ball, patch: Window, share: float, rng: Streams) -> Tensor:
    """A square inside of the window at an end of the box, channel by channel; at the other, if it is there already."""
    height, width = (max(round(math.sqrt(share) * size), 1) for size in (patch.height, patch.width))
    top = patch.top + rng.at("top").integers(patch.height - height + 1, 1, device=z.device).flatten()
    left = patch.left + rng.at("left").integers(patch.width - width + 1, 1, device=z.device).flatten()
    _, _, inside = Window(top, left, height, width).place(z)
    up = rng.at("up").sign(z.shape[1], 1, 1, device=z.device) > 0
    ends = (torch.where(high, threat.high, threat.low).to(z.dtype) for high in (up, ~up))
    trial, other = (torch.where(inside, end, z) for end in ends)
    return torch.where(rows((trial == z).flatten(1).all(1), z), other, trial)


SHARES = Stairs(0.3, at=(0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), over=(1, 2, 4, 5, 6, 8, 10, 12, 15, 20))
"""The share of the changed coordinates that move: the paper's schedule for untargeted attacks (section 4)."""

PATIENCE = 250
"""Queries of a search for a patch."""

_MOVES = {"l0": (few, swap, SHARES), "patch": (somewhere, carry_or_paint, Stairs(0.4))}


@register(
    "attacks",
    "sparse-rs",
    needs="scores",
    norms=("l0",),
    threats=("patch",),
    family="scores",
    passes="queries + 0",
    paper="Croce et al., 2022",
)
def sparse_rs(threat: Ball, *, queries: int = 5000) -> Attack:
    """Random search over sets of coordinates, changed as far as they go, or over patches (Croce et al., 2022).

    Sets are of coordinates, as the threat counts them, where the paper's are of pixels with all their channels. A
    search for a patch begins anew after every `PATIENCE` queries, at another place: it does not leave a good one.
    """
    if threat.norm.name not in _MOVES:
        raise BadInput(f"sparse-rs on {threat}", "l0 or patch", "choose another attack: sparring list attacks")
    start, move, share = _MOVES[threat.norm.name]
    runs = max(queries // PATIENCE, 1) if threat.norm.name == "patch" else 1
    search = RandomSearch(threat=threat, start=start, move=move, share=share, queries=queries // runs - (runs > 1))
    return Restarts(attacks=(search,), times=runs) if runs > 1 else search


def random_search(threat: Ball) -> Callable[..., Attack]:
    """The random search for this threat: Sparse-RS where few coordinates change, else Square."""
    return sparse_rs if threat.norm.counts else square
