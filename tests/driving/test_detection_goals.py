import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import objects, predictions, waves

from sparring.attacks import apgd_ce, pgd, square
from sparring.domains.driving.losses import daedalus
from sparring.domains.driving.predictions import NONE, Rules
from sparring.domains.driving.tasks import Fabrication, Mislabelling, Vanishing
from sparring.errors import BadInput
from sparring.losses import cross_entropy, margin
from sparring.streams import Streams
from sparring.tasks import Task, parse
from sparring.threats import linf

TASKS = [Vanishing(0.01), Vanishing(0.5), Vanishing(1.0), Mislabelling(0.01), Mislabelling(0.6), Mislabelling(1.0)]
TASKS += [Fabrication(1), Fabrication(3), Fabrication(50), Vanishing(0.5, confidence=0.6, overlap=0.2)]
every_task = pytest.mark.parametrize("task", TASKS, ids=repr)


def goals(task, labels):
    return task.goal(labels), task.target(labels)


@every_task
@settings(max_examples=8)
@given(seed=st.integers(0, 2**16))
def test_the_margin_is_positive_exactly_where_the_detections_reach_the_goal(task, seed):
    outputs, labels = predictions(40, seed)
    for goal in goals(task, labels):
        assert torch.equal(margin(outputs, goal) > 0, goal.reached(outputs))


@pytest.mark.parametrize("task", [*TASKS[:5], *TASKS[6:8]], ids=repr)
def test_random_predictions_reach_some_goals_and_not_others(task):
    outputs, labels = predictions(200, 1)
    share = task.goal(labels).reached(outputs).float().mean()
    assert 0.01 < share < 0.99


@every_task
def test_rows_do_not_see_each_other(task):
    outputs, labels = predictions(24, 3)
    rows = torch.tensor([17, 4, 9])
    for goal in goals(task, labels):
        for score in (goal.margin, goal.loss, goal.measure, goal.reached):
            assert torch.equal(getattr(goal[rows], score.__name__)(outputs[rows]), score(outputs)[rows])


@every_task
def test_more_places_than_are_looked_at_change_no_sign(task):
    outputs, labels = predictions(60, 4, places=40)
    goal = task.goal(labels)
    few = type(goal)(**{**vars(goal), "rules": Rules(task.confidence, task.match, task.overlap, most=8)})
    assert torch.equal(margin(outputs, few) > 0, few.reached(outputs))


@every_task
def test_what_leads_nowhere_has_a_slope_of_zero_and_no_nan(task):
    outputs, labels = predictions(12, 6)
    labels[:3, :, 0] = NONE
    for goal in goals(task, labels):
        for loss in (margin, cross_entropy):
            point = outputs.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss(point, goal).sum(), point, allow_unused=True)
            assert slope is None or slope.isfinite().all()


def test_objects_that_are_not_there_cannot_vanish():
    outputs, labels = predictions(3, 0)
    labels[:, :, 0] = NONE
    for task in (Vanishing(0.01), Mislabelling(0.01)):
        assert not task.goal(labels).reached(outputs).any()
        assert task.target(labels).reached(outputs).all()
        assert (margin(outputs, task.goal(labels)) < 0).all()
        assert (margin(outputs, task.target(labels)) > 0).all()
    assert Vanishing(0.5).measure(outputs, labels).tolist() == [1, 1, 1]


SURE, UNSURE = 5.0, -5.0
CAR, BUS = [0.0, -9.0], [-9.0, 0.0]
HERE, THERE = [0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]


def seen(*rows):
    return torch.tensor([[[*box, objectness, *kind] for box, objectness, kind in rows]])


@pytest.mark.parametrize(
    ("rows", "found", "mislabelled", "false"),
    [
        ([(HERE, SURE, CAR), (THERE, SURE, BUS)], 1.0, 0.0, 0),
        ([(HERE, UNSURE, CAR), (THERE, SURE, BUS)], 0.5, 0.0, 0),
        ([(HERE, SURE, BUS), (THERE, SURE, BUS)], 0.5, 0.5, 1),
        ([(HERE, SURE, BUS), (HERE, 4.0, CAR), (THERE, SURE, BUS)], 1.0, 0.0, 1),
        ([(THERE, SURE, CAR), (HERE, SURE, BUS)], 0.0, 1.0, 2),
        ([([0.1, 0.1, 0.2, 0.4], SURE, CAR), (THERE, SURE, BUS)], 0.5, 0.0, 1),
        ([([0.0, 0.0, 0.0, 0.0], UNSURE, CAR)], 0.0, 0.0, 0),
    ],
)
def test_what_is_found_is_told_as_one_would_count_it(rows, found, mislabelled, false):
    outputs, labels = seen(*rows), torch.tensor([[[0.0, *HERE], [1.0, *THERE], [-1.0, 0, 0, 0, 0]]])
    assert Vanishing(0.5).measure(outputs, labels).item() == found
    assert Mislabelling(0.5).measure(outputs, labels).item() == mislabelled
    assert Fabrication(1).measure(outputs, labels).item() == false
    assert Vanishing(0.5).goal(labels).reached(outputs).item() == (found <= 0.5)
    assert Mislabelling(1.0).goal(labels).reached(outputs).item() == (mislabelled == 1)
    assert Fabrication(1).goal(labels).reached(outputs).item() == (false >= 1)


