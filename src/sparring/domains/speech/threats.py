"""What may be added to a sound, in decibels: noise that is quieter than the sound by a signal-to-noise ratio.

As a norm it is the Euclidean length, but eps is counted in the length of the sound itself: 20 dB are a tenth of it. So
the ball of that norm is the threat, and whatever climbs in a ball climbs in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sparring.errors import BadInput
from sparring.norms import L2
from sparring.registry import register
from sparring.threats import Ball


def decibels(share: float) -> float:
    """How much louder a sound is than noise of this share of its length, in dB."""
    return -20 * math.log10(share) if share > 0 else math.inf


@dataclass(frozen=True)
class Loudness(L2):
    """The Euclidean length, eps being counted in that of the input."""

    name: str = "snr"

    def measure(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The length of every sound, `(B,)`: nothing may be added to silence."""
        return self.size(x)

    def said(self, eps: float) -> float:
        """The ratio in decibels."""
        return decibels(eps)


LOUDNESS = Loudness()


@register("threats", "snr")
def snr(ratio: float, *, low: float = -1.0, high: float = 1.0) -> Ball:
    """Noise may be added that is EPS decibels quieter than the sound.

    Every `z` with `|z - x| <= |x| 10^(-ratio / 20)` in Euclidean lengths, of the whole recording as it is, silence
    included. The ball's eps is that share: 0.1 for 20 dB, 0.0316 for 30 dB.

    Raises:
        BadInput: a ratio below 0, where the noise would be louder than the sound, or none.
    """
    if not 0 <= ratio < math.inf:
        raise BadInput(f"a ratio of {ratio:g} dB", "0 or more", "write for example snr:20")
    return Ball(LOUDNESS, 10 ** (-ratio / 20), low, high)
