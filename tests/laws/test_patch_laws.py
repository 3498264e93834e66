"""Patches as a norm: its projection is the nearest point, its samples fill the ball, and attacks find the optimum."""

import math
import sys
from pathlib import Path

import pytest
import torch
from scipy import stats

from sparring.attacks import bim, fgsm, hops, patch, pgd, pgd_cosine, sparse_rs
from sparring.domains.images.patches import SQUARE, carried, grid, likely_places, side_of
from sparring.domains.images.patches import patch as square
from sparring.domains.images.windows import Window
from sparring.errors import BadInput
from sparring.goals import Never
from sparring.losses import margin
from sparring.streams import Streams
from sparring.threats import Ball, linf

sys.path.append(str(Path(__file__).resolve().parents[1] / "truth"))
from linear import Linear

SHAPES = [(1, 5, 6), (3, 4, 4), (2, 3, 7)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def every_square(shape, side):
    """The pixels of all squares of a side, one after the other."""
    _, height, width = shape
    for i in range(max(height - side, 0) + 1):
        for j in range(max(width - side, 0) + 1):
            inside = torch.zeros(1, height, width, dtype=torch.bool)
            inside[:, i : i + side, j : j + side] = True
            yield inside


@every_shape
@pytest.mark.parametrize("side", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("length", [0.1, 1.0, 100.0])
def test_no_square_is_nearer_than_the_projection(shape, side, length):
    rng = Streams.of(0, range(30))
    x, step = rng.uniform(*shape).double(), length * rng.at("step").normal(*shape).double()
    threat = Ball(SQUARE, side**2 / math.prod(shape[1:]))
    z = threat.project(x + step, x)
    point = (x + step).clamp(0, 1)
    nearest = torch.stack([(point.where(s, x) - x - step).flatten(1).norm(dim=1) for s in every_square(shape, side)])
    torch.testing.assert_close((z - x - step).flatten(1).norm(dim=1), nearest.amin(0))
    assert threat.contains(z, x).all()
    assert torch.equal(threat.project(z, x), z)


@every_shape
def test_every_row_may_have_its_own_share_and_sees_no_other(shape):
    rng = Streams.of(1, range(20))
    x, step, shares = rng.uniform(*shape), rng.at("step").normal(*shape), rng.at("share").uniform(1).flatten()
    together, drawn = SQUARE.project(x + step, x, shares, 0.0, 1.0), SQUARE.sample(x, shares, 0.0, 1.0, rng)
    for row in (0, 7, 19):
        one, threat = slice(row, row + 1), Ball(SQUARE, shares[row].item())
        assert torch.equal(threat.project((x + step)[one], x[one]), together[one])
        assert torch.equal(threat.sample(x[one], rng[torch.tensor([row])]), drawn[one])
        assert threat.contains(drawn[one], x[one]).all()


def test_samples_lie_anywhere_as_often_and_are_uniform_in_the_box():
    x = torch.full((20_000, 1, 4, 5), 0.5)
    z = square(4 / 20, low=-1.0, high=3.0).sample(x, Streams.of(0, range(20_000)))
    changed = (z != x).flatten(1)
    assert set(changed.sum(1).tolist()) == {4}
    _, times = changed.int().unique(dim=0, return_counts=True)
    assert len(times) == 3 * 4
    assert stats.chisquare(times.numpy()).pvalue > 1e-3
    assert stats.kstest(z[z != 0.5].double().numpy(), "uniform", args=(-1, 4)).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_in_every_precision_a_patch_is_inside(dtype):
    x, rng = Streams.of(0, range(9)).uniform(3, 28, 28).to(dtype), Streams.of(1, range(9))
    threat = square(0.02)
    for z in (threat.sample(x, rng), threat.project(x + rng.normal(3, 28, 28).to(dtype), x)):
        assert z.dtype == dtype
        assert threat.contains(z, x).all()
        assert ((z != x).flatten(1).sum(1) > 3).all()


def test_a_patch_is_carried_whole_and_stays_in_the_image():
    x, rng = torch.zeros(500, 2, 6, 8), Streams.of(0, range(500))
    threat = square(4 / 48)
    z = threat.sample(x, rng)
    moved = carried(z, x, threat, rng.at("move"))
    assert threat.contains(moved, x).all()
    torch.testing.assert_close(moved.flatten(2).sum(2), z.flatten(2).sum(2))
    stayed = (moved == z).flatten(1).all(1).float().mean()
    assert 0 <= stayed < 0.1  # a step ends where it began at an edge alone
    near = Window.of(torch.full((500,), 2 * 8 + 3), 2, x)
    there = near.nearby(x, rng)
    apart = torch.maximum((there.top - near.top).abs(), (there.left - near.left).abs())
    assert 0.1 < (apart == 1).float().mean() < 0.5
    assert apart.amax() >= 3


@every_shape
@pytest.mark.parametrize("most", [3, 12, 1000])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
def test_likely_places_are_the_best_one_and_then_the_likeliest_of_a_grid(shape, side, most):
    worth = Streams.of(4, range(5)).uniform(*shape)
    places = likely_places(worth, side, most)
    held = torch.stack([(worth * s).flatten(1).sum(1) for s in every_square(shape, side)])
    assert places.shape[1] <= most + 1
    for row in range(5):
        like = worth[row : row + 1].expand(places.shape[1], -1, -1, -1)
        holds = (like * Window.of(places[row], side, like).place(like)[2]).flatten(1).sum(1)
        torch.testing.assert_close(holds[0], held[:, row].amax())
        assert (holds[1:].diff() < 1e-5).all()
        assert len(set(places[row, 1:].tolist())) == places.shape[1] - 1
        if most >= len(held):
            torch.testing.assert_close(holds[1:], held[:, row].sort(descending=True).values)


@every_shape
@pytest.mark.parametrize("side", [1, 2, 3, 4, 8])
def test_a_grid_covers_the_image_however_few_squares_there_may_be(shape, side):
    like = torch.zeros(1, *shape)
    sizes = []
    for most in (1000, 12, 6, 1):
        down, across = grid(like, side, most)
        sizes.append(len(down) * len(across))
        first = torch.tensor([i * shape[2] + j for i in down for j in across])
        every = like.expand(len(first), -1, -1, -1)
        assert Window.of(first, side, every).place(every)[2].any(0).all()
        assert sizes[-1] <= most or all(
            gap <= (side + 1) // 2 for one in (down, across) for gap in torch.tensor(one).diff().tolist()
        )
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == len(list(every_square(shape, side)))


SIZES = (((3, 9, 9), 0.12), ((1, 8, 11), 0.3), ((1, 6, 20), 0.5))
ENOUGH = {fgsm: 0.999, pgd: 0.84, pgd_cosine: 0.99, bim: 0.99, hops: 0.96, patch: 0.9999, sparse_rs: 0.8}


@pytest.mark.parametrize(
    ("attack", "enough", "shape", "share"),
    [
        pytest.param(attack, enough, shape, share, marks=[pytest.mark.slow] * ((attack, shape[0]) == (sparse_rs, 1)))
        for attack, enough in ENOUGH.items()
        for shape, share in SIZES
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_attacks_find_the_best_patch_of_a_linear_model(attack, enough, shape, share):
    rng, threat = Streams.of(3, range(8)), square(share)
    w, x = Streams.of(2, [0]).normal(*shape)[0], rng.uniform(*shape)
    worth = w.abs() * torch.where(w > 0, 1 - x, x)
    best = torch.stack([(worth * s).flatten(1).sum(1) for s in every_square(shape, side_of(share, x))]).amax(0)
    model = Linear(w * (5 / best.mean().item()), 0.0)
    goal = Never(torch.zeros(8, dtype=torch.int64))
    z = attack(threat)(model, x, goal, rng)
    assert threat.contains(z, x).all()
    got = (margin(model(z), goal) - margin(model(x), goal)) / (best * 5 / best.mean())
    assert (got > enough).all(), got
    assert (got < 1 + 1e-4).all(), got


def test_sparse_rs_says_what_it_searches():
    with pytest.raises(BadInput, match="l0 or patch"):
        sparse_rs(linf(0.1))
