import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from sparring import losses
from sparring.errors import BadInput
from sparring.goals import Direction, Labels, Never, Pixels, Targeted, Towards, Untargeted, Values

OUTPUTS = torch.tensor([[2.0, 0.5, -1.0, 3.5], [0.0, 4.0, 1.0, 1.5]])
LABELS = torch.tensor([0, 1])

logits = st.lists(
    st.lists(st.integers(-20, 20).map(float), min_size=4, max_size=4, unique=True), min_size=1, max_size=5
).map(torch.tensor)


def test_every_loss_against_its_formula():
    leave, target = Untargeted(LABELS), Targeted(LABELS)
    assert_close(losses.margin(OUTPUTS, leave), torch.tensor([3.5 - 2.0, 1.5 - 4.0]))
    assert_close(losses.margin(OUTPUTS, target), torch.tensor([2.0 - 3.5, 4.0 - 1.5]))
    assert_close(losses.logit(OUTPUTS, leave), torch.tensor([-2.0, -4.0]))
    assert_close(losses.logit(OUTPUTS, target), torch.tensor([2.0, 4.0]))
    p = OUTPUTS.exp() / OUTPUTS.exp().sum(1, keepdim=True)
    assert_close(losses.cross_entropy(OUTPUTS, leave), torch.stack([-p[0, 0].log(), -p[1, 1].log()]))
    assert_close(losses.cross_entropy(OUTPUTS, target), torch.stack([p[0, 0].log(), p[1, 1].log()]))
    assert_close(losses.probability_margin(OUTPUTS, leave), torch.stack([p[0, 3] - p[0, 0], p[1, 3] - p[1, 1]]))


def test_dlr_is_equation_6_of_croce_and_hein():
    """`-(z_y - max_{i != y} z_i) / (z_pi1 - z_pi3)`, where pi sorts from the largest down."""
    expected = torch.tensor([-(2.0 - 3.5) / (3.5 - 0.5), -(4.0 - 1.5) / (4.0 - 1.0)])
    assert_close(losses.dlr(OUTPUTS, Untargeted(LABELS)), expected)


def test_targeted_dlr_is_equation_7_of_croce_and_hein():
    """`-(z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2)`."""
    expected = torch.tensor([-(2.0 - 0.5) / (3.5 - (0.5 - 1.0) / 2), -(4.0 - 1.5) / (4.0 - (1.0 + 0.0) / 2)])
    assert_close(losses.targeted_dlr(OUTPUTS, Towards(LABELS, torch.tensor([1, 3]))), expected)
    assert_close(losses.targeted_margin(OUTPUTS, Towards(LABELS, torch.tensor([1, 3]))), torch.tensor([-1.5, -2.5]))


@given(outputs=logits, kind=st.sampled_from([Untargeted, Targeted]))
@pytest.mark.parametrize("loss", [losses.margin, losses.dlr, losses.probability_margin])
def test_a_loss_is_positive_exactly_where_the_goal_is_reached(loss, outputs, kind):
    goal = kind(torch.arange(len(outputs)) % 4)
    assert torch.equal(loss(outputs.double(), goal) > 0, goal.reached(outputs))


@given(outputs=logits)
@pytest.mark.parametrize("loss", [losses.targeted_margin, losses.targeted_dlr])
def test_a_targeted_loss_is_positive_exactly_where_the_chosen_class_beats_the_label(loss, outputs):
    labels = torch.arange(len(outputs)) % 4
    targets = (labels + 1) % 4
    beaten = outputs.gather(1, targets[:, None]) > outputs.gather(1, labels[:, None])
    assert torch.equal(loss(outputs, Towards(labels, targets)) > 0, beaten.flatten())


@given(outputs=logits, scale=st.sampled_from([1e-3, 10.0, 1e6]), shift=st.sampled_from([-5.0, 100.0]))
def test_dlr_does_not_see_the_scale_nor_the_offset_of_the_logits(outputs, scale, shift):
    labels = torch.arange(len(outputs)) % 4
    outputs = outputs.double()
    for loss, goal in (
        (losses.dlr, Untargeted(labels)),
        (losses.targeted_dlr, Towards(labels, (labels + 1) % 4)),
    ):
        assert_close(loss(outputs * scale + shift, goal), loss(outputs, goal), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin, losses.dlr, losses.logit])
