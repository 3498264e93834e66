"""Texts that say who was in the ring: the same in every process, other ones for other models, attacks and defences."""

import pytest
import torch

from sparring.data import Arrays, digits
from sparring.errors import BadInput
from sparring.evaluate.collect import collect
from sparring.evaluate.identity import of_attack, of_model
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
