"""Slopes: exact where that is known, above every gradient and every difference, and near the best that there can be."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.certify import Slopes, slopes
from sparring.errors import BadInput
from sparring.networks import mlp, wong_cnn
from sparring.streams import Streams


class Beside(nn.Module):
    """A skip, and two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.first(x))
        return self.last(torch.cat([h - functional.relu(self.one(h)), torch.tanh(self.two(h))], 1))


def drawn(network: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """The same with other weights, not so near to zero."""
    with torch.no_grad():
        for i, given in enumerate(network.parameters()):
            given.copy_(scale * Streams.of(seed + i, [1]).normal(given.numel())[0].view_as(given))
    return network.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 4)), (5,)),
    "deep": (
        lambda: nn.Sequential(
            nn.Linear(5, 9),
            nn.LeakyReLU(0.1),
            nn.Linear(9, 9),
            nn.Softplus(),
            nn.Linear(9, 7),
            nn.ReLU(),
            nn.Linear(7, 3),
        ),
        (5,),
    ),
    "sigmoid": (lambda: nn.Sequential(nn.Linear(5, 12), nn.Sigmoid(), nn.Linear(12, 4)), (5,)),
    "maps": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2, stride=1),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(3, 3),
        ),
        (2, 6, 6),
    ),
    "beside": (Beside, (6,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_changes_faster_than_its_slope(name: str) -> None:
    make, shape = NETWORKS[name]
    network = drawn(make())
    rng = Streams.of(3, range(400))
    x = 3 * rng.normal(*shape)
    between = slopes(network, x[:2]).between
    z = (x + 0.5 * rng.at("step").at(0).normal(*shape)).requires_grad_()
    logits = network(z)
    with torch.no_grad():
        moved, far = logits - network(x), (z - x).flatten(1).norm(dim=1)
    for c, j in itertools.permutations(range(logits.shape[1]), 2):
        (gradient,) = torch.autograd.grad((logits[:, c] - logits[:, j]).sum(), z, retain_graph=True)
        assert gradient.flatten(1).norm(dim=1).max() <= between[c, j]
        assert ((moved[:, c] - moved[:, j]).abs() / far).max() <= between[c, j]


def test_of_a_linear_model_slopes_are_exact() -> None:
    network = drawn(nn.Linear(7, 4))
    between = slopes(network, torch.zeros(1, 7)).between
    want = (network.weight.unsqueeze(0) - network.weight.unsqueeze(1)).double().norm(dim=2)
    assert torch.allclose(between, want, rtol=2e-6)


def test_of_one_hidden_layer_slopes_are_near_the_steepest_pattern_of_units() -> None:
    network = drawn(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    first, _, last = network
    on = torch.tensor([*itertools.product([0.0, 1.0], repeat=8)])
    between, plain = slopes(network, torch.zeros(1, 6)).between, slopes(network, torch.zeros(1, 6), steps=0).between
    for c, j in itertools.combinations(range(3), 2):
        steepest = ((on * (last.weight[c] - last.weight[j])) @ first.weight).norm(dim=1).max()
        assert steepest <= between[c, j] <= 1.35 * steepest
        assert between[c, j] <= plain[c, j]


def test_distances_are_leads_over_slopes_and_fall_short_of_the_true_ones() -> None:
    network = drawn(nn.Linear(7, 3))
    x = Streams.of(0, range(50)).normal(7)
    logits = network(x)
    found = slopes(network, x).distances(logits, 1)
    weight = network.weight.detach()
    leads = torch.stack([(logits[:, 1] - logits[:, j]) / (weight[1] - weight[j]).norm() for j in (0, 2)])
    want = leads.amin(0).double()
    assert (found <= want).all()
    assert torch.allclose(found, want, atol=2e-3)


def test_a_network_that_goes_to_zero_has_slopes_too() -> None:
    network = drawn(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), scale=0.0)
    assert 0 < slopes(network, torch.zeros(1, 4)).greatest < 1e-6


def test_what_has_no_slopes_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="a layer of 3136 values"):
        slopes(wong_cnn(), torch.zeros(1, 1, 28, 28))
    with pytest.raises(BadInput, match="without a torch network"):
        slopes(lambda x: x, torch.zeros(1, 4))
    for wrong in (torch.ones(3, 2), torch.zeros(3, 3), torch.full((2, 2), torch.nan)):
        with pytest.raises(BadInput, match="above zero for every two classes"):
            Slopes(wrong)


def test_slopes_of_the_first_network_take_little_and_leave_it_as_it_was() -> None:
    network = mlp().train()
    found = slopes(network, torch.rand(2, 1, 28, 28), steps=1)
    assert network.training
    assert all(given.grad is None for given in network.parameters())
    assert found.between.shape == (10, 10)
    assert torch.equal(found.between, found.between.T)
