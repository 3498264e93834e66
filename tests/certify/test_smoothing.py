"""Smoothing: the bounds of a share hold, radii are those that are known on a line, and rows do not see each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import ndtr, ndtri
from torch import Tensor, nn

from sparring.certify import slopes
from sparring.certify.smoothing import (
    Asked,
    Nearly,
    Smoothed,
    Smoothing,
    at_all_times,
    enough,
    every_sample,
    exactly,
    share_beyond,
    smoothing,
)
from sparring.cli import cli
from sparring.data.arrays import Arrays
from sparring.errors import BadInput
from sparring.evaluate.proofs import prove, with_slopes
from sparring.evaluate.statistics import clopper_pearson
from sparring.models.loading import adopt
from sparring.streams import Streams
from sparring.threats import l2, linf
from sparring.training.objectives import consistency, gaussian, smooth_adv, standard

SIGMA = 0.5
SIZE = 20


def line() -> nn.Linear:
    """Two classes on either side of a plane: the smoothed model is the model, and its radius is the distance."""
    layer = nn.Linear(SIZE, 2)
    with torch.no_grad():
        away = Streams.of(5, [0]).normal(SIZE)[0]
        away = away / away.norm()
        layer.weight.copy_(torch.stack([away, -away]))
        layer.bias.copy_(torch.tensor([0.3, -0.3]))
    return layer


def inputs(count: int = 12) -> tuple[Tensor, Tensor, Tensor, Streams]:
    """Inputs, their answers, and their distances from the plane: from nothing to three sigma."""
    layer, rng = line(), Streams.of(2, range(count))
    x = rng.normal(SIZE)
    with torch.no_grad():
        normal = layer.weight[0]
        ahead = x @ normal + 0.3
        wanted = torch.linspace(-3 * SIGMA, 3 * SIGMA, count)
        x = x + (wanted - ahead).unsqueeze(1) * normal
    return x, (wanted < 0).long(), wanted.abs(), rng


def test_with_all_samples_a_radius_on_a_line_is_the_distance_but_for_what_samples_cannot_say() -> None:
    x, answers, distances, rng = inputs()
    found = Smoothing(sigma=SIGMA, rule=every_sample)(line(), x, rng)
    assert ((found.samples > 100_000) & (found.samples <= 101_000)).all()
    sure = distances > 0.1
    assert torch.equal(found.answer[sure], answers[sure])
    assert (found.radius <= distances).all()
    middle = (distances > 0.5 * SIGMA) & (distances < 2.5 * SIGMA)
    assert middle.sum() == 8
    assert (found.radius[middle] >= 0.95 * distances[middle]).all()


def test_few_samples_give_nearly_the_same_radius() -> None:
    x, answers, distances, rng = inputs()
    whole = Smoothing(sigma=SIGMA, rule=every_sample)(line(), x, rng)
    early = Smoothing(sigma=SIGMA, rule=Nearly(0.05))(line(), x, rng)
    assert (early.radius <= distances).all()
    sure = (distances > 0.5 * SIGMA) & (distances < 2.5 * SIGMA)
    assert torch.equal(early.answer[sure], answers[sure])
    assert (early.radius[sure] >= 0.9 * whole.radius[sure]).all()
    assert early.radius[sure].mean() >= 0.95 * whole.radius[sure].mean()
    assert early.samples[sure].float().mean() < 0.1 * 100_000


def foreseen(against: int, plan: Smoothing) -> int:
    """How many samples `Nearly` takes at most, where so many of the 1000 first are against; far away are the others."""
    first = np.repeat([-1.0, 1.0], [against, 1000 - against])
    return plan.rule.begin(first, plan)[1]


def test_how_many_samples_are_taken_is_what_the_radius_needs() -> None:
    """Where all votes agree the radius of t samples is that of `alpha^(1 / t)`; an abstention takes a block."""
    plan = Smoothing(rule=Nearly(0.05))
    assert foreseen(1000, plan) == 100
    assert foreseen(500, plan) == plan.n  # too close to tell
    assert 47_000 <= foreseen(0, plan) <= 48_200
    for against in (400, 100, 10):
        taken, share = foreseen(against, plan), 1 - against / 1000
        radii = [ndtri(exactly(share * t, t, plan.alpha)) for t in (taken / 2.2, taken, plan.n)]
        assert radii[0] < 0.95 * radii[2] <= radii[1]


def test_shares_are_counted_where_samples_say_enough_and_else_extrapolated_from_the_nearest() -> None:
    ranks = (np.arange(1000) + 0.5) / 1000
    first = 0.4 + 0.1 * ndtri(ranks)  # its nearest are at 0.07
    reaches = np.array([-0.1, 0.0, 0.05, 0.3, 0.4, 0.5])
    shares = share_beyond(first, reaches)
    assert shares == pytest.approx(ndtr((0.4 - reaches) / 0.1), abs=1e-3)
    assert 1 - shares[:2] == pytest.approx(ndtr(-(0.4 - reaches[:2]) / 0.1), rel=0.05)
    assert share_beyond(np.ones(1000), np.zeros(1)) == 1
    assert share_beyond(np.array([1.0]), np.zeros(1)) == 1
    assert share_beyond(np.repeat([-1.0, 1.0], 500), np.zeros(1)) == 0.5


def test_distances_bring_the_same_radius_on_a_line_by_fewer_samples() -> None:
    """There `r + sigma Phi^-1(p)` is the distance from the plane, whatever r."""
    x, answers, distances, rng = inputs()
    votes = Smoothing(sigma=SIGMA, rule=every_sample)(line(), x, rng)
    early = Smoothing(sigma=SIGMA, slopes=slopes(line(), x))(line(), x, rng)
    sure = distances > 0.5 * SIGMA
    assert torch.equal(early.answer[sure], answers[sure])
    assert (early.radius <= distances).all()
    assert (early.radius[sure] >= 0.9 * votes.radius[sure]).all()
    assert early.samples.float().mean() < 0.1 * votes.samples.float().mean()
    far, alone = (torch.stack([x[0] + 3 * (x[0] - x[6]), x[0]]), torch.tensor([0]))
    radius, seen = (
        Smoothing(sigma=SIGMA, n=2000, rule=every_sample, slopes=given)(line(), far[alone], rng[alone]).radius
        for given in (slopes(line(), x), None)
    )
    assert float(radius) > 2 * float(seen)  # no vote is against it: by votes no radius passes 2.7 sigma


def test_radii_by_distances_are_below_the_truth_of_a_network_in_the_plane() -> None:
    """The smoothed model by quadrature: the nearest point of a grid where its answer has no majority."""
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        for i, given in enumerate(network.parameters()):
            given.copy_(Streams.of(i, [0]).normal(given.numel())[0].view_as(given))
    side, sigma = torch.linspace(-6, 6, 241), 0.5
    grid = torch.cartesian_prod(side, side)
    with torch.no_grad():
        answer = nn.functional.one_hot(network(grid).argmax(1), 3).float().view(241, 241, 3)
    kernel = (-0.5 * ((side.unsqueeze(1) - side) / sigma) ** 2).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    share = torch.einsum("ia,jb,abk->ijk", kernel, kernel, answer).reshape(-1, 3)
    inside = (grid.abs() < 3).all(1)
    x = torch.tensor([[0.3, 0.2], [-1.5, 1.0], [2.0, -2.0], [-0.5, -2.5], [1.0, 2.0], [-2.5, 0.0]])
    known, rng = slopes(network, x), Streams.of(0, range(6))
    found = Smoothing(sigma=sigma, n=10_000, rule=every_sample, slopes=known)(network, x, rng)
    votes = Smoothing(sigma=sigma, n=10_000, rule=every_sample)(network, x, rng)
    for i in range(len(x)):
        if found.answer[i] >= 0:
            lost = inside & (share[:, found.answer[i]] <= 0.5)
            assert found.radius[i] <= (grid[lost] - x[i]).norm(dim=1).min() + 0.04
    assert (found.radius >= votes.radius - 0.02).all()
    assert (found.radius > 0).sum() >= 4


def test_whether_a_radius_reaches_eps_takes_some_hundreds_of_samples() -> None:
    x, answers, distances, rng = inputs()
    eps = SIGMA
    found = Smoothing(sigma=SIGMA, rule=Asked(eps))(line(), x, rng)
    certified = found.certified(answers, eps)
    assert torch.equal(certified, distances > eps)
    assert found.samples.float().median() < 2000
    assert not found.certified(1 - answers, eps).any()


@pytest.mark.parametrize("eps", [0.1, 0.36890514])
def test_asking_stops_where_the_radius_is_enough_and_no_earlier(eps: float) -> None:
    plan = Smoothing(sigma=SIGMA, rule=Asked(eps))
    for trials in range(1, 400):
        low, done = plan.rule(trials, trials, 0.0, plan)
        if done:
            assert plan.sigma * ndtri(low) > enough(eps)
            half = eps / 2
            low, done = plan.rule(trials, trials, half, plan)
            assert done
            assert half + plan.sigma * ndtri(low) > enough(eps)
            return
    raise AssertionError


def test_a_bound_at_all_times_fails_no_more_often_than_it_says() -> None:
    """Paths of trials, looked at after every few: a bound that is broken at any look has failed."""
    rng, alpha, paths = np.random.default_rng(0), 0.1, 1000
    looks = np.unique(np.geomspace(1, 4000, 40).astype(int))
    for share in (0.02, 0.5, 0.9, 0.995):
        steps = np.diff(looks, prepend=0)
        successes = np.cumsum(rng.binomial(steps, share, (paths, len(steps))), axis=1)
        low, high = at_all_times(successes, looks, alpha)
        assert (low <= successes / looks).all()
        assert (high >= successes / looks).all()
        failed = ((low > share) | (high < share)).any(1).mean()
        assert failed <= alpha + 3 * (alpha * (1 - alpha) / paths) ** 0.5
        last = exactly(successes[:, -1], looks[-1], alpha)
        assert (low[:, -1] <= last + 1e-9).all()
    naive = exactly(successes, looks, alpha)
    assert (naive > share).any(1).mean() > 1.5 * alpha


def test_a_bound_at_all_times_costs_little_next_to_one_for_a_single_look() -> None:
    shares = np.array([0.6, 0.9, 0.99, 0.999, 1.0])
    low, _ = at_all_times(shares * 20_000, 20_000, 0.001)
    single = exactly(shares * 20_000, 20_000, 0.001)
    assert ((shares - low) <= 1.8 * (shares - single)).all()
    assert 1 - low[-1] <= 1.25 * (1 - single[-1])


def test_a_bound_for_a_single_look_is_that_of_clopper_and_pearson() -> None:
    for successes in (0, 1, 70, 100):
        assert exactly(successes, 100, 0.025) == pytest.approx(clopper_pearson(successes, 100, 0.95).low)


def test_rows_do_not_see_each_other_and_the_same_seed_gives_the_same_radii() -> None:
    x, _, _, rng = inputs()
    smoothing = Smoothing(sigma=SIGMA, n=1000, slopes=slopes(line(), x))
    whole = smoothing(line(), x, rng)
    rows = torch.tensor([7, 2])
    some = smoothing(line(), x[rows], rng[rows])
    assert torch.equal(whole.radius[rows], some.radius)
    assert torch.equal(whole.samples[rows], some.samples)
    nothing = smoothing(line(), x[:0], rng[torch.tensor([], dtype=torch.int64)])
    assert nothing.radius.shape == (0,)


def test_an_input_on_the_border_is_abstained_from_and_counts_as_a_failure() -> None:
    x, answers, _, rng = inputs()
    with torch.no_grad():
        x = x - (x @ line().weight[0] + 0.3).unsqueeze(1) * line().weight[0]
    found = Smoothing(sigma=SIGMA, n=500)(line(), x, rng)
    abstained = found.answer == -1
    assert abstained.float().mean() > 0.8
    assert (found.radius[abstained] == 0).all()
    assert not found.certified(answers, 0.0)[abstained].any()
    assert not found.certified(found.answer.clamp(min=0), 0.0)[abstained].any()


def test_the_smoothed_model_gives_the_shares_of_votes() -> None:
    x, answers, distances, _ = inputs()
    layer = line().train()
    shares = Smoothed(layer, sigma=SIGMA, draws=4000)(x)
    assert layer.training
    assert shares.sum(1).allclose(torch.ones(12))
    expected = torch.as_tensor(ndtr((distances / SIGMA).numpy()))
    assert (shares[torch.arange(12), answers] - expected).abs().max() < 0.04


def test_a_data_set_is_proved_and_other_norms_are_refused() -> None:
    x, answers, distances, _ = inputs()
    smoothing, told = Smoothing(sigma=SIGMA, rule=Asked(0.5)), []
    data = Arrays("line", x, torch.cat([answers[:-1], 1 - answers[-1:]]))
    victim, threat = adopt(line(), example=x[:1]), l2(0.5, low=-9, high=9)
    found = prove(victim, data, threat, smoothing, seed=3, watch=lambda *said: told.append(said))
    assert found.certified == int((distances > 0.5).sum()) - 1
    assert found.right >= found.certified
    pairs = zip(found.per_example, distances.tolist(), strict=True)
    assert all(one.lower <= far for one, far in pairs if one.lower is not None)
    assert found.per_example[-1].lower is None
    assert told[-1] == ("certify", 12, 12)
    with pytest.raises(BadInput, match="l2"):
        prove(victim, data, linf(0.5, low=-9, high=9), smoothing)


@pytest.mark.parametrize(("wrong", "why"), [(torch.nan, "not finite"), (7.0, "outside of 0 to 1")])
def test_inputs_that_no_noise_moves_are_refused(wrong: float, why: str) -> None:
    x, labels, _, rng = inputs(4)
    x = x.sigmoid()
    x[1, 0] = wrong
    with pytest.raises(BadInput, match=why):
        prove(adopt(line()), Arrays(name="made", x=x, y=labels), l2(0.1), Smoothing(n=100))
    if not np.isfinite(wrong):
        with pytest.raises(BadInput, match=why):
            Smoothing(n=100)(line(), x, rng)


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"sigma": 0.0}, {"alpha": 0.7}, {"n": 0}):
        with pytest.raises(BadInput):
            Smoothing(**settings)
    for make in (gaussian, smooth_adv, consistency):
        with pytest.raises(BadInput, match="sigma"):
            make(l2(1.0), sigma=-1.0)
    with pytest.raises(BadInput, match="draws"):
        consistency(l2(1.0), draws=0)


def test_training_under_noise_is_the_loss_at_what_the_noise_makes() -> None:
    x, labels, _, rng = inputs()
    layer = line()
    z = x + 0.3 * rng.at("noise").at(0).normal(SIZE)
    want = standard(layer, z, labels, 1.0, rng)
    assert torch.allclose(gaussian(l2(1.0), sigma=0.3)(layer, x, labels, 1.0, rng), want)
    alone = consistency(l2(1.0), sigma=0.3, draws=1, doubt=0.0)(layer, x, labels, 1.0, rng)
    assert torch.allclose(alone, want, atol=1e-6)
    logs = [layer(x + 0.3 * rng.at("noise").at(i).normal(SIZE)).log_softmax(1) for i in range(2)]
    p, rows = (logs[0].exp() + logs[1].exp()) / 2, torch.arange(len(x))
    right = -(logs[0] + logs[1])[rows, labels].mean() / 2
    apart = sum((p * (p.log() - log)).sum(1).mean() for log in logs) / 2
    want = right + 10 * apart - 0.5 * (p * p.log()).sum(1).mean()
    found = consistency(l2(1.0), sigma=0.3, draws=2, weight=10.0, doubt=0.5)(layer, x, labels, 1.0, rng)
    assert torch.allclose(found, want, atol=1e-5)
    box = l2(0.4, low=-9, high=9)
    attacked = smooth_adv(box, sigma=0.3, draws=4)(layer, x, labels, 1.0, rng)
    toward = (layer.weight[1 - labels] - layer.weight[labels]).detach()
    worst = x + 0.4 * toward / toward.norm(dim=1, keepdim=True)
    parts = [standard(layer, worst + 0.3 * rng.at("noise").at(i).normal(SIZE), labels, 1.0, rng) for i in range(4)]
    assert torch.allclose(attacked, torch.stack(parts).mean(), atol=1e-2)


def test_votes_may_be_of_any_type_of_numbers() -> None:
    x, _, _, rng = inputs()
    plan = Smoothing(sigma=SIGMA, n=200)
    found = [plan(lambda z, kind=kind: line()(z).sign().to(kind), x, rng) for kind in (torch.float32, torch.int64)]
    assert torch.equal(found[0].radius, found[1].radius)
    assert (found[0].radius > 0).any()


def test_what_does_more_than_its_module_is_smoothed_by_votes() -> None:
    x, answers, distances, _ = inputs()
    data, threat, victim = Arrays("line", x, answers), l2(0.5, low=-9, high=9), adopt(line(), example=x[:1])
    steep = replace(victim, call=lambda z: 100 * victim(z), access="scores")
    labels = replace(victim, call=lambda z: nn.functional.one_hot(victim(z).argmax(1), 2).float(), access="labels")
    assert "by distances" in with_slopes(smoothing(threat, sigma=SIGMA, samples=500), victim, data).counts
    for given in (steep, labels):
        how = with_slopes(smoothing(threat, sigma=SIGMA, samples=500), given, data)
        assert how.counts == "by votes"
        found = prove(given, data, threat, how)
        assert all(one.lower is None or one.lower <= far for one, far in zip(found.per_example, distances, strict=True))


def test_the_command_line_certifies_the_smoothed_model() -> None:
    given = ["certify", "sparring.networks:mlp", "--data", "digits", "--limit", "4", "--method", "smoothing"]
    result = CliRunner().invoke(cli, [*given, "--threat", "l2:0.01", "--samples", "1000"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "of them cannot be changed within l2:0.01: smoothing, by distances (slopes up to " in result.output
    deep = [*given[:1], "sparring.networks:wong_cnn", *given[2:]]
    result = CliRunner().invoke(cli, [*deep, "--threat", "l2:0.01", "--samples", "1000"], catch_exceptions=False)
    assert "within l2:0.01: smoothing, by votes" in result.output
    with pytest.raises(BadInput, match="l2"):
        CliRunner().invoke(cli, [*given, "--threat", "linf:0.1"], catch_exceptions=False)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8])
def test_whole_numbers_are_not_smoothed(kind: torch.dtype) -> None:
    """Noise would be rounded to them, and its radius be false."""
    x = torch.zeros(1, SIZE, dtype=kind)
    for smooth in (lambda: Smoothing(n=200)(line(), x, Streams.of(0, [0])), lambda: Smoothed(line(), draws=10)(x)):
        with pytest.raises(BadInput, match="float32"):
            smooth()
