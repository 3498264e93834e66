"""Networks that name a spoken word: waveforms `(B, T)` with levels in [-1, 1] to logits, the front end included."""

from __future__ import annotations

from torch import Tensor, nn

from sparring.domains.speech.features import LogMel, Mel
from sparring.networks import fresh

FLOOR = 1e-3
"""Energies far below it count as silence: it is about 40 dB below loud speech. With one of 1e-6 it is the silence that
recordings are filled up with that hears the noise, and half as many of them stood PGD within 40 dB."""


class KeywordSpotter(nn.Module):
    """A log-mel spectrogram, normalised band by band, and three convolutions (after Sainath and Parada, 2015).

    Takes recordings of any length above half a frame; what is heard is averaged over time. Without the normalisation
    it hardly learns.
    """

    def __init__(self, classes: int, rate: int, mels: int, width: int) -> None:
        super().__init__()
        self.features = LogMel(
            Mel(rate, n_fft=rate * 32 // 1000, hop=rate * 16 // 1000, mels=mels, low=20.0), floor=FLOOR
        )
        self.normal = nn.BatchNorm1d(mels)
        wide = 2 * width
        self.heard = nn.Sequential(
            *_block(1, width), nn.MaxPool2d(2), *_block(width, wide), nn.MaxPool2d(2), *_block(wide, wide)
        )
        self.named = nn.Linear(wide * (mels // 4), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, classes)`."""
        bands = self.normal(self.features(x)).unsqueeze(1)
        return self.named(self.heard(bands).mean(3).flatten(1))  # type: ignore[no-any-return]


def _block(inward: int, outward: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inward, outward, 3, padding=1, bias=False), nn.BatchNorm2d(outward), nn.ReLU()


def keyword_spotter(
    seed: int = 0, *, classes: int = 10, rate: int = 8000, mels: int = 32, width: int = 32
) -> KeywordSpotter:
    """A small keyword spotter: ten words at 8 kHz, as of the data set `fsdd`; 85,000 weights."""
    return fresh(seed, lambda: KeywordSpotter(classes, rate, mels, width))