def test_climbing_a_loss_leaves_the_label_or_reaches_it(loss):
    for goal, way in ((Untargeted(LABELS), -1), (Targeted(LABELS), 1)):
        z = OUTPUTS.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, goal).sum(), z)
        assert (gradient.gather(1, LABELS[:, None]) * way > 0).all()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin, losses.dlr, losses.probability_margin])
def test_a_loss_raises_the_target_and_lowers_the_best_class_whichever_place_the_target_has(loss):
    outputs = torch.tensor([[3.0, 2.0, 1.0, 0.5, 0.0]]).expand(4, 5).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(outputs, Targeted(torch.tensor([1, 2, 3, 4]))).sum(), outputs)
    assert (gradient[:, 0] < 0).all()
    assert (gradient.gather(1, torch.tensor([[1], [2], [3], [4]])) > 0).all()


def test_equal_logits_give_finite_losses_and_gradients():
    z = torch.zeros(2, 4, requires_grad=True)
    for loss in (losses.cross_entropy, losses.margin, losses.dlr, losses.logit, losses.probability_margin):
        score = loss(z, Untargeted(LABELS))
        (gradient,) = torch.autograd.grad(score.sum(), z)
        assert score.isfinite().all()
        assert gradient.isfinite().all(), loss


@pytest.mark.parametrize("lead", [10.0, 18.0, 40.0, 80.0])
def test_the_cross_entropy_and_its_slope_are_right_however_sure_the_model_is(lead):
    """The softmax of float32 rounds to one: it has lost the slope along the label at a margin of 17, and the value."""
    z = torch.tensor([[lead, 0.0, -1.0]], requires_grad=True)
    odds = torch.tensor([[-lead, -lead - 1]]).double().exp()
    score = losses.cross_entropy(z, Untargeted(torch.tensor([0])))
    (slope,) = torch.autograd.grad(score.sum(), z)
    assert_close(score.double(), odds.sum(1).log1p(), rtol=1e-5, atol=0)
    assert_close(slope.double()[:, 1:], odds / (1 + odds.sum()), rtol=1e-5, atol=0)
    assert_close(slope[:, 0], -slope[:, 1:].sum(1), rtol=1e-5, atol=0)


def test_the_cross_entropy_takes_shares_of_all_classes_too():
    shares = torch.nn.functional.one_hot(LABELS, 4).float()
    for sign in (1, -1):
        assert_close(
            losses.cross_entropy(OUTPUTS, Never(shares, sign)), losses.cross_entropy(OUTPUTS, Never(LABELS, sign))
        )


def test_too_few_classes_and_the_wrong_goal_are_refused():
    with pytest.raises(BadInput, match="2 classes; need three for the DLR loss"):
        losses.dlr(OUTPUTS[:, :2], Untargeted(LABELS))
    with pytest.raises(BadInput, match="3 classes; need four for the targeted DLR loss"):
        losses.targeted_dlr(OUTPUTS[:, :3], Towards(LABELS, LABELS))
    with pytest.raises(TypeError, match="Towards"):
        losses.targeted_margin(OUTPUTS, Untargeted(LABELS))


MEASURED = [
    (Values(torch.zeros(2, 4), 1.0), OUTPUTS),
    (Direction(torch.ones(2, 4), 0.5), OUTPUTS),
    (Labels(torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])), OUTPUTS),
    (Pixels(torch.zeros(2, 2, 2, dtype=torch.int64), 0.5), OUTPUTS[:, :, None, None].expand(2, 4, 2, 2)),
]


@pytest.mark.parametrize(("goal", "outputs"), MEASURED)
def test_a_goal_that_is_not_about_classes_brings_its_own_margin_and_loss(goal, outputs):
    assert torch.equal(losses.margin(outputs, goal), goal.margin(outputs))
    assert torch.equal(losses.cross_entropy(outputs, goal), goal.loss(outputs))


@pytest.mark.parametrize(("goal", "outputs"), MEASURED)
@pytest.mark.parametrize("loss", [losses.dlr, losses.logit, losses.probability_margin])
def test_a_loss_about_classes_refuses_a_goal_without_them_in_one_line(loss, goal, outputs):
    with pytest.raises(BadInput, match="no class labels; need a goal about classes") as refusal:
        loss(outputs, goal)
    assert "\n" not in str(refusal.value)
