"""Any threat, and attacks that learn: what `sparring attack` does with them."""

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
from sparring.registry import find
from sparring.threats import parse

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
