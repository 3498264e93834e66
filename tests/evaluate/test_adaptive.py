"""The adaptive search finds its way around defences that stop gradients, with no hint."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import pgd
from sparring.data import Arrays
from sparring.errors import BadInput
from sparring.evaluate import Result, audit
from sparring.evaluate.adaptive import SHARE, Candidate, Findings, Trial, adaptive, candidates, halved
from sparring.evaluate.result import AttackRecord
from sparring.evaluate.run import own_draws
from sparring.goals import Untargeted
from sparring.mending import bridged, mended, nearby, obstacles, rescaled, survey
from sparring.steepness import Steep
from sparring.streams import Streams
from sparring.threats import l1, l2, linf
from sparring.views import eot
from sparring.zoo import find

from .networks import held_out, honest

EPS = 0.15
DEFENCES = ["input rounding", "detach", "temperature"]
RANDOM = "random resize"
OTHERS = ["hard sigmoid", "contrary gradient", pytest.param("block rounding", marks=pytest.mark.slow)]


def accuracy(model: nn.Module, z: Tensor, y: Tensor, draws: int = 1) -> float:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        outputs = torch.stack([model(z) for _ in range(draws)]).mean(0)
    return float((outputs.argmax(1) == y).float().mean())


@pytest.mark.parametrize("name", [*DEFENCES, RANDOM, *OTHERS])
def test_a_defence_that_pgd_reports_as_robust_falls_to_the_search_and_stays_fallen_in_other_draws(name: str) -> None:
    count, draws, least = (24, 32, 0.35) if name == RANDOM else (60, 1, 0.5)
    model, (x, y), threat = find(name).make(), held_out(count), linf(EPS)
    if name == "detach":
        with pytest.raises(BadInput, match="without gradients"):
            pgd(threat)(model, x, Untargeted(y), Streams.of(0, range(count)))
    else:
        with own_draws(0):
            z = pgd(threat)(model, x, Untargeted(y), Streams.of(0, range(count)))
        assert accuracy(model, z, y, draws) > least
    found = adaptive(model, x, y, threat)
    assert found.findings.random == (draws > 1)
    assert found.robust_accuracy <= 0.05
    assert accuracy(model, found.z, y, draws) <= 0.05
    assert threat.contains(found.z, x).all()
    assert found.passes < (2000 if draws > 1 else 1000) * len(x)


@pytest.mark.parametrize("name", [*DEFENCES, pytest.param(RANDOM, marks=pytest.mark.slow)])
def test_an_audit_breaks_these_defences_too_and_says_that_its_number_is_in_doubt(name: str) -> None:
    result = audit(find(name).make(), held_out(20), linf(EPS), suite="quick")
    assert result.clean_accuracy.estimate > 0.8
    assert result.robust_accuracy.estimate <= 0.05
    doubted = {check.name: check.outcome for check in result.checks if check.outcome in ("fail", "warn")}
    assert doubted.keys() - {"sample-size", "hidden-paths"}
    if result.robust_accuracy.estimate:  # what loses all loses no less by a better attack
        assert result.verdict == "suspect"


def spent(result: Result, adaptive: bool) -> int:
    """Passes of the stages of the adaptive search, or of those before it."""
    records = [a for a in (*result.attacks, *result.stages) if a.name != "curve"]
    mine = [a for a in records if a.name.startswith(("adaptive", "survey")) == adaptive]
    return sum(a.forward + a.backward for a in mine)


def test_an_audit_with_doubts_fits_an_attack_to_the_model_and_says_what_that_changed(tmp_path: Path) -> None:
    model, honestly = find("saturated softmax").make(), audit(honest("relu"), held_out(40), linf(0.1), suite="quick")
    found = audit(model, held_out(40), linf(0.1), suite="quick", out=tmp_path)
    check = next(check for check in found.checks if check.name == "adaptive")
    assert check.outcome == "fail"
    assert found.verdict == "suspect"
    assert abs(found.robust_accuracy.estimate - honestly.robust_accuracy.estimate) <= 0.05
    assert found.robust_accuracy.estimate + 0.4 < 1 - sum(a.broke for a in early(found)) / 40
    assert 0 < spent(found, adaptive=True) <= SHARE * spent(found, adaptive=False)
    assert sum(a.broke for a in found.attacks) == sum(row.broken_by is not None for row in found.per_example)
    assert found.passes.forward >= sum(a.forward for a in (*found.attacks, *found.stages))
    assert not [a for a in honestly.attacks if a.name.startswith("adaptive")], "no doubts, no cost"


def early(result: Result) -> list[AttackRecord]:
    """The attacks of the suite."""
    return [a for a in result.attacks if not a.name.startswith("adaptive")]


def timeless(result: Result) -> dict[str, Any]:
    """A result without what a clock says."""
    text = result.model_dump_json(by_alias=True)
    return json.loads(text, object_hook=lambda row: {key: row[key] for key in row if key != "seconds"})


def test_neither_batches_nor_workers_nor_a_break_change_what_the_search_of_an_audit_finds(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("adaptive") and "rescaled" in stage and 0 < done < total:
            raise Stop

    run = partial(audit, find("saturated softmax").make(), held_out(16), linf(0.1), suite="quick", passes=0)
    whole = run(batch_size=256)
    with pytest.raises(Stop):
        run(batch_size=8, out=tmp_path, watch=stop)
    resumed = run(batch_size=16, workers=2, out=tmp_path, resume=True)
    assert timeless(resumed) == timeless(whole)
    assert sum(step.attack == "adaptive search" for step in whole.progress) > 2


def test_an_audit_of_a_random_model_is_the_same_whatever_was_drawn_before_and_in_whatever_batches() -> None:
    model, results = find("noise").make(), []
    for seed, size in ((0, 7), (1, 256)):
        torch.manual_seed(seed)
        results.append(audit(model, held_out(12), linf(EPS), suite="quick", batch_size=size))
        assert torch.initial_seed() == seed
    assert timeless(results[0]) == timeless(results[1])
    assert results[0].verdict == "suspect"
    assert "randomness" in {check.name for check in results[0].checks if check.outcome == "fail"}


def test_trials_never_cost_more_than_they_may_and_end_with_one_that_breaks_all() -> None:
    field = tuple(Candidate(threat=linf(EPS), onward=bool(k)) for k in range(2)) * 6
    for passes in (0, 500, 5000, 50_000):
        costs: list[int] = []

        def attempt(one: Candidate, steps: int, costs: list[int] = costs) -> Trial:
            costs.append(10 * one.price(steps))
            return Trial(candidate=one, steps=steps, broke=frozenset(), passes=costs[-1], nearness=-1.0)

        assert len(halved(field, attempt, passes, examples=10)) == len(costs)
        assert sum(costs) <= passes
        assert bool(costs) == (passes > 500)

    def best(one: Candidate, steps: int) -> Trial:
        return Trial(candidate=one, steps=steps, broke=frozenset(range(10)), passes=1, nearness=0.0)

    assert len(halved(field, best, 5000, examples=10)) == 1


def test_the_search_is_the_same_twice_and_leaves_the_global_generator_alone() -> None:
    model, (x, y) = find("input rounding").make(), held_out(30)
    before = torch.get_rng_state()
    one, other = (adaptive(model, x, y, linf(EPS), passes=200) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.z, other.z)
    assert one.plan == other.plan


def test_what_the_search_found_is_an_attack_whose_rows_do_not_see_each_other() -> None:
    model, (x, y) = find("input rounding").make(), held_out(40)
    attack = adaptive(model, x, y, linf(0.05), passes=200).plan[0].run(40)
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
    "what a remainder leaves": lambda x: x - torch.remainder(x, 0.125),
    "what the fraction leaves": lambda x: x - (8 * x).frac() / 8,
    "a thermometer": lambda x: (x.unsqueeze(2) > torch.linspace(0, 1, 8)[:, None, None]).float().mean(2),
    "a steep clamp": lambda x: (20 * (x - 0.5)).clamp(0, 1),
    "places by two numbers": lambda x: (
        torch.stack([(7 * x).round().long()[row, 0] for row in range(len(x))])[:, None] / 7
    ),
    "rows by themselves": torch.vmap(lambda row: (7 * row).round() / 7),
    "a mask of rows by themselves": torch.vmap(lambda row: (row > 0.5).float()),
    "a steep clamp of rows by themselves": torch.vmap(lambda row: (20 * (row - 0.5)).clamp(0, 1)),
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


def test_a_model_that_works_on_rows_by_themselves_is_surveyed_and_audited() -> None:
    network, (x, y) = honest("relu"), held_out(20)

    class Rows(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            slopes: Tensor = torch.vmap(torch.func.grad(lambda row: row.square().sum()))(z)
            return torch.vmap(lambda row: network(row.unsqueeze(0))[0])(slopes / 2)

    assert obstacles(Rows(), x) == survey(Rows(), x) == ()
    assert audit(Rows(), (x, y), linf(EPS), suite="quick", passes=0).robust_accuracy.estimate < 0.5


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


class Behind(nn.Module):
    """A layer with weights that are trained, behind a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 784)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layer(torch.from_numpy(x.detach().numpy().copy()))
        return outputs


