import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sparring.errors import BadInput
from sparring.goals import (
    Direction,
    Labels,
    Measured,
    Never,
    Pixels,
    Targeted,
    Towards,
    Untargeted,
    Values,
    lead,
    nearest,
    surprise,
)
from sparring.streams import Streams

OUTPUTS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, torch.nan, 0.0], [0.0, 3.0, -torch.inf]])
LABELS = torch.tensor([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Untargeted(LABELS), [False, True, False, False]),
        (Targeted(LABELS), [True, False, False, True]),
        (Never(LABELS), [False, False, False, False]),
        (Towards(LABELS, torch.tensor([1, 1, 1, 0])), [False, True, False, False]),
    ],
)
def test_which_outputs_are_successes(goal, reached):
    assert goal.reached(OUTPUTS).tolist() == reached
    some = torch.tensor([3, 1])
    assert goal[some].reached(OUTPUTS[some]).tolist() == [reached[3], reached[1]]
    assert type(goal[some]) is type(goal)
    assert goal[some].labels.tolist() == [1, 0]


def test_rows_may_be_chosen_by_a_mask():
    goal = Towards(LABELS, torch.tensor([1, 2, 1, 0]))[torch.tensor([False, True, False, True])]
    assert (goal.labels.tolist(), goal.targets.tolist()) == ([0, 1], [2, 0])


def test_only_the_targeted_goal_has_a_negative_sign():
    signs = [goal.sign for goal in (Untargeted(LABELS), Never(LABELS), Towards(LABELS, LABELS), Targeted(LABELS))]
    assert signs == [1, 1, 1, -1]


def draw(seed, *shape):
    return Streams.of(seed, range(shape[0])).normal(*shape[1:])


def measured(seed, count, sign):
    """Every kind of measured goal, with outputs that are random, and so never tied."""
    level = 0.1 + 0.8 * float(draw(seed, 1, 1).sigmoid())
    yield Values(draw(seed + 1, count, 3), level, sign), draw(seed + 2, count, 3)
    yield Values(draw(seed + 1, count), level, sign), draw(seed + 2, count, 1)
    yield Direction(draw(seed + 3, count, 4), 2 * level - 1, sign), draw(seed + 4, count, 4)
    for wrong in range(3):
        yield Labels((draw(seed + 5, count, 4) > 0).long(), wrong, sign), draw(seed + 6, count, 4)
    classes = Streams.of(seed + 7, range(count)).integers(4, 3, 2)
    yield Pixels(classes, level, sign=sign), draw(seed + 8, count, 4, 3, 2)
    yield Pixels(classes, level, ignore=0, sign=sign), draw(seed + 8, count, 4, 3, 2)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), sign=st.sampled_from([1, -1]))
def test_a_measured_goal_has_a_positive_margin_exactly_where_it_is_reached(seed, sign):
    for goal, outputs in measured(seed, 6, sign):
        assert goal.reached(outputs).shape == (6,)
        assert torch.equal(goal.margin(outputs) > 0, goal.reached(outputs)), goal


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_to_reach_a_reference_is_the_opposite_of_leaving_it(seed):
    for (leave, outputs), (reach, _) in zip(measured(seed, 6, 1), measured(seed, 6, -1), strict=True):
        counted = leave.counts.any(1) if isinstance(leave, Pixels) else torch.ones(6, dtype=torch.bool)
        assert torch.equal((leave.reached(outputs) ^ reach.reached(outputs)), counted), leave
        assert torch.equal(leave.measure(outputs), reach.measure(outputs))


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), sign=st.sampled_from([1, -1]))
def test_climbing_the_margin_or_the_loss_of_a_measured_goal_gets_there(seed, sign):
    for goal, outputs in measured(seed, 4, sign):
        for score in (goal.margin, goal.loss):
            z, open_rows = outputs.clone(), ~goal.reached(outputs)
            if isinstance(goal, Pixels):
                open_rows &= goal.counts.any(1)
            for _ in range(3000):
                z.requires_grad_()
                (gradient,) = torch.autograd.grad(score(z).sum(), z)
                z = (z + 0.05 * gradient.sign()).detach()
                open_rows &= ~goal.reached(z)
                if not open_rows.any():
                    break
            assert not open_rows.any(), (goal, score)


