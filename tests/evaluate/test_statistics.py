"""Intervals against closed forms and against SciPy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from sparring.evaluate import clopper_pearson


@pytest.mark.parametrize("trials", [1, 7, 100, 10_000])
def test_no_success_has_the_closed_form_limit(trials: int) -> None:
    interval = clopper_pearson(0, trials)
    assert (interval.estimate, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / trials))
    assert clopper_pearson(trials, trials).low == pytest.approx(0.025 ** (1 / trials))


@pytest.mark.parametrize(("successes", "trials"), [(1, 3), (50, 100), (803, 1000), (9281, 10_000)])
def test_intervals_agree_with_scipy(successes: int, trials: int) -> None:
    ours, theirs = clopper_pearson(successes, trials), binomtest(successes, trials).proportion_ci(method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_no_trials_say_nothing() -> None:
    interval = clopper_pearson(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="5 successes of 4"):
        clopper_pearson(5, 4)
