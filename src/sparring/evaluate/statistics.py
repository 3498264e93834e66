"""Exact intervals: what a finite number of examples can say."""

from __future__ import annotations

from sparring.evaluate.result import Interval


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The share of successes, with its exact interval (Clopper and Pearson, 1934).

    Holds with at least `confidence` whatever the true share; nothing degenerates at 0 or 100 %. No trials say nothing:
    the interval is then 0 to 1, about an estimate of 0.
    """
    from scipy.special import betaincinv

    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return Interval(estimate=0.0, low=0.0, high=1.0)
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0
    return Interval(estimate=successes / trials, low=low, high=high)


def spread(count: int, most: int) -> list[int]:
    """At most `most` positions out of `count`, evenly spread."""
    most = min(count, most)
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
