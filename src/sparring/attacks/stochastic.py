"""Attacks on models that answer differently every time."""

from __future__ import annotations

from sparring.attacks.pgd import pgd
from sparring.attacks.through import Through
from sparring.losses import cross_entropy
from sparring.registry import register
from sparring.threats import Ball
from sparring.types import Loss
from sparring.views import eot_until, settled


@register("attacks", "eot-pgd", family="adaptive", passes="draws steps + (2 to 64) steps", paper="Athalye et al., 2018")
def eot_pgd(
    threat: Ball,
    *,
    steps: int = 40,
    draws: int = 8,
    most: int = 64,
    agree: float = 0.8,
    loss: Loss = cross_entropy,
) -> Through:
    """PGD on a random model's mean, with draws until gradients stand out of the noise (Athalye et al., 2018).

    Every point is judged by the mean of `draws` calls; its gradient is averaged over 2 to `most` of them, row by row,
    until two independent halves are at a cosine of `agree`. A model without noise costs `draws` forward and 2
    backward passes a step. Rows are independent as far as the model's own randomness is.
    """
    return Through(
        view=settled(eot_until, draws=draws, most=most, agree=agree), attack=pgd(threat, steps=steps, loss=loss)
    )