def test_a_cut_before_weights_that_have_gradients_is_found() -> None:
    model, (x, _) = nn.Sequential(nn.Flatten(), Behind(), nn.ReLU(), nn.Linear(784, 10)).eval(), held_out(16)
    assert [stage.name for stage in survey(model, x)] == ["Behind"]


def test_a_bridge_that_is_crossed_often_leads_everywhere() -> None:
    """Along the same directions at every call, a climb would never leave the space that they span."""
    model, (x, _) = nn.Sequential(Elsewhere(2), nn.Flatten(), nn.Linear(1568, 10)).eval(), held_out(4)
    bridge, again = (bridged(model, stages=survey(model, x), draws=8) for _ in range(2))
    first, second, same = (slope(view, x) for view in (bridge, bridge, again))
    assert first is not None
    assert second is not None
    assert same is not None
    assert torch.equal(first, same)
    assert functional.cosine_similarity(first.flatten(1), second.flatten(1)).abs().max() < 0.5


def test_the_whole_of_a_model_that_a_view_calls_often_is_no_stage() -> None:
    class Blind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.detach().flatten(1).numpy()[:, :10].round())

    assert survey(eot(Blind(), 8), held_out(16)[0]) == ()


class Rippled(nn.Module):
    """A network whose hidden units have ripples, on which short climbs get lost."""

    def __init__(self, network: nn.Module, waves: float, height: float) -> None:
        super().__init__()
        self.network, self.waves, self.height = network, waves, height

    def forward(self, x: Tensor) -> Tensor:
        for part in self.network.children():
            x = part(x)
            if isinstance(part, nn.Linear) and part.out_features > 10:
                x = x + self.height * torch.sin(self.waves * x) / self.waves
        return x


