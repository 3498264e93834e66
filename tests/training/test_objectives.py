"""Objectives: laws that all of the registry keep, equations on models where the worst is known, and that they work."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import pgd
from sparring.data.arrays import Arrays
from sparring.data.named import digits
from sparring.errors import BadInput
from sparring.goals import Never, Untargeted
from sparring.networks import mlp
from sparring.norms import NORMS
from sparring.registry import members
from sparring.streams import Streams
from sparring.threats import Ball, l2, linf
from sparring.training import Trainer
from sparring.training.augmentations import Mixup
from sparring.training.contract import fresh, memory
from sparring.training.objectives import (
    INNER,
    TRADES,
    VAT,
    Aligned,
    Apart,
    Average,
    Distillation,
    Free,
    Labelled,
    MinMax,
    Objective,
    adversarial,
    alp,
    ensemble_adversarial,
    fgsm_rs,
    inner_pgd,
    label_smoothing,
    mart,
    maximiser,
    multi_average,
    multi_max,
    n_fgsm,
    pinned,
    score,
    single_step,
    standard,
    targeted,
    trades,
    vat,
)
from sparring.training.schedules import growing
from sparring.training.weights import AWP, SAM, Neighbourhood
from sparring.views import settled

ENTRIES = members("objectives")
NAMES = list(ENTRIES)
CLASSES = 4
THREAT = linf(0.1)
COUNT = 12


def toy(seed: int = 0, *, norm: bool = True) -> nn.Sequential:
    """A small convolutional network in training mode, all of whose parts can go wrong: BatchNorm, a frozen part."""
    torch.manual_seed(seed)
    middle = nn.BatchNorm2d(4) if norm else nn.Identity()
    layers = [nn.Conv2d(1, 4, 3, bias=False), middle, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES)]
    return nn.Sequential(*layers).train()


def batch(count: int = COUNT) -> tuple[Tensor, Tensor, Streams]:
    rng = Streams.of(7, range(count))
    return rng.at("x").uniform(1, 8, 8), rng.at("y").integers(CLASSES), rng


def made(name: str, threat: Ball = THREAT) -> Objective:
    """An objective as a recipe would have it."""
    settings: dict[str, dict[str, Any]] = {
        "ensemble": {"models": [toy(5).eval(), toy(6).eval()]},
        "multi-max": {"others": ["l2:0.5"]},
        "multi-average": {"others": ["l2:0.5"]},
        "mixup": {"classes": CLASSES},
    }
    return ENTRIES[name].make(threat, **settings.get(name, {}))  # type: ignore[no-any-return]


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


MINMAX = [name for name in NAMES if isinstance(made(name), MinMax)]
STATEFUL = [name for name in NAMES if isinstance(made(name), nn.Module)]


def test_every_objective_says_what_it_is() -> None:
    for name, entry in ENTRIES.items():
        assert entry.name == name == name.lower()
        assert entry.summary.endswith("."), name
        assert entry.passes, name
        assert entry.paper or name == "standard", name
        assert entry.family in ("baseline", "adversarial", "smoothness", "certified", "smoothing"), name


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_a_finite_scalar_and_its_gradient_reaches_every_weight(name: str) -> None:
    network, (x, labels, rng) = toy(), batch()
    loss = made(name)(network, x, labels, 1.0, rng)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_streams_give_the_same_bits_and_torchs_own_random_numbers_are_left_alone(name: str) -> None:
    x, labels, rng = batch()
    before = torch.get_rng_state()
    first, second = copy.deepcopy(toy()), copy.deepcopy(toy())
    torch.set_rng_state(before)
    objective = made(name)
    torch.set_rng_state(before)
    losses = [copy.deepcopy(objective)(network, x, labels, 0.7, rng) for network in (first, second)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_an_update_leaves_the_networks_modes_and_weights_alone_and_counts_only_passes_that_teach(name: str) -> None:
    network, (x, labels, rng) = toy(), batch()
    network[2].eval()
    network[4].bias.requires_grad_(False)
    given, weights = (x.clone(), labels.clone()), [p.clone() for p in network.parameters()]
    modes, trained = [p.training for p in network.modules()], [p.requires_grad for p in network.parameters()]
    objective = made(name)
    loss = objective(network, x, labels, 1.0, rng)
    assert all(p.grad is None for p in network.parameters())
    loss.backward()  # type: ignore[no-untyped-call]
    assert [p.training for p in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == trained
    assert all(torch.equal(p, w) for p, w in zip(network.parameters(), weights, strict=True))
    assert torch.equal(x, given[0])
    assert torch.equal(labels, given[1])
    assert not x.requires_grad
    assert 1 <= int(network[1].num_batches_tracked) <= 2


@pytest.mark.parametrize("name", MINMAX)
def test_the_search_for_the_worst_leaves_no_trace_in_the_network(name: str) -> None:
    network, (x, labels, rng) = toy(), batch()
    state, modes = copy.deepcopy(network.state_dict()), [p.training for p in network.modules()]
    z = made(name).worst(network, x, labels, 1.0, rng)  # type: ignore[attr-defined]
    assert not z.requires_grad
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert modes == [p.training for p in network.modules()]
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", [n for n in MINMAX if n not in ("n-fgsm", "multi-max")])
def test_the_worst_inputs_are_inside_the_threat_that_is_in_force(name: str, strength: float) -> None:
    network, (x, labels, rng) = toy(), batch()
    z = made(name).worst(network, x, labels, strength, rng)  # type: ignore[attr-defined]
    assert THREAT.at(strength * THREAT.eps).contains(z, x).all()
    assert strength == 0 or name == "free" or not torch.equal(z, x)


def test_noise_reaches_three_times_the_ball_and_stays_in_the_box() -> None:
    network, (x, labels, rng) = toy(), batch(64)
    z = n_fgsm(THREAT).worst(network, x, labels, 1.0, rng)
    size = (z - x).abs().amax()
    assert 0.28 < float(size) <= 0.3 + 1e-6
    assert float(z.min()) >= 0
    assert float(z.max()) <= 1
    assert torch.equal(n_fgsm(THREAT).worst(network, x, labels, 0.0, rng), x)


ALONE = [n for n in MINMAX if n not in ("free", "generator")]
"""All but those whose memory belongs to the batch."""


@pytest.mark.parametrize("name", ALONE)
def test_rows_do_not_see_each_other_in_the_search(name: str) -> None:
    network, (x, labels, rng) = toy(), batch(24)
    rows = torch.tensor([20, 3, 11, 4, 0, 8, 17, 9])
    objective = made(name)
    together = objective.worst(network, x, labels, 1.0, rng)[rows]  # type: ignore[attr-defined]
    alone = objective.worst(network, x[rows], labels[rows], 1.0, rng[rows])  # type: ignore[attr-defined]
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_labels_may_be_shares_of_the_classes(name: str) -> None:
    x, labels, rng = batch()
    of = functional.one_hot(labels, CLASSES).float()
    objective = made(name)
    hard, soft = (copy.deepcopy(objective)(toy(), x, truth, 1.0, rng) for truth in (labels, of))
    assert torch.allclose(hard, soft, atol=1e-5)


@pytest.mark.parametrize("threat", [l2(1.0), linf(0.1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_other_norms_train_too(name: str, threat: Ball) -> None:
    if threat.norm.name not in ENTRIES[name].norms:
        return
    network, (x, labels, rng) = toy(), batch()
    assert made(name, threat)(network, x, labels, 1.0, rng).isfinite()


@pytest.mark.parametrize("name", STATEFUL)
def test_what_an_objective_remembers_travels_through_a_file(name: str) -> None:
    network, (x, labels, rng) = toy(), batch()
    one = made(name)
    for i in range(3):
        one(network, x, labels, 1.0, rng.at(i)).backward()  # type: ignore[no-untyped-call]
    file = io.BytesIO()
    torch.save(one.state_dict(), file)  # type: ignore[attr-defined]
    file.seek(0)
    other = made(name)
    other.load_state_dict(torch.load(file, weights_only=True))  # type: ignore[attr-defined]
    for i in range(3, 6):
        losses = [objective(copy.deepcopy(network), x, labels, 1.0, rng.at(i)) for objective in (one, other)]
        assert torch.equal(*losses)
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]


# What the equations say, where the worst is known: two classes, a linear model, no box


def linear(size: int = 6, classes: int = 2) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(size, classes)


def line(classes: int = 2) -> tuple[Tensor, Tensor, Streams]:
    rng = Streams.of(1, range(32))
    return rng.at("x").normal(6), rng.at("y").integers(classes), rng


def unbounded(norm: str, eps: float = 0.3) -> Ball:
    return Ball(NORMS[norm], eps, -math.inf, math.inf)


def worst_on_a_line(network: nn.Linear, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
    """Straight away from the label's weights, eps far."""
    away = (network.weight[1 - labels] - network.weight[labels]).detach()
    return x + threat.eps * threat.norm.steepest(away)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("make", [adversarial, fgsm_rs, multi_max, multi_average, targeted])
