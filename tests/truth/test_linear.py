"""On a linear model the best attack is known: every attack must come close to it."""

import inspect

import pytest
import torch
from linear import Linear, gain, puzzle, reach
from reach import BUDGET, REACH, WITHIN

from sparring.goals import Targeted, Untargeted
from sparring.norms import NORMS
from sparring.registry import members
from sparring.streams import Streams
from sparring.threats import Ball

SHAPE = (1, 6, 6)
EPS = {"linf": 0.1, "l2": 1.0, "l1": 5.0, "l0": 8.0}
BOXES = {"in the box": (0.0, 1.0), "in the open": (-20.0, 20.0)}
ATTACKS = members("attacks")


LONG = {"square", "sparse-rs", "spsa", "nes", "bandits", "simba", "simba-dct", "gen-attack", "one-pixel", "advgan"}
LONG |= {"surfree", "boundary", "rays", "carlini-wagner", "ead", "pdpgd"}
"""What takes as long as all others together: of these, the box alone is for the default suite."""


def cases(aims):
    return [(name, norm) for name, entry in ATTACKS.items() for norm in entry.norms if aims(entry.aims)]


def in_every_box(aims):
    """A case for every attack, norm and box."""
    every = [
        pytest.param(name, norm, box, marks=[pytest.mark.slow] * (name in LONG and box == "in the open"))
        for name, norm in cases(aims)
        for box in BOXES
    ]
    return pytest.mark.parametrize(("name", "norm", "box"), every)


def ball(norm, box):
    return Ball(NORMS[norm], EPS[norm], *BOXES[box])


@in_every_box(lambda aims: aims not in ("control", "smallest perturbation"))
def test_an_attack_reaches_98_percent_of_the_optimum(name, norm, box):
    threat = ball(norm, box)
    model, x, best = puzzle(SHAPE, threat, count=4, seed=0)
    labels = torch.zeros(len(x), dtype=torch.int64)
    z = ATTACKS[name].make(threat, **BUDGET.get(name, {}))(model, x, Untargeted(labels), Streams.of(1, range(len(x))))
    assert threat.contains(z, x).all()
    got = (model.lead(z) - model.lead(x)) / best
    assert (got >= REACH.get(name, 0.98)).all(), got
    assert (got <= 1.001).all(), got


