"""Feature squeezing: fewer bits, then a median."""

from __future__ import annotations

from sparring.defences.cleaning import Chain
from sparring.defences.depth import bit_depth
from sparring.defences.smoothing import median
from sparring.registry import register


@register("defences", "feature-squeezing", shape="image", paper="Xu et al., 2018")
def feature_squeezing(*, bits: int = 3, size: int = 3) -> Chain:
    """Round to a few bits, then take medians (Xu et al., 2018). To compare both answers, see the detector."""
    return Chain((bit_depth(bits=bits), median(size=size)))
