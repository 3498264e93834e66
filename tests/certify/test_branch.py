"""Branch and bound decides small networks, and no certificate exceeds the optimum of any."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sparring.attacks import pgd
from sparring.certify import BranchAndBound, crown, graph, interval, walk
from sparring.certify.branch import Claims, Question, _Tree
from sparring.certify.crown import ascend, slopes_of_crown
from sparring.certify.graph import Affine, Concat, MaxPool, Rectifier, Sigmoid, Softplus, Sum, Window
from sparring.certify.lines import Lines
from sparring.certify.region import Region
from sparring.certify.walk import explore, lower, route
from sparring.evaluate.bracket import LADDER
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.models.torch import load_weights
from sparring.networks import PreActivation, wong_cnn
from sparring.norms import NORMS
from sparring.registry import find
from sparring.streams import Streams
from sparring.threats import Ball, linf

QUICK = BranchAndBound(seconds=0.1, restarts=1)
CERTIFICATES = {name: find("certificates", name).make() for name in LADDER} | {
    "branch-and-bound": QUICK,
    "on signs alone": replace(QUICK, inputs=0),
}


def small(seed: int, hidden: int) -> nn.Module:
    """A random network of two inputs, with so many hidden layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for size in [2, *[6] * (hidden - 1)]:
            layers += [nn.Linear(size, 6), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Linear(6, 3)).eval()
        for part in net.parameters():
            part.data *= 2.0
    return net.requires_grad_(False)


def optimum(net: nn.Module, x: torch.Tensor, label: torch.Tensor, threat: Ball) -> float:
    """The least margin: on a grid; and where one layer is hidden, in Linf, on the corners of all its linear pieces."""
    eps = threat.eps
    axis = torch.linspace(-eps, eps, 41)
    z = (x + torch.cartesian_prod(axis, axis)).clamp(0, 1)
    if threat.norm.name == "linf" and len(net) == 3:
        sides = [(torch.eye(2)[i], -(x[i] + s * eps).clamp(0, 1)) for i in range(2) for s in (-1, 1)]
        lines = [*zip(net[0].weight, net[0].bias, strict=True), *sides]
        a = torch.stack([torch.stack([one[0], two[0]]) for one, two in itertools.combinations(lines, 2)])
        b = torch.stack([torch.stack([-one[1], -two[1]]) for one, two in itertools.combinations(lines, 2)])
        crossing = a.det().abs() > 1e-6
        z = torch.cat([z, torch.linalg.solve(a[crossing], b[crossing])])
    z = z[threat.contains(z, x.expand_as(z))]
    return float(-margin(net(z).detach(), Never(label.expand(len(z)))).max())


