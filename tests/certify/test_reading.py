"""A network is read as it is, or not at all: what a graph of values would get wrong is refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparring.certify import BranchAndBound, crown, graph, interval
from sparring.certify.region import Region
from sparring.errors import BadInput
from sparring.streams import Streams
from sparring.threats import l2, linf

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
        (lambda net, x: net.last(functional.avg_pool2d(net.first(x).view(-1, 4, 1), 1).view(-1, 4)), "shape"),
        (lambda net, x: net.last(functional.max_pool2d(net.first(x).view(-1, 1, 2, 2), 1, []).view(-1, 4)), "pool2d"),
        (lambda net, x: torch.stack([net.first(x), net.first(x)], 1).sum(1), "operation stack"),
        (lambda net, x: net.last(net.first(x).half().float()), "operation half"),
    ],
)
def test_what_a_graph_would_get_wrong_is_refused_in_one_line(forward, why):
    with pytest.raises(BadInput, match=why) as caught:
        crown()(Written(forward), EXAMPLE, LABEL, linf(0.1))
    assert "\n" not in str(caught.value)


def clipped(net: nn.Sequential) -> None:
    """Activation clipping, as a hook."""
    net[0].register_forward_hook(lambda layer, given, found: torch.where(found > 0.7, 0 * found, found))


def fed_otherwise(net: nn.Sequential) -> None:
    net[1].register_forward_pre_hook(lambda layer, given: (given[0].clamp(max=0.7),))


def wrapped(net: nn.Sequential) -> None:
    before = net[0].forward
    net[0].forward = lambda x: before(x).clamp(max=0.7)


@pytest.mark.parametrize("change", [clipped, fed_otherwise, wrapped])
def test_a_layer_that_does_more_than_torch_says_of_it_is_refused(change):
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    change(net)
    with pytest.raises(BadInput, match="with a hook or a forward pass of its own") as caught:
        crown()(net, EXAMPLE, LABEL, linf(0.1))
    assert "\n" not in str(caught.value)


@fx.wrap
def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0.7, 0 * x, x).clamp(min=0)


def test_a_function_of_ones_own_is_not_taken_for_torchs_by_its_name():
    with pytest.raises(BadInput, match="the function relu of"):
        crown()(Written(lambda net, x: net.last(relu(net.first(x)))), EXAMPLE, LABEL, linf(0.1))


def test_weights_that_are_renewed_before_every_pass_are_read():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 4)), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = Streams.of(1, range(5)).uniform(2)
    torch.testing.assert_close(graph(net, x)(x).float(), net(x))


@pytest.mark.parametrize("settings", [{"bias": False}, {"affine": False}])
def test_a_batch_norm_without_a_shift_of_its_own_is_read(settings):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, **settings), nn.Linear(3, 2)).eval()
    net[1].running_mean[:], net[1].running_var[:] = 0.3, 2.0
    x = Streams.of(1, range(5)).uniform(2)
    torch.testing.assert_close(graph(net, x)(x).float(), net(x))


def noted(net: Written, x: Tensor) -> Tensor:
    h = net.first(x)
    out = net.last(h)
    net.seen = torch.relu(net.between(h))
    return out


def test_what_is_computed_after_the_outputs_is_left_off():
    net, x = Written(noted, nn.Linear(4, 2)).eval(), Streams.of(1, range(5)).uniform(2)
    torch.testing.assert_close(graph(net, x)(x).float(), net(x))
    with pytest.raises(BadInput, match="does not give out one tensor"):
        graph(Written(lambda net, x: (net.last(net.first(x)), x)), x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Flatten(0),
        nn.AvgPool2d(1, divisor_override=-1),
        nn.MaxPool2d(1, return_indices=True),
        nn.Softplus(1, 1000),
        nn.Softplus(2e-39),  # log(2) / beta is near the largest number, and infinite soon after
    ],
)
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
        lambda net, x: net.last(
            torch.relu(input=net.first(torch.flatten(input=x.view(x.size(dim=0), -1), start_dim=1)))
        ),
        lambda net, x: net.last(torch.add(input=net.first(x), other=1)),
        lambda net, x: torch.cat(tensors=[torch.cat([net.first(x), net.last(net.first(x))], axis=1)], dim=1),
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


@pytest.mark.parametrize("labels", [LABEL, torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2)])
def test_what_is_no_label_for_each_input_is_refused(labels):
    """One label for two inputs was taken for both."""
    for certificate in (crown(), BranchAndBound(seconds=0.1)):
        with pytest.raises(BadInput, match="for 2 inputs"):
            certificate(nn.Linear(2, 3), EXAMPLE.repeat(2, 1), labels, linf(0.1))


def test_what_float32_takes_for_a_bound_of_the_inputs_is_in_the_region():
    """0.3 is above itself in float32: a threat forgives that, as it compares in float32."""
    x, threat = torch.tensor([[0.3, 0.1]]), linf(0.2, low=0.1, high=0.3)
    assert threat.contains(x, x)
    region = Region.of(threat, x)
    assert (region.low <= x).all()
    assert (region.high >= x).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_network_in_float64_is_read_whatever_torchs_own_type_is(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for part in net.double().parameters():
        part.data *= 3  # one of the inputs is split
    x = Streams.of(1, range(3)).uniform(1, 2, 2).double()
    labels, threat = net(x).argmax(1), linf(0.1)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        for certificate in (crown(), BranchAndBound(seconds=2.0, restarts=1, batch=4)):
            assert certificate(net, x, labels, threat).isfinite().all()
    finally:
        torch.set_default_dtype(before)


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


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_a_network_that_computes_in_half_precision_is_refused(eps):
    """Two logits that differ by less than half precision can say: the network names the other class."""
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)).requires_grad_(False)
    with torch.no_grad():
        net[2].bias += 60
    x, labels = Streams.of(0, range(40)).uniform(8), torch.ones(40, dtype=torch.int64)

    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(net)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.net(x)

    assert (crown()(net, x, labels, linf(eps)) < torch.inf).all()
    for other, rows in ((copy.deepcopy(net).half(), x.half()), (Autocast(), x), (net.half(), x)):
        with pytest.raises(BadInput, match=r"other outputs|raises"):
            crown()(other, rows, labels, linf(eps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_inputs_in_half_precision_are_refused(dtype):
    """A threat forgives them more rounding than bounds allow for: the network, in float32, sees the difference."""
    net = Written(lambda net, x: net.last(net.first(x - torch.full((2,), 0.5))))
    for certificate in (crown(), BranchAndBound(seconds=0.1)):
        with pytest.raises(BadInput, match="need float32"):
            certificate(net, EXAMPLE.to(dtype), LABEL, linf(0.1))


def test_a_network_that_takes_one_row_only_is_refused_in_one_line():
    class Single(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, 2)

    with pytest.raises(BadInput, match="batches of any size") as caught:
        crown()(Single(), EXAMPLE, LABEL, linf(0.1))
    assert "\n" not in str(caught.value)
    with torch.inference_mode(), pytest.raises(BadInput, match="inference_mode"):
        crown()(nn.Linear(2, 3), EXAMPLE, LABEL, linf(0.1))


def test_attacks_inside_of_branch_and_bound_meet_the_network_in_inference_mode():
    """In training mode dropout would break what cannot be broken, and BatchNorm learn from attacks."""
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 3))
    x = Streams.of(0, range(6)).uniform(2)
    labels, state = net.eval()(x).argmax(1), {name: value.clone() for name, value in net.state_dict().items()}
    how = BranchAndBound(seconds=0.5, restarts=1)
    evaluated = [one.status for one in how.answers(net, x, labels, linf(0.02))]
    trained = [one.status for one in how.answers(net.train(), x, labels, linf(0.02))]
    assert evaluated == trained
    assert net.training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_relu_that_is_written_twice_is_split_once():
    def once(net: Written, x: Tensor) -> Tensor:
        h = torch.relu(net.first(x))
        return net.last(h - torch.relu(h * 2 - 1))

    def twice(net: Written, x: Tensor) -> Tensor:
        h = net.first(x)
        return net.last(torch.relu(h) - torch.relu(torch.relu(h) * 2 - 1))

    sizes = [len(graph(Written(forward), EXAMPLE).nodes) for forward in (once, twice)]
    assert sizes[0] == sizes[1]


def test_a_ball_larger_than_any_number_is_the_whole_box():
    net = nn.Linear(3, 3).requires_grad_(False)
    x = Streams.of(0, range(4)).uniform(3)
    labels = net(x).argmax(1)
    whole = crown()(net, x, labels, l2(10.0))
    for eps in (1e10, 1e200):
        torch.testing.assert_close(crown()(net, x, labels, l2(eps)), whole)
    answers = BranchAndBound(seconds=0.2, restarts=1).answers(net, x, labels, l2(1e200))
    assert all(one.lower <= bound + 1e-6 for one, bound in zip(answers, whole.tolist(), strict=True))


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_no_time_is_refused(seconds):
    with pytest.raises(BadInput, match="0 or more"):
        BranchAndBound(seconds=seconds)
