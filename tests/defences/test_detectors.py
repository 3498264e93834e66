"""Detectors: what is calibrated holds, scores rank, and whoever knows them gets past."""

from __future__ import annotations

import inspect
from functools import cache

import pytest
import torch
from scipy.stats import binom
from torch import nn

from sparring.data import digits
from sparring.defences.detectors import Detector, Unnoticed, attribution, calibrated, mahalanobis, trained, watched
from sparring.defences.detectors.layers import features_of
from sparring.defences.detectors.mahalanobis import whitening
from sparring.defences.detectors.neighbours import kernel_density, lid, local_dimension, squared_distances
from sparring.errors import BadInput
from sparring.evaluate.detection import area, detect, joint, roc
from sparring.registry import members
from sparring.streams import Streams
from sparring.threats import linf
from sparring.zoo.honest import relu

BRIEF = {"epochs": 1, "among": 100, "draws": 2}
NAMES = list(members("detectors"))


@cache
def fitted(name):
    make = members("detectors")[name].make
    settings = inspect.signature(make).parameters
    made = make(**{key: value for key, value in BRIEF.items() if key in settings})
    return made.fit(relu_network(), *digits("train").take(range(200)))


@cache
def relu_network():
    return relu().requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
def test_every_score_is_a_number_a_row_by_itself_with_a_gradient_and_leaves_the_model_alone(name):
    score, x = fitted(name), digits("test").take(range(12))[0]
    before, kept = [part.training for part in relu_network().modules()], x.clone()
    point = x.clone().requires_grad_()
    scores = score(point)
    assert scores.shape == (12,)
    (gradient,) = torch.autograd.grad(scores.sum(), point)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1) != 0).any(1).float().mean() > 0.9
    with torch.no_grad():
        torch.testing.assert_close(score(x), scores.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(score(x[3:5]), scores.detach()[3:5], rtol=1e-3, atol=1e-4)
    assert torch.equal(x, kept)
    assert before == [part.training for part in relu_network().modules()]
    assert not any(part._forward_hooks for part in relu_network().modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_another_precision_have_scores_and_so_have_no_inputs_at_all(name, dtype):
    net, make = convolving().to(dtype), members("detectors")[name].make
    settings = {"epochs": 1, "among": 40, "k": 5, "draws": 2}
    made = make(**{key: value for key, value in settings.items() if key in inspect.signature(make).parameters})
    score = made.fit(net, PICTURES.to(dtype), NAMED)
    scores, alone = score(PICTURES.to(dtype)), score(PICTURES[:1].to(dtype))
    assert scores.shape == (60,)
    assert scores.isfinite().all()
    torch.testing.assert_close(alone.float(), scores[:1].float(), rtol=0.02, atol=0.02)
    assert score(PICTURES[:0].to(dtype)).shape == (0,)


@pytest.mark.parametrize("name", ["mahalanobis", "lid", "kernel-density", "trained"])
def test_no_rows_of_a_table_have_no_scores(name):
    assert members("detectors")[name].make().fit(small(), CLOUD, NAMED)(CLOUD[:0]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_learned_from_no_examples_nor_from_labels_of_others(name):
    for x, labels in ((PICTURES[:0], NAMED[:0]), (PICTURES, NAMED[:5])):
        with pytest.raises(BadInput, match="to learn from; need one or more, a label each"):
            members("detectors")[name].make().fit(convolving(), x, labels)


def test_a_calibrated_threshold_refuses_as_many_clean_inputs_as_was_said():
    draws = Streams.of(0, range(3000)).normal(1)
    detector = calibrated(lambda x: x[:, 0].exp(), draws[:1000], rate=0.05)
    refused = int(detector.flagged(draws[1000:]).sum())
    # the threshold itself is drawn: twice the width of the test set's own 99.9 % interval
    assert 2 * binom.ppf(0.0005, 2000, 0.05) - 100 < refused < 2 * binom.ppf(0.9995, 2000, 0.05) - 100
    digits_refused = calibrated(fitted("energy"), digits("test").take(range(600))[0], rate=0.1)
    share = digits_refused.flagged(digits("test").take(range(600, 1200))[0]).float().mean()
    assert 0.05 < share < 0.17


def test_a_rate_that_cannot_be_held_is_refused():
    with pytest.raises(BadInput, match="19 or more"):
        calibrated(lambda x: x, torch.rand(18), rate=0.05)
    with pytest.raises(BadInput, match="between 0 and 1"):
        calibrated(lambda x: x, torch.rand(18), rate=1.5)
    with pytest.raises(BadInput, match="not finite"):
        calibrated(lambda x: x / 0, torch.rand(40))


def test_a_score_that_is_no_number_is_refused():
    detector = calibrated(lambda x: x, torch.rand(40))
    assert detector.flagged(torch.tensor([torch.nan, 2.0, 0.0])).tolist() == [True, True, False]


def test_the_area_counts_pairs_and_the_curve_has_intervals():
    clean, attacked = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    assert area(clean, attacked) == pytest.approx((1.5 + 3) / 6)
    points = roc(torch.arange(1000.0), torch.arange(500.0, 1500.0))
    odd = torch.tensor([torch.nan, torch.inf, 0.2, 0.3, 0.4])
    assert area(odd[2:], torch.full((4,), torch.nan)) == 1.0
    first = roc(odd, torch.ones(4))[0]  # at infinity only what is no number is refused
    assert (first.threshold, first.false_positives.estimate, first.detected.estimate) == (torch.inf, 0.2, 0.0)
    assert [point.threshold for point in roc(odd, torch.ones(4))][-1] == pytest.approx(0.4)
    assert [point.false_positives.estimate for point in points] == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5])
    assert points[2].detected.low < 0.55 < points[2].detected.high


def test_both_goals_have_to_be_reached():
    outputs = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5], [0.0, 1.0, -0.5], [0.0, 1.0, torch.nan]])
    goal = Unnoticed(torch.zeros(4, dtype=torch.int64))
    assert goal.reached(outputs).tolist() == [False, False, True, False]
    assert (goal.margin(outputs)[:3] > 0).tolist() == [False, False, True]
    assert torch.equal(goal.loss(outputs)[:3], torch.tensor([-1.0, -0.5, 0.5]))  # the lesser of the two
    assert goal[torch.tensor([2])].reached(outputs[2:3]).all()


