"""Slopes: exact where that is known, above every gradient and every difference, and near the best that there can be."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.certify import Slopes, graph, slopes
from sparring.certify.lipschitz import _ellipsoid
from sparring.errors import BadInput
from sparring.models.loading import adopt
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


class Written(nn.Module):
    """A network with parts, and a forward pass of its own."""

    def __init__(self, forward: Callable[[nn.ModuleList, Tensor], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.parts, self.said = nn.ModuleList(parts), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.said(self.parts, x)


def test_branches_that_give_nothing_take_nothing() -> None:
    x, parts = torch.zeros(1, 4), (nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 5, bias=False))
    plain = drawn(nn.Sequential(parts[0], nn.ReLU(), parts[1]))
    nn.init.zeros_(parts[2].weight)

    def added(parts: nn.ModuleList, x: Tensor) -> Tensor:
        h = functional.relu(parts[0](x))
        return parts[1](h + parts[2](h))

    def unused(parts: nn.ModuleList, x: Tensor) -> Tensor:
        h = functional.relu(parts[0](x))
        functional.relu(parts[2](h))
        return parts[1](h)

    want = slopes(plain, x)
    assert slopes(plain, x, steps=0).greatest > 1.01 * want.greatest
    for forward in (added, unused):
        found = slopes(Written(forward, *parts).eval(), x)
        assert torch.allclose(found.between, want.between, rtol=1e-3)
    alone = Written(lambda parts, x: (functional.relu(x), parts[0](x))[1], drawn(nn.Linear(4, 3)))
    assert torch.allclose(slopes(alone, x).between, slopes(alone.parts[0], x).between)


def test_where_gradients_are_off_slopes_are_the_same() -> None:
    network, x = drawn(NETWORKS["relu"][0]()), torch.zeros(1, 5)
    with torch.no_grad():
        found = slopes(network, x).between
    assert torch.equal(found, slopes(network, x).between)


def test_what_all_logits_have_in_common_is_not_rounded_into_their_differences() -> None:
    network, common = nn.Linear(50, 3, bias=False), Streams.of(9, [0]).normal(50)
    for size in (1e3, 1e4, 1e5, 1e6):
        drawn(network, scale=0.01)
        with torch.no_grad():
            network.weight += size * common
        weight = network.weight.double()
        want = (weight.unsqueeze(0) - weight.unsqueeze(1)).norm(dim=2)
        assert (slopes(network, torch.zeros(1, 50)).between >= want).all()


def test_what_a_layer_cancels_of_the_one_before_is_not_rounded_into_slopes() -> None:
    """What all units have in common comes to nothing between the first two logits; the third says it aloud."""
    first, last = nn.Linear(8, 16, bias=False), nn.Linear(16, 3, bias=False)
    for size in (1e6, 1e7, 1e8):
        drawn(first)
        with torch.no_grad():
            first.weight.add_(size * Streams.of(9, [0]).normal(8))
            last.weight.copy_(Streams.of(4, range(3)).normal(16).mul(4).round())
            last.weight[:, 0] -= last.weight.sum(1)
            last.weight[2] = 1
        whole = last.weight.double() @ first.weight.double()
        found = slopes(nn.Sequential(first, last), torch.rand(1, 8, generator=torch.Generator().manual_seed(0)))
        assert found.between[0, 1] >= (whole[0] - whole[1]).norm()


def test_small_values_that_are_made_large_again_have_the_slopes_of_usual_ones() -> None:
    first, last = drawn(nn.Linear(4, 5)), drawn(nn.Linear(5, 3))
    found = []
    for scale in (1.0, 1e-20):
        with torch.no_grad():
            first.weight.mul_(scale)
            last.weight.div_(scale)
        found.append(slopes(nn.Sequential(first, nn.ReLU(), last), torch.ones(1, 4)).between)
    assert torch.allclose(*found, rtol=0.01)


def test_weights_that_are_too_small_give_no_bound_and_raise_nothing() -> None:
    network = drawn(nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2)))
    net = graph(network, torch.zeros(1, 1, 3, 3))
    assert not _ellipsoid(net, lambda _, inside: torch.full((len(inside),), 1e-9).double()).isfinite().any()


class Coarse(nn.Module):
    """What float32 makes steps of."""

    def forward(self, x: Tensor) -> Tensor:
        h = 1e-3 * x + 2.0**12
        h = h - 2.0**12
        return torch.cat([h, -1 * h], 1)


def test_networks_that_float32_cannot_follow_are_refused() -> None:
    with pytest.raises(BadInput, match="of which float32 rounds"):
        slopes(Coarse(), torch.full((1, 1), -0.3))
    dead = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(3, 3), nn.ReLU())], nn.Linear(3, 2))
    with torch.no_grad():
        for part in dead[::2]:
            part.weight.copy_(1e28 * drawn(nn.Linear(3, len(part.weight))).weight)
            part.bias.fill_(-1e30)
    with pytest.raises(BadInput, match="float64 cannot hold"):
        slopes(dead, torch.zeros(1, 3))


def test_slopes_of_a_victim_are_of_what_it_gives_and_not_of_the_module_behind_it() -> None:
    network, x = drawn(nn.Linear(4, 3)), torch.ones(1, 4)
    victim = adopt(network)
    assert torch.equal(slopes(victim, x).between, slopes(network, x).between)
    for call in (lambda z: 100 * network(z), lambda z: network(z).softmax(1), lambda z: network((4 * z).round() / 4)):
        with pytest.raises(BadInput, match="gives other outputs"):
            slopes(replace(victim, call=call), x)


def test_slopes_are_told_to_the_digits_that_every_number_of_threads_gives() -> None:
    one, other = (
        Slopes(torch.full((2, 2), value, dtype=torch.float64)) for value in (0.4789194931472, 0.4789194931473)
    )
    assert str(one) == str(other) == "Slopes(greatest=0.478919)"


def test_what_has_no_slopes_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="a layer of 3136 values"):
        slopes(wong_cnn(), torch.zeros(1, 1, 28, 28))
    with pytest.raises(BadInput, match="without a torch network"):
        slopes(lambda x: x, torch.zeros(1, 4))
    for wrong in (torch.ones(3, 2), torch.zeros(3, 3), torch.full((2, 2), torch.nan)):
        with pytest.raises(BadInput, match="above zero for every two classes"):
            Slopes(wrong)
    with pytest.raises(BadInput, match="of 3 classes for scores of 4"):
        Slopes(torch.ones(3, 3)).distances(torch.zeros(1, 4), 0)
    with pytest.raises(BadInput, match="float16"):
        Slopes(torch.ones(3, 3)).distances(torch.zeros(1, 3).half(), 0)


def test_slopes_of_the_first_network_take_little_and_leave_it_as_it_was() -> None:
    network = mlp().train()
    found = slopes(network, torch.rand(2, 1, 28, 28), steps=1)
    assert network.training
    assert all(given.grad is None for given in network.parameters())
    assert found.between.shape == (10, 10)
    assert torch.equal(found.between, found.between.T)
