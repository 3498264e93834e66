"""The trainer: the same bits for the same seed, nothing else moved, a right average, and refusals in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import ddn, pgd
from sparring.data import Subset, first
from sparring.data.arrays import Arrays
from sparring.data.named import digits
from sparring.errors import BadInput
from sparring.goals import Never, Untargeted
from sparring.networks import mlp, small_cnn, wong_cnn
from sparring.streams import Streams
from sparring.threats import l2, linf
from sparring.training import (
    Alarm,
    Epoch,
    Event,
    Hardware,
    Objective,
    Progress,
    Trainer,
    Validation,
    adversarial,
    fit,
    inner_pgd,
    shifts,
    standard,
)
from sparring.training.augmentations import Mixup, cutout, flips, turns
from sparring.training.contract import memory
from sparring.training.objectives import Average as Mean
from sparring.training.objectives import (
    EnsembleAdversarial,
    Labelled,
    against_generator,
    ensemble_adversarial,
    free,
    mixup,
    vat,
)
from sparring.training.rates import one_cycle
from sparring.training.reading import Unlabelled
from sparring.training.schedules import linear
from sparring.training.validation import measure
from sparring.training.weights import Average, swa
from sparring.types import Data


def few(count: int = 256) -> Data:
    return first(digits("train"), count)


def only(kind: type[Any], into: list[Any]) -> Callable[[Event], None]:
    """Keep the events of one kind."""
    return lambda event: into.append(event) if isinstance(event, kind) else None


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("make", [mlp, small_cnn])
def test_the_same_seed_gives_the_same_bits_whatever_the_state_of_torchs_generator(make: type[nn.Module]) -> None:
    train = partial(fit, make(), few(128), adversarial(linf(0.1), partial(inner_pgd, steps=1)), epochs=1, batch_size=64)
    torch.manual_seed(1)
    a = train(seed=3, augment=shifts(1))
    torch.manual_seed(2)
    b = train(seed=3, augment=shifts(1))
    assert torch.equal(weights(a), weights(b))
    assert not torch.equal(weights(a), weights(train(seed=4, augment=shifts(1))))


@pytest.mark.parametrize("make", [mlp, wong_cnn, small_cnn])
def test_fresh_networks_and_training_leave_torchs_random_numbers_alone(make: type[nn.Module]) -> None:
    before = torch.get_rng_state()
    fit(make(), few(128), standard, epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_network_handed_over_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, 10), nn.Dropout())
    network[3].eval()
    state, modes = copy.deepcopy(network.state_dict()), [part.training for part in network.modules()]
    trained = fit(network, few(), adversarial(linf(0.1)), epochs=1)
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert modes == [part.training for part in network.modules()]
    assert all(p.grad is None for p in [*network.parameters(), *trained.parameters()])
    assert not any(part.training for part in trained.modules())
    assert int(trained.state_dict()["1.num_batches_tracked"]) == 2


def test_fit_returns_the_average_of_the_weights_along_the_way() -> None:
    seen: list[Tensor] = []

    def spy(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        seen.append(weights(network).clone())
        return standard(network, x, labels, strength, rng)

    last = fit(mlp(), few(), spy, epochs=3, average=0.0)
    along = [*seen[1:], weights(last)]
    average = along[0].clone()
    for n, now in enumerate(along[1:], 1):
        average = average.lerp(now, 1 - min(0.99, n / (n + 9)))
    averaged = weights(fit(mlp(), few(), standard, epochs=3, average=0.99))
    assert torch.allclose(averaged, average, atol=1e-6)
    assert not torch.allclose(averaged, weights(last), atol=1e-4)


def test_what_fit_returns_can_be_trained_further_and_what_was_frozen_stays_so() -> None:
    network = mlp(hidden=8)
    network[1].bias.requires_grad_(False)
    once = fit(network, few(), standard, epochs=1)
    assert [p.requires_grad for p in once.parameters()] == [True, False, True, True]
    again = fit(once, few(), standard, epochs=1)
    assert not torch.equal(weights(once), weights(again))
    assert torch.equal(once[1].bias, again[1].bias)


def test_the_strength_grows_in_and_the_rate_makes_one_cycle() -> None:
    told: list[Progress] = []
    rate, ramp = one_cycle(warmup=0.4), partial(linear, share=0.5)
    fit(mlp(), few(), standard, epochs=10, lr=0.01, ramp=ramp, rate=rate, watch=only(Progress, told))
    assert [now.step for now in told] == list(range(1, 21))
    assert (told[-1].steps, told[-1].epoch, told[-1].epochs) == (20, 10, 10)
    assert [round(now.strength, 6) for now in told] == [i / 10 for i in range(10)] + [1.0] * 10
    rates = [now.lr for now in told]
    assert max(rates) == pytest.approx(0.01, rel=0.02)
    assert rates.index(max(rates)) in (7, 8)
    assert rates[-1] < 1e-6


def test_the_attack_of_training_stays_inside_the_threat_that_is_in_force() -> None:
    farthest: list[float] = []
    x, labels = few(32).take(range(32))

    def attack(threat):  # type: ignore[no-untyped-def]
        def search(model, x, goal, rng):  # type: ignore[no-untyped-def]
            z = inner_pgd(threat)(model, x, goal, rng)
            assert isinstance(goal, Never)
            farthest.append(float((z - x).abs().max()))
            return z

        return search

    for strength in (0.0, 0.5, 1.0):
        adversarial(linf(0.2), attack)(mlp(), x, labels, strength, Streams.of(0, range(32)))
    assert farthest == pytest.approx([0.0, 0.1, 0.2], abs=1e-6)


def test_adversarial_training_makes_a_network_that_stands_what_breaks_the_natural_one() -> None:
    data, held_out = few(1500), digits("train").take(range(4000, 4300))
    x, labels = held_out
    standing = []
    for objective in (standard, adversarial(linf(0.1), partial(inner_pgd, steps=3))):
        network = fit(mlp(), data, objective, epochs=8, lr=1e-2)
        z = pgd(linf(0.1), steps=20)(network, x, Untargeted(labels), Streams.of(0, range(len(x))))
        standing.append(float((network(z).argmax(1) == labels).float().mean()))
    natural, robust = standing
    assert natural < 0.2
    assert robust > 0.5


def test_data_too_large_for_memory_are_read_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(mlp(), few(), standard, epochs=1)
    monkeypatch.setattr("sparring.training.reading.IN_MEMORY", 0)
    assert torch.equal(weights(whole), weights(fit(mlp(), few(), standard, epochs=1)))


def test_fewer_examples_than_a_batch_make_one_batch() -> None:
    told: list[Progress] = []
    fit(mlp(), few(5), standard, epochs=1, watch=only(Progress, told))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"average": 1.5}, "average = 1.5"),
        ({"clip": -1.0}, "clip -1.0"),
        ({"lr": 1e30}, "a loss of"),
        ({"seed": 2**70}, "seed 1180591620717411303424; need at most"),
        ({"seed": -(2**70)}, "seed -1180591620717411303424"),
    ],
)
def test_settings_that_cannot_train_are_refused_in_one_line(settings: dict[str, float], said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        fit(mlp(), few(), standard, **{"epochs": 4, **settings})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_a_network_that_does_not_fit_the_data_is_refused_in_one_line() -> None:
    x, labels = few(16).take(range(16))
    with pytest.raises(BadInput, match="label 12 in eleven"):
        fit(mlp(), Arrays("eleven", x, labels + 12 - labels.max()), standard, epochs=1)
    with pytest.raises(BadInput, match=r"inputs \(14, 14\) of small for Sequential"):
        fit(mlp(), Arrays("small", x[:, 0, ::2, ::2], labels), standard, epochs=1)
    with pytest.raises(BadInput, match="no weights to train"):
        fit(mlp().requires_grad_(False), few(16), standard, epochs=1)
    with pytest.raises(BadInput, match="logits"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(784, 1)), few(16), standard, epochs=1)


class Twice(nn.Module):
    """Answers with a tuple, as networks with auxiliary heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head(x.flatten(1)), x


