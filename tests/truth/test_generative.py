"""Attacks that learn from examples: where one change is best for all, they must find it; on digits they must bite."""

import pytest
import torch
from torch import nn

from sparring.attacks import AdvGAN, advgan, fgsm, uniform_noise, universal, universal_patch
from sparring.data import digits
from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of
from sparring.goals import Untargeted
from sparring.networks import mlp, wong_cnn
from sparring.streams import Streams
from sparring.threats import l2, linf


def linear(shape, seed=0):
    """Two logits of which class 1 leads class 0 by `<w, z>`, less so much that no row is near the border."""
    w = Streams.of(seed, [99]).normal(*shape)[0]

    def lead(z):
        return (z * w).flatten(1).sum(1)

    return lambda z: torch.stack([-lead(z) / 2 + 20, lead(z) / 2 - 20], 1), w, lead


@pytest.mark.parametrize(
    ("threat", "best"), [(linf(0.1, low=-9, high=9), "l1"), (l2(1.5, low=-9, high=9), "l2")], ids=str
)
def test_one_change_for_all_is_the_steepest_direction_of_a_linear_model(threat, best):
    model, w, lead = linear((2, 5, 5))
    rng = Streams.of(0, range(60))
    x, zeros = rng.uniform(2, 5, 5), torch.zeros(60, dtype=torch.int64)
    learned = universal(threat).fit(model, x[:40], Untargeted(zeros[:40]), rng[torch.arange(40)])
    later = torch.arange(40, 60)
    z = learned(model, x[later], Untargeted(zeros[later]), rng[later])
    closed = threat.eps * (w.abs().sum() if best == "l1" else w.square().sum().sqrt())
    assert ((lead(z) - lead(x[later])) / closed > 0.99).all()
    assert (z - x[later] - (z - x[later])[:1]).abs().max() < 1e-5  # the same change on each


def test_a_patch_for_all_images_is_as_bright_as_a_model_that_likes_light():
    def model(z):
        lead = z.flatten(1).sum(1) / 20
        return torch.stack([10 - lead, lead - 10], 1)

    rng, threat = Streams.of(0, range(30)), square(0.3)
    x = 0.6 * rng.uniform(1, 11, 11)
    zeros = torch.zeros(30, dtype=torch.int64)
    learned = universal_patch(threat, steps=60).fit(model, x, Untargeted(zeros), rng)
    assert side_of(threat.eps, x) == 6
    assert (learned.make.patch[0, 0, 2:4, 2:4] == 1).all()
    z = learned(model, x, Untargeted(zeros), rng.at("attack"))
    changed = (z != x).flatten(1).sum(1)
    assert ((changed >= 24) & (changed <= 32)).all()  # a disc of 6 pixels across: 28
    assert (z[z != x] > 0.999).all()


def fitted(model, count, epochs):
    """A network that has learned the first of the embedded digits."""
    x, y = digits("train").take(range(count))
    order, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=order).split(50):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def network():
    return fitted(mlp(hidden=64), 1500, 4)


def accuracy(model, attack, x, y):
    z = attack(model, x, Untargeted(y), Streams.of(3, range(len(x))))
    assert attack.threat.contains(z, x).all()
    with torch.no_grad():
        return (model(z).argmax(1) == y).float().mean().item()


def test_on_digits_it_was_not_taught_on_advgan_is_far_from_noise_and_on_the_way_to_fgsm(network):
    (lessons, labels), (x, y) = digits("train").take(range(400)), digits("test").take(range(100))
    threat, rng = linf(0.1), Streams.of(1, range(400))
    noise, best = accuracy(network, uniform_noise(threat), x, y), accuracy(network, fgsm(threat), x, y)
    gan = AdvGAN(threat=threat, steps=60, batch=32).fit(network, lessons, Untargeted(labels), rng)
    one = universal(threat, steps=60).fit(network, lessons, Untargeted(labels), rng)
    found = accuracy(network, gan, x, y)
    assert noise > 0.75
    assert noise - found > 0.5 * (noise - best)
    assert found <= accuracy(network, one, x, y) < noise - 0.25


@pytest.mark.slow
def test_with_all_its_steps_advgan_does_what_fgsm_does_on_a_convolutional_network():
    (lessons, labels), (x, y) = digits("train").take(range(1000)), digits("test").take(range(200))
    model, threat = fitted(wong_cnn(), 3000, 3), linf(0.15)
    gan = advgan(threat).fit(model, lessons, Untargeted(labels), Streams.of(1, range(1000)))
    assert accuracy(model, uniform_noise(threat), x, y) > 0.75
    assert accuracy(model, gan, x, y) < accuracy(model, fgsm(threat), x, y) + 0.05