def check(count: int) -> None:
    for seed in range(count):
        net = small(seed, 1 + seed % 2)
        threat = Ball(NORMS[("linf", "linf", "l2", "l1")[seed // 2 % 4]], 0.1)
        x = Streams.of(seed, range(2)).uniform(2)
        labels = net(x).argmax(1)
        best = torch.tensor([optimum(net, one, label, threat) for one, label in zip(x, labels, strict=True)])
        for name, one in CERTIFICATES.items():
            assert (one(net, x, labels, threat) <= best).all(), (seed, name)


def test_no_certificate_exceeds_the_optimum_of_random_networks():
    check(16)


@pytest.mark.slow
def test_no_certificate_exceeds_the_optimum_of_two_hundred_random_networks():
    check(200)


def test_branch_and_bound_decides_what_crown_leaves_open():
    decide, decided, left = BranchAndBound(seconds=20.0, restarts=1), 0, 0
    for seed in range(20):
        net, x, threat = small(seed, 2), Streams.of(seed, range(2)).uniform(2), linf(0.3)
        labels = net(x).argmax(1)
        bounds = crown()(net, x, labels, threat)
        for i, answer in enumerate(decide.answers(net, x, labels, threat)):
            least = optimum(net, x[i], labels[i], threat)
            if abs(least) < 0.05:  # the grid is only so fine
                continue
            assert answer.status == ("certified" if least > 0 else "broken"), seed
            assert answer.lower <= least
            if answer.z is not None:
                assert Untargeted(labels[i : i + 1]).reached(net(answer.z)).all()
                assert threat.contains(answer.z, x[i : i + 1]).all()
            left += bool(bounds[i] <= 0)
            decided += bool(bounds[i] <= 0 and answer.status == "certified")
    assert decided >= 1
    assert left > decided


def deep(seed: int, act: type[nn.Module], depth: int, size: int = 3) -> nn.Sequential:
    """A random network of few inputs and many kinks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(size, 16), act()]
            size = 16
        net = nn.Sequential(*layers, nn.Linear(size, 3)).eval().requires_grad_(False)
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.weight.mul_(2.5)
    return net


def last_that_stands(net: nn.Module, x: torch.Tensor, label: torch.Tensor) -> float:
    """The largest eps, a little less than which a grid leaves standing."""
    axes = torch.cartesian_prod(*[torch.linspace(-1, 1, 25)] * 3)
    sizes = [k / 50 for k in range(1, 26)]
    stands = [eps for eps in sizes if bool((net((x + eps * axes).clamp(0, 1)).argmax(1) == label).all())]
    return max(stands, default=0.0)


def test_few_inputs_are_halved_which_takes_fewer_parts_than_signs_in_deep_networks():
    halving, signs = (BranchAndBound(seconds=20.0, restarts=1, inputs=inputs) for inputs in (16, 0))
    parts = []
    for seed, depth in ((3, 3), (3, 4)):
        net, x = deep(seed, nn.ReLU, depth), torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
        label = net(x).argmax(1)
        threat = linf(0.7 * last_that_stands(net, x, label))
        (one,), (other,) = (how.answers(net, x, label, threat) for how in (halving, signs))
        assert one.status == other.status == "certified"
        parts.append((one.parts, other.parts))
    assert sum(one for one, _ in parts) < sum(other for _, other in parts)


@pytest.mark.parametrize(("act", "depth"), [(nn.Tanh, 2), (nn.Softplus, 4)])
def test_smooth_networks_of_few_inputs_are_decided_though_they_have_no_signs_to_split(act, depth):
    net, opened = deep(1, act, depth), 0
    for seed in range(4):
        x = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed))
        label = net(x).argmax(1)
        if eps := 0.9 * last_that_stands(net, x, label):
            opened += bool(crown()(net, x, label, linf(eps)) <= 0)
            (answer,) = BranchAndBound(seconds=20.0, restarts=1).answers(net, x, label, linf(eps))
            assert answer.status == "certified"
            first, second = net(x).topk(2).values[0]
            assert answer.lower <= float(first - second)
    assert opened


def test_a_margin_that_rounding_may_hide_is_not_halved_until_time_is_up():
    """`x_1 + 1 - x_0` and a little: no box of a linear network says more than the whole does."""
    net = nn.Linear(2, 2).eval().requires_grad_(False)
    net.weight.copy_(torch.eye(2))
    net.bias.copy_(torch.tensor([0.0, 1 + 2.0**-23]))
    how, x = BranchAndBound(seconds=60.0, restarts=1), torch.tensor([[0.5, 0.5]])
    (answer,) = how.answers(net, x, torch.tensor([1]), linf(0.5))
    assert answer.status == "unknown"
    assert answer.parts < 100


def test_a_network_that_takes_no_empty_batch_is_decided():
    """`view(len, -1)` is ambiguous for no rows: nothing is attacked where all is proved."""

    class Viewed(nn.Module):
        """A margin of `|x| - 0.9 x + 0.05`, which CROWN leaves open around zero."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(1, 3), nn.Linear(3, 2)
            self.first.weight.data, self.first.bias.data = (
                torch.tensor([[1.0], [-1.0], [1.0]]),
                torch.tensor([0.0, 0, 2]),
            )
            self.last.weight.data, self.last.bias.data = (
                torch.tensor([[1, 1, -0.9], [0, 0, 0]]),
                torch.tensor([1.85, 0]),
            )

        def forward(self, x):
            h = torch.relu(self.first(x))
            return self.last(h.view(h.size(0), -1))

    net, x, label, threat = Viewed().eval(), torch.zeros(1, 1), torch.tensor([0]), linf(1.0, low=-1.0)
    assert crown()(net, x, label, threat) <= 0
    assert BranchAndBound(seconds=20.0, restarts=1).answers(net, x, label, threat)[0].status == "certified"


def test_a_tie_that_goes_to_the_label_breaks_nothing():
    """`relu(x_0 - 1/2)` against `relu(x_1 - 1)`, which is zero in the box: both are, at many points."""
    first = nn.Linear(2, 2)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
        first.bias.copy_(torch.tensor([-0.5, -1.0]))
    net, x = nn.Sequential(first, nn.ReLU()).eval(), torch.tensor([[0.6, 0.2]])
    (zero,) = QUICK.answers(net, x, torch.tensor([0]), linf(0.2))
    assert zero.status != "broken"
    assert zero.lower <= 1e-300  # no margin to speak of
    x[0, 0], first.bias.data[0] = 0.2, -1.0
    (one,) = QUICK.answers(net, x, torch.tensor([1]), linf(0.1))  # there a tie goes to class 0
    assert one.status == "broken"


def test_many_classes_are_bounded_a_few_margins_at_a_time(monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 50)).eval()
    x = Streams.of(0, range(3)).uniform(6)
    labels, threat = net(x).argmax(1), linf(0.02)
    found = []
    for cells in (walk.CELLS, 200):
        monkeypatch.setattr(walk, "CELLS", cells)
        found.append([one(net, x, labels, threat) for one in (*CERTIFICATES.values(),)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-3, rtol=0)


def test_what_cannot_be_decided_in_time_is_unknown_with_a_bound_that_holds():
    net, x, threat = (
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).eval(),
        torch.full((1, 2), 0.5),
        linf(0.1),
    )
    labels = net(x).argmax(1)
    (answer,) = BranchAndBound(seconds=0.0).answers(net, x, labels, threat)
    assert answer.status in {"unknown", "broken", "certified"}
    assert answer.lower <= optimum(net, x[0], labels[0], threat)


def test_units_inside_are_bounded_by_splitting_and_no_input_passes_the_bounds():
    gained = 0
    for seed in range(6):
        net, x, threat = small(seed, 3), Streams.of(seed, range(1)).uniform(2), linf(0.2)
        read = graph(net, x)
        claims = Claims(torch.tensor([[[1.0, -1.0, 0.0]]]).double(), torch.zeros(1, 1).double())
        tree = _Tree(BranchAndBound(restarts=1), Question(read, Region.of(threat, x), claims, net, x, threat))
        crowns = tree.rooted()
        bounds = crowns.clone()
        tree.tighten(bounds, rounds=4)
        axis = torch.linspace(-0.2, 0.2, 101)
        z = (x + torch.cartesian_prod(axis, axis)).clamp(0, 1)
        values = torch.cat([net[:n](z) for n in (1, 3, 5)], 1)
        assert (bounds[0] <= values.amin(0)).all()
        assert (bounds[1] >= values.amax(0)).all()
        gained += int((bounds[0] > crowns[0] + 1e-3).sum() + (bounds[1] < crowns[1] - 1e-3).sum())
    assert gained >= 10


def test_slopes_that_are_climbed_in_float32_stay_within_what_float64_allows():
    for slope in (0.0, 0.01, 0.3):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(slope), nn.Linear(16, 1)).eval()
        read = graph(net, torch.full((1, 4), 0.5))
        reach = explore(read, Region.of(linf(0.5), torch.full((1, 4), 0.5)), refine=True)
        rows = torch.tensor([[[1.0], [-1.0]]]).double()
        with torch.no_grad():
            alpha, _, _ = ascend(
                read, reach, rows, start=len(read.nodes), alpha=slopes_of_crown(reach, 2), steps=20,
                rates=(0.5, 0.1, 0.1),
            )  # fmt: skip
        assert alpha
        for one in alpha.values():
            assert one.dtype == torch.float64
            assert one.min() >= slope
            assert one.max() <= 1


def networks_of_convolutions():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield nn.Sequential(
            nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.1),
            nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3),
        )  # fmt: skip
        yield nn.Sequential(
            nn.Conv2d(1, 4, 2, (1, 2), (0, 1)), nn.Conv2d(4, 2, 3), nn.ReLU(),
            nn.Conv2d(2, 2, 3, dilation=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3),
        )  # fmt: skip
        yield nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 2, padding=1), nn.ReLU(),
            nn.MaxPool2d((1, 2), (1, 2)), nn.Conv2d(4, 2, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3),
        )  # fmt: skip
        yield nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), PreActivation(3, 3, 1), PreActivation(3, 4, 2), nn.ReLU(),
            nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3),
        )  # fmt: skip
        yield nn.Sequential(Beside(nn.Conv2d(1, 2, 3, 1, 1), nn.MaxPool2d(3, 1, 1)), nn.ReLU(), nn.Conv2d(3, 3, 1),
            Beside(nn.Softplus(), nn.Conv2d(3, 1, 5, 1, 2)), nn.ReLU(), nn.Conv2d(4, 2, 2, 2), nn.ReLU(),
            nn.Flatten(), nn.LazyLinear(3),
        )  # fmt: skip


