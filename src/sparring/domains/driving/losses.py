"""Losses that climb towards a goal of detectors by another way than its own."""

from __future__ import annotations

from torch import Tensor

from sparring.domains.driving.predictions import Predictions
from sparring.types import Goal


def daedalus(outputs: Tensor, goal: Goal) -> Tensor:
    """Sure boxes that are small: suppression, which drops what overlaps, leaves them all (Wang et al., 2022, Daedalus).

    `-mean (confidence - 1)^2 - mean (width height)^2`, as in the paper's f3, over all places; sizes are shares of the
    image. Climb it for `Fabrication`.
    """
    seen = Predictions(outputs)
    width, height = (seen.boxes[..., 2:] - seen.boxes[..., :2]).unbind(2)
    unsure, large = (seen.sure.exp() - 1).square(), (width * height).square()
    return -goal.sign * (unsure.mean(1) + large.mean(1))
