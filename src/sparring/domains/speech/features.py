"""What speech networks hear: the log-mel spectrogram and the MFCC of a waveform, differentiable (torch.stft).

Waveforms are `(B, T)`, rates and frequencies in Hz. As layers these hold no trainable weights: put one in front of a
network, and attacks move the sound itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.errors import BadInput


@dataclass(frozen=True)
class Scale:
    """A scale of pitch: from Hz to mel, and back."""

    mel: Callable[[Tensor], Tensor]
    hertz: Callable[[Tensor], Tensor]


BEND = 27 / math.log(6.4)
"""Slaney's scale above 1 kHz, which is 15 mel: 27 mel for every factor of 6.4."""

SCALES: Mapping[str, Scale] = {
    "htk": Scale(lambda hertz: 2595 * torch.log10(1 + hertz / 700), lambda mel: 700 * (10 ** (mel / 2595) - 1)),
    "slaney": Scale(
        lambda hertz: torch.where(hertz < 1000, 3 * hertz / 200, 15 + BEND * torch.log(hertz.clamp(min=1000) / 1000)),
        lambda mel: torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel.clamp(min=15) - 15) / BEND)),
    ),
}
"""Of the HTK (O'Shaughnessy's formula), and of Slaney's Auditory Toolbox (1998): a straight line below 1 kHz."""


def mel_filters(
    rate: int, n_fft: int, mels: int, *, low: float = 0.0, high: float | None = None, scale: str = "htk"
) -> Tensor:
    """Triangles that are equally wide in mel, `(mels, n_fft // 2 + 1)`, between `low` and `high` (half the rate).

    With `htk` every triangle is 1 at its peak; with `slaney` each has an area of one Hz, as Whisper has it.

    Raises:
        BadInput: an unknown scale, frequencies that are no range below half the rate, or more filters than the
            transform tells apart.
    """
    if scale not in SCALES:
        raise BadInput(f"mel scale {scale!r}", f"one of {', '.join(SCALES)}", "take htk")
    high = rate / 2 if high is None else high
    if not 0 <= low < high <= rate / 2:
        raise BadInput(f"mels from {low:g} to {high:g} Hz", f"a range within 0 to {rate / 2:g} Hz", "lower them")
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    first, last = SCALES[scale].mel(torch.tensor([low, high], dtype=torch.float64))
    peaks = SCALES[scale].hertz(torch.linspace(first, last, mels + 2, dtype=torch.float64))
    left, peak, right = (peaks[i : i + mels].unsqueeze(1) for i in range(3))
    triangles = torch.minimum((bins - left) / (peak - left), (right - bins) / (right - peak)).clamp(min=0)
    if not bool(triangles.any(1).all()):
        raise BadInput(f"{mels} mels of a transform of {n_fft}", "fewer mels, or a longer transform", "lower mels")
    return (triangles * 2 / (right - left) if scale == "slaney" else triangles).float()


class Mel(nn.Module):
    """The power of a waveform in mel bands, frame by frame: `(B, T)` to `(B, mels, frames)`.

    A frame is `n_fft` samples under a Hann window; frames are `hop` apart, the first one centred on the first sample
    (reflected at the ends): `T // hop + 1` of them.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        rate: int,
        *,
        n_fft: int,
        hop: int,
        mels: int,
        low: float = 0.0,
        high: float | None = None,
        scale: str = "htk",
    ) -> None:
        super().__init__()
        self.rate, self.n_fft, self.hop = rate, n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer(
            "filters", mel_filters(rate, n_fft, mels, low=low, high=high, scale=scale), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """The energies.

        Raises:
            BadInput: inputs that are no waveforms `(B, T)`, or shorter than half a frame.
        """
        if x.dim() != 2 or x.shape[1] <= self.n_fft // 2:
            need = f"waveforms (B, T) of more than {self.n_fft // 2} samples"
            raise BadInput(f"inputs of shape {tuple(x.shape)}", need, "give recordings as rows")
        spectrum = torch.stft(x, self.n_fft, self.hop, window=self.window.to(x.dtype), return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()  # whose slope is right where there is silence too
        return self.filters.to(x.dtype) @ power


class LogMel(nn.Module):
    """The logarithm of `Mel`, above a `floor`: `log(mel + floor)`. What most keyword spotters hear."""

    def __init__(self, mel: Mel, *, floor: float = 1e-6) -> None:
        super().__init__()
        self.mel, self.floor = mel, floor

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T)` to `(B, mels, frames)`."""
        return torch.log(self.mel(x) + self.floor)


class MFCC(nn.Module):
    """Mel-frequency cepstral coefficients: the first few of an orthonormal cosine transform (DCT-II) of `LogMel`."""

    cosines: Tensor

    def __init__(self, log_mel: LogMel, *, coefficients: int = 13) -> None:
        super().__init__()
        self.log_mel = log_mel
        mels = len(log_mel.mel.filters)
        if not 0 < coefficients <= mels:
            raise BadInput(f"{coefficients} coefficients of {mels} mels", "no more than mels", "take 13")
        k, n = torch.arange(coefficients).double().unsqueeze(1), torch.arange(mels).double()
        cosines = torch.cos(math.pi * k * (n + 0.5) / mels) * math.sqrt(2 / mels)
        cosines[0] /= math.sqrt(2)
        self.register_buffer("cosines", cosines.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, T)` to `(B, coefficients, frames)`."""
        log_mel: Tensor = self.log_mel(x)
        return self.cosines.to(x.dtype) @ log_mel