class Beside(nn.Module):
    """What two layers say of the same map, side by side."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x):
        return torch.cat([self.one(x), self.other(x)], 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_windows_of_convolutions_give_the_bounds_of_whole_maps(norm, monkeypatch):
    x, threat = (
        Streams.of(1, range(3)).uniform(1, 14, 14),
        Ball(NORMS[norm], {"linf": 0.02, "l2": 0.2, "l1": 0.5}[norm]),
    )
    for net in networks_of_convolutions():
        net(x)
        net = graph(net.eval(), x)
        near = explore(net, Region.of(threat, x), refine=True)
        with monkeypatch.context() as whole:
            whole.setattr(walk, "_stays_small", lambda *_: None)
            far = explore(net, Region.of(threat, x), refine=True)
        for one, two in zip([*near.low, *near.high], [*far.low, *far.high], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_windows_go_back_through_sums_concatenations_and_poolings():
    x, passed = Streams.of(1, range(1)).uniform(1, 14, 14), set()
    for net in networks_of_convolutions():
        net(x)
        net = graph(net.eval(), x)
        reach = explore(net, Region.of(linf(0.02), x), refine=True)
        last = max(k for k in range(1, len(net.nodes)) if len(net.size(k)) == 3)
        passed |= {type(net.nodes[k - 1].op) for k, _ in route(net, reach, last).steps}
    assert {Affine, Concat, MaxPool, Rectifier, Softplus, Sum} <= passed


def test_windows_of_one_stride_lie_around_the_same_places():
    maps, one, other = (
        Streams.of(1, range(2)).uniform(3, 9, 8),
        Window((3, 2), (2, 1), (1, 0)),
        Window((1, 4), (2, 1), (0, 1)),
    )
    both = one.joined(other)
    assert both == other.joined(one) == Window((3, 4), (2, 1), (1, 1))
    whole = both.cut(maps)
    for window in (one, other):
        part = window.cut(maps)
        mask = window.within(both, torch.ones_like(part))
        assert mask.sum() == part.numel()
        torch.testing.assert_close(window.within(both, part), whole * mask)


def test_a_value_that_is_added_to_itself_again_and_again_takes_no_longer_than_others():
    """There are two ways back from every sum, and more than can be tried from the last."""

    class Doubled(nn.Module):
        def forward(self, x):
            for _ in range(60):
                x = 0.5 * x
                x = x + x
            return torch.relu(x - torch.relu(x - 0.25))

    x = torch.tensor([[0.2, 0.6]])
    assert crown()(Doubled(), x, torch.tensor([1]), linf(0.01)) < 0.05


def pooled() -> nn.Module:
    """Units of the last map have windows that are small up to the pooling, and whole maps from there on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3), nn.Softplus(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 2), nn.ReLU(), nn.Conv2d(8, 8, 2), nn.Tanh(), nn.MaxPool2d(3, 1),
            nn.Flatten(), nn.Linear(72, 3),
        )  # fmt: skip
    return net.eval()