def test_a_box_that_hides_the_right_one_loses_the_object_though_every_place_could_find_it():
    wide = [0.1, 0.1, 0.4, 0.72]  # overlaps the object by 0.484, and the right box as much
    outputs, labels = seen((wide, 6.0, CAR), (HERE, SURE, CAR)), torch.tensor([[[0.0, *HERE]]])
    goal = Vanishing(1.0).goal(labels)
    assert goal.reached(outputs).all()
    assert 0 < margin(outputs, goal) < 1e-5


class Toy(torch.nn.Module):
    """One place, one class, a box that is always the same: objectness is linear in the image."""

    def __init__(self, bias):
        super().__init__()
        weight = Streams.of(0, [0]).normal(3, 4, 4)
        self.weight, self.bias = torch.nn.Parameter(weight, requires_grad=False), bias

    def forward(self, x):
        s = (x * self.weight).flatten(1).sum(1) + self.bias
        rest = torch.cat([s.new_tensor([HERE]).expand(len(s), -1), s.unsqueeze(1), s.new_zeros(len(s), 1)], 1)
        return rest.unsqueeze(1)


@pytest.mark.parametrize("loss", [margin, cross_entropy])
def test_the_smallest_change_that_hides_an_object_of_a_linear_detector_is_found_and_none_that_is_smaller(loss):
    x, labels = 0.3 + 0.4 * Streams.of(1, range(6)).uniform(3, 4, 4), torch.tensor([[[0.0, *HERE]]]).expand(6, -1, -1)
    toy = Toy(bias=6.0)
    room = toy(x)[:, 0, 4] - np.log(0.25 / 0.75)  # how far the logit is from that of a confidence of a quarter
    needed = room / toy.weight.abs().sum()
    assert (needed > 0).all()
    assert (needed < 0.25).all()
    for row in range(6):
        for share, falls in ((1.02, True), (0.99, False)):
            goal, one = Vanishing(1.0).goal(labels[row : row + 1]), x[row : row + 1]
            z = pgd(linf(share * float(needed[row])), steps=20, loss=loss)(toy, one, goal, Streams.of(0, [row]))
            assert goal.reached(toy(z)).item() == falls


@pytest.mark.parametrize("loss", [margin, cross_entropy])
def test_boxes_of_nothing_appear_on_a_linear_detector_where_they_can(loss):
    x, labels = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 1, 5), -1.0)
    toy = Toy(bias=-9.0 - float((Toy(0.0).weight * 0.5).sum()))
    needed = float((np.log(0.25 / 0.75) - toy(x)[0, 0, 4]) / toy.weight.abs().sum())
    for share, falls in ((1.02, True), (0.99, False)):
        goal = Fabrication(1).goal(labels)
        z = pgd(linf(share * needed), steps=20, loss=loss)(toy, x, goal, Streams.of(0, [0]))
        assert goal.reached(toy(z)).item() == falls


ATTACKED = [Vanishing(1.0), Vanishing(0.4), Mislabelling(0.5), Fabrication(4)]


