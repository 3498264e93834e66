"""Every alarm is raised by a training that goes wrong in its own way, and none by one that goes right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.data import Arrays, Subset, first
from sparring.data.named import digits
from sparring.goals import Never
from sparring.hardening import train
from sparring.networks import mlp, wong_cnn
from sparring.streams import Streams
from sparring.threats import linf
from sparring.training import Alarm, Course, Epoch, Objective, Trainer, Validation, adversarial, inner_pgd
from sparring.training.alarms import (
    ALARMS,
    batchnorm_leak,
    catastrophic_overfitting,
    collapse,
    exploding_perturbation,
    gradient_masking,
    robust_overfitting,
)
from sparring.training.objectives import single_step
from sparring.training.rates import flat
from sparring.training.weights import AWP
from sparring.types import Data

HELD_OUT = Subset(digits("train"), range(7000, 7200))


def course(network: nn.Module, data: Data, objective: Objective, eps: float, **settings: Any) -> Course:
    return Trainer(validation=Validation(data=HELD_OUT, threat=linf(eps)), **settings)(network, data, objective)


def raised(done: Course) -> set[str]:
    return {alarm.name for alarm in done.alarms}


def few(count: int) -> Data:
    return first(digits("train"), count)


def pgd(eps: float, steps: int = 2) -> Objective:
    return adversarial(linf(eps), partial(inner_pgd, steps=steps))


def test_training_on_single_steps_overfits_and_goes_back_to_the_last_good_weights() -> None:
    fgsm = adversarial(linf(0.3), single_step)  # without noise, at a size that it cannot bear
    done = course(wong_cnn(), few(1500), fgsm, 0.3, epochs=8, batch_size=50, average=0.95)
    (alarm,) = done.alarms
    assert alarm.name == "catastrophic-overfitting"
    assert f"went back to the weights of epoch {alarm.epoch - 1}, and stopped there" in alarm.remedy
    assert alarm.epoch == len(done.history)


def test_after_catastrophic_overfitting_training_goes_on_with_another_objective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above, the alarm raised at will: the weights of the third epoch are gone, and what follows is the remedy's."""

    def third(history: Sequence[Epoch]) -> Alarm | None:
        found = Alarm(name="catastrophic-overfitting", epoch=3, seen="", threshold="", remedy="")
        return found if len(history) == 3 else None

    monkeypatch.setattr("sparring.training.trainer.ALARMS", (third,))
    seen: list[Tensor] = []
    told: list[Any] = []

    def spy(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        seen.append(torch.cat([p.detach().flatten() for p in network.parameters()]).clone())
        return pgd(0.1)(network, x, labels, strength, rng)

    done = course(mlp(), few(256), spy, 0.1, epochs=4, remedy=spy, watch=told.append)
    (alarm,) = (event for event in told if isinstance(event, Alarm))
    assert "went back to the weights of epoch 2, and goes on against several steps" in alarm.remedy
    assert len(done.history) == 4
    assert torch.equal(seen[6], seen[4]), "two updates an epoch: the fourth begins where the third began"
    assert not torch.equal(seen[5], seen[4])


def test_noisy_labels_are_learnt_by_heart_at_the_cost_of_robustness() -> None:
    x, labels = few(500).take(range(500))
    draws = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 10, labels.shape, generator=draws)
    labels = torch.where(torch.rand(len(labels), generator=draws) < 0.5, noise, labels)
    settings = {"epochs": 30, "lr": 1e-2, "batch_size": 50, "average": 0.9}
    done = course(mlp(hidden=256), Arrays("noisy", x, labels), pgd(0.1), 0.1, **settings)
    assert raised(done) == {"robust-overfitting"}
    robust = [epoch.robust for epoch in done.history if epoch.robust is not None]
    found = Streams.of(0, range(200))
    x, labels = HELD_OUT.take(range(200))
    z = Validation(data=HELD_OUT, threat=linf(0.1)).attack(linf(0.1))(done.network, x, Never(labels), found)
    assert float((done.network(z).argmax(1) == labels).float().mean()) > max(robust) - 0.05, "the best are returned"


def test_too_large_a_threat_at_once_collapses_to_a_constant() -> None:
    now: dict[str, Any] = {"epochs": 3, "lr": 2e-2, "ramp": lambda progress: 1.0, "rate": flat()}
    assert raised(course(wong_cnn(), few(800), pgd(0.4), 0.4, **now)) == {"collapse"}


def test_a_neighbourhood_of_weights_that_is_too_large_is_noticed() -> None:
    done = course(mlp(), few(500), pgd(0.1), 0.1, epochs=2, neighbourhood=AWP(gamma=3.0))
    assert "exploding-perturbation" in raised(done)


def normalised() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))


