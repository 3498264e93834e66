"""Steep units: what is found, by how much it is divided, and where the gradients lead then."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import Restarts, Through, pgd_cosine
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.mending import mended
from sparring.norms import NORMS
from sparring.steepness import Steep, moderated, steep
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack
from sparring.views import Counted, settled, steady
from sparring.zoo import find

SQUASHES = {
    "erf": torch.erf,
    "logistic, written out": lambda u: 1 / (1 + torch.exp(-u.clamp(min=-80))),
    "algebraic": lambda u: u / (1 + u.square()).sqrt(),
    "tanh": torch.tanh,
    "arc tangent": torch.atan,
    "cut off": lambda u: torch.where(u.abs() < 1, u, u.sign()),
    "in place": lambda u: u.tanh_(),
}

WEIGHTS = Streams.of(0, range(200)).normal(30) / 30**0.5


def inputs(count: int = 16) -> Tensor:
    return Streams.of(1, range(count)).normal(30)


class Erf(nn.Module):
    def __init__(self, steepness: float) -> None:
        super().__init__()
        self.steepness = steepness

    def forward(self, u: Tensor) -> Tensor:
        return torch.erf(self.steepness * u)


def layer(squash, steepness: float = 1.0):
    """A hidden layer of 200 units, and two outputs."""
    out = Streams.of(2, range(200)).normal(2)
    return lambda x: squash(steepness * (x @ WEIGHTS.T)) @ out


@pytest.mark.parametrize("squash", SQUASHES)
def test_steep_units_are_found_with_a_divisor_that_opens_most_of_them(squash: str) -> None:
    net, x = layer(SQUASHES[squash], 200.0), inputs()
    assert steep(layer(SQUASHES[squash], 0.5), x) == ()
    units = steep(net, x)
    assert units
    assert all(4 <= unit.by <= 4**7 for unit in units)
    gentle = moderated(net, units=units, draws=1)
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gentle(point)[:, 0].sum(), point)
    assert (gradient.norm(dim=1) > 0).all()
    assert steep(lambda z: gentle(z), x) == ()  # noqa: PLW0108  (another model, with other calls inside)


def test_far_from_the_step_the_gradient_leads_to_it() -> None:
    """One unit at 40 deviations: its own gradient is zero in float32, the moderate one points along its weights."""
    w = WEIGHTS[0] * torch.tensor([1.0, -1.0]).repeat(15)

    def net(x: Tensor) -> Tensor:
        u = torch.stack([x @ w, -(x @ w)], 1)
        return torch.erf(100 * u)

    x = torch.cat([w, -w]).view(2, 30)
    point = x.clone().requires_grad_()
    assert torch.autograd.grad(net(point)[:, 0].sum(), point)[0].eq(0).all()
    view = moderated(net, units=steep(net, x))
    (gradient,) = torch.autograd.grad(view(point)[:, 0].sum(), point)
    along = gradient / gradient.norm(dim=1, keepdim=True) @ (w / w.norm())
    assert along.tolist() == pytest.approx([1, 1])


def test_outputs_are_the_models_own_and_calls_without_gradients_cost_one_pass() -> None:
    calls = 0
    network = layer(torch.erf, 200.0)

    def net(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return network(x)

    x = inputs()
    view = moderated(net, units=steep(network, x), draws=3)
    with torch.no_grad():
        assert torch.equal(view(x), network(x))
    assert calls == 1
    assert torch.equal(view(x.clone().requires_grad_()), network(x))
    assert calls == 5


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(288, 5)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Sigmoid(), nn.Linear(64, 5)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU6(), nn.Linear(64, 5)),
        lambda: nn.Sequential(nn.Conv2d(1, 4, 28), nn.Flatten()),
        lambda: torch.vmap(lambda row: row.flatten() @ torch.ones(784, 5) / 784),
        lambda: lambda x: x.detach().flatten(1)[:, :5],
        lambda: lambda x: x.flatten(1).topk(5, dim=1).values,
    ],
    ids=["max-pooling", "sigmoid", "relu6", "linear", "vmap", "detached", "topk"],
)
def test_what_no_scale_would_open_is_not_called_steep(network) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
    assert steep(model, Streams.of(0, range(8)).uniform(1, 28, 28)) == ()


def codebook(steepness: float):
    """Each of twenty numbers as the shares of the codewords near it, by a softmax written out: of one sign alone."""
    words, out = torch.linspace(-2, 2, 8), Streams.of(5, range(160)).normal(2)

    def net(x: Tensor) -> Tensor:
        far = (x[:, :20, None] - words).abs()
        near = torch.exp(-steepness * (far - far.amin(2, keepdim=True)))
        return (near / near.sum(2, keepdim=True)).flatten(1) @ out

    return net


def test_a_steep_choice_among_distances_is_found_though_all_of_them_have_one_sign() -> None:
    assert steep(codebook(2.0), inputs()) == ()
    assert steep(codebook(80.0), inputs())


def test_the_batch_may_be_another_dimension_than_the_first() -> None:
    out = Streams.of(2, range(200)).normal(2)
    units = steep(lambda x: torch.erf(200 * (WEIGHTS @ x.T)).T @ out, inputs())
    assert [unit.name for unit in units] == ["mul"]


def test_a_network_that_opens_for_darker_images_is_not_called_steep() -> None:
    """All its units are dead on such inputs, and none on black: smaller inputs are other inputs, no softer network."""
    x, out = inputs().abs(), torch.tensor([[1.0, -2.0]])
    for scale, shift in ((1.0, 0.0), (3.0, 0.5)):
        net = lambda z, by=scale, to=shift: (1 - (by * z - to).sum(1, keepdim=True)).relu() @ out  # noqa: E731
        assert steep(net, x) == ()


def test_a_single_unit_is_steep_by_its_rows_and_a_dead_one_is_not() -> None:
    out = torch.tensor([1.0, -2.0])
    for shape in ((-1, 1), (-1,)):  # as a column, or as a number a row
        net = lambda x, to=shape: torch.tanh(1e3 * (x @ WEIGHTS[0]).reshape(to)).reshape(-1, 1) * out  # noqa: E731
        assert [unit.name for unit in steep(net, inputs())] == ["mul"]
    assert steep(lambda x: torch.tanh(0.3 * (x @ WEIGHTS[0]))[:, None] * out, inputs()) == ()
    assert steep(lambda x: (x @ WEIGHTS[0] - 9).relu()[:, None] * out, inputs()) == ()


def test_layers_behind_one_another_are_opened_from_the_last_to_the_first() -> None:
    """Behind a shut layer no gradient arrives, and nothing could be said of the layers before it."""
    second = Streams.of(3, range(200)).normal(200) / 200**0.5
    out = Streams.of(4, range(200)).normal(3)
    units = steep(lambda x: torch.erf(300 * (torch.erf(100 * (x @ WEIGHTS.T)) @ second.T)) @ out, inputs())
    assert [unit.name for unit in units] == ["mul", "mul"]
    assert units[0].call < units[1].call


LOOPS = {
    "rows": lambda net, x: torch.stack([net(row) for row in x]),
    "rows in batches of one": lambda net, x: torch.cat([net(row) for row in x.split(1)]),
    "parts": lambda net, x: torch.cat([net(part) for part in x.split(3)]),
    "parts after a common start": lambda net, x: torch.cat([net(part) for part in (1 * x).split(16)]),
    "vmap": lambda net, x: torch.vmap(net)(x),
    "vmap in parts": lambda net, x: torch.vmap(net, chunk_size=4)(x),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_over_rows_hides_nothing(loop: str) -> None:
    """One layer of a module after another, and only the first is steep: the loop's gradient is that of the batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(30, 50), Erf(60.0), nn.Linear(50, 50), Erf(1.0), nn.Linear(50, 2))

    def looped(x: Tensor) -> Tensor:
        return LOOPS[loop](net, x)

    x = inputs(40)
    units = steep(looped, x[:16])
    assert [unit.name for unit in units] == ["mul"]
    assert units[0].by == steep(net, x[:16])[0].by
    slopes = []
    for model in (looped, net):
        point = x.clone().requires_grad_()
        outputs = moderated(model, units=steep(model, x[:16]))(point)
        slopes += torch.autograd.grad(outputs[:, 0].sum(), point)
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_over_rows_of_a_gentle_network_is_not_called_steep(loop: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(30, 50), nn.ReLU(), nn.Linear(50, 50), Erf(1.0), nn.Linear(50, 2))
    assert steep(lambda x: LOOPS[loop](net, x), inputs()) == ()


