"""What to try next: laws of the schedule, and a game with known yields that it has to find out."""

import pytest
import torch
from scipy.stats import poisson

from sparring.evaluate.schedule import BANDS, FEWEST, Round, bands, choose, outlook, settled, unfinished, upper
from sparring.streams import Streams


@pytest.mark.parametrize("standing", [0, 1, 31, 32, 33, 64, 500, 10_000])
def test_bands_hold_every_example_once_and_in_order(standing):
    ranked = list(range(standing))[::-1]
    cut = bands(ranked)
    assert [example for band in cut for example in band] == ranked
    assert all(len(band) >= min(FEWEST, standing) for band in cut[:-1])
    assert len(cut) <= len(BANDS)


@pytest.mark.parametrize("broke", [0, 1, 3, 20])
def test_the_upper_limit_is_that_of_the_poisson_distribution(broke):
    limit = upper(broke, 500, 0.95)
    assert poisson.cdf(broke, 500 * limit) == pytest.approx(0.05, abs=1e-6)
    assert upper(broke, 0, 0.95) == torch.inf


def play(odds, shares, rounds, standing=3200, seed=0):
    """A model that breaks `odds[slice] * shares[band]` of what it is asked about: the rounds of a whole game."""
    played = []
    for number in range(rounds):
        ranked = list(range(standing))
        chosen = choose(tuple(odds), ranked, played)
        chance = odds[chosen.slice] * shares[chosen.band]
        falls = Streams.of(seed, [number]).uniform(len(chosen.examples))[0] < chance
        passes = 40 * len(chosen.examples)
        played.append(
            Round(
                slice=chosen.slice,
                band=chosen.band,
                broke=int(falls.sum()),
                passes=passes,
                expected=chosen.expected(passes),
            )
        )
    return played


def test_passes_go_to_the_slice_and_the_band_that_pay():
    played = play({"blunt": 0.02, "sharp": 1.0, "dull": 0.05}, [0.2, 0.05, 0.001, 0.0, 0.0], 120)
    late = played[60:]
    assert sum(one.slice == "sharp" for one in late) > 0.4 * len(late)
    deep = sum(one.passes for one in late if one.band >= 3)
    assert deep < 0.6 * sum(one.passes for one in late)
    assert {one.slice for one in late} == {"blunt", "sharp", "dull"}  # nothing is written off


def test_every_slice_and_every_band_is_tried():
    played = play({"one": 0.0, "two": 0.0}, [0.0] * 5, 60)
    assert {one.slice for one in played} == {"one", "two"}
    assert {one.band for one in played} == set(range(5))


def test_the_next_choice_depends_on_the_rounds_alone():
    played = play({"one": 0.1, "two": 0.5}, [0.2, 0.1, 0.0, 0.0, 0.0], 25)
    ranked = list(range(500))
    assert choose(("one", "two"), ranked, played) == choose(("one", "two"), ranked, list(played))


def test_the_outlook_bounds_what_as_many_passes_again_break():
    """The bound is to hold in 95 of 100 games, of a yield that does not rise."""
    held = 0
    for seed in range(200):
        draws = Streams.of(seed, range(80)).uniform(50).lt(0.02).sum(1).tolist()  # one in fifty, forever
        rounds = [Round(slice="s", band=0, broke=broke, passes=2000) for broke in draws[:40]]
        held += sum(draws[40:]) <= outlook(rounds).examples
    assert held / 200 > 0.9
    assert outlook([]).examples == torch.inf


def test_a_run_is_settled_when_the_rest_of_its_budget_would_change_nothing():
    quiet = [Round(slice="s", band=0, broke=0, passes=1000)] * 40
    assert not settled([], 1000, 1.0)
    assert settled(quiet, 40_000, 0.0)  # spent
    assert not settled(quiet, 80_000, 1.0)
    assert settled(quiet, 80_000, 7.0)  # three in half of them, at most: six in as many again
    assert not settled([Round(slice="s", band=0, broke=5, passes=1000)] * 40, 80_000, 7.0)


def test_the_first_look_at_a_band_bounds_nothing():
    """Deep bands hardly fall: what looking at them once did not break says nothing of the band that pays."""
    looks = [
        Round(slice="s", band=band, broke=broke, passes=4000 * 3**band) for band, broke in enumerate([13, 11, 9, 2, 0])
    ]
    assert outlook(looks).examples == torch.inf
    assert not settled(looks, 800_000, 10.0)
    assert outlook([*looks, Round(slice="s", band=0, broke=8, passes=4000)]).examples > 100


def test_a_long_slice_meets_no_more_examples_than_a_twentieth_of_the_budget_pays_for():
    long = [Round(slice="long", band=0, broke=1, passes=80_000, examples=100)]
    chosen = choose(("long",), list(range(10_000)), long, budget=4_000_000)
    assert chosen.band == 1
    assert len(chosen.examples) == 250  # 800 passes each, of 200,000
    assert len(choose(("long",), list(range(10_000)), long, budget=1000).examples) == FEWEST
    assert len(choose(("long",), list(range(10_000)), long).examples) == 300


def test_a_spent_budget_does_not_end_what_was_not_tried_or_still_breaks_something():
    rounds = [
        Round(slice="dry", band=0, broke=1, passes=1000),
        Round(slice="dry", band=0, broke=0, passes=1000),
        Round(slice="paying", band=0, broke=0, passes=1000),
        Round(slice="paying", band=0, broke=2, passes=1000),
        Round(slice="elsewhere", band=2, broke=0, passes=1000),
    ]
    assert unfinished(("dry", "paying", "elsewhere", "new"), rounds) == ("paying", "elsewhere", "new")
    assert choose(("new",), list(range(500)), rounds, nearest=True).band == 0