def test_on_a_line_adversarial_training_takes_the_cross_entropy_at_the_worst_input(
    make: Callable[..., Objective], norm: str
) -> None:
    network, (x, labels, rng), threat = linear(), line(), unbounded(norm)
    if make is fgsm_rs and norm == "l2":
        return  # one step from a random start does not end at the pole of a sphere
    objective = make(threat, alpha=2.0) if make is fgsm_rs else make(threat)
    expected = functional.cross_entropy(network(worst_on_a_line(network, x, labels, threat)), labels)
    loss = objective(network, x, labels, 1.0, rng)
    assert torch.allclose(loss, expected, atol=1e-4 if norm == "linf" else 5e-3)
    if norm == "linf":
        for own, theirs in zip(gradients(network, loss), gradients(network, expected), strict=True):
            assert torch.allclose(own, theirs, atol=1e-4)


def test_without_their_other_half_objectives_are_standard_training() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    plain = standard(network, x, labels, 1.0, rng)
    without: list[tuple[Objective, float]] = [
        (trades(THREAT, beta=0.0), 1.0),
        (adversarial(THREAT), 0.0),
        (alp(THREAT), 0.0),
        (n_fgsm(THREAT), 0.0),
        (vat(THREAT, weight=0.0), 1.0),
        (label_smoothing(THREAT, smoothing=0.0), 1.0),
        (Distillation(temperature=1.0), 1.0),
        (Aligned(threat=THREAT, objective=standard, weight=0.0), 1.0),
        (Free(THREAT), 1.0),
    ]
    for objective, strength in without:
        assert torch.allclose(objective(network, x, labels, strength, rng), plain, atol=1e-6), objective


