"""What to try next, and when to stop: an audit learns which of its attacks pays on this model, and on which examples.

The examples that still stand are ranked by how near they came to falling, and cut into bands. A round runs one slice
(a short attack) on one band. What it broke, per pass, says where the next passes go; what the later half of all rounds
broke bounds what more of them would still break. Everything is a function of the rounds so far, so that a run that
was interrupted goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparring.evaluate.result import Forecast

BANDS = (0.01, 0.04, 0.15, 0.5, 1.0)
"""Where bands end, as shares of what stands. Of what falls late, nearly all is in the first few percent."""

FEWEST = 32
"""Examples in a band, where there are as many: below that, a batch costs as much as a larger one."""

DEEPER = 1 / 4
"""How much less a pass is thought to break one band further down, until rounds say otherwise."""

CONFIDENCE = 0.95
"""Of what is said of passes to come."""

FADE = 0.9
"""What a round counts for, one round later: yields fall as a run goes on."""

LARGEST = 0.05
"""What a round may cost, as a share of the whole budget: a long slice is not run on a wide band at one go."""

HOPEFUL = 0.8
"""Slices and bands are compared by this quantile of what they may still break: what was tried little is tried again."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A slice was run on a band: what it broke, what it cost, and what its band had led one to expect."""

    slice: str
    band: int
    broke: int
    passes: int
    examples: int = 0
    expected: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Next:
    """What to do now: this slice, on this band of examples; `rate` of them are expected to fall per pass."""

    slice: str
    band: int
    examples: tuple[int, ...]
    rate: float | None

    def expected(self, passes: int) -> float:
        """How many should fall; one, where nothing is known of the band."""
        return 1.0 if self.rate is None else self.rate * passes


def upper(broke: float, passes: float, confidence: float) -> float:
    """The upper limit of a rate, when so many events came in so many passes (Garwood, 1936; exact for Poisson)."""
    from scipy.special import gammaincinv

    return float(gammaincinv(broke + 1, confidence)) / passes if passes > 0 else math.inf


def bands(ranked: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The examples that stand, the nearest to falling first, cut into bands of at least `FEWEST`."""
    edges = [0]
    for share in BANDS:
        edges.append(min(max(round(share * len(ranked)), edges[-1] + FEWEST), len(ranked)))
    cut = (tuple(ranked[start:end]) for start, end in pairwise(edges))
    return tuple(band for band in cut if band)


def _faded(rounds: Sequence[Round]) -> list[tuple[Round, float]]:
    return [(one, FADE**age) for age, one in enumerate(reversed(rounds))]


def choose(
    slices: Sequence[str],
    ranked: Sequence[int],
    rounds: Sequence[Round],
    budget: float = math.inf,
    *,
    nearest: bool = False,
) -> Next:
    """The band that promises most per pass, and the slice that has done best against what its bands promised.

    Of the band, the nearest to falling: as many as the share `LARGEST` of the `budget` pays for, by what the slice
    cost before. `nearest`: the nearest band, and no other.
    """
    found = _faded(rounds)
    cut = bands(ranked)

    def seen(band: int) -> tuple[float, float]:
        """What broke, in how many passes."""
        broke = sum(weight * one.broke for one, weight in found if one.band == band)
        return broke, sum(weight * one.passes for one, weight in found if one.band == band)

    def promise(name: str) -> float:
        """How many times more than expected a slice may break."""
        broke = sum(weight * one.broke for one, weight in found if one.slice == name)
        return upper(broke, 1 + sum(weight * one.expected for one, weight in found if one.slice == name), HOPEFUL)

    tried = {one.band for one in rounds}
    open_bands = range(1 if nearest else len(cut))
    untried = [band for band in open_bands if band not in tried]
    band = untried[0] if untried else max(open_bands, key=lambda band: upper(*seen(band), HOPEFUL) * DEEPER**band)
    broke, passes = seen(band)
    name = max(slices, key=promise)
    known = [(one.passes, one.examples) for one in rounds if one.slice == name]
    asked, cost = sum(examples for _, examples in known), sum(passes for passes, _ in known)
    most = max(int(LARGEST * budget * asked / cost), FEWEST) if cost and budget < math.inf else len(ranked)
    return Next(
        slice=name,
        band=band,
        examples=cut[band][:most],
        rate=(broke + 1) / passes if passes else None,  # the mean of the posterior under a flat prior
    )


def outlook(rounds: Sequence[Round]) -> Forecast:
    """What as many passes again would break, by what the later half of the chosen rounds broke: yields only fall.

    The first look at a band was owed, not chosen: it says nothing of where the next passes would go.
    """
    total = sum(one.passes for one in rounds)
    chosen = [one for k, one in enumerate(rounds) if any(one.band == before.band for before in rounds[:k])]
    half = sum(one.passes for one in chosen) / 2
    late, broke = 0, 0
    for one in reversed(chosen):
        if late >= half:
            break
        late, broke = late + one.passes, broke + one.broke
    more = upper(broke, late, CONFIDENCE) * total if late else math.inf
    return Forecast(passes=total, broke_late=broke, examples=more, confidence=CONFIDENCE)


def unfinished(slices: Sequence[str], rounds: Sequence[Round]) -> tuple[str, ...]:
    """The slices that no spent budget ends: the nearest band has not seen them, or fell to them the last time."""
    last = {one.slice: one.broke for one in rounds if one.band == 0}
    return tuple(name for name in slices if last.get(name, 1))


def settled(rounds: Sequence[Round], budget: float, tolerance: float) -> bool:
    """Whether the rest of the budget, in passes, would break fewer than `tolerance` examples, by `outlook`."""
    seen = outlook(rounds)
    return seen.passes >= budget or seen.examples * (budget - seen.passes) <= tolerance * seen.passes