def test_some_rows_of_a_measured_goal_are_the_goal_of_these_rows():
    for goal, outputs in measured(0, 6, 1):
        for rows in (torch.tensor([4, 1]), torch.arange(6) % 2 == 0, torch.tensor([], dtype=torch.int64)):
            assert type(goal[rows]) is type(goal)
            for tell in ("measure", "reached", "margin", "loss"):
                assert_close(getattr(goal[rows], tell)(outputs[rows]), getattr(goal, tell)(outputs)[rows])


def test_outputs_that_are_no_numbers_reach_no_measured_goal():
    for sign in (1, -1):
        for goal, outputs in measured(0, 4, sign):
            for wrong in (torch.nan, torch.inf) if isinstance(goal, Values | Direction) else (torch.nan,):
                assert not goal.reached(torch.full_like(outputs, wrong)).any(), (goal, wrong)
                spoiled = outputs.clone()
                spoiled.flatten(1)[:, 0] = wrong
                assert not goal.reached(spoiled).any()
            assert not (goal.margin(torch.full_like(outputs, torch.nan)) > 0).any()


def test_a_measured_goal_refuses_to_be_asked_for_class_labels():
    for goal, _ in measured(0, 4, 1):
        assert isinstance(goal, Measured)
        with pytest.raises(BadInput, match=f"a goal of {type(goal).__name__}, which has no class labels") as refusal:
            goal.labels  # noqa: B018
        assert "\n" not in str(refusal.value)


def test_the_error_of_a_value_is_the_largest_and_has_a_slope_where_it_is_zero():
    goal = Values(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), tolerance=0.5)
    z = torch.tensor([[1.25, 1.0], [0.0, 0.0]], requires_grad=True)
    assert goal.measure(z).tolist() == [1.0, 0.0]
    assert goal.reached(z).tolist() == [True, False]
    assert goal.loss(z).tolist() == [0.625, 0.0]
    for score in (goal.margin, goal.loss):
        (gradient,) = torch.autograd.grad(score(z).sum(), z)
        assert (gradient[1] != 0).all()


def test_one_value_an_example_comes_in_a_column_or_not_and_examples_are_never_mixed():
    for given_shape, outputs_shape in (((3,), (3, 1)), ((3, 1), (3,)), ((3,), (3,))):
        goal = Values(torch.zeros(given_shape), 0.5)
        assert goal.measure(torch.tensor([0.0, 1.0, 2.0]).view(outputs_shape)).tolist() == [0, 1, 2]
    with pytest.raises(BadInput, match=r"outputs \(3, 3\) for a reference of \(3,\)"):
        Values(torch.zeros(3), 0.5).reached(torch.zeros(3, 3))


def test_a_cosine_is_that_of_the_angle():
    angle = torch.tensor([0.0, 0.5, 1.0, 3.0])
    outputs = 7 * torch.stack([angle.cos(), angle.sin()], 1)
    goal = Direction(torch.tensor([[2.0, 0.0]]).expand(4, 2), cosine=0.7)
    assert_close(goal.measure(outputs), angle.cos())
    assert goal.reached(outputs).tolist() == [False, False, True, True]


def test_labels_are_counted_one_by_one():
    outputs, wanted = torch.tensor([[1.0, -2.0, 3.0], [-1.0, 2.0, 3.0]]), torch.tensor([[1, 0, 1], [1, 0, 1]])
    assert Labels(wanted).measure(outputs).tolist() == [0, 2]
    assert [Labels(wanted, wrong).reached(outputs)[1].item() for wrong in range(3)] == [True, True, False]
    nearly, reached = Labels(wanted).margin(outputs).tolist()
    assert -1.1 < nearly < -0.9
    assert reached == 2.0
    with pytest.raises(BadInput, match="3 wrong labels of 3"):
        Labels(wanted, 3)