def test_trades_adds_beta_times_the_divergence_from_what_is_said_of_the_input() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    objective = trades(THREAT, beta=3.0)
    z = objective.worst(network, x, labels, 1.0, rng)
    p, q = network(x).softmax(1), network(z).softmax(1)
    expected = functional.cross_entropy(network(x), labels) + 3 * (p * (p / q).log()).sum(1).mean()
    assert torch.allclose(objective(network, x, labels, 1.0, rng), expected, atol=1e-5)


def test_mart_is_the_boosted_cross_entropy_and_a_divergence_weighted_by_doubt() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    objective = mart(THREAT, weight=2.0)
    z = objective.worst(network, x, labels, 1.0, rng)
    p, q = network(x).softmax(1), network(z).softmax(1)
    right, rows = torch.arange(len(x)), labels
    others = torch.stack([torch.cat([q[i, :k], q[i, k + 1 :]]).max() for i, k in enumerate(labels.tolist())])
    boosted = -q[right, rows].log() - (1.0001 - others).log()
    expected = (boosted + 2 * (p * (p / q).log()).sum(1) * (1 - p[right, rows])).mean()
    assert torch.allclose(objective(network, x, labels, 1.0, rng), expected, atol=1e-5)


def test_score_is_two_squared_distances() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    objective = score(THREAT, beta=2.0, smoothing=0.3, least=0.001)
    z = objective.worst(network, x, labels, 1.0, rng)
    p, q = network(x).softmax(1), network(z).softmax(1)
    truth = torch.full_like(p, 0.1).scatter(1, labels[:, None], 0.7)
    expected = (p - truth).square().sum(1) + 2 * ((p - q).square().sum(1) - 0.001).clamp(min=0)
    assert torch.allclose(objective(network, x, labels, 1.0, rng), expected.mean(), atol=1e-5)