@pytest.mark.parametrize(("name", "norm"), cases(lambda aims: aims != "control"))
def test_inputs_in_other_units_are_attacked_at_the_same_points(name, norm):
    """A factor of 256 rounds nothing: what holds between zero and one holds for bytes, and a small budget shows it."""
    unit = ball(norm, "in the box")
    far, x, best = puzzle(SHAPE, unit, count=3, seed=3)
    model = Linear(far.w, far.bias - 0.6 * best.max().item())  # half-way or more to the boundary
    goal, settings = Untargeted(torch.zeros(3, dtype=torch.int64)), inspect.signature(ATTACKS[name].make).parameters
    brief = {"steps": 8, "queries": 150, "rounds": 4, "times": 3, "runs": 4, "targets": 2}
    brief = {setting: value for setting, value in brief.items() if setting in settings}

    def found(scale):
        threat = Ball(unit.norm, unit.eps if unit.norm.counts else scale * unit.eps, 0.0, scale)
        z = ATTACKS[name].make(threat, **brief)(lambda z: model(z / scale), scale * x, goal, Streams.of(1, range(3)))
        return z / scale

    z, other = found(1.0), found(256.0)
    assert (z != x).flatten(1).any(1).all()
    torch.testing.assert_close(other, z, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fgsm", "pgd-cosine", "apgd-ce", "apgd-dlr"])
def test_one_infinite_slope_does_not_keep_an_attack_from_the_other_coordinates(name, norm):
    """A root rises infinitely fast from zero, where black pixels are."""
    threat = ball(norm, "in the box")
    model, x, _ = puzzle(SHAPE, threat, count=4, seed=0)
    x[:, 0, 0, 0] = model.w[0, 0, 0] = 0

    def rooted(z):
        root = 1e-3 * z[:, 0, 0, 0].sqrt()
        return model(z) + torch.stack([-root, root, torch.zeros_like(root), torch.zeros_like(root)], 1)

    z = ATTACKS[name].make(threat)(rooted, x, Untargeted(torch.zeros(4, dtype=torch.int64)), Streams.of(1, range(4)))
    assert ((model.lead(z) - model.lead(x)) / gain(model.w, x, threat) >= 0.98).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-dlr"])
def test_an_attack_towards_a_target_reaches_it_too(name, norm):
    threat = ball(norm, "in the box")
    model, x, best = puzzle(SHAPE, threat, count=4, seed=1)
    goal = Targeted(torch.ones(len(x), dtype=torch.int64))
    z = ATTACKS[name].make(threat)(model, x, goal, Streams.of(1, range(len(x))))
    assert ((model.lead(z) - model.lead(x)) / best >= 0.98).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name"), [name for name, entry in ATTACKS.items() if entry.aims == "control"])
def test_noise_stays_far_from_the_optimum(name, norm):
    threat = ball(norm, "in the open")
    model, x, best = puzzle((1, 12, 12), threat, count=4, seed=0)
    z = ATTACKS[name].make(threat)(model, x, Untargeted(torch.zeros(4, dtype=torch.int64)), Streams.of(1, range(4)))
    assert ((model.lead(z) - model.lead(x)) / best < 0.6).all()


@in_every_box(lambda aims: aims == "smallest perturbation")
def test_a_smallest_perturbation_is_within_5_percent_of_the_distance_to_the_boundary(name, norm, box):
    threat = ball(norm, box)
    far, x, best = puzzle(SHAPE, threat, count=8, seed=2)
    model = Linear(far.w, ((x * far.w).flatten(1).sum(1) + 0.5 * best).max().item())  # all within reach of the box
    goal = Untargeted(torch.zeros(len(x), dtype=torch.int64))
    z = ATTACKS[name].make(threat, **BUDGET.get(name, {}))(model, x, goal, Streams.of(1, range(len(x))))
    assert goal.reached(model(z)).all()
    nearest = reach(model.w, x, threat, -model.lead(x))
    assert (threat.distance(z, x) <= WITHIN.get(name, 1.05) * nearest).all()
    assert (threat.distance(z, x) >= 0.999 * nearest).all()


def test_the_distance_to_the_boundary_in_the_open_is_the_margin_over_the_dual_norm():
    w, lead, x = torch.tensor([[3.0, -4.0]]), torch.tensor([10.0]), torch.zeros(1, 1, 2)
    for norm, dual in {"linf": 7.0, "l2": 5.0, "l1": 4.0}.items():
        near = reach(w, x, Ball(NORMS[norm], 1.0, -1e6, 1e6), lead)
        assert near.item() == pytest.approx(10 / dual, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_the_threat_beats_the_closed_form(norm):
    threat = Ball(NORMS[norm], {"linf": 0.4, "l2": 0.9, "l1": 1.2, "l0": 2}[norm])
    rng = Streams.of(0, range(20_000))
    w, x = torch.tensor([1.0, -0.3, 0.6]), torch.tensor([[0.2, 0.5, 0.9]]).expand(20_000, 3)
    z = threat.project(x + rng.normal(3) * rng.at("far").uniform(1).exp(), x)
    best = gain(w, x[:1], threat).item()
    found = ((z - x) * w).sum(1).max().item()
    assert 0.98 * best < found < best + 1e-6


def test_every_attack_has_settings_with_defaults():
    for entry in ATTACKS.values():
        threat, *settings = inspect.signature(entry.make).parameters.values()
        assert threat.name == "threat"
        assert all(setting.kind is setting.KEYWORD_ONLY for setting in settings), entry.name
        assert all(setting.default is not setting.empty for setting in settings), entry.name
