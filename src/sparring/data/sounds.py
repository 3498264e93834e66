"""Recordings as waveforms `(B, T)` with levels in [-1, 1]: folders of WAV files, and packed ones of one rate."""

from __future__ import annotations

import math
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparring.data.arrays import Array, Lazy
from sparring.data.folders import inside, listing
from sparring.errors import BadInput

ENDINGS = (".wav",)
STEPS = 32768
"""A level of 1, in the steps of a 16-bit file."""


def load_sounds(folder: Path, split: str = "test", *, rate: int | None = None, seconds: float | None = None) -> Lazy:
    """A folder of WAV files, laid out as `listing` reads it, as inputs `(B, rate * seconds)`.

    Every recording is resampled to `rate` Hz (that of most files, unless told), and filled with silence at its end, or
    cut there, to `seconds` (the longest recording, unless told). Channels are averaged. PCM of 8 to 32 bits or floats.
    Every file is read once, so that one that does not fit is found before the run.

    Raises:
        BadInput: no WAV files, one that is none or has nothing in it, a labels.csv that does not match, a rate or a
            length that is no positive number.

    """
    found = listing(folder, split, ENDINGS, "WAV files")
    if rate is not None and rate < 1:
        raise BadInput(f"a rate of {rate} Hz", "1 or more", "give say 16000")
    if seconds is not None and not 0 < seconds < math.inf:
        raise BadInput(f"a length of {seconds} seconds", "a positive number", "give say 1.0")
    rates, lasts = zip(*(_header(file) for file in found.files), strict=True)
    rate = rate or Counter(rates).most_common(1)[0][0]
    length = round(rate * (seconds or max(lasts)))
    odd = sum(one != rate for one in rates)
    notes: tuple[str, ...] = (f"{odd} of {len(rates)} recordings were resampled to {rate} Hz",) if odd else ()
    cut = sum(one > length / rate + 1 / rate for one in lasts)
    notes += (f"{cut} of {len(lasts)} recordings were cut to {length / rate:g} seconds",) if cut else ()
    read = Recordings(found.files, rate, max(length, 1))
    return Lazy(folder.resolve().name, read, found.y, found.classes, notes, stored=sixteen_bits)


def sixteen_bits(z: Tensor) -> Tensor:
    """`z` as a 16-bit file would give it back: in steps of 1/32768, from -1 to one step below 1."""
    return (z * STEPS).round().clamp(-STEPS, STEPS - 1) / STEPS


def has_sounds(folder: Path) -> bool:
    """Whether there are WAV files in a folder, at any depth."""
    return bool(inside(folder, ENDINGS))


@dataclass(frozen=True)
class Recordings:
    """WAV files as inputs `(B, length)`."""

    paths: tuple[Path, ...]
    rate: int
    length: int

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Read some of the files."""
        return _stack([wave(self.paths[i], self.rate) for i in rows], self.length)


@dataclass(frozen=True, eq=False)
class Joined:
    """Recordings in 16 bits one after another, as inputs `(B, length)`; row `i` is the recording `order[i]`."""

    audio: Array
    offsets: Array
    order: Array
    length: int

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Some of the recordings."""
        parts = (self.audio[self.offsets[i] : self.offsets[i + 1]] for i in self.order[list(rows)])
        return _stack([part.astype(np.float32) / STEPS for part in parts], self.length)


def wave(file: Path, rate: int) -> Array:
    """One recording at a rate, its channels averaged, `(T,)` float32 in [-1, 1].

    Raises:
        BadInput: not a WAV file, or a damaged one.

    """
    own, values = _read(file)
    match values.dtype.kind:
        case "u":  # 8 bits, with silence in the middle
            values = (values.astype(np.float32) - 128) / 128
        case "i":  # 24 bits lie in the upper ones of 32
            values = values / -float(np.iinfo(values.dtype).min)
    mono = values if values.ndim == 1 else values.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BadInput(f"'{file}' holds NaN or infinity", "a recording", "remove or replace it")
    if own != rate:
        from scipy.signal import resample_poly

        shared = math.gcd(own, rate)
        mono = resample_poly(mono, rate // shared, own // shared)
    return np.clip(mono, -1, 1).astype(np.float32)  # what is resampled may overshoot


def _header(file: Path) -> tuple[int, float]:
    """The rate of a recording, and how many seconds it lasts."""
    rate, values = _read(file)
    return rate, len(values) / rate


def _read(file: Path) -> tuple[int, Array]:
    """The rate and the values of a WAV file, as they are stored."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # parts that are no sound, such as titles
            rate, values = wavfile.read(file)
        if not (rate and len(values)):
            raise ValueError("no sound in it")
    except (OSError, ValueError, EOFError, struct.error) as error:
        raise BadInput(f"'{file}' cannot be read ({error})", "a whole WAV file", "remove or replace it") from error
    return int(rate), values


def _stack(waves: list[Array], length: int) -> Tensor:
    """`(B, length)`, with silence at the ends of what is shorter."""
    rows = torch.zeros(len(waves), length)
    for row, one in zip(rows, waves, strict=True):
        row[: min(len(one), length)] = torch.from_numpy(one[:length])
    return rows