def test_distances_and_dimensions_are_what_they_are():
    a, b = Streams.of(0, range(5)).normal(3), Streams.of(1, range(7)).normal(3)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b).square(), rtol=1e-4, atol=1e-4)
    for dimensions in (2, 6):
        cloud = Streams.of(2, range(4000)).uniform(dimensions) - 0.5
        assert local_dimension(cloud[:50] / 4, cloud, 100).mean() == pytest.approx(dimensions, rel=0.15)
    f, labels = 5 * Streams.of(3, range(600)).normal(4), torch.arange(600) % 2
    means = torch.stack([f[labels == c].mean(0) for c in range(2)])
    white = (f - means[labels]) @ whitening(f, labels, means)
    torch.testing.assert_close(white.T @ white / 600, torch.eye(4), rtol=0, atol=0.01)


def small(*hidden):
    """A network of a few values in, with these layers, and three classes out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), *hidden, nn.ReLU(), nn.Linear(8, 3)).eval().requires_grad_(False)


CLOUD, NAMED = Streams.of(4, range(60)).normal(4), torch.arange(60) % 3
PICTURES = Streams.of(7, range(60)).uniform(1, 8, 8)


def convolving():
    """A network of small images, with three classes out."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval().requires_grad_(False)
        )


def test_a_narrow_way_past_both_is_found():
    """Whatever leaves a line of 30 coordinates by a thousandth is noticed, and the decision changes at its end."""
    x, threat = torch.full((12, 30), 0.5), linf(0.2)
    way = Streams.of(3, [0]).uniform(30)[0] + 0.2
    way = way / way.max()
    slope = way + 0.5 * Streams.of(4, [0]).normal(30)[0]

    def model(z):
        ahead = 20 * ((z - x[:1]) @ slope - 0.97 * threat.eps * (way @ slope))
        return torch.stack([-ahead / 2, ahead / 2], 1)

    def score(z):
        moved = z - x[:1]
        return (moved - (moved @ way / way.square().sum()).unsqueeze(1) * way).norm(dim=1)

    detector, goal = Detector(score, 0.001, 0.05, 0.00025), Unnoticed(torch.zeros(12, dtype=torch.int64))
    view = watched(model, detector)
    z = joint(threat)(view, x, goal, Streams.of(0, range(12)))
    assert threat.contains(z, x).all()
    assert goal.reached(view(z)).float().mean() > 0.3


