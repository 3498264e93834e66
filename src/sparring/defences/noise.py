"""Noise at inference."""

from __future__ import annotations

from torch import Tensor

from sparring.defences.cleaning import RandomCleaning
from sparring.limits import not_negative
from sparring.registry import register
from sparring.streams import Streams
from sparring.views import settled, stand


def noisy(x: Tensor, rng: Streams, *, sigma: float) -> Tensor:
    """`x` and Gaussian noise, kept in [0, 1]; gradients pass that."""
    z = x + sigma * rng.normal(*x.shape[1:], device=x.device).to(x)
    return stand(z.clamp(0, 1), z)


@register("defences", "noise", paper="Liu et al., 2018")
def noise(*, sigma: float = 0.1, draws: int = 8) -> RandomCleaning:
    """Add Gaussian noise to the input of every call (Liu et al., 2018, at the input alone)."""
    not_negative(sigma=sigma)
    return RandomCleaning(clean=settled(noisy, sigma=sigma), draws=draws)
