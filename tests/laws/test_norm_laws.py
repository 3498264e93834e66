"""What holds for every norm: projections are the nearest point, samples fill the ball, directions climb fastest."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import Ball

sys.path.append(str(Path(__file__).resolve().parents[1] / "truth"))
from linear import gain

every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=list(NORMS))
CONVEX = [norm for norm in NORMS.values() if not norm.counts]
every_convex_norm = pytest.mark.parametrize("norm", CONVEX, ids=[norm.name for norm in CONVEX])

values = st.sampled_from([0.0, 1.0, -1.0, 0.5, -0.5, 0.25]) | st.floats(-4, 4, width=32)
edges = st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32)


@st.composite
def problems(draw, most=6):
    """A point of a box, where a step leads from it, and the size of the ball."""
    n = draw(st.integers(1, most))
    low, high = draw(st.sampled_from([(0.0, 1.0), (-50.0, 50.0), (-torch.inf, torch.inf), (0.0, torch.inf)]))
    x = torch.tensor([draw(st.lists(edges, min_size=n, max_size=n))]).double()
    step = torch.tensor([draw(st.lists(values, min_size=n, max_size=n))]).double()
    eps = draw(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 5, width=32))
    return x, step, eps, low, high


@every_norm
@given(problem=problems())
def test_a_projection_is_allowed_and_projecting_it_again_changes_nothing(norm, problem):
    x, step, eps, low, high = problem
    threat = Ball(norm, eps, low, high)
    z = threat.project(x + step, x)
    assert threat.contains(z, x).all()
    torch.testing.assert_close(threat.project(z, x), z, rtol=0, atol=1e-12)
    inside = x + 0.5 * (z - x)
    assert torch.equal(threat.project(inside, x), inside)


@every_convex_norm
@given(problem=problems())
def test_no_allowed_point_is_nearer_than_the_projection(norm, problem):
    """A point of a convex set is the nearest to `v` where no other lies further in the direction that is left."""
    x, step, eps, low, high = problem
    threat = Ball(norm, eps, low, high)
    z = threat.project(x + step, x)
    left = x + step - z
    further = gain(left, x, threat) - (left * (z - x)).sum(1)
    assert (further <= 1e-7).all()


@given(problem=problems(most=5))
def test_no_choice_of_coordinates_is_nearer_than_the_l0_projection(problem):
    x, step, eps, low, high = problem
    z = Ball(NORMS["l0"], eps, low, high).project(x + step, x)
    clipped = (x + step).clamp(low, high) - x
    n = x.shape[1]
    nearest = min(
        (clipped * torch.zeros(n).double().index_fill(0, torch.tensor(kept, dtype=torch.int64), 1) - step).norm().item()
        for kept in itertools.combinations(range(n), min(int(eps), n))
    )
    assert (z - x - step).norm().item() == pytest.approx(nearest, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["l2", "l1"])
def test_the_projection_agrees_with_a_general_solver(name, seed):
    rng = Streams.of(seed, [0])
    x, step = rng.at("x").uniform(4).double(), rng.at("step").normal(4).double()
    v, low, high = step[0].numpy(), -x[0].numpy(), 1 - x[0].numpy()
    size = {"l2": lambda d: 0.49 - (d**2).sum(), "l1": lambda d: 0.7 - abs(d).sum()}[name]
    best = min(
        (
            optimize.minimize(
                lambda d: ((d - v) ** 2).sum(),
                start,
                method="SLSQP",
                bounds=list(zip(low, high, strict=True)),
                constraints={"type": "ineq", "fun": size},
                options={"maxiter": 200, "ftol": 1e-10},
            )
            for start in rng.at("start").normal(5, 4)[0].double().numpy() * 0.01
        ),
        key=lambda found: found.fun if size(found.x) > -1e-7 else torch.inf,
    )
    z = Ball(NORMS[name], 0.7).project(x + step, x)
    distance = (z - x - step).square().sum().item()
    assert distance <= best.fun + 1e-6  # it oversteps its constraints by that much
    assert distance == pytest.approx(best.fun, rel=1e-3)


@every_convex_norm
def test_projections_bring_points_no_further_apart(norm):
    rng, threat = Streams.of(0, range(2000)), Ball(norm, 0.8)
    x = rng.at("x").uniform(5).double()
    one, other = (x + rng.at(name).normal(5).double() for name in ("one", "other"))
    apart = (threat.project(one, x) - threat.project(other, x)).norm(dim=1)
    assert (apart <= (one - other).norm(dim=1) + 1e-12).all()


@every_norm
def test_every_row_may_have_its_own_eps_and_sees_no_other(norm):
    rng = Streams.of(0, range(64))
    x, step = rng.uniform(3, 4, 4), rng.at("step").normal(3, 4, 4)
    eps = rng.at("eps").uniform(1).flatten() * 3
    together = norm.project(x + step, x, eps, 0.0, 1.0)
    for row in (0, 17, 63):
        alone = slice(row, row + 1)
        assert torch.equal(norm.project((x + step)[alone], x[alone], eps[row].item(), 0.0, 1.0), together[alone])
    assert all(Ball(norm, eps[row].item()).contains(together[[row]], x[[row]]) for row in range(64))


@every_norm
@pytest.mark.parametrize("length", [1e-6, 1e-2, 1.0, 1e4])
def test_projections_in_single_precision_are_near_those_in_double(norm, length):
    rng = Streams.of(1, range(8))
    x, step = rng.uniform(3, 32, 32), rng.at("step").normal(3, 32, 32) * length
    threat = Ball(norm, {"linf": 0.03, "l2": 1.5, "l1": 20.0, "l0": 50.0}[norm.name])
    z = threat.project(x + step, x)
    exact = threat.project((x + step).double(), x.double())
    if not norm.counts:  # two coordinates may be equally good
        torch.testing.assert_close(z.double(), exact, rtol=0, atol=1e-5 + 1e-6 * length)
    assert (z.double() - x - step).norm() <= (exact - x - step).norm() * (1 + 1e-6)


@every_norm
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-128.0, 127.0), (100.0, 1000.0)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 224, 224)])
def test_rounding_does_not_carry_a_large_image_out_of_its_ball(norm, low, high, shape):
    rng, width = Streams.of(0, range(2)), high - low
    x = low + width * rng.uniform(*shape)
    size = {"linf": [0.01, 0.03], "l2": [0.5, 3.0], "l1": [12.0, 500.0], "l0": [24.0]}[norm.name]
    for eps in size:
        threat = Ball(norm, eps if norm.counts else eps * width, low, high)
        assert threat.contains(threat.sample(x, rng), x).all()
        for step in (rng.sign(*shape) * eps / 600, rng.normal(*shape), rng.normal(*shape) * 1e4):
            assert threat.contains(threat.project(x + width * step, x), x).all()


@every_norm
def test_the_steepest_direction_has_size_one_and_climbs_by_the_dual_norm(norm):
    gradient = Streams.of(0, range(500)).normal(2, 3)
    flat, direction = gradient.flatten(1), norm.steepest(gradient)
    dual = {
        "linf": flat.abs().sum(1),
        "l2": flat.norm(dim=1),
        "l1": flat.abs().amax(1),
        "l0": flat.abs().amax(1),
    }[norm.name]
    torch.testing.assert_close((flat * direction.flatten(1)).sum(1), dual)
    torch.testing.assert_close(norm.size(direction), torch.ones(500))


@every_norm
def test_no_direction_of_size_one_climbs_faster_than_the_steepest(norm):
    rng = Streams.of(0, range(20_000))
    gradient = torch.tensor([0.3, -2.0, 1.0]).expand(20_000, 3)
    other = norm.sample(torch.zeros(20_000, 3), 1.0, -1.0, 1.0, rng)
    best = (gradient[0] * norm.steepest(gradient[:1])[0]).sum()
    found = (gradient * other).sum(1).amax()
    assert 0.93 * best < found <= best + 1e-6


@every_norm
def test_ascent_climbs_and_no_gradient_moves_nothing(norm):
    gradient = Streams.of(0, range(100)).normal(7) * 1e-12
    assert ((norm.ascent(gradient) * gradient).sum(1) > 0).all()
    for tiny in (torch.zeros(3, 7), torch.full((3, 7), 1e-38)):
        assert norm.steepest(tiny).isfinite().all()
        assert norm.ascent(tiny).isfinite().all()
    assert (norm.ascent(torch.zeros(3, 7)) == 0).all()


@every_norm
@given(problem=problems(), seed=st.integers(0, 2**32))
def test_samples_are_allowed(norm, problem, seed):
    x, _, eps, low, high = problem
    threat = Ball(norm, eps, low, high)
    z = threat.sample(x.expand(20, -1), Streams.of(seed, range(20)))
    assert threat.contains(z, x.expand(20, -1)).all()


@every_norm
def test_a_row_draws_the_same_sample_in_every_company(norm):
    x = Streams.of(9, range(5000)).uniform(3, 5)
    together = Ball(norm, 2.0).sample(x, Streams.of(0, range(5000)))
    for first in range(0, 5000, 3):
        rows = torch.arange(first, min(first + 3, 5000))
        assert torch.equal(Ball(norm, 2.0).sample(x[rows], Streams.of(0, rows)), together[rows])


def wide(norm, n, eps=2.0, count=20_000):
    return norm.sample(torch.zeros(count, n), eps, -100.0, 100.0, Streams.of(0, range(count))).double() / eps


def looks_uniform(draws, low=0.0):
    return stats.kstest(draws.numpy(), "uniform", args=(low, 1 - low)).pvalue > 1e-3


@every_convex_norm
@pytest.mark.parametrize("n", [1, 2, 5])
def test_samples_fill_the_ball_evenly_from_the_centre_to_the_edge(norm, n):
    d = wide(norm, n)
    assert looks_uniform(norm.size(d) ** n)  # the share of the volume that is nearer
    for i in range(n):
        assert stats.binomtest(int((d[:, i] > 0).sum()), len(d)).pvalue > 1e-3
        assert stats.ks_2samp(d[:, i].numpy(), d[:, 0].numpy()).pvalue > 1e-3
        assert stats.ks_2samp(d[:, i].numpy(), -d[:, i].numpy()).pvalue > 1e-3


def test_samples_fill_the_plane_evenly_in_every_direction():
    assert looks_uniform(wide(NORMS["linf"], 2)[:, 0], -1)
    assert looks_uniform(wide(NORMS["linf"], 2)[:, 1], -1)
    x, y = wide(NORMS["l1"], 2).unbind(1)  # a square that stands on a corner
    assert looks_uniform(x + y, -1)
    assert looks_uniform(x - y, -1)
    x, y = wide(NORMS["l2"], 2).unbind(1)
    assert looks_uniform(torch.atan2(y, x) / torch.pi, -1)


def test_a_uniform_sample_in_the_linf_ball_fills_what_the_box_leaves():
    x = torch.tensor([[0.1, 0.5, 0.9]]).expand(20_000, 3)
    z = Ball(NORMS["linf"], 0.3).sample(x, Streams.of(0, range(20_000))).double()
    for i, (low, high) in enumerate([(0.0, 0.4), (0.2, 0.8), (0.6, 1.0)]):
        assert looks_uniform((z[:, i] - low) / (high - low))


@pytest.mark.parametrize("high", [1.0, 255.0, torch.inf])
def test_l0_samples_change_so_many_coordinates_each_as_often_and_as_far_as_the_box_allows(high):
    x = torch.zeros(20_000, 5)
    d = Ball(NORMS["l0"], 2.9, 0.0, high).sample(x, Streams.of(0, range(20_000))).double()
    assert set((d != 0).sum(1).tolist()) == {2}
    assert stats.chisquare((d != 0).sum(0).numpy()).pvalue > 1e-3
    assert looks_uniform(d[d != 0] / (high if high < torch.inf else 1.0))