@pytest.mark.parametrize("name", ["energy", "mahalanobis", "lid", "kernel-density"])
def test_in_whatever_mode_the_model_is_it_is_fitted_and_calibrated_in_inference_mode(name):
    net, found = small(nn.BatchNorm1d(8), nn.Dropout(0.5)), []
    state = {key: value.clone() for key, value in net.state_dict().items()}
    for mode in (True, False):
        net.train(mode)
        detector = calibrated(members("detectors")[name].make().fit(net, CLOUD, NAMED), CLOUD + 0.1)
        found.append((detector.threshold, detector.flagged(CLOUD).tolist()))
        assert all(part.training == mode for part in net.modules())
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert found[0] == found[1]


def test_a_linear_layer_on_tokens_is_averaged_over_the_tokens():
    first, x = small()[0], Streams.of(5, range(6)).normal(7, 4)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small()

        def forward(self, x):
            return self.net(x).mean(1)

    (found,) = features_of(Tokens())(x)
    torch.testing.assert_close(found, first(x).relu().mean(1))
    convolved = nn.Sequential(nn.Conv2d(1, 5, 2), nn.Flatten(), nn.Linear(5 * 36, 2))
    image = Streams.of(6, range(3)).uniform(1, 7, 7)
    torch.testing.assert_close(features_of(convolved)(image)[0], convolved[0](image).relu().mean((2, 3)))


def test_an_example_of_the_bank_is_none_of_its_own_neighbours_however_far_out_it_lies():
    for bank in (CLOUD, CLOUD + 100, 1e-4 * CLOUD):
        apart = torch.cdist(bank.double(), bank.double()).fill_diagonal_(torch.inf)
        near = apart.topk(10, largest=False).values
        want = -1 / (near / near[:, -1:]).log().mean(1)
        torch.testing.assert_close(local_dimension(bank, bank, 10).double(), want, rtol=0.01, atol=0)


@pytest.mark.parametrize("learned", [22, 30, 31, 32, 60])
def test_local_dimensions_are_standardised_however_few_examples_are_left_beside_the_bank(learned):
    scores = lid(among=30, k=20).fit(small(), CLOUD[:learned], NAMED[:learned])(CLOUD)
    assert scores.isfinite().all()
    assert scores.abs().max() < 50


def test_a_bank_too_small_for_its_neighbours_is_refused():
    for few, settings in ((CLOUD[:21], {}), (CLOUD, {"among": 20})):
        with pytest.raises(BadInput, match="22 or more"):
            lid(**settings).fit(small(), few, NAMED[: len(few)])


def test_neighbours_are_two_or_more_and_a_width_and_a_draw_are_something():
    for make, settings in ((lid, {"k": 1}), (kernel_density, {"width": 0.0}), (attribution, {"draws": 0})):
        with pytest.raises(BadInput, match="; need "):
            make(**settings)


