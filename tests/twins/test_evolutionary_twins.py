"""Evolutionary attacks beside Foolbox's and torchattacks', on a small network and real digits, at the same budget."""

import pytest
import torch
from torch import nn

from sparring.attacks import gen_attack, one_pixel
from sparring.data import load
from sparring.goals import Targeted, Untargeted
from sparring.losses import margin
from sparring.networks import mlp
from sparring.streams import Streams
from sparring.threats import l0, linf

pytestmark = pytest.mark.frameworks


@pytest.fixture(scope="module")
def digits():
    """A network trained for a few seconds, and digits that it reads rightly."""
    train, test = load("digits", split="train"), load("digits")
    x, labels = train.take(range(len(train)))
    network, rng = mlp(0), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(300):
        batch = torch.randint(len(x), (128,), generator=rng)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
        optimiser.step()
    network.eval().requires_grad_(False)
    x, labels = test.take(range(24))
    right = network(x).argmax(1) == labels
    return network, x[right], labels[right]


def test_gen_attack_comes_closer_to_its_targets_than_foolbox_with_as_many_queries(digits):
    foolbox = pytest.importorskip("foolbox", reason="a peer: pip install 'sparring[peers]'")
    network, x, labels = digits
    goal = Targeted((labels + 1) % 10)
    attack = foolbox.attacks.GenAttack(steps=100, population=6, reduced_dims=(8, 8), channel_axis=1)
    torch.manual_seed(0)
    criterion = foolbox.criteria.TargetedMisclassification(goal.labels)
    with torch.no_grad():
        other = attack.run(foolbox.PyTorchModel(network, bounds=(0, 1)), x, criterion, epsilon=0.15)
    z = gen_attack(linf(0.15), queries=600)(network, x, goal, Streams.of(0, range(len(x))))
    assert goal.reached(network(z)).sum() >= goal.reached(network(other)).sum()
    lacking, lacks = (margin(network(found), goal).clamp(max=0).mean() for found in (z, other))
    assert lacking >= 1.1 * lacks  # both are below zero


@pytest.mark.parametrize("pixels", [1, 8])
def test_one_pixel_comes_as_close_as_torchattacks_with_no_more_queries(digits, pixels):
    torchattacks = pytest.importorskip("torchattacks", reason="a peer: pip install --no-deps torchattacks==3.5.1")
    network, x, labels = (part[:8] if isinstance(part, torch.Tensor) else part for part in digits)
    goal, asked = Untargeted(labels), []

    class Counting(nn.Module):
        def forward(self, z):
            asked.append(len(z))
            return network(z)

    other = torchattacks.OnePixel(Counting().eval(), pixels=pixels, steps=20, popsize=60)(x, labels)
    queries = sum(asked) // len(x)
    z = one_pixel(l0(pixels), queries=queries)(network, x, goal, Streams.of(0, range(len(x))))
    assert ((z != x).flatten(1).sum(1) <= pixels).all()
    lacking, lacks = (margin(network(found), goal).clamp(max=0).mean() for found in (z, other))
    assert lacking >= 1.02 * lacks