def test_ripples_get_a_long_climb_whose_gradients_are_averaged() -> None:
    x, y = held_out(60)
    result = audit(Rippled(honest("relu"), 80, 20).eval(), Arrays("digits", x, y), linf(0.05))
    assert result.verdict == "suspect"
    assert result.robust_accuracy.estimate < 0.48  # 0.58 without, of 100


@pytest.mark.parametrize("kind", [nn.ReLU6, nn.Hardtanh, nn.Hardsigmoid])
def test_a_mended_model_that_works_in_place_says_the_same(kind: type[nn.Module]) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.last = nn.Linear(6, 6), kind(inplace=True), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = 9 * self.first(x)
            return self.last(self.act(h) + h)  # what is added is what the activation left there

    torch.manual_seed(0)
    block, x = Block(), torch.rand(4, 6)
    torch.testing.assert_close(mended(block)(x.clone().requires_grad_()), block(x))


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


@pytest.mark.parametrize("masked", [0, 1, 20])
@pytest.mark.parametrize("classes", [3, 10])
def test_rescaled_outputs_lie_around_0_to_10_and_decide_as_before_whatever_class_is_masked(
    classes: int, masked: int
) -> None:
    network, (x, _) = honest("relu"), held_out(16)
    view = rescaled(lambda z: torch.cat([1000 * network(z)[:, :classes], torch.full((len(z), masked), -1e9)], 1))
    outputs, plain = view(x), network(x)[:, :classes]
    assert torch.allclose(outputs.topk(3).values[:, 2], torch.zeros(16))
    assert torch.allclose(outputs.amax(1), torch.full((16,), 10.0))
    assert torch.equal(outputs.argmax(1), plain.argmax(1))
    best = plain.topk(3, dim=1).values
    torch.testing.assert_close(outputs.topk(2).values[:, 1], 10 * (best[:, 1] - best[:, 2]) / (best[:, 0] - best[:, 2]))


