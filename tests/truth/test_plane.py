"""In two dimensions every point can be tried: no attack may claim more than the best, and a good one comes close."""

import inspect

import pytest
import torch

from sparring.attacks import Restarts, pgd
from sparring.goals import Never
from sparring.losses import margin
from sparring.norms import NORMS
from sparring.registry import members
from sparring.streams import Streams
from sparring.threats import Ball

ATTACKS = members("attacks")
THREATS = {name: Ball(NORMS[name], eps) for name, eps in {"linf": 0.2, "l2": 0.25, "l1": 0.3, "l0": 1.0}.items()}
SIDE = 301


DRAW = Streams.of(4, range(24))
SLOPE, CENTRE, OUT = DRAW.at("slope").normal(2), DRAW.at("centre").uniform(2), DRAW.at("out").normal(4)


def folded(z):
    """A ReLU network of 24 units on the plane: piecewise linear, with ridges, pits and several tops."""
    hidden = 6 * ((z.flatten(1).unsqueeze(1) - CENTRE) * SLOPE).sum(2)  # a fold through every centre
    return hidden.relu() @ OUT / 2


@pytest.fixture(scope="module")
def puzzle():
    """Inputs, labels, and for every norm the largest margin on a fine grid, with what a cell of the grid can hide."""
    x = Streams.of(1, range(12)).uniform(2)
    labels = folded(x).argmax(1)
    axis = torch.linspace(0, 1, SIDE)
    plane = torch.cartesian_prod(axis, axis)
    heights = folded(plane)
    cell = 4 * max(heights.view(SIDE, SIDE, 4).diff(dim=i).abs().max().item() for i in (0, 1))
    best = {norm: [] for norm in THREATS}
    for row, label in zip(x, labels, strict=True):
        cross = torch.cat([torch.stack([axis, row[1].expand(SIDE)], 1), torch.stack([row[0].expand(SIDE), axis], 1)])
        points, outputs = torch.cat([plane, cross]), torch.cat([heights, folded(cross)])
        score = margin(outputs, Never(label.expand(len(points))))
        for norm, threat in THREATS.items():
            best[norm].append(score[threat.contains(points, row.expand(len(points), 2))].max())
    return x, labels, {norm: (torch.stack(scores), cell) for norm, scores in best.items()}


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        (name, norm)
        for name, entry in ATTACKS.items()
        for norm in entry.norms
        if entry.aims != "smallest perturbation" and entry.shape == "any"
    ],
)
def test_no_attack_exceeds_what_trying_every_point_finds(name, norm, puzzle):
    x, labels, optimum = puzzle
    best, cell = optimum[norm]
    few = {"queries": 300} if "queries" in inspect.signature(ATTACKS[name].make).parameters else {}
    goal = Never(labels)
    z = ATTACKS[name].make(THREATS[norm], **few)(folded, x, goal, Streams.of(2, range(12)))
    assert (margin(folded(z), goal) <= best + cell).all()


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_with_restarts_finds_what_trying_every_point_finds(norm, puzzle):
    x, labels, optimum = puzzle
    best, cell = optimum[norm]
    attack = Restarts(attacks=(pgd(THREATS[norm], loss=margin),), times=20)
    goal = Never(labels)
    found = margin(folded(attack(folded, x, goal, Streams.of(2, range(12)))), goal)
    start = margin(folded(x), goal)
    assert ((found - start) >= 0.95 * (best - start) - cell).float().mean() >= 0.9


def test_the_grid_is_fine_enough_to_judge(puzzle):
    x, labels, optimum = puzzle
    for norm, (best, cell) in optimum.items():
        assert cell < 0.25 * (best - margin(folded(x), Never(labels))).median(), norm