class Scaling(Twice):
    """Scales its input where it lies."""

    def forward(self, x: Tensor) -> Any:
        return self.head(x.sub_(0.5).flatten(1))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Twice(), "outputs that are a tuple"),
        (Scaling(), "change a copy"),
        (mlp().double(), r"torch.float64.*network.float\(\)"),
        (torch.compile(mlp(), backend="eager"), "compiled network"),
    ],
)
def test_a_network_that_training_cannot_take_is_refused_in_one_line(network: nn.Module, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        fit(network, few(16), standard, epochs=1)
    assert "\n" not in str(refused.value)


class Failing(Twice):
    """Raises what a network of another kind of input raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("odd"), IndexError("odd"), KeyError("odd"), TypeError("odd")], ids=repr)
def test_a_network_that_fails_on_the_data_is_refused_in_one_line(error: Exception) -> None:
    with pytest.raises(BadInput, match=r"inputs \(1, 28, 28\) of .* for Failing .*odd.*; need inputs it takes"):
        fit(Failing(error), few(16), standard, epochs=1)


def test_a_network_that_cannot_be_copied_is_refused_with_what_to_take_instead() -> None:
    with pytest.warns(FutureWarning):
        layer = torch.nn.utils.weight_norm(nn.Linear(784, 10))
    with pytest.raises(BadInput, match=r"Sequential that cannot be copied.*parametrizations"):
        fit(nn.Sequential(nn.Flatten(), layer), few(16), standard, epochs=1)


def flat(data: Data) -> Data:
    x, labels = data.take(range(len(data)))
    return Arrays("flat", x.flatten(1), labels)


@pytest.mark.parametrize(
    ("data", "objective", "settings", "said"),
    [
        (few(16), standard, {"batch_size": 4, "extra": few(8), "share": 0.9}, "share of 0.9 .* in batches of 4"),
        (few(16), standard, {"extra": flat(few(8))}, r"inputs \(784,\) of flat; need \(1, 28, 28\)"),
        (few(16), standard, {"extra": Subset(few(8), [])}, "empty"),
        (few(16), standard, {"hardware": Hardware(device="foo")}, "the device 'foo'"),
        (few(16), mixup(linf(0.1), classes=3), {}, "mixtures of 3 classes; need 10"),
        (few(16), Mixup(vat(linf(0.1)), 10), {"extra": Unlabelled(few(8))}, "mixtures with .* without labels"),
        (few(16), Mean((standard, Mixup(standard, 3))), {}, "mixtures of 3 classes; need 10"),
        (Unlabelled(few(16)), Mixup(standard, 10), {}, "mixtures with .* without labels"),
        (Unlabelled(few(16)), standard, {}, "label -1 in .*; need labels from 0"),
        (few(16), adversarial(linf(0.1)), {"extra": Unlabelled(few(8))}, "label -1 in .*; need labels from 0"),
        (few(16), adversarial(linf(0.1), partial(inner_pgd, steps=0)), {}, "0 steps"),
        (flat(few(16)), against_generator(linf(0.1)), {}, r"inputs \(784,\); need images"),
        *(
            (flat(few(16)), standard, {"augment": one()}, r"inputs \(784,\).*images")
            for one in (shifts, flips, cutout, turns)
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    data: Data, objective: Objective, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        fit(mlp(hidden=8), data, objective, epochs=1, **settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "make",
    [
        partial(free, linf(0.1)),
        lambda: Mixup(free(linf(0.1)), 10),
        partial(against_generator, linf(0.1)),
        lambda: ensemble_adversarial(linf(0.1), models=[mlp(1, hidden=8)]),
    ],
)
def test_nothing_is_carried_from_one_training_to_the_next(make: Callable[[], Objective]) -> None:
    objective = make()
    train = partial(fit, mlp(hidden=8), epochs=1, batch_size=32)
    train(first(few(), 96), objective)
    held = memory(objective)
    assert held is not None
    assert isinstance(held, EnsembleAdversarial) or str(held.state_dict()) == str(memory(make()).state_dict())  # type: ignore[union-attr]
    again, anew = (train(Subset(few(), range(96, 192)), one) for one in (objective, make()))
    assert torch.equal(weights(again), weights(anew))


def test_a_remedy_learns_from_the_rows_that_have_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(history: Sequence[Epoch]) -> Alarm | None:
        found = Alarm(name="catastrophic-overfitting", epoch=2, seen="", threshold="", remedy="")
        return found if len(history) == 2 else None

    monkeypatch.setattr("sparring.training.trainer.ALARMS", (at_once,))
    seen: list[int] = []

    def spy(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        seen.append(len(x))
        assert int(labels.min()) >= 0
        return standard(network, x, labels, strength, rng)

    held = Validation(data=few(32), threat=linf(0.1), attack=partial(pgd, steps=1))
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 32, "validation": held, "extra": Unlabelled(few(40))}
    Trainer(**settings, share=0.25, remedy=spy)(mlp(hidden=8), few(96), vat(linf(0.1)))
    assert seen == [24] * 4


def test_inputs_that_are_not_finite_are_named_rather_than_the_learning_rate() -> None:
    x = torch.full((40, 1, 28, 28), torch.nan)
    with pytest.raises(BadInput, match=r"not finite.*clean the data"):
        fit(mlp(hidden=8), Arrays(x=x, y=torch.zeros(40, dtype=torch.int64), name="odd"), standard, epochs=1)


def test_averaged_weights_get_running_statistics_of_their_own() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    data = few(256)
    trained = fit(network, data, standard, epochs=3, batch_size=256, lr=0.05, average=swa, settled=0.3)
    with torch.no_grad():
        hidden = trained[1](data.take(range(256))[0].flatten(1))
    assert torch.allclose(trained[2].running_mean, hidden.mean(0), atol=1e-5)
    assert torch.allclose(trained[2].running_var, hidden.var(0), rtol=1e-4)


class Breaking(nn.Module):
    """Has a gradient that is not finite in one of its passes in training mode, while the loss is."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.head, self.at, self.passes = nn.Linear(784, 10), at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        out: Tensor = self.head(x.flatten(1))
        return out + (self.head.weight.sum() * 0).sqrt() if self.training and self.passes == self.at else out


@pytest.mark.parametrize("average", [0.0, 0.999])
def test_weights_that_the_last_update_has_broken_are_not_returned(average: float) -> None:
    train = partial(fit, data=few(128), objective=standard, epochs=2, batch_size=64, average=average)
    assert train(Breaking(at=5)) is not None
    with pytest.raises(BadInput, match=r"weights that are not finite after update 4.*lower lr"):
        train(Breaking(at=4))
    with pytest.raises(BadInput, match="a loss of nan at update 4"):
        train(Breaking(at=3))


def test_the_history_has_the_rate_that_the_last_update_of_an_epoch_used() -> None:
    told: list[Progress] = []
    course = Trainer(epochs=2, batch_size=64, watch=only(Progress, told))(mlp(hidden=8), few(256), standard)
    assert [epoch.lr for epoch in course.history] == [told[3].lr, told[7].lr]


def test_a_mean_of_late_weights_begins_with_the_last_update_at_the_latest() -> None:
    seen: list[int] = []

    class Counting(Average):
        def update(self, network: nn.Module) -> None:
            seen.append(self.seen)
            super().update(network)

    def counting(network: nn.Module) -> Average:
        return Counting(network, lambda n: n / (n + 1))

    fit(mlp(hidden=8), few(128), standard, epochs=2, batch_size=32, average=counting, settled=0.95)
    assert seen == [0]
    fit(mlp(hidden=8), few(128), standard, epochs=2, batch_size=32, average=counting, settled=0.5)
    assert seen == [0, 0, 1, 2, 3]


@dataclass(frozen=True)
class Marked:
    """Data of a user's own, some of whose labels are below 0."""

    label: int
    name: str = "marked"
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 64

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        x, labels = few(64).take(indices)
        return x, torch.where(torch.as_tensor([i % 2 for i in indices]) == 1, self.label, labels)


@pytest.mark.parametrize("label", [-1, -100])
def test_a_label_below_0_is_refused_where_nothing_says_that_it_is_none(
    label: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = partial(fit, mlp(hidden=8), epochs=1, batch_size=32)
    with pytest.raises(BadInput, match=f"label {label} in marked; need labels from 0"):
        train(Marked(label), standard)
    with pytest.raises(BadInput, match=f"label {label} in marked"):
        train(few(64), standard, validation=Validation(data=Marked(label), threat=linf(0.1)))
    for objective in (vat(linf(0.1)), Labelled(standard), Mean((vat(linf(0.1)), Labelled(standard)))):
        assert train(Marked(label), objective) is not None
    train(few(64), vat(linf(0.1)), extra=Unlabelled(few(32)))

    def at_once(history: Sequence[Epoch]) -> Alarm | None:
        found = Alarm(name="catastrophic-overfitting", epoch=2, seen="", threshold="", remedy="")
        return found if len(history) == 2 else None

    monkeypatch.setattr("sparring.training.trainer.ALARMS", (at_once,))
    held = Validation(data=few(32), threat=linf(0.1), attack=partial(pgd, steps=1))
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 32, "validation": held, "remedy": standard}
    assert len(Trainer(**settings)(mlp(hidden=8), Marked(label), vat(linf(0.1))).history) == 3


def normed(*, image: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    if image:
        return nn.Sequential(nn.Conv2d(1, 2, 7, 7), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 10))
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def test_batches_of_one_example_are_refused_where_batchnorm_would_see_a_single_value_a_channel() -> None:
    for settings, data in (({"batch_size": 1}, few(4)), ({}, few(1))):
        with pytest.raises(BadInput, match=r"batches of one example.*larger batch_size"):
            fit(normed(), data, standard, epochs=1, **settings)
        assert fit(normed(image=True), data, standard, epochs=1, **settings) is not None
        assert fit(mlp(hidden=8), data, standard, epochs=1, **settings) is not None
    frozen = normed().eval()
    frozen[2].requires_grad_(False)
    assert fit(frozen, few(4), standard, epochs=1, batch_size=1) is not None


@pytest.mark.parametrize("average", [0.0, 0.999, swa])
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_batchnorm_that_was_frozen_keeps_its_statistics_and_any_other_gathers_them(
    average: Any, precision: Any
) -> None:
    train = partial(fit, data=few(), objective=adversarial(linf(0.1)), epochs=1, average=average)
    train = partial(train, hardware=Hardware(precision=precision))
    network = normed()
    network[2].requires_grad_(False)
    kept = train(network.eval())
    assert torch.equal(kept[2].running_mean, network[2].running_mean)
    assert int(kept[2].num_batches_tracked) == 0
    assert not torch.equal(kept[1].weight, network[1].weight)
    learning = train(network.train())
    assert not torch.equal(learning[2].running_mean, network[2].running_mean)
    unfrozen = train(normed().eval())
    assert not torch.equal(unfrozen[2].running_mean, network[2].running_mean)


@pytest.mark.parametrize(("has", "taken"), [({"avx512_bf16": True}, "bf16-mixed"), ({"bf16": False}, "32"), ({}, "32")])
def test_auto_is_bfloat16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], taken: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    hardware, network = Hardware(precision="auto"), mlp(hidden=8)
    assert hardware.chosen(network) == taken
    assert (hardware.casting(network) is network) == (taken == "32")
    assert Hardware(precision="bf16-mixed").chosen(network) == "bf16-mixed", "what was asked for"


def test_what_an_attack_finds_outside_of_the_threat_breaks_nothing_held_out() -> None:
    data, network = few(32), mlp(hidden=8)
    found = [
        measure(network, validation=Validation(data=data, threat=l2(0.0), **given), seed=0, device=torch.device("cpu"))
        for given in ({}, {"attack": ddn})
    ]
    assert found[0].robust == found[1].robust == found[0].clean


@pytest.mark.parametrize(("settings", "said"), [({"every": 0}, "every = 0"), ({"patience": 0}, "patience = 0")])
def test_a_validation_that_never_comes_or_has_no_examples_is_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Validation(data=few(8), threat=linf(0.1), **settings)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="no examples held out"):
        Validation(data=Subset(few(8), []), threat=linf(0.1))
