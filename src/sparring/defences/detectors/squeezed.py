"""The feature-squeezing detector: how much the answer changes when the input is cleaned."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.defences.depth import bit_depth
from sparring.defences.detectors.detector import Learned, Score
from sparring.defences.smoothing import median
from sparring.registry import register
from sparring.types import Model


@register("detectors", "feature-squeezing", shape="image", paper="Xu et al., 2018")
def feature_squeezing_distance(*, bits: int = 3, size: int = 3) -> Learned:
    """How far the probabilities move when the input is rounded, or smoothed by medians (Xu et al., 2018).

    The larger of the two L1 distances. Its gradient goes through the squeezers' adaptive views.
    """

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        squeezed = [defence.adaptive(model) for defence in (bit_depth(bits=bits), median(size=size))]

        def score(z: Tensor) -> Tensor:
            p = model(z).softmax(1)
            return torch.stack([(p - view(z).softmax(1)).abs().sum(1) for view in squeezed]).amax(0)

        return score

    return Learned(scoring)