@pytest.mark.parametrize("attack", [pgd, square, apgd_ce], ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("task", ATTACKED, ids=str)
@pytest.mark.parametrize("aim", ["goal", "target", "never"])
def test_attacks_stay_inside_make_nothing_worse_and_give_each_row_its_own(attack, task, aim):
    x, rng = Streams.of(5, range(12)).uniform(3, 4, 4), Streams.of(6, range(12))
    labels = Rules(confidence=0.4).detect(waves(x))[..., :5]
    goal, threat = getattr(task, aim)(labels), linf(0.1)
    settings = {"queries": 30} if attack is square else {"steps": 6}
    one = replace(attack(threat, **settings), loss=margin)
    z = one(waves, x, goal, rng)
    assert threat.contains(z, x).all()
    assert (margin(waves(z), goal) >= margin(waves(x), goal)).all()
    assert (goal.reached(waves(z)) | ~goal.reached(waves(x))).all()
    rows = torch.tensor([10, 3, 7])
    assert torch.equal(one(waves, x[rows], goal[rows], rng[rows]), z[rows])
    assert one(waves, x[:0], getattr(task, aim)(labels[:0]), Streams.of(0, [])).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("task", ATTACKED, ids=str)
def test_a_search_in_a_ball_reaches_what_random_points_do_not(task):
    x, rng = Streams.of(7, range(16)).uniform(3, 4, 4), Streams.of(8, range(16))
    goal, threat = task.goal(Rules(confidence=0.4).detect(waves(x))[..., :5]), linf(0.1)
    drawn = torch.stack([goal.reached(waves(threat.sample(x, rng.at(i)))) for i in range(20)]).any(0)
    climbed = goal.reached(waves(pgd(threat, steps=20, loss=margin)(waves, x, goal, rng)))
    assert climbed.sum() > drawn.sum() + 2


def test_what_daedalus_climbs_is_the_confidence_of_boxes_and_how_small_they_are():
    labels, sure = torch.full((1, 1, 5), -1.0), 0.2689414213699951  # of 1 - 1 / (1 + e)
    outputs = torch.tensor([[[0.0, 0.0, 0.5, 0.5, -1.0, 0.0], [0.2, 0.2, 0.4, 0.3, 50.0, 0.0]]])
    goal = Fabrication(5).goal(labels)
    expected = -((sure - 1) ** 2 + 0.25**2 + 0.02**2) / 2
    torch.testing.assert_close(daedalus(outputs, goal), torch.tensor([expected]))
    point = outputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(daedalus(point, goal).sum(), point)
    assert slope[0, 0, 4] > 0
    assert slope[0, 0, 2] < 0 < slope[0, 0, 0]


@every_task
def test_a_task_is_a_value_that_takes_labels_of_boxes(task):
    assert isinstance(task, Task)
    assert pickle.loads(pickle.dumps(task)) == task
    assert hash(task) == hash(pickle.loads(pickle.dumps(task)))
    labels = objects(4, 0)
    data = task.data("street", np.zeros((4, 3, 8, 8), np.uint8), labels)
    assert torch.equal(data.take([2, 0])[1], labels[[2, 0]])
    outputs, _ = predictions(4, 0)
    assert task.misfit(outputs, labels) == ""
    assert "NaN" in task.misfit(outputs / 0, labels)
    assert "shape" in task.misfit(outputs[0], labels)
    assert "the model has 2 classes" in task.misfit(outputs[..., :7], labels.clamp(min=2))
    assert not task.goal(labels).reached(outputs * torch.nan).any()


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (Vanishing(0.5), "vanishing:0.5"),
        (Fabrication(10), "fabrication:10"),
        (Vanishing(1.0, match=0.1), "vanishing:1.0:0.25:0.1"),
        (Mislabelling(0.5, overlap=1.0), "mislabelling:0.5:0.25:0.5:1.0"),
    ],
)
def test_the_text_of_a_task_gives_it_back(task, text):
    assert str(task) == text
    assert parse(text) == task


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (np.zeros((2, 5)), "shape (2, 5); need (N, M, 5)"),
        (np.full((2, 1, 5), np.nan), "NaN or infinity"),
        (np.array([[[0.5, 0.0, 0.0, 1.0, 1.0]]] * 2), "the class 0.5"),
        (np.array([[[-2.0, 0.0, 0.0, 1.0, 1.0]]] * 2), "the class -2"),
        (np.array([[[1.0, 0.0, 0.0, 351.0, 20.0]]] * 2), "reaches to 351; need shares of the image"),
        (np.array([[[1.0, 0.5, 0.5, 0.2, 0.7]]] * 2), "is empty; need x1 < x2"),
    ],
)
def test_labels_that_are_no_boxes_are_refused_in_one_line(y, said):
    with pytest.raises(BadInput) as error:
        Vanishing(0.5).data("mine", np.zeros((2, 3, 4, 4)), y)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "make", [lambda: Vanishing(0.0), lambda: Mislabelling(1.1), lambda: Fabrication(0), lambda: Vanishing(1.0, match=2)]
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(BadInput, match="need"):
        make()