class Windowed(nn.Module):
    """Attention over the rows of an image, each to its neighbours alone."""

    def __init__(self, mask: float) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(28, 8), nn.Linear(28 * 8, 10)
        near = (torch.arange(28)[:, None] - torch.arange(28)).abs() < 3
        self.register_buffer("mask", torch.zeros(28, 28).masked_fill(~near, mask))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x[:, 0])
        seen = (h @ h.transpose(1, 2) / 8**0.5 + self.get_buffer("mask")).softmax(2) @ h
        return self.last(seen.flatten(1))


@pytest.mark.parametrize("mask", [-torch.inf, -1e9])
def test_masked_attention_is_no_saturation(mask: float) -> None:
    x = held_out(4)[0]
    net = Windowed(mask)
    assert obstacles(net, x) == ()
    torch.testing.assert_close(slope(mended(net), x), slope(net, x))


def test_a_caller_without_gradients_gets_the_same_attack() -> None:
    network, (x, y) = honest("relu"), held_out(16)
    plain = adaptive(network, x, y, linf(0.1), passes=60)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            z = adaptive(network, x + 0, y, linf(0.1), passes=60).z
        assert torch.equal(z, plain.z)


def test_gradients_nearby_are_a_mean_and_the_outputs_are_exact() -> None:
    network, (x, _) = honest("gelu"), held_out(16)
    view = nearby(network, width=0.05, draws=8)
    assert torch.equal(view(x.clone().requires_grad_()), network(x))
    mean, own = slope(view, x), slope(network, x)
    assert mean is not None
    assert own is not None
    assert functional.cosine_similarity(mean.flatten(1), own.flatten(1)).min() > 0.9


def test_every_call_looks_at_other_points_nearby_and_every_climb_at_the_same() -> None:
    network, (x, _) = honest("gelu"), held_out(8)
    view, again = (nearby(network, width=0.05, draws=4) for _ in range(2))
    first, second = (slope(view, x) for _ in range(2))
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)
    for rows in (slice(0, 8), slice(2, 5)):
        whole = slope(again, x[rows])
        assert whole is not None
        assert torch.allclose(whole, (first, second)[rows.start > 0][rows], atol=1e-6)


def test_beside_steep_units_the_model_itself_is_a_candidate_and_points_near_it() -> None:
    steep = Findings(steep=(Steep(call=1, name="sub", by=4.0, loop=False),))
    views = {str(one) for one in candidates(linf(0.1), steep, 10)}
    assert {"climb on margin, moderated", "climb on margin, exact", "climb on margin, nearby"} <= views


