"""Attacks that ask for scores alone: what the papers print, and what every query is spent on."""

import inspect

import pytest
import torch
from linear import Linear, puzzle
from scipy import fft
from torch.nn import functional

from sparring.attacks.bandits import bandits, spread
from sparring.attacks.nes import estimated, gaussian, nes, rademacher, spsa
from sparring.attacks.simba import SimBA, cosines, pixels, simba, simba_dct
from sparring.attacks.sparse_rs import SHARES, few, sparse_rs, swap
from sparring.attacks.square import Mass, Stairs, recolour, shift, square, stripes, tilt
from sparring.goals import Never, Untargeted
from sparring.streams import Streams
from sparring.threats import l0, l1, l2, linf
from sparring.views import Counted

IMAGES = Streams.of(3, range(6)).uniform(1, 9, 9)
LABELS = torch.zeros(6, dtype=torch.int64)
MODEL = Linear(Streams.of(4, [0]).normal(1, 9, 9)[0], 0.0)
BOUND = {"pairs": 1, "reach": 0.01, "low": -torch.inf, "high": torch.inf}
PER_QUERY = {square: linf(0.1), sparse_rs: l0(6), simba: l2(1.0), simba_dct: l2(1.0)}


@pytest.mark.parametrize("queries", [1, 2, 7, 40])
@pytest.mark.parametrize("make", PER_QUERY, ids=lambda make: make.__name__)
def test_a_budget_of_queries_is_spent_to_the_last_one(make, queries):
    model = Counted(MODEL)
    make(PER_QUERY[make], queries=queries)(model, IMAGES, Never(LABELS), Streams.of(0, range(6)))
    assert (model.forward, model.backward) == (6 * queries, 0)


@pytest.mark.parametrize(
    ("make", "settings", "passes"),
    [
        (nes, {"queries": 100, "draws": 10}, 2 + 8 * 11),
        (nes, {"queries": 1, "draws": 10}, 2),
        (spsa, {"queries": 100, "draws": 9}, 2 + 10 * 9),
        (bandits, {"queries": 101}, 100),
    ],
)
def test_attacks_that_ask_several_times_a_step_stay_within_their_budget(make, settings, passes):
    model = Counted(MODEL)
    make(linf(0.1), **settings)(model, IMAGES, Never(LABELS), Streams.of(0, range(6)))
    assert (model.forward, model.backward) == (6 * passes, 0)


@pytest.mark.parametrize("make", [*PER_QUERY, nes, spsa, bandits], ids=lambda make: make.__name__)
def test_rows_that_succeed_ask_no_more(make):
    threat = PER_QUERY.get(make, linf(0.1))
    far, x, best = puzzle((1, 9, 9), threat, count=1, seed=0)
    near, x = Linear(far.w, ((x * far.w).sum() + 0.3 * best).item()), x.expand(6, 1, 9, 9)
    model, settings = Counted(near), {"draws": 10} if "draws" in inspect.signature(make).parameters else {}
    z = make(threat, queries=2000, **settings)(model, x, Untargeted(LABELS), Streams.of(0, range(6)))
    assert Untargeted(LABELS).reached(near(z)).all()
    assert model.forward < 6 * 1000


