"""No certificate exceeds what trying every point finds, and no certified example is broken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.attacks import pgd
from sparring.certify import BranchAndBound, alpha_crown, crown, graph, interval
from sparring.errors import BadInput
from sparring.evaluate.bracket import LADDER
from sparring.goals import Never
from sparring.losses import margin
from sparring.models.torch import load_weights
from sparring.networks import PreActivation, ink_cnn, small_cnn, wong_cnn
from sparring.norms import NORMS
from sparring.registry import find
from sparring.streams import Streams
from sparring.threats import Ball, l0, linf

CERTIFICATES = {name: find("certificates", name).make() for name in LADDER}
CERTIFICATES["branch-and-bound"] = BranchAndBound(seconds=0.05, batch=8, restarts=1)
CERTIFICATES["on signs alone"] = BranchAndBound(seconds=0.05, batch=8, restarts=1, inputs=0)
EPS = {"linf": 0.08, "l2": 0.1, "l1": 0.12}


class Crossed(nn.Module):
    """Two ways that are added, and two that are put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(12, 3)

    def forward(self, x):
        h = torch.relu(self.first(3 * x - 1))
        return self.third(torch.cat([h + torch.relu(self.second(h)), torch.sigmoid(h - 0.5)], 1))


def networks():
    layers = {
        "relu": lambda: (nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3)),
        "leaky": lambda: (nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.BatchNorm1d(8), nn.Linear(8, 3)),
        "tanh": lambda: (nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)),
        "softplus": lambda: (nn.Linear(2, 8), nn.Softplus(20), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 3)),
        "crossed": lambda: (Crossed(),),
        "pooled": lambda: (
            nn.Linear(2, 16),
            nn.Unflatten(1, (1, 4, 4)),
            nn.MaxPool2d(3, 1, 1),
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.AvgPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
    }
    for name, make in layers.items():
        with torch.random.fork_rng():
            torch.manual_seed(len(name))
            net = nn.Sequential(*make()).eval()
            for part in net.parameters():
                part.data *= 2.0
        yield pytest.param(net, id=name)


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("net", [*networks()])
def test_no_certificate_exceeds_what_trying_every_point_finds(net, norm):
    x = Streams.of(3, range(24)).uniform(2)
    threat = Ball(NORMS[norm], EPS[norm])
    with torch.no_grad():
        labels = net(x).argmax(1)
        axis = torch.linspace(-EPS[norm], EPS[norm], 61)
        z = (x.unsqueeze(1) + torch.cartesian_prod(axis, axis)).clamp(0, 1)
        inside = torch.stack([threat.contains(one, row.expand_as(one)) for one, row in zip(z, x, strict=True)])
        logits = net(z.flatten(0, 1))
        scores = margin(logits, Never(labels.repeat_interleave(z.shape[1]))).view(z.shape[:2])
    least = -scores.masked_fill(~inside, -torch.inf).amax(1)
    attacked = pgd(threat, loss=margin)(net, x, Never(labels), Streams.of(4, range(24)))
    least = torch.minimum(least, -margin(net(attacked), Never(labels)).detach())
    found = {name: one(net, x, labels, threat) for name, one in CERTIFICATES.items()}
    for name, bounds in found.items():
        assert bounds.shape == (24,), name
        assert (bounds <= least).all(), name
    assert (found["crown"] <= found["alpha-crown"] + 1e-6).all()
    assert (least - found["crown"]).median() < 0.7 * (least - found["interval"]).median() + 1e-3


def test_without_room_bounds_are_the_margin_but_for_rounding():
    net = wong_cnn()
    x = Streams.of(1, range(3)).uniform(1, 28, 28)
    labels = torch.tensor([1, 2, 3])
    want = -margin(net(x), Never(labels)).detach()
    for name, one in CERTIFICATES.items():
        bounds = one(net, x, labels, linf(0.0))
        assert (bounds <= want).all(), name
        assert (want - bounds).max() < 2e-3, name