class Stairs(nn.Module):
    """A smooth staircase for every pixel, in front of a network: flat parts, on which small steps get nowhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x - 0.9 * torch.sin(8 * torch.pi * x) / (8 * torch.pi)
        logits: Tensor = self.network(x)
        return logits


def test_flat_parts_between_smooth_steps_get_an_attack_that_averages_over_them() -> None:
    x, y = held_out(40)
    result = audit(Stairs(honest("relu")).eval(), Arrays("digits", x, y), l2(1.2), suite="quick")
    bare = audit(honest("relu"), Arrays("digits", x, y), l2(1.2), suite="quick")
    assert result.robust_accuracy.estimate <= bare.robust_accuracy.estimate + 0.1


def test_six_at_the_most_hides_no_path_unless_units_are_above() -> None:
    network, x = honest("relu"), held_out(8)[0]
    first, last = network[1], network[3]
    for scale, met in ((1, ()), (1e4, ("hardtanh",))):
        model = lambda z, scale=scale: last(nn.ReLU6()(scale * first(z.flatten(1))))  # noqa: E731
        assert obstacles(model, x) == met


@pytest.mark.parametrize("squash", [torch.sigmoid, torch.tanh])
def test_a_slope_of_next_to_nothing_stops_gradients_as_none_does(squash: Callable[[Tensor], Tensor]) -> None:
    """Float32 has slopes of 1e-20, beside which a step along the gradient moves few coordinates."""
    network = honest("relu")
    x = held_out(8)[0]
    assert obstacles(lambda z: network(squash(z - 0.5)), x) == ()
    assert obstacles(lambda z: network(squash(40 * (z - 0.5))), x) == (squash.__name__,)


MARKED: dict[str, Callable[[Tensor], Tensor]] = {
    "one_hot": lambda h: functional.one_hot(h.argmax(1), h.shape[1]).float(),
    "scatter": lambda h: torch.zeros_like(h).scatter(1, h.max(1).indices.unsqueeze(1), 1.0),
    "in place": lambda h: torch.zeros_like(h).scatter_(1, h.topk(1, 1).indices, 1.0),
    "comparison": lambda h: (h.argmax(1)[:, None] == torch.arange(h.shape[1])).float(),
}


LOOKED_UP: dict[str, Callable[[Tensor], Tensor]] = {
    "table": lambda h: torch.eye(10)[h.argmax(1)],
    "embedding": lambda h: functional.embedding(h.max(1).indices, torch.eye(10)),
    "select": lambda h: torch.eye(10).index_select(0, h.argmax(1)),
    "the least": lambda h: torch.eye(10)[(-h).argmin(1)],
    "kept": lambda h: torch.eye(10)[h.argmax(1, keepdim=True)][:, 0],
    "labels": lambda h: functional.one_hot(torch.arange(10).flip(0)[h.flip(1).topk(1).indices], 10).float().mean(1),
    "other numbers": lambda h: functional.one_hot(torch.arange(10)[h.argmax(1)], 12)[:, :10].float(),
}


@pytest.mark.parametrize("way", LOOKED_UP)
def test_what_is_looked_up_where_the_best_is_has_the_gradient_of_its_softmax(way: str) -> None:
    network, x = honest("relu"), held_out(8)[0]

    def chosen(x: Tensor) -> Tensor:
        return LOOKED_UP[way](network(x))

    point, soft = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = mended(chosen)(point)
    assert torch.equal(outputs, functional.one_hot(network(x).argmax(1), 10).float())
    assert obstacles(chosen, x) in {("index",), ("argmax",)}
    (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), point)
    (expected,) = torch.autograd.grad(network(soft)[:, 0].sum(), soft)
    assert float(functional.cosine_similarity(gradient.flatten(1), expected.flatten(1)).median()) > 0.2


def test_votes_of_the_nearest_examples_are_mended() -> None:
    network, (x, y), (lessons, labels) = honest("relu"), held_out(16), held_out(200)
    known = network(lessons).detach()

    def nearest(x: Tensor) -> Tensor:
        votes = labels[torch.cdist(network(x), known).topk(15, largest=False).indices]
        return functional.one_hot(votes, 10).float().mean(1)

    point = x.clone().requires_grad_()
    outputs = mended(nearest)(point)
    assert torch.equal(outputs, nearest(x))
    assert obstacles(nearest, x) == ("argmax",)
    (gradient,) = torch.autograd.grad(outputs[torch.arange(16), y].sum(), point)
    soft = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(soft).softmax(1)[torch.arange(16), y].sum(), soft)
    assert float(functional.cosine_similarity(gradient.flatten(1), expected.flatten(1)).median()) > 0.2


@pytest.mark.parametrize("mark", MARKED)
def test_a_choice_that_is_marked_has_the_gradient_of_its_softmax(mark: str) -> None:
    network, x = honest("relu"), held_out(8)[0]

    def gated(x: Tensor) -> Tensor:
        return MARKED[mark](network(x))

    point = x.clone().requires_grad_()
    outputs = mended(gated)(point)
    assert torch.equal(outputs, gated(x))
    assert obstacles(gated, x) == ("argmax",)
    (gradient,) = torch.autograd.grad(outputs[:, 0].sum(), point)
    soft = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(soft)[:, 0].sum(), soft)
    alike = functional.cosine_similarity(gradient.flatten(1), expected.flatten(1))
    assert float(alike.median()) > 0.2
