"""The adaptive search finds its way around defences that stop gradients, with no hint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import pgd
from sparring.evaluate.adaptive import adaptive, plan
from sparring.goals import Untargeted
from sparring.mending import bridged, mended, nearby, obstacles, rescaled, survey
from sparring.streams import Streams
from sparring.threats import l1, linf
from sparring.zoo import find

from .networks import held_out, honest

EPS = 0.2


pytestmark = pytest.mark.slow


def accuracy(model: nn.Module, z: Tensor, y: Tensor, draws: int = 1) -> float:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        outputs = torch.stack([model(z) for _ in range(draws)]).mean(0)
    return float((outputs.argmax(1) == y).float().mean())


@pytest.mark.parametrize(
    "name", ["input rounding", "detach", "temperature", "block rounding", "hard sigmoid", "contrary gradient"]
)
def test_a_defence_that_pgd_reports_as_robust_falls_to_the_search(name: str) -> None:
    model, (x, y), threat = find(name).make(), held_out(60), linf(EPS)
    if name != "detach":  # there PGD cannot even start
        z = pgd(threat)(model, x, Untargeted(y), Streams.of(0, range(60)))
        assert accuracy(model, z, y) > 0.5
    found = adaptive(model, x, y, threat)
    assert found.robust_accuracy <= 0.05
    assert accuracy(model, found.z, y) <= 0.05
    assert threat.contains(found.z, x).all()
    assert found.passes < 1000 * len(x)


def test_a_random_resize_falls_to_the_search_and_stays_fallen_in_other_draws() -> None:
    model, (x, y), threat = find("random resize").make(), held_out(24), linf(0.3)
    found = adaptive(model, x, y, threat, restarts=2)
    assert found.findings.random
    assert found.robust_accuracy <= 0.05
    assert accuracy(model, found.z, y, draws=32) <= 0.05


def test_the_search_is_the_same_twice_and_leaves_the_global_generator_alone() -> None:
    model, (x, y) = find("input rounding").make(), held_out(30)
    before = torch.get_rng_state()
    one, other = (adaptive(model, x, y, linf(EPS), passes=200) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.z, other.z)
    assert one.plan == other.plan
    assert plan(model, x, y, linf(EPS), passes=200) == tuple(one.run(40) for one in one.plan)


def test_what_the_search_found_is_an_attack_whose_rows_do_not_see_each_other() -> None:
    model, (x, y) = find("input rounding").make(), held_out(40)
    with torch.no_grad():
        attack = plan(model, x, y, linf(0.05), passes=200)[0]
    whole = attack(model, x, Untargeted(y), Streams.of(0, range(40)))
    rows = torch.arange(20, 40)
    assert torch.equal(attack(model, x[rows], Untargeted(y[rows]), Streams.of(0, rows)), whole[rows])


def test_an_honest_network_is_attacked_as_it_is() -> None:
    found = adaptive(honest("relu"), *held_out(40), l1(5.0), passes=200)
    assert found.findings.obstacles == ()
    assert found.findings.stages == ()
    assert found.robust_accuracy < 0.95


def test_a_model_that_answers_in_numpy_falls_to_the_black_box_candidate() -> None:
    network = honest("relu")
    found = adaptive(lambda x: network(torch.as_tensor(x)).detach().numpy(), *held_out(20), linf(EPS))
    assert found.findings.blind
    assert found.robust_accuracy < 0.5


BREAKS: dict[str, Callable[[Tensor], Tensor]] = {
    "round": lambda x: (x * 7).round() / 7,
    "round in place": lambda x: (x * 7).round_() / 7,
    "floor": lambda x: (x * 8).floor() / 8,
    "floor division": lambda x: x // 0.125 * 0.125,
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "a cast": lambda x: (255 * x).to(torch.uint8).float() / 255,
    "a byte that is divided": lambda x: (255 * x).byte() / 255,
    "a table": lambda x: torch.linspace(0, 1, 8)[(7 * x).round().long()],
    "where": lambda x: torch.where(x > 0.5, 1.0, 0.0),
    "a mask": lambda x: (x > 0.5).float(),
    "a mask that is not": lambda x: (~(x <= 0.5)).float(),
    "a mask that is filled": lambda x: torch.ones_like(x).masked_fill(x < 0.5, 0),
    "a thermometer": lambda x: (x.unsqueeze(2) > torch.linspace(0, 1, 8)[:, None, None]).float().mean(2),
    "a steep clamp": lambda x: (20 * (x - 0.5)).clamp(0, 1),
}


def slope(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | None:
    point = x.clone().requires_grad_()
    outputs = model(point)
    return torch.autograd.grad(outputs[:, 0].sum(), point, allow_unused=True)[0] if outputs.requires_grad else None


@pytest.mark.parametrize("name", BREAKS)
def test_a_mended_model_says_the_same_to_the_last_bit_and_has_the_gradient_behind_the_break(name: str) -> None:
    network, (x, _) = honest("relu"), held_out(16)

    def broken(z: Tensor) -> Tensor:
        return network(BREAKS[name](z))

    assert torch.equal(mended(broken)(x.clone().requires_grad_()), broken(x))
    gradient, behind = slope(mended(broken), x), slope(network, x)
    assert gradient is not None
    assert behind is not None
    assert functional.cosine_similarity(gradient.flatten(1), behind.flatten(1)).median() > 0.8
    assert obstacles(broken, x) != ()


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh", "convolutional", "attention"])
def test_an_honest_network_needs_no_mending_and_is_left_as_it_is(name: str) -> None:
    network, (x, _) = honest(name), held_out(16)
    assert obstacles(network, x) == ()
    assert survey(network, x) == ()
    mine, its = slope(mended(network), x), slope(network, x)
    assert mine is not None
    assert its is not None
    assert torch.allclose(mine, its, atol=1e-6)


class Elsewhere(nn.Module):
    """A stage that torch cannot see into."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        levels = (x.detach().numpy() * 7).round() / 7
        return torch.from_numpy(levels).repeat(1, self.channels, 1, 1)


