"""On linear models the worst answer of every task is known, and attacks must come close to it."""

import math

import pytest
import torch
from linear import gain
from torch.testing import assert_close

from sparring.attacks import apgd_ce, ddn, pgd, pgd_cosine, square
from sparring.losses import margin
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.tasks import Binary, Embedding, MultiLabel, Regression, Segmentation
from sparring.threats import Ball, l2, linf

SHAPE = (1, 4, 4)
EPS = {"linf": 0.1, "l2": 1.0, "l1": 2.0, "l0": 4.0}
CLIMBERS = [("pgd", norm) for norm in NORMS] + [("square", "linf"), ("square", "l2")]
every_norm = pytest.mark.parametrize(("name", "norm"), CLIMBERS)
dual_norms = pytest.mark.parametrize(("name", "norm"), [("pgd", "linf"), ("pgd", "l2"), ("square", "linf")])


def attack(name, threat, **settings):
    return pgd(threat, **settings) if name == "pgd" else square(threat, queries=600)


def linear(w, bias):
    """`<w_k, z> + b_k` for every row k of the weights, `(B, K)`."""
    return lambda z: (z.unsqueeze(1) * w).flatten(2).sum(2) + bias


def drawn(count, rows, seed=0):
    """Weights `(rows, *SHAPE)` and inputs `(count, *SHAPE)` in the box."""
    return Streams.of(seed, range(rows)).at("w").normal(*SHAPE), Streams.of(seed, range(count)).uniform(*SHAPE)


@every_norm
def test_a_regression_is_driven_off_by_eps_times_the_dual_norm(name, norm):
    threat = Ball(NORMS[norm], EPS[norm], -99.0, 99.0)
    w, x = drawn(4, 1)
    model, best = linear(w, 3.0), gain(w[0], x, threat)
    labels = model(x).squeeze(1)  # a perfect answer: both ways are open, and worth the same
    goal = Regression(1.1 * best.max().item()).goal(labels)
    z = attack(name, threat)(model, x, goal, Streams.of(1, range(4)))
    assert threat.contains(z, x).all()
    assert (goal.measure(model(z)) >= 0.98 * best).all()
    assert (goal.measure(model(z)) <= 1.001 * best).all()


@dual_norms
def test_the_worst_of_several_outputs_is_driven_off_in_the_box_too(name, norm):
    threat = Ball(NORMS[norm], EPS[norm])
    w, x = drawn(4, 3)
    off = torch.tensor([6.0, -0.5, 0.5])  # the first is ahead already, by more than the others can make up
    w[1:] = w[1:] / 10
    model, best = linear(w, off), gain(w[0], x, threat)
    labels = model(x) - off
    goal = Regression(6.0 + 1.1 * best.max().item()).goal(labels)
    z = attack(name, threat, **({"loss": margin} if name == "pgd" else {}))(model, x, goal, Streams.of(1, range(4)))
    assert (goal.measure(model(z)) - 6 >= 0.98 * best).all()


@dual_norms
def test_a_value_that_the_attacker_wants_is_reached_where_it_can_be(name, norm):
    threat = Ball(NORMS[norm], EPS[norm], -20.0, 20.0)
    w, x = drawn(6, 1)
    model, best = linear(w, 0.0), gain(w[0], x, threat).float()
    wanted = model(x).squeeze(1) + best * torch.tensor([0.9, -0.9, 0.5, 1.1, -1.1, 2.0])
    goal = Regression(0.05 * best.min().item()).target(wanted)
    z = attack(name, threat)(model, x, goal, Streams.of(1, range(6)))
    assert goal.reached(model(z)).tolist() == [True, True, True, False, False, False]


def dual(w, norm):
    """The dual norm of every row."""
    return w.flatten(1).norm(p={"linf": 1, "l2": 2}[norm], dim=1)


def agrees(reached, needed, eps):
    """Whether exactly those fell that need less than eps; what is within 3 % of it may go either way."""
    clear = (needed / eps - 1).abs() > 0.03
    below = needed < eps
    assert 5 < below.sum() < len(below) - 5
    return bool((reached == below)[clear].all())


@dual_norms
def test_one_logit_changes_sides_where_its_lead_is_less_than_eps_times_the_dual_norm(name, norm):
    w, x = drawn(24, 1)
    sums, task = linear(w, 0.0), Binary()
    model = task.view(lambda z: sums(z) - sums(x).median())
    outputs = model(x)
    needed = (outputs[:, 1] - outputs[:, 0]).abs() / dual(w, norm)
    threat = Ball(NORMS[norm], needed.median().item(), -20.0, 20.0)
    goal = task.goal(outputs.argmax(1))
    z = attack(name, threat)(model, x, goal, Streams.of(1, range(24)))
    assert agrees(goal.reached(model(z)), needed, threat.eps)


@dual_norms
@pytest.mark.parametrize("wrong", [0, 1])
def test_labels_fall_where_their_leads_are_less_than_eps_times_the_dual_norm(name, norm, wrong):
    x = drawn(24, 1)[1]
    w = torch.zeros(3, *SHAPE)
    for label in range(3):  # each looks at a line of its own, so that what one costs does not change another
        w[label, :, label] = Streams.of(7, [label]).normal(1, 4)[0]
    w = w / dual(w, norm)[:, None, None, None] * 10
    sums = linear(w, 0.0)
    middle = sums(x).median(0).values
    each = (sums(x) - middle).abs().sort(dim=1).values[:, : wrong + 1] / 10
    needed = each.norm(p={"linf": torch.inf, "l2": 2}[norm], dim=1)  # l2 is shared by the labels, linf is not
    threat = Ball(NORMS[norm], needed.median().item(), -20.0, 20.0)
    goal = MultiLabel(wrong).goal((sums(x) > middle).long())
    settings = {"loss": margin, "steps": 100} if name == "pgd" else {}
    z = attack(name, threat, **settings)(lambda z: sums(z) - middle, x, goal, Streams.of(1, range(24)))
    assert agrees(goal.reached(sums(z) - middle), needed, threat.eps)


