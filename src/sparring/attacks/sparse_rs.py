"""Sparse-RS: random search for the few coordinates that matter (Croce et al., 2022). Scores alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparring.attacks.square import RandomSearch, Stairs
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball


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


SHARES = Stairs(0.3, at=(0, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), over=(1, 2, 4, 5, 6, 8, 10, 12, 15, 20))
"""The share of the changed coordinates that move: the paper's schedule for untargeted attacks (section 4)."""


@register(
    "attacks",
    "sparse-rs",
    needs="scores",
    norms=("l0",),
    family="scores",
    passes="queries + 0",
    paper="Croce et al., 2022",
)
def sparse_rs(threat: Ball, *, queries: int = 5000) -> RandomSearch:
    """Random search over sets of coordinates, changed as far as they go (Croce et al., 2022).

    Sets are of coordinates, as the threat counts them, where the paper's are of pixels with all their channels.
    """
    return RandomSearch(threat=threat, start=few, move=swap, share=SHARES, queries=queries)