def test_the_size_of_squares_follows_the_published_schedule():
    at = [0, 10, 11, 50, 51, 200, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999]
    halvings = [0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    assert [Stairs(0.8)(i, 10_000) for i in at] == [0.8 / 2**k for k in halvings]
    assert [Stairs(0.8)(i, 1000) for i in (1, 2, 6, 801)] == [0.8, 0.4, 0.2, 0.8 / 2**9]


def test_the_number_of_coordinates_that_sparse_rs_moves_follows_the_published_schedule():
    at = [0, 1, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    assert [SHARES(i, 10_000) for i in at] == [0.3 / k for k in (1, 2, 2, 4, 5, 6, 8, 10, 12, 15, 20)]


def test_no_move_of_square_or_sparse_rs_asks_about_the_same_point_again():
    dark = torch.zeros(500, 1, 6, 6)
    rng = Streams.of(0, range(500))
    z = stripes(dark, linf(0.3), rng)
    for share in (0.8, 0.1, 0.01):
        assert (recolour(z, dark, linf(0.3), share, rng.at("move")) != z).flatten(1).any(1).all()
    z = few(dark, l0(5), rng)
    for share in (0.8, 0.1):
        assert (swap(z, dark, l0(5), share, rng.at("move")) != z).flatten(1).any(1).all()


def test_sparse_rs_changes_as_many_coordinates_as_it_may_and_all_as_far_as_they_go():
    rng, threat = Streams.of(0, range(6)), l0(7)
    z = few(IMAGES, threat, rng)
    for i in range(5):
        changed = z != IMAGES
        assert (changed.flatten(1).sum(1) == 7).all()
        assert ((z[changed] == 0) | (z[changed] == 1)).all()
        moved = swap(z, IMAGES, threat, 0.5, rng.at(i))
        assert ((moved != IMAGES) & ~changed).flatten(1).sum(1).tolist() == [3] * 6
        z = moved
    everything = few(IMAGES, l0(100), rng)
    assert (swap(everything, IMAGES, l0(100), 0.3, rng.at("more")) != IMAGES).all()


@pytest.mark.parametrize(
    ("mass", "threat"), [(Mass(2, 2, tilt), l2(1.0, low=-9)), (Mass(1, 4, shift), l1(4.0, low=-9))]
)
def test_every_point_of_square_is_on_the_boundary_of_the_threat(mass, threat):
    rng = Streams.of(0, range(6))
    inner = IMAGES - 4
    z = mass.tiles(inner, threat, rng)
    for i, share in enumerate((0.8, 0.2, 0.1, 0.02, 0.01)):
        size = threat.distance(z, inner)
        assert threat.contains(z, inner).all()
        assert (size >= 0.99 * threat.eps).all()
        z = mass.move(z, inner, threat, share, rng.at(i))


def test_patterns_are_of_size_one_and_fall_off_from_two_peaks():
    for mass in (Mass(2, 2, tilt), Mass(1, 4, shift)):
        pattern = mass.pattern(7, 5)
        assert pattern.abs().pow(mass.power).sum().item() == pytest.approx(1)
        assert (pattern[:3] > 0).all()
        assert (pattern[3:] < 0).all()
        torch.testing.assert_close(mass.peak(3, 3)[1, 1] / mass.peak(3, 3)[0, 0], torch.tensor(1 + 2.0**mass.falls))


def test_the_cosine_basis_is_orthonormal_and_that_of_scipy():
    for n in (1, 4, 9):
        torch.testing.assert_close(cosines(n) @ cosines(n).T, torch.eye(n), rtol=0, atol=1e-5)
        expected = fft.dct(torch.eye(n).double().numpy(), norm="ortho", axis=0)
        torch.testing.assert_close(cosines(n).double(), torch.from_numpy(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("basis", [pixels, cosines])
def test_k_steps_of_simba_are_the_root_of_k_long(basis):
    """Section 3 of the paper: steps along an orthonormal basis add up at right angles."""
    threat = l2(100.0, low=-100.0, high=100.0)
    backwards = Linear(-(basis(9).T @ torch.ones(9, 9) @ basis(9)), 0.0)
    for k in (1, 7, 81):
        attack = SimBA(threat=threat, basis=basis, step=0.2 / threat.width, queries=1 + 2 * k)
        z = attack(backwards, IMAGES, Never(LABELS), Streams.of(0, range(6)))
        torch.testing.assert_close(threat.distance(z, IMAGES), torch.full((6,), 0.2 * k**0.5))


def test_simba_on_cosines_begins_with_the_slow_ones():
    threat = l2(100.0, low=-100.0, high=100.0)
    attack = SimBA(threat=threat, basis=cosines, share=1 / 3, queries=10)
    z = attack(MODEL, IMAGES, Never(LABELS), Streams.of(0, range(6)))
    waves = cosines(9) @ (z - IMAGES)[:, 0] @ cosines(9).T
    assert (waves.abs() > 1e-3)[:, :3, :3].any()
    assert not (waves.abs() > 1e-3)[:, 3:].any()
    assert not (waves.abs() > 1e-3)[:, :, 3:].any()


@pytest.mark.parametrize("draw", [gaussian, rademacher])
def test_an_estimated_gradient_is_the_true_one_on_average(draw):
    x = torch.full((4000, 1, 3, 3), 0.5)
    model = Linear(MODEL.w[:, :3, :3], 0.0)
    view = estimated(model, draw, Streams.of(0, range(4000)), **{**BOUND, "pairs": 5})
    point = x.clone().requires_grad_()
    (view(point)[:, 1] * 2).sum().backward()
    torch.testing.assert_close(point.grad.mean(0), model.w, rtol=0, atol=0.08)


def test_an_estimate_from_random_signs_is_exact_where_there_is_one_coordinate():
    x = torch.linspace(0.1, 0.9, 7)[:, None].requires_grad_()
    view = estimated(lambda z: torch.cat([3 * z, -z], 1), rademacher, Streams.of(0, range(7)), **BOUND)
    (view(x) * torch.tensor([1.0, 0.5])).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((7, 1), 2.5))


def test_an_estimate_asks_about_valid_inputs_only_and_only_where_a_gradient_is_wanted():
    asked = []

    def model(z):
        asked.append(z)
        return MODEL(z)

    x = torch.cat([torch.zeros_like(IMAGES), torch.ones_like(IMAGES)]).requires_grad_()
    view = estimated(model, gaussian, Streams.of(0, range(12)), pairs=3, reach=0.1, low=0.0, high=1.0)
    view(x)[4:9].sum().backward()
    assert [len(z) for z in asked] == [12] + [5] * 6
    assert all(((z >= 0) & (z <= 1)).all() for z in asked)
    assert (x.grad[:4] == 0).all()
    assert (x.grad[9:] == 0).all()


def test_tiles_spread_over_an_image_as_nearest_neighbours_do():
    tiles = Streams.of(0, range(3)).normal(2, 5, 4)
    like = torch.zeros(3, 2, 28, 28)
    assert torch.equal(spread(tiles, like), functional.interpolate(tiles, size=(28, 28), mode="nearest"))


def test_the_prior_of_bandits_for_linf_is_the_papers_exponentiated_gradient():
    v, g, rate = torch.tensor([-0.6, 0.0, 0.9]).double(), torch.tensor([0.3, -0.2, 0.7]).double(), 0.5
    p = (v + 1) / 2
    paper = 2 * p * (rate * g).exp() / (p * (rate * g).exp() + (1 - p) * (-rate * g).exp()) - 1
    torch.testing.assert_close(torch.tanh(v.atanh() + rate * g), paper)
