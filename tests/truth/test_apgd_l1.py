"""Sparse attacks against what is known: their directions, the counts of the paper, what passes are spent."""

import sys

import pytest
import torch
from linear import puzzle

from sparring.attacks import apgd_l1, apgd_l1_shrinking, pgd_l0_shrinking, slide
from sparring.attacks.apgd_l1 import largest_signs, sparser, sparsest
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.norms import NORMS
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball, l0, l1
from sparring.views import Counted


def test_a_sparse_direction_has_l1_size_one_along_the_largest_coordinates():
    gradient = torch.tensor([[[3.0, -5.0], [0.5, 1.0]], [[3.0, -5.0], [0.5, 1.0]], [[0.0, 0.0], [-2.0, 0.0]]])
    direction = largest_signs(gradient, torch.tensor([2.9, 0.3, 4.0]))
    assert direction.flatten(1).tolist() == [[0.5, -0.5, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]]
    assert largest_signs(torch.zeros(1, 4), torch.tensor([2.0])).tolist() == [[0.0] * 4]


def test_slide_moves_along_its_share_of_the_coordinates():
    move, _ = sparsest(0.1).update(Streams.of(0, [0]).normal(30), None, 0)
    assert (move != 0).sum() == 3
    assert move.abs().sum() == pytest.approx(1)


def test_the_number_of_coordinates_follows_those_that_the_best_point_changes(monkeypatch):
    counts = []

    def recorded(gradient, count):
        counts.append(count[0].item())
        return largest_signs(gradient, count)

    monkeypatch.setattr(sys.modules[sparser.__module__], "largest_signs", recorded)
    threat = l1(2.0)
    model, x, _ = puzzle((1, 10, 10), threat, count=1, seed=0)
    search = Search(model, x, Never(torch.zeros(1).long()), margin)
    sparser(search, x, threat.sample(x, Streams.of(0, [0])), threat, 100)
    assert counts[:4] == [20.0] * 4  # a fifth of them, for 4 % of the steps
    assert all(len(set(counts[i : i + 4])) == 1 for i in range(0, 100, 4))
    final = (search.best != x).sum().item()
    assert counts[-1] == pytest.approx(final / 1.5, rel=0.35)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-20.0, 20.0)])
@pytest.mark.parametrize("make", [apgd_l1, apgd_l1_shrinking])
def test_sparse_steps_end_at_the_optimum_of_a_linear_model_with_many_coordinates(make, box):
    threat = Ball(NORMS["l1"], 12.0, *box)
    model, x, best = puzzle((1, 28, 28), threat, count=4, seed=0)
    z = make(threat)(model, x, Untargeted(torch.zeros(4).long()), Streams.of(1, range(4)))
    assert ((model.lead(z) - model.lead(x)) / best > 0.99).all()


def wells(z):
    """A network of 200 ReLU units on 60 inputs, the same for every caller: hills enough to stop at the first."""
    draw = Streams.of(5, range(200))
    hidden = (z.flatten(1) - 0.5) @ draw.normal(60).T + 0.5 * draw.at("shift").normal(1).flatten()
    return hidden.relu() @ draw.at("out").normal(4) / 10


@pytest.mark.parametrize(
    ("make", "threat"), [(apgd_l1_shrinking, l1(2.0)), (pgd_l0_shrinking, l0(6.0))], ids=["l1", "l0"]
)
def test_no_more_passes_are_spent_than_are_said(make, threat):
    x, counted = Streams.of(1, range(3)).uniform(60), Counted(wells)
    attack = make(threat, steps=96)
    attack(counted, x, Never(wells(x).argmax(1)), Streams.of(2, range(3)))
    stages = 12 if threat.norm.name == "l1" else 8
    assert counted.forward <= 3 * (96 + stages + 1)
    assert counted.backward <= 3 * (96 + stages)


def test_an_input_that_has_reached_the_goal_costs_one_pass():
    x = Streams.of(1, range(3)).uniform(60)
    for attack in (apgd_l1_shrinking(l1(2.0)), slide(l1(2.0)), pgd_l0_shrinking(l0(6.0))):
        counted = Counted(wells)
        attack(counted, x, Untargeted((wells(x).argmax(1) + 1) % 4), Streams.of(2, range(3)))
        assert counted.backward == 0
        assert counted.forward <= 3 * 2
