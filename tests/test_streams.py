import itertools
import math

import pytest
import torch
from scipy import stats

from sparring.streams import Streams

MANY = range(20_000)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()


def looks_like(draws, law):
    return stats.kstest(draws.flatten().double().numpy(), law).pvalue > 1e-3


def test_the_numbers_are_those_of_the_first_release():
    rng = Streams.of(0, [0, 7])
    assert rng.keys.tolist() == [8952204074997575294, -6540229988395522736]
    assert rng.bits(3)[0].tolist() == [4449376605441228232, 7544407012915616897, -8309068954340476660]
    assert rng.at("1").keys.tolist() == [98124423694329424, 436372722313743544]
    assert rng.at(1).keys.tolist() == [7226811387692474466, 7088650189635736049]
    assert rng.at("start").uniform(2)[1].tolist() == [0.049776434898376465, 0.9744875431060791]
    assert rng.sign(6)[0].tolist() == [1, 1, -1, -1, -1, -1]
    assert rng.integers(10, 6)[1].tolist() == [1, 6, 4, 3, 8, 4]
    torch.testing.assert_close(rng.at(3).normal(2)[0], torch.tensor([-1.4608545, -0.1932304]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("draw", ["uniform", "normal", "sign", "bits"])
def test_a_row_draws_the_same_in_every_company(draw):
    everybody = getattr(Streams.of(5, range(1000)), draw)(3, 7)
    for company in ([17], [3, 999, 17], list(range(999, -1, -1)), list(range(0, 1000, 3))):
        rows = torch.tensor(company)
        assert torch.equal(getattr(Streams.of(5, rows), draw)(3, 7), everybody[rows])
        assert torch.equal(getattr(Streams.of(5, range(1000))[rows], draw)(3, 7), everybody[rows])


def test_a_stream_draws_the_same_twice_and_other_numbers_for_another_purpose():
    rng = Streams.of(0, range(4))
    assert torch.equal(rng.uniform(8), rng.uniform(8))
    purposes = [
        rng,
        rng.at("start"),
        rng.at("end"),
        rng.at(0),
        rng.at(1),
        rng.at("1"),
        rng.at(1).at(0),
        rng.at(0).at(1),
    ]
    for one, other in itertools.combinations(purposes, 2):
        assert not (one.bits(8) == other.bits(8)).any()


def test_a_longer_draw_begins_like_a_shorter_one():
    rng = Streams.of(0, range(4))
    assert torch.equal(rng.uniform(10)[:, :6], rng.uniform(6))


def test_purposes_seeds_and_neighbours_are_independent():
    rng = Streams.of(0, MANY)
    here = rng.uniform(5)
    others = {
        "purpose": rng.at("start").uniform(5),
        "step": rng.at(0).uniform(5),
        "next step": rng.at(1).uniform(5),
        "seed": Streams.of(1, MANY).uniform(5),
        "next row": here.roll(1, 0),
        "next element": here.roll(1, 1),
    }
    for name, there in others.items():
        assert abs(correlation(here, there)) < 4 / math.sqrt(here.numel()), name


def test_no_two_rows_seeds_or_purposes_share_a_key():
    keys = [Streams.of(seed, MANY) for seed in range(5)]
    keys += [keys[0].at(purpose) for purpose in ("start", 0, 1, 2)]
    assert len(torch.cat([rng.keys for rng in keys]).unique()) == len(keys) * len(MANY)


@pytest.mark.parametrize("rng", [Streams.of(0, MANY), Streams.of(0, MANY).at("start"), Streams.of(2**40, MANY).at(3)])
def test_uniform_draws_are_uniform_across_rows_and_along_them(rng):
    draws = rng.uniform(10)
    assert draws.dtype == torch.float32
    assert ((draws >= 0) & (draws < 1)).all()
    assert looks_like(draws, "uniform")
    assert looks_like(draws[:, 0], "uniform")
    assert looks_like(Streams.of(3, [0]).uniform(100_000), "uniform")


def test_normal_draws_are_normal():
    draws = Streams.of(0, MANY).normal(10)
    assert looks_like(draws, "norm")
    assert draws.isfinite().all()
    assert abs(draws.mean()) < 0.01
    assert abs(draws.std() - 1) < 0.01
    assert abs(stats.kurtosis(draws.flatten().numpy())) < 0.05


def test_signs_are_fair():
    draws = Streams.of(0, MANY).sign(10)
    assert set(draws.unique().tolist()) == {-1.0, 1.0}
    assert abs(draws.mean()) < 4 / math.sqrt(draws.numel())


def test_integers_are_equally_likely_and_below_their_limit():
    draws = Streams.of(0, MANY).integers(7, 10)
    assert draws.dtype == torch.int64
    assert stats.chisquare(draws.flatten().bincount(minlength=7).numpy()).pvalue > 1e-3


def test_every_row_can_have_its_own_limit():
    limits = torch.arange(1, 101)
    draws = Streams.of(0, range(100)).integers(limits, 50)
    assert (draws >= 0).all()
    assert (draws < limits[:, None]).all()
    assert (draws.amax(1) >= limits * 3 // 4).all()


def test_a_shape_may_be_empty():
    rng = Streams.of(0, range(3))
    assert rng.uniform().shape == (3,)
    assert rng.uniform(0, 4).shape == (3, 0, 4)
    assert len(rng) == 3
    assert Streams.of(0, []).normal(4).shape == (0, 4)