def test_a_share_of_the_pixels_that_count_must_be_right():
    wanted = torch.tensor([[[0, 0, 1, 1, 255]]])
    outputs = torch.zeros(1, 2, 1, 5)
    outputs[0, 1, 0] = torch.tensor([-3.0, 2.0, 3.0, 1.0, 9.0])  # the second is wrong, the last does not count
    assert Pixels(wanted, 0.5).measure(outputs).item() == 0.75
    shares = {0.74: False, 0.75: False, 0.76: True, 1.0: True}
    assert {share: Pixels(wanted, share).reached(outputs).item() for share in shares} == shares
    assert {share: not Pixels(wanted, share, sign=-1).reached(outputs).item() for share in shares} == shares


def test_a_picture_without_pixels_that_count_is_neither_left_nor_reached():
    wanted, outputs = torch.full((1, 2, 2), 255), torch.zeros(1, 3, 2, 2, requires_grad=True)
    for sign in (1, -1):
        goal = Pixels(wanted, 0.5, sign=sign)
        assert not goal.reached(outputs).any()
        assert goal.margin(outputs).item() == -torch.inf
    assert Pixels(wanted, 0.5).measure(outputs).item() == 1


def test_a_share_of_a_count_is_not_lost_in_rounding():
    for count in (1, 2, 3, 7, 10, 30, 49, 100):
        wanted = torch.zeros(1, 1, count, dtype=torch.int64)
        for right in range(1, count + 1):
            outputs = torch.zeros(1, 2, 1, count)
            outputs[0, 1, 0, right:] = 1
            assert not Pixels(wanted, right / count).reached(outputs).any()
            assert Pixels(wanted, right / count, sign=-1).reached(outputs).all()


def test_the_lead_is_over_the_second_axis_whatever_follows():
    outputs, labels = draw(0, 3, 4, 2, 2), Streams.of(1, range(3)).integers(4, 2, 2)
    each = lead(outputs, labels)
    assert_close(each[:, 1, 0], lead(outputs[:, :, 1, 0], labels[:, 1, 0]))


def test_what_the_needed_parts_lack_counts_most_and_what_is_far_from_it_least():
    margins = torch.tensor([[2.0, 0.5, -1.0, -2.0, -50.0, -torch.inf]], requires_grad=True)
    score = nearest(margins, torch.tensor([4]))
    lacking = (1.0 + 2.0) / 4
    soft = [(1 - u / (1 + abs(u))) / 2 for u in (2 / lacking, 0.5 / lacking, -1 / lacking, -2 / lacking, -50 / lacking)]
    assert_close(score, torch.tensor([-lacking * (sum(soft) + 1) / 6 / 0.75]))
    (gradient,) = torch.autograd.grad(score.sum(), margins)
    assert (gradient[0, :5] > 0).all()
    assert gradient[0, 2:4].min() > 5 * gradient[0, [0, 1, 4]].max()
    assert gradient[0, 5] == 0


@given(value=st.floats(-9, 9))
def test_one_part_of_one_is_its_own_margin(value):
    assert nearest(torch.tensor([[value]]), torch.tensor([1])).item() == pytest.approx(value)


@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-3, 30.0, 1e4]))
def test_the_scale_of_the_margins_is_the_scale_of_the_score_and_no_part_is_pushed_back(seed, scale):
    margins, need = draw(seed, 5, 7).requires_grad_(), Streams.of(seed, range(5)).integers(7, 1).flatten() + 1
    assert_close(nearest(scale * margins, need), scale * nearest(margins, need))
    (gradient,) = torch.autograd.grad(nearest(margins, need).sum(), margins)
    assert (gradient > -1e-6).all()


def test_cross_entropy_has_a_slope_or_none_where_every_other_class_is_impossible():
    outputs = torch.tensor([[1.0, -torch.inf, -torch.inf], [1.0, -torch.inf, 0.0]], requires_grad=True)
    found = surprise(outputs, torch.tensor([0, 0]))
    assert_close(found, torch.tensor([0.0, 0.313262]))
    (slope,) = torch.autograd.grad(found.sum(), outputs)
    assert_close(slope, torch.tensor([[0.0, 0.0, 0.0], [-0.268941, 0.0, 0.268941]]))