def test_the_search_of_trades_climbs_the_divergence_beyond_what_an_attack_on_labels_finds() -> None:
    network, (x, labels, rng) = toy(norm=False), batch(64)
    network[4].weight.data.mul_(5)
    goal = Apart(network(x).detach())
    found = [made.worst(network, x, labels, 1.0, rng) for made in (trades(THREAT), adversarial(THREAT))]
    by_divergence, by_label = (float(goal.measure(network(z).detach()).mean()) for z in found)
    assert by_divergence > 1.05 * by_label


def test_the_direction_of_vat_is_where_the_divergence_curves_most() -> None:
    """On logits W x the divergence is `r' W' (diag p - p p') W r / 2`: the power method finds the top eigenvector."""
    network, (x, labels, rng) = linear(classes=4).double(), line(4)
    x = x.double()
    objective = VAT(threat=unbounded("l2", 1e-3), turns=60)
    r = functional.normalize(objective.worst(network, x, labels, 1.0, rng) - x)
    p = network(x).softmax(1).detach()
    curvature = network.weight.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ network.weight
    values, vectors = torch.linalg.eigh(curvature.detach())
    reached = (r[:, None, :] @ curvature @ r[:, :, None]).flatten()
    assert (reached > 0.99 * values[:, -1]).all()
    apart = values[:, -1] > 1.2 * values[:, -2]
    assert ((r * vectors[:, :, -1]).sum(1).abs()[apart] > 0.99).all()


def test_vat_learns_from_rows_without_a_label() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    objective = vat(THREAT, weight=1.0)
    some = torch.where(torch.arange(len(x)) % 2 == 0, labels, -1)
    smooth = objective(network, x, torch.full_like(labels, -1), 1.0, rng)
    assert smooth > 0
    right = functional.cross_entropy(network(x)[::2], labels[::2])
    assert torch.allclose(objective(network, x, some, 1.0, rng), smooth + right, atol=1e-6)


def test_gradients_of_a_line_are_aligned_and_those_of_a_rough_network_are_not() -> None:
    x, labels, rng = line()
    aligned = Aligned(threat=unbounded("linf"), objective=standard)
    assert float(aligned.misaligned(linear(), x, labels, 1.0, rng).detach()) == pytest.approx(0, abs=1e-6)
    x, labels, rng = batch()
    rough = Aligned(threat=linf(0.5), objective=standard).misaligned(toy(), x, labels, 1.0, rng)
    assert 0.02 < float(rough.detach()) < 1.5