def pixelwise(count=4, size=6, channels=3):
    """A classifier of single pixels in two classes, pictures, and by how much each pixel is right."""
    w = torch.tensor([1.0, -2.0, 0.5])
    x = Streams.of(3, range(count)).uniform(channels, size, size)

    def model(z):
        s = (z * w[:, None, None]).sum(1) + 0.2
        return torch.stack([-s / 2, s / 2], 1)

    outputs = model(x)
    return model, x, w, outputs.argmax(1), (outputs[:, 1] - outputs[:, 0]).abs()


@pytest.mark.parametrize("make", [pgd, apgd_ce, lambda threat: pgd(threat, loss=margin)], ids=["pgd", "apgd", "margin"])
def test_a_pixel_falls_where_its_lead_is_less_than_eps_times_the_dual_norm(make):
    model, x, w, labels, lead = pixelwise(24)
    threat = linf(0.1, low=-9.0, high=9.0)
    worst = (lead >= 0.1 * w.abs().sum()).flatten(1).float().mean(1)  # linf leaves every pixel to itself
    goal = Segmentation(worst.median().item() + 0.5 / 36).goal(labels)
    z = make(threat)(model, x, goal, Streams.of(0, range(24)))
    assert torch.equal(goal.reached(model(z)), worst < goal.accuracy)
    assert (goal.measure(model(z)) >= worst - 1e-6).all()


@pytest.mark.parametrize(("need", "slack"), [(3, 1.1), (12, 1.1), (24, 1.2)])
def test_the_margin_spends_a_shared_budget_on_the_pixels_that_cost_least(need, slack):
    model, x, w, labels, lead = pixelwise(24)
    cost = (lead / w.square().sum().sqrt()).flatten(1).sort(dim=1).values  # what it takes to flip a pixel
    least = cost[:, :need].square().sum(1).sqrt()
    threat = l2(least.median().item(), low=-9.0, high=9.0)
    goal = Segmentation(1 - (need - 0.5) / 36).goal(labels)
    z = pgd_cosine(threat, loss=margin, steps=100)(model, x, goal, Streams.of(0, range(24)))
    reached = goal.reached(model(z))
    assert reached[least < threat.eps / slack].all()
    assert not reached[least > threat.eps].any()


def test_square_finds_pixels_that_fall_from_the_scores_alone():
    model, x, w, labels, lead = pixelwise()
    worst = (lead >= 0.1 * w.abs().sum()).flatten(1).float().mean(1)
    goal = Segmentation(worst.max().item() + 0.1).goal(labels)
    z = square(linf(0.1, low=-9.0, high=9.0), queries=3000)(model, x, goal, Streams.of(0, range(4)))
    assert goal.reached(model(z)).all()


def turned(count=4):
    """A rotation of the inputs, which keeps angles, and inputs far from the origin."""
    q, _ = torch.linalg.qr(Streams.of(5, range(16)).normal(16))
    x = Streams.of(6, range(count)).normal(*SHAPE)
    return (lambda z: z.flatten(1) @ q.T), x


@pytest.mark.parametrize(("name", "share"), [("pgd", 0.98), ("square", 0.9)])
def test_an_embedding_turns_by_the_angle_under_which_the_ball_is_seen(name, share):
    model, x = turned()
    threat = l2(1.5, low=-99.0, high=99.0)
    angle = (1.5 / x.flatten(1).norm(dim=1)).asin()
    goal = Embedding(0.5).goal(model(x))
    z = attack(name, threat)(model, x, goal, Streams.of(0, range(4)))
    assert threat.contains(z, x).all()
    turn = goal.measure(model(z)).acos()
    assert (turn >= share * angle).all(), turn / angle
    assert (turn <= 1.001 * angle).all()


def test_an_embedding_comes_nearer_to_what_the_attacker_wants_by_that_angle():
    model, x = turned()
    threat = l2(1.5, low=-99.0, high=99.0)
    wanted = model(Streams.of(8, range(4)).normal(*SHAPE))
    before = Embedding(0.9).goal(wanted).measure(model(x)).acos()
    nearest = before - (1.5 / x.flatten(1).norm(dim=1)).asin()
    goal = Embedding(0.9).target(wanted)
    z = pgd(threat)(model, x, goal, Streams.of(0, range(4)))
    assert_close(goal.measure(model(z)).acos(), nearest, rtol=0.01, atol=0.0)


def test_a_smallest_perturbation_of_a_regression_is_the_error_over_the_dual_norm():
    w, x = drawn(4, 1)
    model = linear(w, 0.0)
    goal = Regression(2.0).goal(model(x).squeeze(1) - 0.5)  # off by a half already, and up to 2 is allowed
    threat = l2(1.0, low=-20.0, high=20.0)
    z = ddn(threat, steps=200)(model, x, goal, Streams.of(0, range(4)))
    assert goal.reached(model(z)).all()
    least = 1.5 / math.sqrt(float(w.square().sum()))
    assert (threat.distance(z, x) <= 1.05 * least).all()
    assert (threat.distance(z, x) >= 0.999 * least).all()
