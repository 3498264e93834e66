"""What holds for an attack on every task: one that climbs and one that asks for scores, on goals of all shapes."""

from functools import cache
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ATTACKS, ball, brief, fold, inputs

from sparring.errors import BadInput
from sparring.losses import margin
from sparring.streams import Streams
from sparring.tasks import Binary, Embedding, MultiLabel, Regression, Segmentation

SHAPE = (1, 6, 6)
BOXES = [(0.0, 1.0), (0.0, 255.0), (-2.5, 3.0)]
OUTPUTS = {"binary": (1,), "multi-label": (4,), "regression": (3,), "segmentation": (3, 2, 2), "embedding": (5,)}
WIDE = [Binary(), MultiLabel(1), Regression(1e4), Segmentation(0.05), Embedding(-0.99)]
"""Tasks that are hard to fail, so that attacks climb to the end."""
NARROW = [Binary(), MultiLabel(), Regression(0.3), Segmentation(0.95), Embedding(0.98)]

every_attack = pytest.mark.parametrize(
    ("name", "norm"), [(n, norm) for n in ("pgd", "square") for norm in ("linf", "l2")]
)


@cache
def waves(count):
    """The constants of `count` sums of waves."""
    draw = Streams.of(0, range(count))
    return tuple(draw.at(name).normal(36) for name in ("stretch", "shift", "weight"))


def shaped(shape, low, high):
    """A model with outputs of any shape: weighted sums of tanh waves over the inputs, as in `toy.Waves`."""
    stretch, shift, weight = waves(prod(shape))

    def model(z):
        v = (z.flatten(1).unsqueeze(1) - low) / (high - low)
        return fold(torch.tanh(3 * v * stretch + shift) * weight).reshape(len(z), *shape)

    return model


def puzzle(task, count, seed, low=0.0, high=1.0):
    """A model in the view of its task, inputs, and labels that it comes close to."""
    shape = OUTPUTS[task.name]
    model, x = task.view(shaped(shape, low, high)), inputs(SHAPE, count, seed, low, high)
    outputs = model(x)
    if task.name in ("binary", "segmentation"):
        return model, x, outputs.argmax(1)
    if task.name == "multi-label":
        return model, x, (outputs > 0).long()
    return model, x, outputs + 0.05 * Streams.of(seed, range(count)).normal(*shape)


@every_attack
@settings(max_examples=5)
@given(data=st.data())
def test_the_result_is_inside_the_threat_and_never_worse_than_the_input(name, norm, data):
    box, seed, task = (data.draw(st.sampled_from(of)) for of in (BOXES, range(2**16), [*WIDE, *NARROW]))
    threat = ball(norm, *box, share=data.draw(st.floats(0, 4)))
    model, x, labels = puzzle(task, 5, seed, *box)
    goal, attack = task.goal(labels), brief(ATTACKS[name], threat)
    z = attack(model, x, goal, Streams.of(seed, range(5)))
    assert (z.shape, z.dtype) == (x.shape, x.dtype)
    assert threat.contains(z, x).all()
    assert (attack.loss(model(z), goal) >= attack.loss(model(x), goal) - 1e-5).all()
    assert (goal.reached(model(z)) | ~goal.reached(model(x))).all()


@every_attack
@pytest.mark.parametrize("task", [*WIDE, *NARROW[1:]], ids=str)
def test_the_result_is_the_same_twice_and_rows_do_not_see_each_other(name, norm, task):
    model, x, labels = puzzle(task, 24, 0)
    attack = brief(ATTACKS[name], ball(norm))
    z = attack(model, x, task.goal(labels), Streams.of(0, range(24)))
    for company in ([20, 17, 9, 4, 1], [7]):
        rows = torch.tensor(company)
        assert torch.equal(attack(model, x[rows], task.goal(labels[rows]), Streams.of(0, rows)), z[rows])


@every_attack
@pytest.mark.parametrize("task", [Binary(), MultiLabel(2), Regression(4.0), Segmentation(0.4), Embedding(0.3)], ids=str)
def test_what_the_attacker_wants_is_approached(name, norm, task):
    model, x, labels = puzzle(task, 12, 3)
    goal = task.target(labels.flip(0))
    z = brief(ATTACKS[name], ball(norm, share=3))(model, x, goal, Streams.of(0, range(12)))
    before, after = margin(model(x), goal), margin(model(z), goal)
    assert (after >= before - 1e-5).all()
    assert ((after > before) | goal.reached(model(x))).float().mean() > 0.5
    assert goal.reached(model(z)).any()


@every_attack
@pytest.mark.parametrize("task", NARROW, ids=str)
def test_no_rows_give_no_rows(name, norm, task):
    model, x, labels = puzzle(task, 2, 0)
    z = brief(ATTACKS[name], ball(norm))(model, x[:0], task.goal(labels[:0]), Streams.of(0, []))
    assert z.shape == (0, *SHAPE)


@every_attack
@pytest.mark.parametrize("task", NARROW, ids=str)
def test_a_model_that_gives_no_numbers_is_no_success(name, norm, task):
    model, x, labels = puzzle(task, 4, 0)

    def broken(z):
        return model(z) + torch.nan

    threat, goal = ball(norm), task.goal(labels)
    z = brief(ATTACKS[name], threat)(broken, x, goal, Streams.of(0, range(4)))
    assert threat.contains(z, x).all()
    assert not goal.reached(broken(z)).any()


@pytest.mark.parametrize(
    "name", [name for name, entry in ATTACKS.items() if entry.norms and entry.family != "generative"]
)
def test_every_attack_serves_a_goal_without_classes_or_refuses_it_in_one_line(name):
    task, entry = MultiLabel(), ATTACKS[name]
    model, x, labels = puzzle(task, 6, 0)
    threat, goal = ball(entry.norms[0]), task.goal(labels)
    z = found_or_refusal(brief(entry, threat), model, x, goal)
    if isinstance(z, str):
        assert "class" in z
        assert "\n" not in z
        return
    assert entry.aims == "smallest perturbation" or threat.contains(z, x).all()
    assert entry.aims == "control" or goal.reached(model(z)).any()


def found_or_refusal(attack, model, x, goal):
    try:
        return attack(model, x, goal, Streams.of(0, range(len(x))))
    except BadInput as refusal:
        return str(refusal)
