"""Random numbers that belong to an example, not to a batch.

Every row has a key; a draw is a hash of the key and a counter. Which rows share a batch, how many workers there are
and where a run was resumed change nothing. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014),
vectorised over the rows: no Python loop over examples.

A stream is immutable, and drawing twice from the same stream gives the same numbers: derive one for each purpose,
`rng.at("start")`, `rng.at(i)`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer; products wrap modulo 2**64, as they should


def _shift(bits: Tensor, by: int) -> Tensor:
    """Logical right shift: torch's `>>` copies the sign bit."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = _stir(bits)
    return _shift(bits, 31).bitwise_xor_(bits)


def _stir(bits: Tensor) -> Tensor:
    """All of `_mix` but its last round, which leaves the 31 highest bits alone."""
    bits = _shift(bits, 30).bitwise_xor_(bits).mul_(-4658895280553007687)  # 0xBF58476D1CE4E5B9
    return _shift(bits, 27).bitwise_xor_(bits).mul_(-7723592293110705685)  # 0x94D049BB133111EB


def _number(purpose: str | int) -> int:
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True)
class Streams:
    """One random stream a row. `keys` is `(B,)` int64."""

    keys: Tensor

    @classmethod
    def of(cls, seed: int, indices: Sequence[int] | Tensor) -> Streams:
        """The streams of the examples at these positions of a data set."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return cls(_mix((rows + 1) * _GOLDEN ^ _number(("seed", seed).__repr__())))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Tensor) -> Streams:
        """The streams of some of the rows."""
        return Streams(self.keys[rows.to(self.keys.device)])

    def at(self, purpose: str | int) -> Streams:
        """An independent stream for a purpose: a name, or the number of a step."""
        return Streams(_mix(self.keys ^ _number(purpose)))

    def bits(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """64 random bits for every element, `(B, *shape)` int64."""
        return _mix(self._counted(shape, device))

    def _counted(self, shape: tuple[int, ...], device: torch.device | None) -> Tensor:
        """The key of every row and the counter of every element, to be hashed."""
        counters = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=device) * _GOLDEN
        return (self.keys.to(counters.device)[:, None] + counters).view(len(self), *shape)

    def _high(self, count: int, shape: tuple[int, ...], device: torch.device | None) -> Tensor:
        """The highest `count` of the bits, 31 at most: what most draws are made of."""
        return _shift(_stir(self._counted(shape, device)), 64 - count)

    def uniform(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """Uniform on [0, 1), `(B, *shape)` float32, in steps of 2**-24."""
        return self._high(24, shape, device).to(torch.float32).mul_(2.0**-24)

    def normal(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """Standard normal, `(B, *shape)` float32 (Box and Muller, 1958)."""
        bits = self.bits(*shape, device=device)
        radius = (-2 * torch.log((_shift(bits, 40).float() + 0.5) * 2.0**-24)).sqrt()
        angle = (bits & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
        return radius * torch.cos(angle)

    def sign(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """-1 or +1 with equal chance, `(B, *shape)` float32."""
        return 1.0 - 2.0 * self._high(1, shape, device).float()

    def integers(self, high: int | Tensor, *shape: int, device: torch.device | None = None) -> Tensor:
        """Integers in [0, high), `(B, *shape)` int64; `high`, far below 2**24, may differ from row to row, `(B,)`."""
        draw = self._high(24, shape, device)
        limit = torch.as_tensor(high, dtype=torch.int64, device=draw.device)
        return (draw * limit.view(-1, *[1] * len(shape))) >> 24
