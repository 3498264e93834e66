"""Texts that say who was in the ring: the same in every process, other ones for other models, attacks and defences."""

import copy

import pytest
import torch
from torch import nn

from sparring import audit
from sparring.data import Arrays, digits
from sparring.errors import BadInput
from sparring.evaluate.collect import collect
from sparring.evaluate.identity import of_attack, of_data, of_examples, of_model
from sparring.models import adopt
from sparring.models.victim import Victim
from sparring.registry import find, members
from sparring.threats import linf, parse

NORMS = ("linf:0.1", "l2:0.5", "l1:10", "l0:20")
THREATS = [parse(text) for text in (*NORMS, "patch:0.1", "flow:0.5", "pose:30", "recolour:0.2", "corruption:2")]


def linear(seed: int) -> Victim:
    """A model that shows scores and no parameters, as from a framework that only predicts."""
    weight = torch.randn(784, 10, generator=torch.Generator().manual_seed(seed))
    return Victim(call=lambda x: x.flatten(1) @ weight, access="scores", framework="other", name="linear")


@pytest.mark.parametrize("name", members("attacks"))
def test_no_attack_is_known_by_where_it_lies_in_memory(name):
    entry = find("attacks", name)
    fitting = [threat for threat in THREATS if str(threat).partition(":")[0] in entry.kinds]
    assert not [text for threat in fitting if " at 0x" in (text := of_attack(entry.make(threat)))]


def test_a_model_that_was_fitted_anew_is_another_one():
    data = digits("test")
    assert of_model(linear(0), data) == of_model(linear(0), data) != of_model(linear(1), data)
    assert of_model(linear(0), data, steady=False) == of_model(linear(1), data, steady=False)


class Tempered(nn.Module):
    """A linear model whose forward pass does what it was told."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)
        self.register_buffer("offset", torch.zeros(1), persistent=False)
        self.after = lambda x: sign * x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.layer(x.flatten(1))) + self.offset


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    first, last = nn.Linear(784, 30), nn.Linear(30, 10)
    made: list[nn.Module] = [
        nn.Sequential(nn.Flatten(), first, between, last)
        for between in (nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), nn.Tanh(), nn.Dropout(0.1), nn.Dropout(0.2))
    ]
    same = Tempered(1.0)
    negative, moved = Tempered(-1.0), Tempered(1.0)
    for other in (negative, moved):
        other.load_state_dict(same.state_dict())
    moved.offset.fill_(0.5)
    return [*made, same, negative, moved]


def test_networks_of_the_same_weights_are_told_apart_by_their_layers_and_what_they_do():
    data = digits("test")
    known = [of_model(adopt(network), data) for network in networks()]
    assert len(set(known)) == len(known)
    assert known == [of_model(adopt(network), data) for network in networks()]


def test_being_told_apart_leaves_a_network_in_train_mode_as_it_was():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(), nn.Linear(784, 10))
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    assert of_model(adopt(network), digits("test")) == of_model(adopt(network), digits("test"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(part.training for part in network.modules())


@pytest.mark.parametrize("row", [0, 17, 299])
def test_data_are_told_apart_by_any_label_and_any_input(row):
    x, y = digits("test").take(range(300))
    other, label = x.clone(), y.clone()
    other[row, 0, 14, 14] += 0.01
    label[row] = (label[row] + 1) % 10
    assert len({of_data(Arrays("same", *pair)) for pair in ((x, y), (other, y), (x, label))}) == 3


def test_examples_are_the_same_by_any_name_and_in_any_shape_but_not_with_another_value():
    x, y = digits("test").take(range(300))
    flat, other = x.flatten(1), x.clone()
    other[299, 0, 14, 14] += 0.01
    same = of_examples(Arrays("one", x, y))
    assert same == of_examples(Arrays("another", flat, y))
    assert same not in (of_examples(Arrays("one", other, y)), of_examples(Arrays("one", x, y.flip(0))))


def test_an_interrupted_attack_goes_on_with_the_same_model_only(tmp_path):
    def stop(stage, done, total):
        if stage == "square":
            raise KeyboardInterrupt

    x, _ = digits("test").take(range(40))
    victim, given = linear(0), {"entry": find("attacks", "square"), "threat": linf(0.01), "out": tmp_path}
    labels = torch.where(torch.arange(40) % 2 == 0, victim(x).argmax(1), linear(1)(x).argmax(1))
    data = Arrays("some", x.numpy(), labels.numpy())
    with pytest.raises(KeyboardInterrupt):
        collect(victim, data, **given, watch=stop)
    with pytest.raises(BadInput, match="differs in model;"):
        collect(linear(1), data, **given, resume=True)
    assert collect(victim, data, **given, resume=True).broken


def test_lambdas_are_told_apart_by_what_they_do_and_by_what_they_were_made_with():
    def made(by):
        return lambda x: x * by

    again = lambda n: again(n - 1) if n else 0  # noqa: E731
    large = [torch.zeros(2000) for _ in range(2)]
    large[1][1000] = 1
    different = [made(by) for by in (1, 2, large[0], large[1], {"a": 1}, [object()])]
    different += [lambda x: (y + 1 for y in x), lambda x: (y + 2 for y in x), lambda x: sorted(x, key=lambda y: -y)]
    different += [lambda x: sorted(x, key=lambda y: -2 * y), again, lambda x, *, by=1: x, lambda x, *, by=2: x]
    texts = [of_attack(one) for one in different]
    assert len(set(texts)) == len(texts)
    assert of_attack(made([object()])) == texts[5]
    assert of_attack(made({"b", "a"})) == of_attack(made({"a", "b"}))


def test_what_the_doctor_refuses_is_invalid_also_where_a_run_is_kept(tmp_path):
    def strict(x):
        if not bool(x.isfinite().all()):
            raise ValueError("inputs hold NaN")
        return linear(0)(x)

    x, _ = digits("test").take(range(20))
    data = Arrays("some", x.numpy().copy(), linear(0)(x).argmax(1).numpy())
    data.x[3, 0, 2, 2] = torch.nan
    victim = Victim(call=strict, access="scores", framework="other", name="strict")
    for out in (None, tmp_path / "out"):
        assert audit(victim, data, linf(0.1), suite="quick", out=out).verdict == "invalid"


def test_a_refused_call_leaves_the_run_that_was_there(tmp_path):
    x, _ = digits("test").take(range(20))
    given = (linear(0), Arrays("some", x.numpy(), linear(0)(x).argmax(1).numpy()), linf(0.1))
    audit(*given, suite="quick", passes=0, out=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadInput, match="a batch size of 0"):
        audit(*given, suite="quick", passes=0, out=tmp_path, batch_size=0)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