@pytest.mark.parametrize(("channels", "surrogate", "least"), [(1, "identity", 0.99), (2, "slopes", 0.15)])
def test_a_stage_in_numpy_is_found_and_bridged(channels: int, surrogate: str, least: float) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True)

    network, (x, _) = honest("relu"), held_out(16)
    model = nn.Sequential(Elsewhere(channels), Mean(), network).eval()
    stages = survey(model, x)
    assert [(stage.name, stage.surrogate) for stage in stages] == [("Elsewhere", surrogate)]
    bridge = bridged(model, stages=stages)
    assert torch.equal(bridge(x.clone().requires_grad_()), model(x))
    gradient, behind = slope(bridge, x), slope(network, x)
    assert gradient is not None
    assert behind is not None
    assert functional.cosine_similarity(gradient.flatten(1), behind.flatten(1)).median() > least
    assert slope(model, x) is None


def test_a_mended_model_keeps_no_graph_in_its_buffers() -> None:
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(784))

        def forward(self, x: Tensor) -> Tensor:
            self.get_buffer("seen").mul_(0.9).add_(0.1 * x.detach().flatten(1).mean(0))
            return x

    watching = Watching()
    model = nn.Sequential(watching, honest("relu"))
    x, _ = held_out(4)
    for _ in range(2):
        slope(mended(model), x)
    assert not watching.get_buffer("seen").requires_grad


def test_rescaled_outputs_lie_between_0_and_10_and_decide_as_before() -> None:
    network, (x, _) = honest("relu"), held_out(16)
    outputs = rescaled(lambda z: 1000 * network(z))(x)
    assert torch.allclose(outputs.amin(1), torch.zeros(16))
    assert torch.allclose(outputs.amax(1), torch.full((16,), 10.0))
    assert torch.equal(outputs.argmax(1), network(x).argmax(1))


def test_gradients_nearby_are_a_mean_and_the_outputs_are_exact() -> None:
    network, (x, _) = honest("gelu"), held_out(16)
    view = nearby(network, width=0.05, draws=8)
    assert torch.equal(view(x.clone().requires_grad_()), network(x))
    mean, own = slope(view, x), slope(network, x)
    assert mean is not None
    assert own is not None
    assert functional.cosine_similarity(mean.flatten(1), own.flatten(1)).min() > 0.9
