"""Evolutionary attacks where the answer is known, and what they are worth against blind search at the same price."""

import itertools
import math

import pytest
import torch
from linear import puzzle

from sparring.attacks import CMAES, OnePixel, cma_es, gaussian_noise, gen_attack, one_pixel, uniform_noise
from sparring.attacks.cma_es import Rates
from sparring.attacks.gen_attack import log_odds
from sparring.attacks.one_pixel import three
from sparring.attacks.population import Population, grid, spread
from sparring.goals import Never, Targeted, Untargeted
from sparring.losses import margin
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import Ball, l0, l2, linf
from sparring.views import Counted

CASES = [(one_pixel, l0(8)), (gen_attack, linf(0.1)), (cma_es, linf(0.1)), (cma_es, l2(1.0))]
every_attack = pytest.mark.parametrize(("make", "threat"), CASES, ids=[f"{make.__name__} {t}" for make, t in CASES])


@every_attack
def test_evolution_gains_far_more_than_blind_search_with_as_many_queries(make, threat):
    model, x, best = puzzle((1, 8, 8), threat, count=6, seed=3)
    goal = Never(torch.zeros(len(x), dtype=torch.int64))

    def gain(attack):
        z = attack(model, x, goal, Streams.of(0, range(len(x))))
        return ((model.lead(z) - model.lead(x)) / best).mean().item()

    blind = max(gain(make_noise(threat, draws=1000)) for make_noise in (uniform_noise, gaussian_noise))
    assert gain(make(threat, queries=1000)) >= 1.4 * blind


@every_attack
@pytest.mark.parametrize("queries", [1, 7, 100, 333])
def test_no_row_is_asked_about_more_often_than_the_budget_allows(make, threat, queries):
    model, x, _ = puzzle((1, 6, 6), threat, count=3, seed=0)
    counted = Counted(model)
    make(threat, queries=queries)(counted, x, Never(torch.zeros(3, dtype=torch.int64)), Streams.of(0, range(3)))
    assert counted.forward <= 3 * queries
    assert counted.forward >= 3 * 0.7 * queries - 30


@every_attack
def test_a_row_that_reaches_the_goal_is_asked_about_no_more(make, threat):
    model, x, _ = puzzle((1, 6, 6), threat, count=4, seed=0)
    asked = []

    def watched(z):
        asked.append(len(z))
        return model(z)

    goal = Untargeted(torch.tensor([0, 1, 1, 1]))  # all but the first are there already
    make(threat, queries=200)(watched, x, goal, Streams.of(0, range(4)))
    assert asked[0] == 4
    assert len({*asked[1:]}) <= 2  # a population of one row, the first of GenAttack one larger than the others


def test_every_member_is_judged_by_the_goal_of_its_own_row():
    outputs = torch.eye(4)[torch.tensor([[0, 1, 2], [3, 3, 1]])]
    x = torch.zeros(2, 4)
    search = Population(lambda z: z, x, Targeted(torch.tensor([2, 0])), margin)
    scores, stays = search.judge_all(outputs, torch.tensor([10, 11]))
    assert scores.tolist() == [[-1, -1, -1]]  # the second row's; the first has reached its target, and left
    assert stays.tolist() == [11]
    assert search.open.tolist() == [1]
    assert search.best[0].tolist() == [0, 0, 1, 0]


def test_members_without_numbers_are_never_the_best():
    x = torch.zeros(1, 3)
    search = Population(lambda z: z, x, Untargeted(torch.tensor([0])), margin)
    scores, *_ = search.judge_all(torch.tensor([[[torch.nan] * 3, [3.0, 0.0, 1.0]]]))
    assert scores.tolist() == [[-torch.inf, -2.0]]
    assert search.best.tolist() == [[3.0, 0.0, 1.0]]


def test_one_pixel_finds_the_best_pixel_of_all_or_one_nearly_as_good():
    threat = l0(3)
    rng = Streams.of(0, range(6))
    w, x = Streams.of(1, [0]).normal(3, 5, 5)[0], rng.uniform(3, 5, 5)  # three channels: one pixel
    tops = torch.where(w > 0, w * (1 - x), -w * x).sum(1).flatten(1).amax(1)  # every channel goes to its better edge

    def model(z):
        lead = (z * w).flatten(1).sum(1)
        return torch.stack([-lead / 2, lead / 2], 1)

    z = one_pixel(threat, queries=3000)(model, x, Never(torch.zeros(6, dtype=torch.int64)), rng)
    assert (((z - x) != 0).any(1).flatten(1).sum(1) == 1).all()
    share = ((z - x) * w).flatten(1).sum(1) / tops
    assert (share > 0.9).all()  # the second best, on some rows
    assert (share > 0.999).sum() >= 4
    assert (share < 1.001).all()