def test_windows_that_become_whole_maps_are_walked_no_more_than_fit_at_a_time(monkeypatch):
    """Thousands were, for which convolutions and a pooling took 18 GB an image."""
    x, sizes, back = Streams.of(1, range(2)).uniform(1, 18, 18), [], Lines.back
    net = graph(pooled(), x)
    whole = explore(net, Region.of(linf(0.02), x), refine=True)
    monkeypatch.setattr(walk, "CELLS", 2**16)
    monkeypatch.setattr(Lines, "back", lambda self, a, alpha=None: sizes.append(a.numel()) or back(self, a, alpha))
    parts = explore(net, Region.of(linf(0.02), x), refine=True)
    assert max(sizes) <= 2 * 2**16  # a unit and its negative
    for one, two in zip([*whole.low, *whole.high], [*parts.low, *parts.high], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_a_walk_from_behind_a_curve_gains_nothing_where_one_from_before_it_was_asked_for():
    x = Streams.of(1, range(2)).uniform(1, 18, 18)
    net = graph(pooled(), x)
    reach = explore(net, Region.of(linf(0.02), x), refine=True)
    for k, node in enumerate(net.nodes, 1):
        if isinstance(node.op, Rectifier | Sigmoid | Softplus):
            (i,) = node.inputs
            asked = reach.low[i] < reach.high[i]
            if isinstance(node.op, Rectifier):
                asked = (reach.low[i] < 0) & (reach.high[i] > 0)
            units = asked[0].flatten().nonzero().flatten()[::7]
            rows = torch.zeros(1, len(units), math.prod(node.shape)).double()
            rows[0, torch.arange(len(units)), units] = 1
            least = lower(net, reach, {k: torch.cat([rows, -rows], 1).view(1, -1, *node.shape)})[0]
            assert (least[: len(units)] <= reach.low[k][0].flatten()[units] + 1e-9).all()
            assert (-least[len(units) :] >= reach.high[k][0].flatten()[units] - 1e-9).all()


def test_what_is_linear_goes_back_in_float32_as_it_does_in_float64():
    x = Streams.of(1, range(3)).uniform(1, 14, 14)
    for net in networks_of_convolutions():
        net(x)
        for node in graph(net.eval(), x).nodes:
            if isinstance(node.op, Affine):
                a = Streams.of(2, range(3)).uniform(*node.shape)
                back = node.op.transpose(a)
                assert back.dtype == torch.float32
                torch.testing.assert_close(back.double(), node.op.transpose(a.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_bounds_of_convolutions_hold_under_attack(norm):
    threat = Ball(NORMS[norm], {"linf": 0.02, "l2": 0.2, "l1": 1.0}[norm])
    x = Streams.of(2, range(4)).uniform(1, 14, 14)
    for net in networks_of_convolutions():
        net(x)
        net.eval().requires_grad_(False)
        labels = net(x).argmax(1)
        z = pgd(threat, loss=margin)(net, x, Never(labels), Streams.of(3, range(4)))
        least = -margin(net(z), Never(labels))
        bounds = crown()(net, x, labels, threat)
        assert (interval()(net, x, labels, threat) <= bounds).all()
        assert (bounds <= least).all()
        assert (least - bounds).max() < 1


@pytest.mark.slow
def test_no_certified_example_is_broken_in_a_hundred_thousand_attack_runs(sparring_data):
    from sparring.data import load

    net = wong_cnn().eval()
    load_weights(net, sparring_data / "models" / "wong_kolter_mnist_linf0.1.pth")
    x, labels = load("mnist").take(range(64))
    sure = (crown()(net, x, labels, linf(0.1)) > 0).nonzero().flatten()
    x, labels = x[sure], labels[sure]
    attack, runs = pgd(linf(0.1), steps=10, loss=margin), 0
    for restart in itertools.count():
        z = attack(net, x, Untargeted(labels), Streams.of(restart, range(len(x))))
        assert not Untargeted(labels).reached(net(z)).any()
        runs += len(x)
        if runs >= 100_000:
            return
