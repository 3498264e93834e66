"""Any threat, and attacks that learn: what `sparring attack` does with them."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from sparring.data import digits
from sparring.data.arrays import Arrays
from sparring.errors import BadInput
from sparring.evaluate.collect import LESSONS, collect
from sparring.models.loading import adopt
from sparring.models.torch import function
from sparring.networks import mlp
from sparring.registry import Entry, find
from sparring.threats import Ball, parse

CASES = [
    ("pose-random", "pose:30"),
    ("stadv", "flow:0.5"),
    ("recoloradv", "recolour:0.2"),
    ("patch", "patch:0.1"),
    ("corruptions", "corruption:2"),
    ("universal", "linf:0.2"),
    ("universal-patch", "patch:0.1"),
]


@pytest.fixture(scope="module")
def victim():
    """A network that has learned a little."""
    (x, y), model = digits("train").take(range(600)), mlp(hidden=32)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return adopt(model.eval())


def some(count):
    x, y = digits("test").take(range(count))
    return Arrays("some", x.numpy(), y.numpy())


@pytest.mark.parametrize(("name", "threat"), CASES)
def test_what_is_kept_is_inside_the_threat_whatever_the_batches(victim, tmp_path, name, threat):
    data, allowed = some(16), parse(threat)
    found = collect(victim, data, find("attacks", name), allowed, tmp_path / "one", batch_size=16)
    with np.load(found.file) as file:
        z, x, index = (torch.from_numpy(file[part]) for part in ("z", "x", "index"))
    assert len(index) > 2
    assert allowed.contains(z, x).all()
    assert np.isfinite(found.distances).all()
    assert found.cost.forward > 0
    again = collect(victim, data, find("attacks", name), allowed, tmp_path / "two", batch_size=5)
    assert found.broken == again.broken
    with np.load(again.file) as file:
        assert torch.equal(torch.from_numpy(file["z"]), z)


def test_an_attack_that_learns_does_so_on_the_first_examples_and_says_at_what_cost(victim, tmp_path):
    entry, threat = find("attacks", "universal"), parse("linf:0.1")
    found = collect(victim, some(30), entry, threat, tmp_path / "few")
    assert (found.learned_from, found.learning.forward) == (30, 200 * 30)
    found = collect(victim, some(LESSONS + 20), entry, threat, tmp_path / "many")
    assert (found.learned_from, found.learning.forward) == (LESSONS, 200 * 100)
    found = collect(victim, some(30), find("attacks", "fgsm"), threat, tmp_path / "none")
    assert (found.learned_from, found.learning.forward) == (0, 0)


def test_an_attack_for_other_threats_or_for_images_is_refused_in_one_line(victim, tmp_path):
    with pytest.raises(BadInput, match="need the threat flow"):
        collect(victim, some(8), find("attacks", "stadv"), parse("pose:30"), tmp_path)
    with pytest.raises(BadInput, match="a norm of linf, l2"):
        collect(victim, some(8), find("attacks", "universal"), parse("patch:0.1"), tmp_path)
    flat = Arrays("flat", some(8).take(range(8))[0].flatten(1).numpy(), some(8).take(range(8))[1].numpy())
    with pytest.raises(BadInput, match="images"):
        collect(adopt(mlp(hidden=32)), flat, find("attacks", "advgan"), parse("linf:0.1"), tmp_path)


def test_settings_reach_the_attack_and_a_record_says_what_was_run_and_at_what_cost(victim, tmp_path):
    entry, threat = find("attacks", "pgd"), parse("linf:0.05")
    given = {"steps": 7, "loss": "probability-margin"}
    found = collect(victim, some(20), entry, threat, tmp_path, settings=given, seed=3)
    record = json.loads(found.record.read_text())
    assert found.record == tmp_path / "attack.json"
    assert record["attack"] == "pgd"
    assert record["settings"] == {"steps": 7, "loss": "probability_margin", "restarts": 1}
    assert record["threat"] == {"name": "linf:0.05", "low": 0.0, "high": 1.0}
    assert (record["seed"], record["examples"], record["right_before"]) == (3, 20, found.right_before)
    assert record["broken"] == len(found.broken)
    assert record["forward_per_example"] == found.cost.forward / found.right_before
    assert record["backward_per_example"] == found.cost.backward / found.right_before <= 7
    assert record["seconds"] == found.cost.seconds > 0


def test_restarts_fit_every_attack_and_break_no_less(victim, tmp_path):
    entry, threat = find("attacks", "pgd"), parse("linf:0.04")
    once = collect(victim, some(40), entry, threat, tmp_path / "once", settings={"steps": 3})
    more = collect(victim, some(40), entry, threat, tmp_path / "more", settings={"steps": 3, "restarts": 4})
    assert len(more.broken) >= len(once.broken) > 0
    assert more.cost.backward > 2 * once.cost.backward
    with pytest.raises(BadInput, match="does not learn"):
        collect(victim, some(8), find("attacks", "universal"), threat, tmp_path / "no", settings={"restarts": 2})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stepz": 3}, "'pgd.stepz'; need one of steps, loss, restarts; did you mean 'steps'"),
        ({"steps": "ten"}, "steps = 'ten'; need a whole number"),
        ({"steps": 0}, "steps = 0; need 1 or more"),
        ({"restarts": 0}, "restarts = 0; need 1 or more"),
        ({"loss": "margn"}, "did you mean 'margin'"),
        ({"loss": 3}, "loss = 3; need a function"),
        ({"eps": 0.1}, "the setting 'pgd.eps'"),
    ],
)
def test_settings_that_an_attack_does_not_take_are_refused_in_one_line(victim, tmp_path, given, said):
    with pytest.raises(BadInput, match=said) as refusal:
        collect(victim, some(8), find("attacks", "pgd"), parse("linf:0.1"), tmp_path / "out", settings=given)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def own(make, **facts):
    return Entry(name="own", make=make, **facts)


def test_an_attack_of_ones_own_is_run_judged_and_recorded(victim, tmp_path):
    @dataclass(frozen=True)
    class Darken:
        threat: Ball
        share: float

        def __call__(self, model, x, goal, rng):
            return (x - self.share * self.threat.eps).clamp(0)

    def darken(threat, *, share: float = 1):  # types that are no text, as in a file without postponed annotations
        return Darken(threat, share)

    found = collect(victim, some(20), own(darken), parse("linf:0.3"), tmp_path, settings={"share": 0.5})
    assert json.loads(found.record.read_text())["settings"] == {"share": 0.5, "restarts": 1}
    assert max(found.distances, default=0) <= 0.15 + 1e-6
    cheating = collect(victim, some(20), own(darken), parse("linf:0.1"), tmp_path, settings={"share": 5})
    assert cheating.broken == (), "what it hands over is outside of the threat"
    with pytest.raises(BadInput, match="share = 'much'; need a number"):
        collect(victim, some(8), own(darken), parse("linf:0.1"), tmp_path, settings={"share": "much"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda threat: 3, "own gave int; need an attack"),
        (lambda threat: len, "own gave builtin_function_or_method; need an attack"),
        (lambda threat: 1 / 0, r"own\(\) raised ZeroDivisionError: .* need a factory"),
        (lambda threat, n=1: 1 / (n - 2), r"own\(n=2\) raised ZeroDivisionError: .* need settings that fit it"),
        (lambda: None, r"own\(\) raised TypeError"),
    ],
)
def test_a_factory_that_gives_no_attack_is_refused_in_one_line(victim, tmp_path, make, said):
    settings = {"n": 2} if "n=2" in said else {}
    with pytest.raises(BadInput, match=said):
        collect(victim, some(8), own(make), parse("linf:0.1"), tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_a_random_model_is_attacked_the_same_whatever_batch_size_is_asked_for(victim, tmp_path):
    def noisy(x):
        return victim(x + 0.2 * torch.randn_like(x))

    files = [
        collect(
            function(noisy), some(24), find("attacks", "fgsm"), parse("linf:0.1"), tmp_path / str(size), batch_size=size
        ).file
        for size in (5, 24)
    ]
    with np.load(files[0]) as one, np.load(files[1]) as other:
        assert np.array_equal(one["z"], other["z"])