def test_a_density_of_classes_with_nothing_between_their_examples_is_refused():
    for few, labels in ((CLOUD[:3], torch.arange(3)), (CLOUD[:1].repeat(60, 1), NAMED)):
        with pytest.raises(BadInput, match="several different examples"):
            kernel_density().fit(small(), few, labels)


def test_a_class_without_examples_attracts_nothing():
    between = CLOUD.mean(0, keepdim=True)
    scores = [mahalanobis().fit(small(), CLOUD, labels)(between) for labels in (NAMED % 2, 2 * (NAMED % 2))]
    torch.testing.assert_close(*scores)


def test_an_explanation_that_holds_still_is_no_sign_however_small_its_gradient():
    net = small()

    def sure(x):
        return 1e-12 * net(x)

    score = attribution(sigma=1e-3).fit(net, CLOUD, NAMED)(CLOUD)
    torch.testing.assert_close(attribution(sigma=1e-3).fit(sure, CLOUD, NAMED)(CLOUD), score, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d(1, 5, 2), (1, 9)), (nn.Conv3d(1, 5, 2), (1, 4, 4, 4))])
def test_convolutions_of_lines_and_of_spaces_are_looked_at_too(layer, shape):
    net, x = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(2)), Streams.of(6, range(3)).uniform(*shape)
    net(x)
    torch.testing.assert_close(features_of(net)(x)[0], layer(x).relu().flatten(2).mean(2))


def test_a_density_is_a_mean_so_that_larger_classes_are_no_denser():
    net, width = small(), 0.5
    for times in (1, 2):
        bank, labels = CLOUD.repeat(times, 1), NAMED.repeat(times)
        score = kernel_density(width=width).fit(net, bank, labels)
        (f,) = features_of(net)(bank)
        squares, decided = torch.cdist(f, f).square(), net(CLOUD).argmax(1)
        others = (labels.unsqueeze(0) == labels.unsqueeze(1)).fill_diagonal_(False)
        scale = width**2 * squares[others].median()
        want = [-(-squares[i, answer == labels] / scale).exp().mean().log() for i, answer in enumerate(decided)]
        torch.testing.assert_close(score(CLOUD), torch.stack(want), rtol=1e-4, atol=1e-4)


def test_a_detector_is_not_tested_on_nothing():
    with pytest.raises(BadInput, match="at least 1 example"):
        detect(relu_network(), calibrated(lambda x: x, torch.rand(40)), CLOUD[:0], NAMED[:0], linf(0.1))


@pytest.mark.parametrize(
    "spoilt", [lambda x: 255 * x, lambda x: x - 0.1, lambda x: x.masked_fill(x == x.max(), torch.nan)]
)
def test_examples_outside_of_the_bounds_which_no_attack_could_hand_over_are_refused(spoilt):
    x, y = digits("test").take(range(60))
    detector = calibrated(fitted("energy"), x)
    with pytest.raises(BadInput, match="outside of 0 to 1"):
        detect(relu_network(), detector, spoilt(x), y, linf(0.1))
    with pytest.raises(BadInput, match="60 inputs and 5 labels"):
        detect(relu_network(), detector, x, y[:5], linf(0.1))


def test_whoever_knows_the_detector_gets_past_it_more_often():
    net, (x, y) = relu_network(), digits("test").take(range(240))
    detector = calibrated(fitted("kernel-density"), x[40:])
    found = detect(net, detector, x[:40], y[:40], linf(0.2))
    assert found.fooled > 30
    assert found.adaptive.estimate <= found.unaware.estimate
    assert found.adaptive.estimate < 0.1
    assert watched(net, detector)(x[:2]).shape == (2, 11)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_labels_may_be_whole_numbers_of_any_size(kind):
    net = small()
    assert torch.equal(trained().fit(net, CLOUD, NAMED.to(kind))(CLOUD), trained().fit(net, CLOUD, NAMED)(CLOUD))


def test_one_example_has_no_deviation():
    with pytest.raises(BadInput, match="two or more"):
        mahalanobis().fit(small(), CLOUD[:1], NAMED[:1])
