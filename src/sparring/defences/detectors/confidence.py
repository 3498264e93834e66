"""Detectors that look at the outputs alone."""

from __future__ import annotations

from torch import Tensor

from sparring.defences.detectors.detector import Learned, Score
from sparring.registry import register
from sparring.types import Model


@register("detectors", "max-softmax", paper="Hendrycks and Gimpel, 2017")
def max_softmax() -> Learned:
    """How unsure the model is: `-max log softmax` (Hendrycks and Gimpel, 2017)."""

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        return lambda z: -model(z).log_softmax(1).amax(1)

    return Learned(scoring)


@register("detectors", "energy", paper="Liu et al., 2020")
def energy() -> Learned:
    """The free energy of the logits, `-log sum exp` (Liu et al., 2020)."""

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        return lambda z: -model(z).logsumexp(1)

    return Learned(scoring)