def test_graphs_of_residual_and_pooled_networks_are_those_networks():
    block = nn.Sequential(PreActivation(2, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    for net, x in ((block, torch.rand(2, 2, 8, 8)), (small_cnn().eval(), torch.rand(2, 1, 28, 28))):
        torch.testing.assert_close(graph(net, x)(x).float(), net(x), rtol=1e-4, atol=1e-4)
    x = Streams.of(5, range(2)).uniform(2, 8, 8)
    threat, labels = linf(0.02), block(x).argmax(1)
    z = pgd(threat, loss=margin)(block, x, Never(labels), Streams.of(6, range(2)))
    assert (crown()(block, x, labels, threat) <= -margin(block(z), Never(labels))).all()


def test_the_recipes_network_with_bent_corners_has_bounds():
    net = ink_cnn().eval()
    x = Streams.of(7, range(4)).uniform(1, 28, 28)
    labels, threat = net(x).argmax(1), linf(0.002)
    z = pgd(threat, loss=margin)(net, x, Never(labels), Streams.of(8, range(4)))
    least, bounds = -margin(net(z), Never(labels)), crown()(net, x, labels, threat)
    assert (bounds <= least).all()
    assert (least - bounds).max() < 0.5 * (-margin(net(x), Never(labels)) - bounds).max()


def test_bounds_do_not_depend_on_the_batch():
    net = wong_cnn()
    x, labels = Streams.of(1, range(6)).uniform(1, 28, 28), torch.arange(6)
    whole = crown()(net, x, labels, linf(0.02))
    torch.testing.assert_close(whole[2:4], crown()(net, x[2:4], labels[2:4], linf(0.02)), rtol=1e-6, atol=1e-6)


def test_what_has_no_bounds_is_refused():
    x, y = torch.rand(1, 2), torch.tensor([0])
    with pytest.raises(BadInput, match="linf, l2 or l1"):
        interval()(nn.Linear(2, 2), x, y, l0(1))
    with pytest.raises(BadInput, match="threshold=1"):  # which is no Softplus above beta x = 1
        interval()(nn.Sequential(nn.Softplus(threshold=1)), x, y, linf(0.1))
    with pytest.raises(BadInput, match="GELU"):
        interval()(nn.Sequential(nn.GELU()), x, y, linf(0.1))
    with pytest.raises(BadInput, match="torch network"):
        interval()(lambda x: x, x, y, linf(0.1))
    with pytest.raises(BadInput, match="not finite"):
        interval()(nn.Linear(2, 2), x / 0, y, linf(0.1))


def test_crown_certifies_most_of_the_network_of_wong_and_kolter(sparring_data):
    from sparring.data import load

    net = wong_cnn()
    load_weights(net, sparring_data / "models" / "wong_kolter_mnist_linf0.1.pth")
    x, labels = load("mnist").take(range(40))
    bounds = crown()(net, x, labels, linf(0.1))
    assert (bounds > 0).sum() >= 37
    z = pgd(linf(0.1), loss=margin)(net, x, Never(labels), Streams.of(0, range(40)))
    assert (bounds <= -margin(net(z), Never(labels))).all()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_small_types_are_labels_and_no_masks(kind: torch.dtype) -> None:
    network, x, labels = nn.Sequential(nn.Linear(4, 10)), torch.rand(10, 4), torch.arange(10)
    assert torch.equal(crown()(network, x, labels.to(kind), linf(0.01)), crown()(network, x, labels, linf(0.01)))
    with pytest.raises(BadInput, match="a whole number for each input"):
        crown()(network, x, labels > 4, linf(0.01))
    with pytest.raises(BadInput, match="an axis or more"):
        crown()(network, x[:, 0], labels, linf(0.01))


def test_a_ball_that_holds_the_whole_box_is_climbed_in_every_norm() -> None:
    torch.manual_seed(6)
    network = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(2)
    x = torch.full((1, 3), 0.5)
    labels, box = network(x).argmax(1), {"low": 0.2, "high": 0.8}
    whole = [alpha_crown()(network, x, labels, Ball(NORMS[norm], 1.0, **box)) for norm in ("linf", "l2", "l1")]
    assert torch.allclose(torch.cat(whole), whole[0], atol=1e-4)
    assert float(whole[0]) > float(crown()(network, x, labels, Ball(NORMS["linf"], 1.0, **box))) + 0.1
