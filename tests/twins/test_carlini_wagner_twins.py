"""Carlini and Wagner's family beside Foolbox and ART, on a small network and real digits, at the same settings."""

import numpy as np
import pytest
import torch
from torch import nn

from sparring.attacks import carlini_wagner, ead, jsma
from sparring.data import load
from sparring.goals import Targeted, Untargeted
from sparring.networks import mlp
from sparring.streams import Streams
from sparring.threats import l0, l1, l2

pytestmark = pytest.mark.frameworks
foolbox = pytest.importorskip("foolbox", reason="a peer: pip install 'sparring[peers]'")

STEPS, RUNS = 100, 9


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
    x, labels = test.take(range(48))
    right = network(x).argmax(1) == labels
    return network, x[right], labels[right]


def median(distance, reached):
    assert reached.all()
    return distance.median().item()


def ours(attack, digits, goal=Untargeted):
    network, x, labels = digits
    z = attack(network, x, goal(labels), Streams.of(0, range(len(x))))
    return median(attack.threat.distance(z, x), goal(labels).reached(network(z)))


def theirs(attack, threat, digits):
    network, x, labels = digits
    z = attack.run(foolbox.PyTorchModel(network, bounds=(0, 1)), x, labels)
    return median(threat.distance(z, x), network(z).argmax(1) != labels)


@pytest.mark.parametrize("stepsize", [0.05, 0.1])  # at 0.01, the default, 100 steps are too few for Foolbox
def test_l2_distances_are_at_most_those_of_foolbox(digits, stepsize):
    attack = foolbox.attacks.L2CarliniWagnerAttack(steps=STEPS, binary_search_steps=RUNS, stepsize=stepsize)
    nearest = ours(carlini_wagner(l2(1.0), steps=STEPS, runs=RUNS), digits)
    assert nearest <= 1.02 * theirs(attack, l2(1.0), digits)


@pytest.mark.parametrize(("beta", "rate"), [(0.01, 0.003), (0.01, 0.01), (0.03, 0.01)])
def test_l1_distances_are_at_most_those_of_foolbox_at_half_the_passes(digits, beta, rate):
    """Foolbox judges `x_k` in a second forward pass; EAD here judges the point at which the gradient is taken."""
    attack = foolbox.attacks.EADAttack(
        steps=STEPS, binary_search_steps=RUNS, initial_stepsize=rate, regularization=beta, decision_rule="L1"
    )
    nearest = ours(ead(l1(5.0), steps=STEPS, runs=RUNS, beta=beta), digits)
    assert nearest <= 1.02 * theirs(attack, l1(5.0), digits)


@pytest.mark.parametrize("shift", [1, 5])
def test_jsma_changes_at_most_as_many_pixels_as_arts_on_the_way_to_a_target(digits, shift):
    art = pytest.importorskip("art.attacks.evasion", reason="a peer: pip install adversarial-robustness-toolbox")
    from art.estimators.classification import PyTorchClassifier

    network, x, labels = (part[:16] if isinstance(part, torch.Tensor) else part for part in digits)
    targets = (labels + shift) % 10
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    attack = art.SaliencyMapMethod(classifier, theta=1.0, gamma=1.0, batch_size=16, verbose=False)
    other = torch.from_numpy(attack.generate(x.numpy(), np.eye(10)[targets.numpy()]))
    z = jsma(l0(1))(network, x, Targeted(targets), Streams.of(0, range(len(x))))
    assert (network(other).argmax(1) == targets).all()
    fewest = median(l0(1).distance(z, x), network(z).argmax(1) == targets)
    assert fewest <= 1.02 * l0(1).distance(other, x).median().item()