def test_alignment_can_be_learned_by_itself() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    aligned = Aligned(threat=linf(0.5), objective=standard)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    first = float(aligned.misaligned(network, x, labels, 1.0, rng).detach())
    for i in range(30):
        optimiser.zero_grad()
        aligned.misaligned(network, x, labels, 1.0, rng.at(i)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(aligned.misaligned(network, x, labels, 1.0, rng).detach()) < 0.6 * first


def test_free_moves_its_perturbation_by_the_backward_pass_of_the_update() -> None:
    network, (x, labels, rng), threat = linear(), line(), unbounded("linf")
    objective = Free(threat, replay=1)
    first = objective(network, x, labels, 1.0, rng)
    assert torch.allclose(first, functional.cross_entropy(network(x), labels))
    first.backward()  # type: ignore[no-untyped-call]
    network.zero_grad()
    other = x.roll(1, 0)
    moved = other + (worst_on_a_line(network, x, labels, threat) - x)
    assert torch.allclose(objective.worst(network, other, labels, 1.0, rng), moved, atol=1e-6)


def test_free_replays_a_batch_and_then_takes_the_next() -> None:
    network, (x, labels, rng) = toy(), batch()
    objective, origins = Free(THREAT, replay=3), []
    for i in range(7):
        z = objective.worst(network, x + i, labels, 0.0, rng)  # no threat in force, and none of the box
        origins.append(round(float((objective.batch[0] - x).mean())))  # type: ignore[index]
        assert z.shape == x.shape
    assert origins == [0, 0, 0, 3, 3, 3, 6]


def test_the_ensemble_takes_turns_and_the_network_itself_is_one_of_them() -> None:
    seen: list[object] = []

    def spy(threat: Ball) -> Any:
        def attack(model: nn.Module, x: Tensor, goal: Never, rng: Streams) -> Tensor:
            seen.append(model)
            return x

        return attack

    network, (x, labels, rng) = toy(), batch()
    others = [toy(5), toy(6)]
    objective = ensemble_adversarial(THREAT, spy, models=others)
    for i in range(5):
        objective(network, x, labels, 1.0, rng.at(i))
    assert {id(model) for model in seen} == {id(network), *(id(model) for model in objective.models)}
    assert not any(p.requires_grad for p in objective.parameters())
    assert all(p.requires_grad for model in others for p in model.parameters())
    with pytest.raises(BadInput, match="one or more"):
        ensemble_adversarial(THREAT)


def test_targets_are_other_classes_all_of_them() -> None:
    seen: list[Tensor] = []

    def spy(threat: Ball) -> Any:
        def attack(model: nn.Module, x: Tensor, goal: Never, rng: Streams) -> Tensor:
            assert goal.sign == -1
            seen.append(goal.labels)
            return x

        return attack

    network, (x, labels, rng) = toy(), batch(200)
    targeted(THREAT, spy).worst(network, x, labels, 1.0, rng)
    assert not (seen[0] == labels).any()
    assert set(((seen[0] - labels) % CLASSES).tolist()) == {1, 2, 3}


def test_of_several_threats_each_row_gets_its_worst() -> None:
    network, (x, labels, rng) = toy(norm=False), batch(64)
    threats = (linf(0.1), l2(0.65))
    objective = multi_max(threats[0], others=[threats[1]])
    z = objective.worst(network, x, labels, 1.0, rng)
    inside = torch.stack([threat.contains(z, x) for threat in threats])
    assert inside.any(0).all()
    assert (~inside).any(1).all()
    mean = multi_average(threats[0], others=["l2:0.65"])(network, x, labels, 1.0, rng)
    assert functional.cross_entropy(network(z), labels) > mean
    with pytest.raises(BadInput, match="balls of a norm"):
        multi_max(linf(0.1), others=["pose:30"])


def test_the_mean_of_objectives_is_their_mean() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    mean = Average((standard, label_smoothing(THREAT, smoothing=0.2)))(network, x, labels, 1.0, rng)
    expected = [functional.cross_entropy(network(x), labels, label_smoothing=s) for s in (0.0, 0.2)]
    assert torch.allclose(mean, torch.stack(expected).mean())


def test_a_teacher_is_listened_to_at_its_temperature() -> None:
    network, teacher, (x, labels, rng) = toy(norm=False), toy(9), batch()
    objective = Distillation(teacher, temperature=5.0)
    taught = (copy.deepcopy(teacher).eval()(x) / 5).softmax(1)
    expected = -(taught * (network(x) / 5).log_softmax(1)).sum(1).mean()
    assert torch.allclose(objective(network, x, labels, 1.0, rng), expected, atol=1e-6)


def test_a_network_trained_before_may_be_named() -> None:
    assert len(ensemble_adversarial(THREAT, models=["sparring.networks:mlp"]).models) == 1
    assert isinstance(Distillation("sparring.networks:mlp").teacher, nn.Module)


def test_the_worst_inputs_are_searched_for_once_however_often_the_loss_is_taken() -> None:
    calls: list[int] = []

    def counted(threat: Ball) -> Any:
        calls.append(1)
        return inner_pgd(threat)

    network, (x, labels, rng) = toy(norm=False), batch()
    objective = adversarial(THREAT, counted)
    loss = pinned(objective, network, x, labels, 1.0, rng)
    assert torch.equal(loss(), loss())
    assert len(calls) == 1
    assert torch.equal(loss(), objective(network, x, labels, 1.0, rng))
    assert torch.equal(pinned(standard, network, x, labels, 1.0, rng)(), standard(network, x, labels, 1.0, rng))


@pytest.mark.parametrize("neighbourhood", [None, AWP(), SAM()], ids=repr)
@pytest.mark.parametrize("wrap", [lambda one: one, partial(Mixup, classes=CLASSES)], ids=["bare", "mixed"])
@pytest.mark.parametrize(
    "name", [name for name, entry in ENTRIES.items() if "attack" in signature(entry.make).parameters]
)
def test_an_update_searches_once_whatever_the_objective_and_the_neighbourhood(
    name: str, wrap: Callable[[Objective], Objective], neighbourhood: Neighbourhood | None
) -> None:
    calls: list[int] = []

    def counted(threat: Ball) -> Any:
        def search(*given: Any) -> Tensor:
            calls.append(1)
            return single_step(threat)(*given)

        return search

    settings = {"ensemble": {"models": [toy(5)]}, "mixup": {"classes": CLASSES}}
    objective = wrap(ENTRIES[name].make(THREAT, counted, **settings.get(name, {})))
    x, labels, _ = batch()
    Trainer(epochs=1, neighbourhood=neighbourhood)(toy(), Arrays("noise", x, labels), objective)
    assert len(calls) == 1


def test_what_replays_a_batch_takes_its_turn_once_an_update() -> None:
    network, (x, labels, rng), replayed = toy(), batch(), Free(THREAT)
    loss = pinned(Mixup(replayed, CLASSES), network, x, labels, 1.0, rng)
    loss()
    loss()
    assert replayed.turn == 1


def test_what_searches_gives_the_loss_of_its_search_wherever_it_is_taken() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    for name in ("adversarial", "multi-average", "smooth-adv", "mtl-ibp", "sabr", "grad-align", "mixup"):
        loss = pinned(made(name), network, x, labels, 1.0, rng)
        assert torch.equal(loss(), loss())
        assert torch.equal(loss(), made(name)(network, x, labels, 1.0, rng)), name


def test_an_objective_of_labelled_rows_does_not_see_the_others() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    known = torch.arange(len(x)) % 3 > 0
    found = Labelled(trades(THREAT))(network, x, torch.where(known, labels, -1), 1.0, rng)
    assert torch.equal(found, trades(THREAT)(network, x[known], labels[known], 1.0, rng[known]))


def test_a_batch_without_a_label_teaches_nothing() -> None:
    network, (x, labels, rng) = toy(norm=False), batch()
    loss = Labelled(trades(THREAT))(network, x, torch.full_like(labels, -1), 1.0, rng)
    assert loss == 0
    assert not any(part.any() for part in torch.autograd.grad(loss, list(network.parameters())))


def test_what_an_objective_remembers_is_found_and_forgotten_wherever_it_lies() -> None:
    network, (x, labels, rng), replayed = toy(), batch(), Free(THREAT)
    for whole in (replayed, Mixup(replayed, CLASSES), Labelled(Average((standard, replayed)))):
        replayed.worst(network, x, labels, 1.0, rng)
        held = memory(fresh(whole))
        assert held is not None
        (part,) = (one for one in held.modules() if isinstance(one, Free))
        assert part is not replayed
        assert part.batch is None
        assert part.turn == 0
    assert replayed.turn == 3
    assert memory(Mixup(standard, CLASSES)) is None
    assert fresh(standard) is standard


def test_the_inner_maximum_costs_its_steps_and_no_pass_more() -> None:
    passes: list[int] = []
    network, (x, labels, rng) = toy(), batch()

    def counted(z: Tensor) -> Tensor:
        passes.append(len(z))
        return network(z)  # type: ignore[no-any-return]

    inner_pgd(THREAT, steps=5)(counted, x, Never(labels), rng)
    assert passes == [len(x)] * 5


def test_inner_attacks_are_found_by_name() -> None:
    for name in INNER:
        assert maximiser(name)(THREAT).threat.norm == THREAT.norm
    assert maximiser("pgd", steps=3) == settled(pgd, steps=3)
    assert maximiser("ascent", steps=3)(THREAT) == inner_pgd(THREAT, steps=3)
    with pytest.raises(BadInput, match="unknown inner attack 'pdg'"):
        maximiser("pdg")
    with pytest.raises(BadInput, match=r"'ascent.step'.*did you mean 'steps'"):
        maximiser("ascent", step=3)
    with pytest.raises(BadInput, match="0 steps"):
        maximiser("ascent", steps=0)(THREAT)


def test_steps_grow_with_the_threat() -> None:
    made = growing(inner_pgd, 0.3, steps=7)
    assert [made(linf(eps)).steps for eps in (0.0, 0.04, 0.15, 0.29, 0.3)] == [1, 1, 4, 7, 7]  # type: ignore[attr-defined]


def test_any_attack_of_the_registry_will_do() -> None:
    network, (x, labels, rng) = toy(), batch()
    for name in ("apgd-ce", "ddn", "mi-fgsm"):
        assert adversarial(THREAT, maximiser(name))(network, x, labels, 1.0, rng).isfinite(), name
    assert TRADES(threat=THREAT, attack=partial(pgd, steps=3))(network, x, labels, 1.0, rng).isfinite()


# And they work: what is trained for a threat stands more of it

WORKING = [name for name in NAMES if ENTRIES[name].family not in ("baseline", "smoothing")]
RADIUS = linf(0.1)


def learned(objective: Objective, x: Tensor, labels: Tensor, epochs: int = 16, size: int = 64) -> nn.Module:
    """A small network, trained by the shortest of loops."""
    network = mlp(0, hidden=32)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    steps = epochs * (len(x) // size)
    for step in range(steps):
        rows = (torch.arange(size) + step * size) % len(x)
        rng = Streams.of(0, rows).at(step)
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / steps)
        optimiser.zero_grad()
        objective(network, x[rows], labels[rows], min(1.0, 3 * step / steps), rng).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


def standing(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    z = pgd(RADIUS, steps=15)(network, x, Untargeted(labels), Streams.of(1, range(len(x))))
    return float((network(z).argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def natural() -> tuple[nn.Module, float]:
    x, labels = digits("train").take(range(512))
    network = learned(standard, x, labels)
    return network, standing(network, *digits("train").take(range(4000, 4256)))


@pytest.mark.parametrize("name", WORKING)
def test_what_is_trained_for_a_threat_stands_more_of_it(name: str, natural: tuple[nn.Module, float]) -> None:
    settings: dict[str, dict[str, Any]] = {
        "ensemble": {"models": [natural[0]]},
        "multi-max": {"others": ["l2:1"], "attack": partial(inner_pgd, steps=3)},
        "multi-average": {"others": ["l2:1"], "attack": partial(inner_pgd, steps=3)},
        "vat": {"weight": 4.0},
    }
    objective = ENTRIES[name].make(RADIUS, **settings.get(name, {}))
    x, labels = digits("train").take(range(512))
    robust = standing(learned(objective, x, labels), *digits("train").take(range(4000, 4256)))
    print(f"{name:15} {natural[1]:.3f} -> {robust:.3f}")
    assert robust > natural[1] + 0.15


def test_mixtures_reach_the_objective_as_shares() -> None:
    seen: list[Tensor] = []

    def spy(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        seen.append(labels)
        return network(x).sum()  # type: ignore[no-any-return]

    network, (x, labels, rng) = toy(), batch()
    Mixup(spy, CLASSES)(network, x, labels, 1.0, rng)
    assert torch.allclose(seen[0].sum(1), torch.ones(len(x)))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adversarial", {"smoothing": 2.0}),
        ("fgsm-rs", {"alpha": -1.0}),
        ("fgsm-rs", {"smoothing": -0.1}),
        ("n-fgsm", {"noise": -1.0}),
        ("n-fgsm", {"alpha": math.inf}),
        ("n-fgsm", {"smoothing": 2.0}),
        ("alp", {"weight": -1.0}),
        ("label-smoothing", {"smoothing": 2.0}),
        ("distillation", {"temperature": 0.0}),
        ("trades", {"beta": -1.0}),
        ("trades", {"beta": math.nan}),
        ("score", {"smoothing": 3.0}),
        ("score", {"beta": -1.0}),
        ("mart", {"weight": -1.0}),
        ("vat", {"turns": -3}),
        ("vat", {"weight": -1.0}),
        ("grad-align", {"weight": -1.0}),
        ("consistency", {"doubt": -1.0}),
        ("generator", {"rate": -0.01}),
    ],
)
def test_shares_and_signs_that_make_no_sense_are_refused_in_one_line(name: str, settings: dict[str, float]) -> None:
    (said,) = settings
    with pytest.raises(BadInput, match=f"{said} = ") as refused:
        ENTRIES[name].make(THREAT, **settings)
    assert "\n" not in str(refused.value)
    if name in INNER and said != "smoothing":
        with pytest.raises(BadInput, match=f"{said} = "):
            INNER[name](THREAT, **settings)


def test_an_inner_attack_that_walks_backwards_is_refused() -> None:
    with pytest.raises(BadInput, match="length = -1"):
        inner_pgd(THREAT, length=-1.0)