def careless(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
    """Adversarial training that forgets to put the network into inference mode for the attack."""
    z = inner_pgd(linf(0.1 * strength), steps=2)(network, x, Never(labels), rng)
    return functional.cross_entropy(network(z), labels)


def test_an_attack_that_moves_the_statistics_of_batchnorm_is_noticed() -> None:
    done = course(normalised(), few(500), careless, 0.1, epochs=1)
    (alarm,) = done.alarms
    assert alarm.name == "batchnorm-leak"
    assert "2 passes" in alarm.seen


class Rounded(nn.Module):
    """A network that hides its gradients: its inputs are rounded first."""

    def __init__(self) -> None:
        super().__init__()
        self.network = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.network((4 * x).round() / 4)  # type: ignore[no-any-return]


def test_a_network_that_hides_its_gradients_is_found_out_by_the_audit() -> None:
    settings: dict[str, Any] = {"epochs": 2, "audit": {"suite": "quick", "limit": 60}}
    done = train(Rounded(), few(1000), linf(0.1), **settings)
    (alarm,) = done.alarms
    assert alarm.name == "gradient-masking"
    assert "gradient" in alarm.seen


@pytest.mark.parametrize("neighbourhood", [None, AWP()])
@pytest.mark.parametrize("make", [mlp, normalised])
def test_a_training_that_goes_right_raises_none(make: Any, neighbourhood: AWP | None) -> None:
    done = course(make(), few(1500), pgd(0.1, 3), 0.1, epochs=6, lr=1e-2, neighbourhood=neighbourhood)
    assert not done.alarms
    assert done.history[-1].robust is not None
    assert done.history[-1].robust > 0.5


def test_a_threat_that_has_not_grown_yet_is_not_held_against_the_network() -> None:
    """Under the whole threat a network half-way there may stand a single step, and does not stand several."""
    done = course(wong_cnn(), few(2500), pgd(0.3, 3), 0.3, epochs=3, batch_size=50, ramp=lambda progress: 0.3)
    assert not done.alarms
    last = done.history[-1]
    assert last.robust is not None
    assert last.live is not None
    assert last.robust < 0.2
    assert last.live > 0.8


def test_an_audit_that_trusts_the_network_raises_none() -> None:
    done = train(mlp(), few(1500), linf(0.05), epochs=4, audit={"suite": "quick", "limit": 100})
    assert done.after is not None
    assert done.after.verdict == "trusted"
    assert gradient_masking(done.after, 4) is None
    assert not done.alarms


CALM = Epoch(
    epoch=1,
    step=10,
    seconds=1.0,
    loss=0.5,
    lr=0.1,
    strength=1.0,
    clean=0.95,
    robust=0.8,
    live=0.79,
    single_step=0.83,
    constant=0.12,
    common=0.11,
    at_rest=0.4,
    leaks=0,
    examples=500,
    classes=10,
)


def after(*changes: dict[str, Any]) -> list[Epoch]:
    """A history: a calm epoch for each change, with it."""
    return [replace(CALM, epoch=i + 1, **change) for i, change in enumerate(changes)]


@pytest.mark.parametrize(
    ("ask", "wrong", "right"),
    [
        (catastrophic_overfitting, [{}, {"single_step": 0.9, "live": 0.6}], [{}, {"single_step": 0.7, "live": 0.6}]),
        (catastrophic_overfitting, [{"single_step": 0.9, "live": 0.3}], [{"single_step": 0.5, "live": 0.3}]),
        (
            robust_overfitting,
            [{}, *[{"robust": 0.7, "loss": 0.3}] * 3],
            [{}, {"robust": 0.7, "loss": 0.3}, {"robust": 0.79, "loss": 0.3}, {"robust": 0.7, "loss": 0.3}],
        ),
        (robust_overfitting, [{}, *[{"robust": 0.7, "loss": 0.3}] * 3], [{}, *[{"robust": 0.7, "loss": 0.6}] * 3]),
        (collapse, [{"constant": 0.99}] * 2, [{"constant": 0.99}, {"constant": 0.5}]),
        (collapse, [{"constant": 0.99, "common": 0.9}] * 2, [{"constant": 0.94, "common": 0.9}] * 2),
        (exploding_perturbation, [{"loss": 3.0}], [{"loss": 0.7}]),
        (exploding_perturbation, [{"loss": float("inf")}], [{"loss": 3.0, "at_rest": 2.0}]),
        (batchnorm_leak, [{"leaks": 7}], [{"leaks": 0}]),
    ],
)
def test_each_alarm_has_its_threshold(ask: Any, wrong: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert isinstance(ask(after(*wrong)), Alarm)
    assert ask(after(*right)) is None


def test_nothing_is_said_of_what_was_not_measured() -> None:
    bare = Epoch(epoch=1, step=10, seconds=1.0, loss=5.0, lr=0.1, strength=1.0)
    assert not [ask for ask in ALARMS if ask([bare]) or ask(after({}, {}, {}, {})) or ask([CALM, bare])]


def test_a_network_that_is_right_about_a_single_class_has_not_collapsed() -> None:
    epoch = Epoch(epoch=1, step=9, seconds=1.0, loss=0.1, lr=0.1, strength=1.0, constant=1.0, common=1.0)
    assert collapse([epoch, replace(epoch, epoch=2)]) is None
    assert collapse([replace(epoch, common=0.1), replace(epoch, epoch=2, common=0.1)]) is not None
