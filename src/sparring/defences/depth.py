"""Fewer levels for every value."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.defences.cleaning import Cleaning
from sparring.limits import one_or_more
from sparring.registry import register
from sparring.views import settled, unchanged


def rounded(x: Tensor, *, bits: int) -> Tensor:
    """`x` in [0, 1] on the nearest of `2^bits` levels."""
    steps = float(2**bits - 1)
    return torch.round(x * steps).div(steps)


@register("defences", "bit-depth", paper="Xu et al., 2018")
def bit_depth(*, bits: int = 3) -> Cleaning:
    """Round every value to a few bits (Xu et al., 2018)."""
    one_or_more(bits=bits)
    return Cleaning(clean=settled(rounded, bits=bits), surrogate=unchanged)