@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_a_row_has_the_same_gradient_in_every_batch(rows: int) -> None:
    """What fills up small batches is not counted among the calls inside of the model."""
    specimen = find("steep units")
    model, (x, _) = steady(specimen.make()), specimen.examples(40)
    units = steep(model, x[:16])
    assert units
    view = moderated(model, units=units)

    def pulled(z: Tensor) -> Tensor:
        point = z.clone().requires_grad_()
        return torch.autograd.grad(view(point)[:, 0].sum(), point)[0]

    assert torch.equal(pulled(x[:rows]), pulled(x)[:rows])


def test_a_short_climb_through_the_view_beats_long_ones_without_it() -> None:
    net, x, threat = layer(torch.erf, 100.0), inputs(200), Ball(NORMS["l2"], 1.0, -9.0, 9.0)
    goal, rng = Untargeted(net(x).argmax(1)), Streams.of(0, range(200))

    def left(attack: Attack) -> int:
        return int((~goal.reached(net(attack(net, x, goal, rng)))).sum())

    climb = pgd_cosine(threat, steps=20, loss=margin)
    through = Through(view=settled(moderated, units=steep(net, x[:16]), draws=3), attack=climb)
    assert left(through) < 0.5 * left(Restarts(attacks=(climb,), times=8))


def test_under_mended_no_gradient_goes_the_hard_way() -> None:
    """Behind a cut, and steep: both views at once, and no gradient goes through the network that gives the value."""
    network = layer(torch.erf, 200.0)
    counted = Counted(lambda z: network((8 * z).detach().round() / 8))
    x = inputs()
    units = steep(counted, x, view=mended)
    assert units
    assert steep(counted, x) == ()
    counted.forward = counted.backward = 0
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mended(moderated(counted, units=units))(point)[:, 0].sum(), point)
    assert (gradient.norm(dim=1) > 0).all()
    assert (counted.forward, counted.backward) == (4 * 16, 3 * 16)


def test_without_units_a_view_is_the_model() -> None:
    net, x = layer(torch.erf, 0.5), inputs().requires_grad_()
    slopes = [torch.autograd.grad(model(x).sum(), x)[0] for model in (net, moderated(net, units=()))]
    assert torch.allclose(*slopes, atol=1e-5)


def test_units_are_values() -> None:
    one = Steep(call=3, name="mul", by=16.0)
    assert settled(moderated, units=(one,), draws=3) == settled(moderated, units=(Steep(3, "mul", 16.0),), draws=3)
