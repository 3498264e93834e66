"""Carlini and Wagner's family where the answer is known: linear models in closed form, and every pair of few."""

import pytest
import torch
from linear import Linear, puzzle, reach

from sparring.attacks import CarliniWagner, carlini_wagner, ead, jsma, jsma_single
from sparring.attacks.carlini_wagner import Adam, Length
from sparring.attacks.ead import elastic_net
from sparring.attacks.jsma import pair, single
from sparring.goals import Targeted, Untargeted
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import Ball, l0, l2
from sparring.views import Counted

EPS = {"linf": 0.1, "l2": 1.0, "l1": 5.0, "l0": 8.0}


def boundary(norm, low=0.0, high=1.0, count=12, seed=7):
    """A linear model, inputs in reach of its boundary, and how far it is."""
    threat = Ball(NORMS[norm], EPS[norm], low, high)
    far, x, best = puzzle((1, 6, 6), threat, count, seed)
    model = Linear(far.w, ((x * far.w).flatten(1).sum(1) + 0.5 * best).max().item())
    return threat, model, x, reach(model.w, x, threat, -model.lead(x))


def run(attack, model, x, goal=None):
    goal = goal or Untargeted(torch.zeros(len(x), dtype=torch.int64))
    return attack(model, x, goal, Streams.of(0, range(len(x))))


@pytest.mark.parametrize(
    ("norm", "box"),
    [(norm, (0.0, 1.0)) for norm in ("linf", "l2", "l1")]
    + [pytest.param(norm, (-20.0, 20.0), marks=pytest.mark.slow) for norm in ("linf", "l2", "l1")]
    + [(norm, (-torch.inf, torch.inf)) for norm in ("linf", "l2")],  # L1: squares of long changes outweigh their sum
    ids=str,
)
def test_distances_on_linear_models_are_within_5_percent_of_the_closed_form(norm, box):
    threat, model, x, nearest = boundary(norm, *box, count=6)
    z = run({"l1": ead}.get(norm, carlini_wagner)(threat), model, x)
    assert (model.lead(z) > 0).all()
    assert (threat.distance(z, x) <= 1.05 * nearest).all()


def test_a_boundary_that_the_first_steps_cross_is_found_within_5_percent_of_its_distance():
    """With any constant, Adam's first step is several times as long as the boundary is far."""
    threat, w = l2(1.0), 0.1 * Streams.of(3, [99]).normal(1, 28, 28)[0]
    x = (1.2 * Streams.of(3, range(60)).uniform(1, 28, 28) - 0.1).clamp(0, 1)
    model = Linear(w, (x * w).flatten(1).sum(1).median().item())
    nearest = reach(w, x, threat, -model.lead(x))
    near = (nearest > 0.01) & (nearest < 0.2)
    z = run(carlini_wagner(threat), model, x[near])
    assert near.sum() >= 8
    assert (model.lead(z) > 0).all()
    assert (threat.distance(z, x[near]) <= 1.05 * nearest[near]).all()


@pytest.mark.parametrize("make", [carlini_wagner, ead])
def test_a_target_is_reached_at_the_distance_of_the_boundary_too(make):
    threat, model, x, nearest = boundary("l1" if make is ead else "l2")
    z = run(make(threat, steps=80), model, x, Targeted(torch.ones(len(x), dtype=torch.int64)))
    assert (threat.distance(z, x) <= 1.05 * nearest).all()


def test_l0_by_fixing_coordinates_is_at_most_one_above_the_fewest_that_are_enough():
    threat, model, x, nearest = boundary("l0", count=16)
    over = threat.distance(run(carlini_wagner(threat), model, x), x) - nearest.ceil()
    assert (over <= 1).all()
    assert (over < 0.5).float().mean() >= 0.75


@pytest.mark.parametrize("make", [jsma, jsma_single])
@pytest.mark.parametrize("box", [(0.0, 1.0), (-3.0, 3.0)], ids=str)
def test_saliency_finds_the_fewest_coordinates_that_are_enough(make, box):
    threat, model, x, nearest = boundary("l0", *box, count=24)
    z = run(make(threat), model, x)
    assert (model.lead(z) > 0).all()
    torch.testing.assert_close(threat.distance(z, x).double(), nearest.round(), rtol=0, atol=0)


def every_pair(towards, against):
    n = len(towards)
    both = [(towards[p] + towards[q], against[p] + against[q]) for p in range(n) for q in range(p)]
    return max(a * b if min(a, b) > 0 else min(a, b) for a, b in both)


def test_the_most_salient_pair_is_the_best_of_all_pairs():
    rng = Streams.of(0, range(300))
    towards, against = (rng.at(name).normal(12) for name in ("towards", "against"))
    against = torch.where(rng.at("alike").uniform(1) < 0.5, towards + 0.1 * against, against)  # as of probabilities
    towards[:100], against[:100] = towards[:100].round(), against[:100].round()  # many ties
    towards[::3] -= 2.0  # few that help
    chosen = pair(towards, against)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    a, b = (values.gather(1, chosen).sum(1) for values in (towards, against))
    lesser = torch.minimum(a, b)
    found = torch.where(lesser > 0, a * b, lesser)
    best = torch.stack([every_pair(*row) for row in zip(towards, against, strict=True)])
    torch.testing.assert_close(found, best)


def test_the_most_salient_coordinate_raises_the_target_and_lowers_the_others():
    towards, against = torch.tensor([[3.0, 2.0, -1.0]]), torch.tensor([[-1.0, 0.5, 9.0]])
    assert single(towards, against).tolist() == [[1]]


def test_the_elastic_rule_trades_the_sum_of_changes_for_their_length():
    threat, model, x, _ = boundary("l1")
    by_sum, by_net = (run(ead(threat, steps=40, beta=0.1, **rule), model, x) for rule in ({}, {"rule": elastic_net}))
    assert (threat.distance(by_sum, x) <= threat.distance(by_net, x)).all()
    assert (elastic_net(by_net - x, 0.1) <= elastic_net(by_sum - x, 0.1)).all()


def test_the_constant_grows_tenfold_and_is_bisected_row_by_row():
    """Runs of one step: the first is at the input, so every run fails, and c rises from a thousandth."""
    threat, _, x, _ = boundary("l2")
    attack = CarliniWagner(threat=threat, penalty=Length(), descent=Adam(), steps=1, runs=9)
    row = attack._begin(x)
    reached = torch.arange(len(x)) % 2 == 0
    seen = []
    for _ in range(3):
        seen.append(row.constant[:2].tolist())
        row = attack._next_run(row, reached & (row.constant > 5e-3), x, torch.full((len(x),), torch.inf), x)
    assert seen[0] == pytest.approx([1e-3, 1e-3])
    assert seen[1] == pytest.approx([1e-2, 1e-2])
    assert seen[2] == pytest.approx([5.5e-3, 1e-1])


def test_rows_that_reach_the_goal_cost_one_pass_and_come_back_as_they_were():
    for attack in (carlini_wagner(l2(1.0)), jsma(l0(4)), jsma_single(l0(4))):
        _, model, x, _ = boundary("l2")
        counted = Counted(model)
        z = run(attack, counted, x, Untargeted(torch.ones(len(x), dtype=torch.int64)))
        assert torch.equal(z, x)
        assert counted.forward == len(x)
