"""Certified training: its bounds are those of the certificates, hold for every input, and can be trained."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.certify import crown, graph, interval
from sparring.certify.crown import margins
from sparring.certify.lines import relax
from sparring.certify.region import Region
from sparring.certify.walk import explore, lower
from sparring.data.arrays import Arrays
from sparring.errors import BadInput
from sparring.networks import PreActivation, certified_cnn, settled_weights
from sparring.streams import Streams
from sparring.threats import Ball, l2, linf
from sparring.training import Trainer
from sparring.training.alarms import batchnorm_leak
from sparring.training.hardware import Hardware
from sparring.training.objectives import Box, adversarial, crown_ibp, ibp, mtl_ibp, sabr, standard
from sparring.training.objectives.boxes import ranked, ranked_by_lines, unsettled
from sparring.training.objectives.certified import around, worst

THREAT = linf(0.05)
COUNT, CLASSES = 6, 4


class Crossed(nn.Module):
    """Two ways that are added, and two that are put side by side; constants; no modules for what has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first((1 - 2 * x.flatten(1)) / 0.7))
        return self.third(torch.cat([h + functional.relu(self.second(h)), torch.sigmoid(h - 0.5)], 1))  # type: ignore[no-any-return]


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(48, CLASSES)
    )


def residual() -> nn.Module:
    tail = (nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    return nn.Sequential(nn.Conv2d(1, 2, 3, 1, 1), PreActivation(2, 4, 2), *tail)


def pooled() -> nn.Module:
    middle = (nn.MaxPool2d(3, 1, 1), nn.Conv2d(1, 2, 2), nn.Tanh(), nn.AvgPool2d(2, 1), nn.Dropout(0.5))
    return nn.Sequential(*middle, nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, CLASSES))


NETWORKS = {"conv": conv, "residual": residual, "pooled": pooled, "crossed": Crossed}