@pytest.mark.parametrize("eps", [0.0, 1.0, 2.0, 4.0])
def test_pixels_of_three_channels_stay_inside_a_ball_that_counts_coordinates(eps):
    x = Streams.of(0, range(4)).uniform(3, 4, 4)

    def model(z):
        return torch.stack([-z.flatten(1).sum(1), z.flatten(1).sum(1)], 1)

    attack = OnePixel(threat=l0(eps), queries=200, pixels=20)
    z = attack(model, x, Never(torch.zeros(4, dtype=torch.int64)), Streams.of(0, range(4)))
    assert (NORMS["l0"].size(z - x) == eps).all()


def test_the_three_parents_differ_and_any_three_are_as_likely():
    draws = torch.stack(three(20_000, 4, Streams.of(0, [0]), torch.device("cpu")), 2)[0]
    seen = {tuple(draw): 0 for draw in itertools.permutations(range(4), 3)}
    for draw in draws.tolist():
        seen[tuple(draw)] += 1
    assert min(seen.values()) > 700  # of 833 expected each
    assert max(seen.values()) < 970


def test_the_constants_of_cma_es_are_those_of_the_tutorial():
    """For ten coordinates, as pycma prints them; the covariance's are four times theirs for a diagonal one."""
    use = Rates.of(10, 10)
    assert use.weights == pytest.approx([0.45627, 0.27075, 0.16223, 0.08523, 0.02551], abs=1e-5)
    assert use.mass == pytest.approx(3.1673, abs=1e-4)
    assert use.path == pytest.approx((3.1673 + 2) / (10 + 3.1673 + 5), abs=1e-4)
    assert use.damping == pytest.approx(1 + use.path)
    assert use.covariance_path == pytest.approx((4 + 0.31673) / (14 + 2 * 0.31673), abs=1e-4)
    assert use.rank_one == pytest.approx(4 * 2 / (11.3**2 + 3.1673), abs=1e-4)
    assert use.rank_mu == pytest.approx(4 * 2 * (3.1673 - 2 + 1 / 3.1673) / (144 + 3.1673), abs=1e-4)
    assert use.length == pytest.approx(math.sqrt(10) * (1 - 1 / 40 + 1 / 2100))


def test_cma_es_learns_the_scale_of_every_coordinate():
    """A bowl a million times steeper one way than the other: the bottom is out of reach for a single step size."""
    steep = torch.logspace(0, 6, 9)
    x, bottom = torch.full((3, 9), 0.5), 0.5 + 0.3 * Streams.of(0, range(3)).uniform(9)

    def heights(z):
        return (steep * (z - bottom).square()).sum(1)

    goal = Never(torch.zeros(3, dtype=torch.int64))
    found = []
    for row in range(3):  # one at a time: the model knows them by where they are

        def bowl(z, target=bottom[row]):
            depth = (steep * (z - target).square()).sum(1)
            return torch.stack([depth, torch.zeros_like(depth)], 1)

        one = torch.tensor([row])
        found.append(cma_es(linf(0.5), queries=3000, tiles=3)(bowl, x[one], goal[one], Streams.of(0, one)))
    assert (heights(torch.cat(found)) < 1e-4 * heights(x)).all()


def test_a_change_of_tiles_fills_the_image_and_other_inputs_are_cut_into_pieces():
    like = torch.zeros(1, 2, 5, 7)
    assert grid(like, 3) == (3, 3)
    assert grid(like, 6) == (5, 6)
    assert grid(torch.zeros(1, 1, 1, 50), 3) == (1, 9)
    assert grid(torch.zeros(1, 1, 1, 5), 3) == (1, 5)
    coarse = torch.arange(4.0).view(1, 1, 2, 2)
    assert spread(coarse, torch.zeros(1, 1, 3, 4))[0, 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]


def test_the_log_odds_rise_with_success_both_ways():
    outputs = torch.tensor([[2.0, 0.0, 1.0]]).log_softmax(1)
    odds = (outputs.exp()[:, 1:].sum(1) / outputs.exp()[:, 0]).log()
    torch.testing.assert_close(log_odds(outputs, Untargeted(torch.tensor([0]))), odds)
    torch.testing.assert_close(log_odds(outputs, Targeted(torch.tensor([0]))), -odds)


def test_cma_es_on_l2_spends_the_whole_length_where_the_box_leaves_room():
    threat = Ball(NORMS["l2"], 1.0, -5.0, 5.0)
    model, x, best = puzzle((1, 6, 6), threat, count=4, seed=0)
    attack = cma_es(threat, queries=500)
    assert isinstance(attack, CMAES)
    z = attack(model, x, Never(torch.zeros(4, dtype=torch.int64)), Streams.of(0, range(4)))
    torch.testing.assert_close(threat.distance(z, x), torch.ones(4), rtol=1e-4, atol=0)
    assert (model.lead(z) - model.lead(x) > 0.9 * best).all()
