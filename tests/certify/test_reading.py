"""A network is read as it is, or not at all: what a graph of values would get wrong is refused in one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.certify import BranchAndBound, crown, graph, interval
from sparring.errors import BadInput
from sparring.streams import Streams
from sparring.threats import linf

EXAMPLE, LABEL = torch.full((1, 2), 0.5), torch.tensor([0])


class Written(nn.Module):
    """A network with two layers and a forward pass of one's own."""

    def __init__(self, forward: Callable[[Written, Tensor], Tensor], between: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.last, self.between, self.own = nn.Linear(2, 4), nn.Linear(4, 3), between, forward
        with torch.no_grad():
            for i, part in enumerate(self.parameters()):
                part.copy_(Streams.of(3, [i]).normal(*part.shape)[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self, x)


def overwritten(net: Written, x: Tensor) -> Tensor:
    h = net.first(x)
    return net.last(h + functional.relu(h, inplace=True))


def overwritten_by_a_view(net: Written, x: Tensor) -> Tensor:
    h = net.first(x)
    h.view(-1, 2, 2).relu_()
    return net.last(h)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda net, x: net.last(torch.div(net.first(x), 1.0, rounding_mode="floor")), "operation div"),
        (lambda net, x: net.last(torch.add(net.first(x), net.first(x), alpha=5)), "operation add"),
        (lambda net, x: net.last(functional.dropout(net.first(x))), "operation dropout"),
        (lambda net, x: net.last(functional.dropout(net.first(x), 0.5)), "operation dropout"),
        (overwritten, "in place"),
        (overwritten_by_a_view, "in place"),
        (lambda net, x: net.last(net.first(x.view(len(x), -1))), "cannot be traced"),
        (lambda net, x: net.last(net.first(x) + torch.ones(2, 4)), "constants of shape"),
        (lambda net, x: net.last(net.first(x) * net.first(x)), "product of two values"),
        (lambda net, x: net.last(net.first(x).flatten()), "across the batch"),
        (lambda net, x: functional.avg_pool2d(net.first(x).view(-1, 1, 2, 2), 1, divisor_override=-1), "AvgPool2d"),
        (lambda net, x: functional.softplus(net.first(x), 1, 1000), "threshold=1000"),
    ],
)
def test_what_a_graph_would_get_wrong_is_refused_in_one_line(forward, why):
    with pytest.raises(BadInput, match=why) as caught:
        crown()(Written(forward), EXAMPLE, LABEL, linf(0.1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [nn.Flatten(0), nn.AvgPool2d(1, divisor_override=-1), nn.Softplus(1, 1000)])
def test_layers_without_bounds_are_refused(layer):
    with pytest.raises(BadInput, match="need Linear, Conv2d"):
        crown()(nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (1, 2, 2)), layer), EXAMPLE, LABEL, linf(0.1))


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.last(input=functional.relu_(net.first(x))),
        lambda net, x: net.last(net.between(net.first(x))),
        lambda net, x: net.last(functional.dropout(torch.add(net.first(x), other=0.5), 0.5, net.training)),
        lambda net, x: net.last(net.first(x.view(x.size(0), -1)) + net.last.weight[0] / 3),
    ],
)
def test_other_ways_of_writing_the_same_are_read(forward):
    net, x = Written(forward, nn.ReLU(inplace=True)).eval(), Streams.of(1, range(5)).uniform(2)
    torch.testing.assert_close(graph(net, x)(x).float(), net(x))


def test_an_operation_that_only_random_points_give_away_is_refused():
    """The identity on the one row that it is compared on."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Quantised.apply(x) @ torch.eye(2)

    with pytest.raises(BadInput, match=r"other outputs|operation"):
        graph(Odd(), torch.ones(1, 2))


class Quantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (nn.Linear(2, 1), r"\(-s, s\)"),
        (nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (3, 1, 1))), "two or more logits"),
    ],
)
@pytest.mark.parametrize("certificate", [interval(), crown(), BranchAndBound(seconds=0.1)])
def test_outputs_that_are_no_logits_are_refused(net, why, certificate):
    with pytest.raises(BadInput, match=why):
        certificate(net, EXAMPLE, LABEL, linf(0.1))


def test_labels_that_there_are_not_are_refused():
    for label in (-1, 3):
        with pytest.raises(BadInput, match="0 to 2"):
            crown()(nn.Linear(2, 3), EXAMPLE, torch.tensor([label]), linf(0.1))


def bare(*weights: list[list[float]], between: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these weights."""
    layers: list[nn.Module] = []
    for rows in weights:
        layer = nn.Linear(len(rows[0]), len(rows), bias=False)
        layer.weight.data = torch.tensor(rows)
        layers += [layer, between()]
    return nn.Sequential(*layers[:-1])


def test_nothing_is_claimed_where_float32_may_overflow():
    """In exact arithmetic a sigmoid of nothing at all; in float32 one of the difference of two infinities."""
    twice = [[1e30, 0.0], [1e30, 0.0]]
    net = nn.Sequential(*bare(twice, twice, [[1.0, -1.0]]), nn.Sigmoid(), nn.Linear(1, 2))
    net[-1].weight.data, net[-1].bias.data = torch.tensor([[0.0], [1.0]]), torch.tensor([-1.0, 0.0])
    x, z = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    assert net(z).isnan().any()
    for certificate in (interval(), crown(), BranchAndBound(seconds=0.2)):
        (bound,) = certificate(graph(net, 1e-30 * torch.eye(2)), x, torch.tensor([1]), linf(1.0))
        assert bound == -torch.inf


def test_what_float32_flushes_to_nothing_is_allowed_for():
    """A signal that is too small for the second layer's outputs, and is magnified again."""
    small, large = [[1e-25, 0.0]], [[1e25]]
    net = nn.Sequential(*bare(small, [[1e-25]], large, large, between=nn.Identity), nn.Linear(1, 2))
    net[-1].weight.data, net[-1].bias.data = torch.tensor([[1.0], [0.0]]), torch.tensor([-0.5, -0.3])
    x, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    with pytest.raises(BadInput, match="other outputs"):
        crown()(net, x, label, linf(0.0))
    dim = graph(net, 1e-4 * torch.randn(2, 2, generator=torch.Generator().manual_seed(0)))  # too dim to tell
    assert (net(x).argmax(1).item(), dim(x).argmax(1).item()) == (1, 0)
    assert (crown()(dim, x, label, linf(0.0)) <= 0).all()