def made(name: str, seed: int = 0) -> nn.Module:
    """A network with running statistics of its own, in inference mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = NETWORKS[name]()
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
                nn.init.normal_(part.weight)
    return network.eval()


def batch(count: int = COUNT, size: int = 8) -> tuple[Tensor, Tensor, Streams]:
    rng = Streams.of(3, range(count))
    return rng.at("x").uniform(1, size, size), rng.at("y").integers(CLASSES), rng


def least(bounds: Tensor, labels: Tensor) -> Tensor:
    """The least margin, of upper bounds of what the other classes are ahead."""
    own = functional.one_hot(labels, bounds.shape[1]).bool()
    return -bounds.masked_fill(own, -torch.inf).amax(1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_by_intervals_are_those_of_the_certificate(name: str, seed: int) -> None:
    network, (x, labels, _) = made(name, seed), batch()
    out = network(around(THREAT, x))
    torch.testing.assert_close(least(ranked(out, labels), labels), interval()(network, x, labels, THREAT), **CLOSE)
    torch.testing.assert_close(out.point, network(x))


CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_bounds_by_lines_are_those_of_crown_between_the_bounds_of_intervals(name: str) -> None:
    network, (x, labels, _) = made(name), batch()
    net, region = graph(network, x), Region.of(THREAT, x)
    reach = explore(net, region, refine=False)
    for k in reach.relaxed:
        node = net.nodes[k - 1]
        reach.relaxed[k] = relax(node.op, reach.low[node.inputs[0]], reach.high[node.inputs[0]])  # type: ignore[arg-type]
    want = lower(net, reach, {len(net.nodes): margins(net, labels)}).amin(1).float()
    box = around(THREAT, x, lines=True)
    found = least(ranked_by_lines(network(box), box, labels), labels)
    torch.testing.assert_close(found, want, **CLOSE)
    assert (found <= crown()(network, x, labels, THREAT) + 1e-5).all()
    assert (found > interval()(network, x, labels, THREAT)).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_no_input_in_the_box_passes_the_bounds_also_in_training_mode_with_shares_as_labels(name: str) -> None:
    network, (x, labels, rng) = made(name), batch()
    frozen = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d | nn.Dropout)]
    network.train()
    for part in frozen:
        part.eval()  # else other points would have other statistics
    mixed = 0.7 * functional.one_hot(labels, CLASSES) + 0.3 / CLASSES
    for truth in (labels, mixed):
        box = around(THREAT, x, lines=True)
        out = network(box)
        by_intervals, by_lines = ranked(out, truth), ranked_by_lines(out, box, truth)
        for i in range(20):
            z = THREAT.project(x + THREAT.eps * rng.at(i).sign(1, 8, 8), x)
            logits = network(z)
            own = (logits * (functional.one_hot(labels, CLASSES) if truth is labels else mixed)).sum(1, keepdim=True)
            assert (logits - own <= by_intervals + 1e-5).all()
            assert (logits - own <= by_lines + 1e-5).all()
            assert functional.cross_entropy(logits, truth) <= worst(by_intervals) + 1e-5


def test_without_room_all_of_them_are_the_cross_entropy_at_the_point() -> None:
    network, (x, labels, rng) = made("conv").train(), batch()
    want = standard(network, x, labels, 1.0, rng)
    nothing = linf(0.0)
    for objective in (ibp(nothing), crown_ibp(nothing, beta=0.5), sabr(nothing), mtl_ibp(nothing)):
        torch.testing.assert_close(objective(network, x, labels, 1.0, rng), want, **CLOSE)
    for objective in (ibp(THREAT, warmup=0.0), crown_ibp(THREAT, warmup=0.0), sabr(THREAT), mtl_ibp(THREAT)):
        torch.testing.assert_close(objective(network, x, labels, 0.0, rng), want, **CLOSE)


def test_each_loss_is_the_mixture_that_its_paper_says() -> None:
    network, (x, labels, rng) = made("conv"), batch()
    clean = functional.cross_entropy(network(x), labels)
    box = around(THREAT, x, lines=True)
    out = network(box)
    intervals, lines = ranked(out, labels), ranked_by_lines(out, box, labels)
    found = ibp(THREAT, kappa=0.25)(network, x, labels, 1.0, rng)
    torch.testing.assert_close(found, 0.25 * clean + 0.75 * worst(intervals))
    found = crown_ibp(THREAT, kappa=0.25, beta=0.5)(network, x, labels, 1.0, rng)
    torch.testing.assert_close(found, 0.25 * clean + 0.75 * worst((intervals + lines) / 2))
    attacked = adversarial(THREAT)(network, x, labels, 1.0, rng)
    found = mtl_ibp(THREAT, alpha=0.3)(network, x, labels, 1.0, rng)
    torch.testing.assert_close(found, 0.7 * attacked + 0.3 * worst(intervals))
    assert sabr(THREAT, part=1.0)(network, x, labels, 1.0, rng) == worst(intervals)
    torch.testing.assert_close(sabr(THREAT, part=0.0)(network, x, labels, 1.0, rng), attacked)


def test_gradients_of_the_bounds_are_those_of_finite_differences() -> None:
    network, (x, labels, _) = made("conv", 1).double(), batch()
    x = x.double()
    (weight,) = (p for name, p in network.named_parameters() if name == "0.weight")

    def loss(bounds: str) -> Tensor:
        box = around(THREAT, x, lines=bounds == "lines")
        out: Box = network(box)
        return worst(ranked(out, labels) if bounds == "intervals" else ranked_by_lines(out, box, labels))

    direction = Streams.of(1, range(3)).normal(1, 3, 3).double()
    for bounds in ("intervals", "lines"):
        (slope,) = torch.autograd.grad(loss(bounds), weight)
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight += step * direction
            ends.append(loss(bounds).item())
            with torch.no_grad():
                weight -= step * direction
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float((slope * direction).sum()), rel=1e-3)


def test_batchnorm_gathers_statistics_of_the_points_once_and_bounds_by_the_same() -> None:
    network, plain, (x, _, _) = made("conv").train(), made("conv").train(), batch()
    network(around(THREAT, x))
    plain(x)
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), plain.buffers(), strict=True))
    wide, narrow = (network(around(linf(eps), x)) for eps in (0.05, 0.0))
    assert torch.allclose(narrow.low, narrow.point, atol=1e-5)
    assert torch.equal(wide.point, narrow.point)


@pytest.mark.parametrize("make", [ibp, crown_ibp, sabr, mtl_ibp])
def test_the_trainer_takes_them_and_sees_no_leak_of_the_statistics(make: object) -> None:
    x, labels, _ = batch(64)
    trainer = Trainer(epochs=2, batch_size=32, lr=1e-3)
    course = trainer(made("conv"), Arrays("noise", x, labels), make(THREAT))  # type: ignore[operator]
    assert [epoch.leaks for epoch in course.history] == [0, 0]
    assert batchnorm_leak(course.history) is None


def test_training_certifies_what_adversarial_training_does_not() -> None:
    """Two classes that differ in every pixel: a short training, certified by intervals."""
    rng = Streams.of(0, range(256))
    labels = rng.at("y").integers(2)
    x = (0.35 + 0.3 * labels.view(-1, 1, 1, 1) + 0.1 * rng.at("x").normal(1, 8, 8)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
        network = settled_weights(nn.Sequential(*layers))
    trainer = Trainer(epochs=12, batch_size=32, lr=5e-3, average=0.0)
    certified = {}
    for name, objective in {"ibp": ibp(linf(0.1)), "adversarial": adversarial(linf(0.1))}.items():
        trained = trainer(network, Arrays("tones", x, labels), objective).network
        certified[name] = int((interval()(trained, x[:100], labels[:100], linf(0.1)) > 0).sum())
    assert certified["ibp"] >= 95
    assert certified["ibp"] > certified["adversarial"] + 20


def test_settled_weights_keep_the_width_of_a_box_where_torchs_own_let_it_grow() -> None:
    def deep() -> nn.Sequential:
        layers = [part for _ in range(6) for part in (nn.Linear(200, 200), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(200, 5))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        own, settled = deep(), settled_weights(deep())
    x = Streams.of(0, range(8)).uniform(200)
    growth = {}
    for name, network in {"own": own, "settled": settled}.items():
        box = around(THREAT, x)
        growth[name] = (network(box).walk.before[-1].reach.mean() / box.reach.mean()).item()
    assert growth["own"] > 50
    assert 0.3 < growth["settled"] < 5


def test_the_regularisers_see_wide_bounds_and_dead_units() -> None:
    x = Streams.of(0, range(16)).uniform(50)

    def said(weight: float, bias: float) -> float:
        layer = nn.Linear(50, 40)
        with torch.no_grad():
            layer.weight.copy_(weight * Streams.of(1, range(40)).normal(50))
            layer.bias.copy_(bias * Streams.of(2, range(40)).sign())
            layer.bias.add_(0.0 if bias else -100.0)
        box = around(THREAT, x)
        return unsettled(box, nn.Sequential(layer, nn.ReLU(), nn.Linear(40, 2))(box)).item()

    assert said(0.002, 1.0) < 0.05
    assert said(1.0, 1.0) > 0.8
    assert said(0.002, 0.0) > 1.9
    assert unsettled(around(linf(0.0), x), nn.ReLU()(around(linf(0.0), x))).isfinite()


def test_the_network_of_certified_training_has_the_weights_that_it_says() -> None:
    network = certified_cnn()
    assert network.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    first = network[0].weight.detach()
    assert float(first.std()) == pytest.approx((2 * torch.pi) ** 0.5 / 16, rel=0.1)
    assert torch.equal(first, certified_cnn()[0].weight.detach())


def test_a_box_has_the_length_and_the_dimensions_of_its_point() -> None:
    box = around(THREAT, torch.rand(2, 3, 4, 4))
    assert (len(box), box.ndim, box.dim()) == (2, 4, 4)
    assert box.view(len(box), -1).shape == (2, 48)
    for name in ("__array__", "_base", "dtype", "is_sparse", "nothing"):
        assert not hasattr(box, name), name


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda h: h.mean((2, 3)), "the operation mean"),
        (lambda h: 2 / h, "a division by"),
        (lambda h: torch.div(torch.ones(3), h), "a division by"),
        (lambda h: torch.add(h, h, alpha=2), "the operation add with such arguments"),
        (lambda h: torch.div(h, 2, rounding_mode="floor"), "the operation div with such arguments"),
        (lambda h: h.T, "the transpose T"),
        (lambda h: h.abs_(), "the operation abs_"),
        (lambda h: h.permute(0, 2, 3, 1), "the operation permute"),
        (lambda h: h[:, :, 0, 0], "a subscript"),
        (list, "a subscript"),
        (nn.AvgPool2d(2, divisor_override=-1), "divides by -1"),
        (nn.LeakyReLU(-0.1), "LeakyReLU of slope -0.1"),
        (partial(functional.leaky_relu, negative_slope=1.5), "LeakyReLU of slope 1.5"),
    ],
)
def test_what_has_no_rule_for_boxes_is_refused_in_one_line(ask: Callable[[Box], object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ask(around(THREAT, torch.rand(2, 3, 4, 4)))


def test_what_has_no_bounds_is_refused() -> None:
    for make in (ibp, crown_ibp, sabr, mtl_ibp):
        with pytest.raises(BadInput, match="linf"):
            make(l2(1.0))
    for network in (nn.Softplus(), nn.Sequential(nn.Linear(3, 3), nn.GELU())):
        with pytest.raises(BadInput, match="operation"):
            network(around(THREAT, torch.rand(2, 3)))
    with pytest.raises(BadInput, match="product"):
        around(THREAT, torch.rand(2, 3)) * around(THREAT, torch.rand(2, 3))


def test_a_difference_is_bounded_whichever_side_the_box_is_on() -> None:
    box, c = around(THREAT, torch.rand(2, 3)), torch.rand(3)
    for found in (c - box, torch.sub(c, box), torch.rsub(box, c), -(box - c)):
        assert torch.allclose(found.low, c - box.high, atol=1e-6)
        assert torch.allclose(found.high, c - box.low, atol=1e-6)


def test_a_constant_that_makes_a_value_larger_makes_its_reach_larger_too() -> None:
    box = Box.of(torch.full((2, 3, 1, 1), 0.5), torch.zeros(2, 3, 1, 1), torch.ones(2, 3, 1, 1))
    sum_ = functional.conv2d(box + torch.ones(1, 3, 3), torch.ones(1, 3, 3, 3))  # type: ignore[call-overload]
    assert sum_.low.flatten().tolist() == [27.0, 27.0]
    assert sum_.high.flatten().tolist() == [54.0, 54.0]


def test_dropout_leaves_whole_maps_out_where_torch_does() -> None:
    ones = torch.ones(4, 8, 3, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        box = functional.dropout2d(Box.of(ones, ones, ones), 0.5)  # type: ignore[arg-type]
    maps = box.low.flatten(2)  # type: ignore[attr-defined]
    assert torch.equal(maps.amin(2), maps.amax(2))
    assert set(maps.flatten().tolist()) == {0.0, 2.0}


def test_lines_of_a_linear_network_are_its_own() -> None:
    network, x, labels = nn.Linear(4, 3), torch.rand(5, 4), torch.arange(5) % 3
    box = around(THREAT, x, lines=True)
    torch.testing.assert_close(ranked_by_lines(network(box), box, labels), ranked(network(box), labels))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (ibp, {"kappa": 5.0}),
        (ibp, {"warmup": -3.0}),
        (ibp, {"kappa": float("nan")}),
        (crown_ibp, {"beta": -4.0}),
        (sabr, {"part": 1.5}),
        (mtl_ibp, {"alpha": 7.0}),
    ],
)
def test_shares_that_are_none_are_refused(make: Callable[..., object], settings: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(settings))):
        make(THREAT, **settings)


def test_an_unbounded_box_has_bounds_too() -> None:
    threat = Ball(THREAT.norm, 0.1, -torch.inf, torch.inf)
    box = partial(around, threat)(torch.zeros(2, 3))
    assert torch.equal(box.high, torch.full((2, 3), 0.1))


@pytest.mark.parametrize("name", list(NETWORKS))
def test_boxes_in_bfloat16_are_those_of_float32_up_to_its_rounding(name: str) -> None:
    network, x = made(name), Streams.of(0, range(COUNT)).uniform(1, 8, 8)
    labels = torch.arange(COUNT) % CLASSES
    exact = ranked(network(around(THREAT, x)), labels)
    cast = ranked(Hardware(precision="bf16-mixed").casting(network)(around(THREAT, x)), labels)
    assert cast.dtype == torch.float32
    assert (cast - exact).abs().max() < 0.05 * exact.abs().max()


class InPlace(nn.Module):
    """Changes its features where they lie, in one of the ways that torch has, and uses them, and others, afterwards."""

    def __init__(self, change: Callable[[Tensor], object], *, both: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, CLASSES)
        self.change, self.both = change, both

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.flatten(1))
        alias = h
        before = self.last(h)
        changed = self.change(h)
        return self.last(changed + alias if self.both else h) + before  # type: ignore[no-any-return,operator]


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "module": nn.ReLU(inplace=True),
    "leaky": nn.LeakyReLU(0.1, inplace=True),
    "function": torch.relu_,
    "keyword": partial(functional.relu, inplace=True),
    "method": lambda h: h.relu_(),
    "method with a number": lambda h: h.mul_(2.0),
    "sigmoid": torch.sigmoid_,
    "add": lambda h: operator.iadd(h, 1.5),
    "sub": lambda h: operator.isub(h, 1.5),
    "mul": lambda h: operator.imul(h, -2.0),
    "div": lambda h: operator.itruediv(h, -2.0),
}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_network_does_in_place_it_does_to_the_box(name: str, both: bool) -> None:
    network = InPlace(CHANGES[name], both=both)
    x = torch.rand(COUNT, 1, 8, 8)
    with torch.no_grad():
        out = network(Box.of(x, x, x))
        for part in (out.point, out.low, out.high):
            assert torch.allclose(part, network(x), atol=1e-5)
        box = around(THREAT, x)
        out = network(box)
        for _ in range(50):
            z = x + THREAT.eps * (2 * torch.rand_like(x) - 1)
            said = network(z.clamp(0, 1))
            assert bool(((said >= out.low - 1e-5) & (said <= out.high + 1e-5)).all())


def test_what_is_remembered_of_a_box_is_what_it_was_before_it_was_changed_in_place() -> None:
    x, labels = torch.rand(COUNT, 1, 8, 8), torch.arange(COUNT) % CLASSES
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    changing = nn.Sequential(plain[0], plain[1], nn.ReLU(inplace=True), plain[3])
    box, other = (around(THREAT, x, lines=True) for _ in range(2))
    out, same = plain(box), changing(other)
    for one, two in zip(out.walk.before, same.walk.before, strict=True):
        assert torch.equal(one.low, two.low)
    assert torch.equal(unsettled(box, out), unsettled(other, same))
    assert torch.equal(ranked(out, labels), ranked(same, labels))
    assert torch.equal(ranked_by_lines(out, box, labels), ranked_by_lines(same, other, labels))
    functional.relu(out, inplace=True)
    assert bool((out.low >= 0).all())


def test_a_value_that_was_changed_by_way_of_a_view_of_it_is_refused() -> None:
    x = torch.rand(COUNT, 8)

    def changed(h: Any) -> tuple[Any, Any]:
        view = h.unsqueeze(1)
        torch.relu_(view)
        return h, view

    h, view = changed(Box.of(x, x - 0.5, x + 0.5))
    assert float(view.low.min()) >= 0
    with pytest.raises(BadInput, match="by way of a view of it"):
        functional.linear(h, torch.eye(8))
    with pytest.raises(BadInput, match="a constant changed in place"):
        torch.ones(8).add_(Box.of(x, x, x))  # type: ignore[arg-type]


def test_a_mask_of_truth_values_is_a_factor() -> None:
    box, keep = around(THREAT, torch.rand(2, 3)), torch.tensor([True, False, True])
    found, wanted = box * keep, box * keep.float()
    assert torch.equal(found.low, wanted.low)
    assert torch.equal(found.high, wanted.high)
