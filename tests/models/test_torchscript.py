"""Networks in TorchScript and exported ones are run as they are, and looked into as if they were in Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from sparring.data import Arrays
from sparring.evaluate import Diagnosis, audit, examine
from sparring.evaluate.routes import Reading, choices
from sparring.functions import called, unwatched
from sparring.mending import mended
from sparring.models.loading import adopt
from sparring.models.torchscript import Script, Unreadable
from sparring.views import smoothed
from sparring.zoo import find
from sparring.zoo.broken import EarlyExit, Gate

Way = Callable[[nn.Module, Tensor], object]


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def scripted(network: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.script(network)


def traced(network: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.trace(network, x[:8], check_trace=False)


def exported(network: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(network, (x[:8],), dynamic_shapes=({0: torch.export.Dim("rows")},))


class Talkative(nn.Module):
    """Most of what a program in TorchScript can do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(12, 8), nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.norm, self.last = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def helped(self, h: Tensor, words: dict[str, Tensor]) -> tuple[Tensor, int]:
        words["max"] = h.amax(1, keepdim=True)
        return h - words["max"], len(words)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        rows, *_ = x.shape[0], x.shape[1]
        assert x.dim() == 2, f"{x.dim()} dimensions"
        h, met = torch.relu(self.norm(self.first(x))), torch.jit.annotate(list[Tensor], [])
        for k, layer in enumerate(self.rest):
            h = h + layer(h) * (k + 1) / scale
            met.append(h)
        i = 0
        while i < len(met) and float(met[i].abs().max()) < 1e9:
            i += 1
        h, size = self.helped(torch.stack(met).sum(0) * i, {"none": x})
        if bool(h.mean() > 1e9) or size != 2:
            h = -h
        with torch.no_grad():
            far = h.double().std(dim=1, keepdim=True).to(torch.float32)
        kept = torch.cat([h[:, [1, 0]], h[:, 2:]], 1) / (1 + far)
        return self.last(kept.view(rows, -1).softmax(-1, dtype=torch.float32)) + torch.tensor([0.0, 1.0, 0.0])


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (8 * x).round() / 8


@pytest.fixture
def talkative() -> Talkative:
    torch.manual_seed(0)
    return Talkative().eval()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_program_says_the_same_operation_by_operation_to_the_last_bit(talkative: Talkative, frozen: bool) -> None:
    module = scripted(talkative, torch.empty(0))
    script = Script(torch.jit.freeze(module) if frozen else module)
    for rows in (1, 7):
        x = torch.rand(rows, 12, requires_grad=True)
        whole = script(x)
        with BaseTorchFunctionMode():
            steps = script(x)
        assert torch.equal(steps, whole)
        slopes = [torch.autograd.grad(y.square().sum(), x)[0] for y in (steps, whole)]
        assert torch.allclose(*slopes, rtol=1e-4, atol=1e-7)  # TorchScript has some formulas of its own


def test_a_failed_assertion_in_a_program_is_an_error_in_python(talkative: Talkative) -> None:
    with pytest.raises(RuntimeError, match="3 dimensions"), BaseTorchFunctionMode():
        Script(scripted(talkative, torch.empty(0)))(torch.rand(2, 3, 12))


def test_a_program_that_forks_is_run_as_it_is_and_said_to_be_unwatched() -> None:
    class Forks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.jit.wait(torch.jit.fork(torch.round, 8 * x))

    module = scripted(Forks(), torch.empty(0))
    with pytest.raises(Unreadable, match="prim::fork"):
        Script(module)
    victim = adopt(module)
    assert victim.call is module
    assert "round" in unwatched(victim, torch.rand(2, 3))


def test_operations_of_exported_programs_have_the_names_of_functions() -> None:
    named = [torch.round, Tensor.round, torch.ops.aten.round.default, torch.ops.aten.round.decimals]
    assert {called(one) for one in named} == {"round"}
    assert called(torch.ops.aten.relu_.default) == "relu_"
    assert called(torch.ops.aten.index.Tensor) == called(Tensor.__getitem__)


@pytest.mark.parametrize("way", [scripted, traced, exported])
def test_views_change_the_same_gradients_in_a_program(way: Way) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), Steps(), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).eval()
    x = torch.rand(8, 1, 8, 8, requires_grad=True)
    program = adopt(way(network, x.detach()))
    for view in (mended, lambda model: smoothed(mended(model), temperature=10.0)):
        slopes = [torch.autograd.grad(view(model)(x).square().sum(), x)[0] for model in (network, program)]
        assert slopes[0].any()
        assert torch.allclose(*slopes, rtol=1e-4, atol=1e-6)


DENSE = {"gated": Gate, "early exit": EarlyExit}
"""Of two networks, of which the zoo has a convolutional one, that takes long to grow: here both are dense."""


def diagnosis(name: str, way: Way) -> Diagnosis:
    one = find(name)
    network = (
        DENSE[name](find("relu").make(), find("adversarially trained").make()).eval() if name in DENSE else one.make()
    )
    x, y = one.examples(100)
    return examine(adopt(way(network, x), name=name), Arrays(name, x, y), one.threat)


@pytest.mark.parametrize("way", [scripted, traced, exported])
@pytest.mark.parametrize("name", ["input rounding", "detach", "hard sigmoid", "few winners", "gated", "steep units"])
def test_the_doctor_sees_in_a_program_what_it_sees_in_the_network(name: str, way: Way) -> None:
    bad = [
        {check.name for check in found.checks if check.outcome in ("fail", "warn")}
        for found in (diagnosis(name, way), diagnosis(name, lambda network, x: network))
    ]
    assert bad[0] == bad[1] != set()


def test_an_exit_that_a_program_takes_early_is_seen_and_one_that_was_handed_over_in_train_mode() -> None:
    assert diagnosis("early exit", scripted).failed("hidden-paths")
    assert diagnosis("train mode", scripted).failed("mode")


@pytest.mark.parametrize("way", [scripted, traced, exported])
def test_a_sound_network_is_sound_as_a_program(way: Way) -> None:
    found = diagnosis("relu", way)
    assert [check.name for check in found.checks if check.outcome in ("fail", "warn")] == []


def test_an_audit_of_a_program_finds_what_the_steep_units_of_the_network_hide() -> None:
    one = find("steep units")
    x, y = one.examples(20)
    results = [audit(way(one.make(), x), (x, y), one.threat, suite="quick") for way in (scripted, lambda n, x: n)]
    seen = [{check.name: check.outcome for check in result.checks} for result in results]
    assert seen[0] == seen[1]
    assert seen[0]["steep-units"] == "warn"
    assert results[0].robust_accuracy == results[1].robust_accuracy


def stepped(x: Tensor) -> Tensor:
    return (8 * x).round() / 8


def test_a_branch_of_an_exported_program_is_a_choice_and_what_has_no_gradient_in_it_is_mended() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.mean() > 0.5, lambda z: 2 * z, lambda z: z.flip(1), (x,))

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = 3 * x
            return h + 0 * x

    x = torch.rand(16, 6)
    low = torch.export.export(Branching(), (x,)).module()
    with Reading() as reading:
        outputs = low(0.1 * x)
    assert choices(low, 0.1 * x, outputs, reading, 0.1 * x + 0.9) == ("cond",)
    cut, point = torch.export.export(Cut(), (x,)).module(), x.clone().requires_grad_()
    assert torch.autograd.grad(cut(point).sum(), point)[0].eq(0).all()
    assert torch.autograd.grad(mended(cut)(point).sum(), point)[0].eq(3).all()


def test_what_a_part_does_in_torchscript_is_said_where_it_stops_gradients() -> None:
    part = torch.jit.script(stepped)

    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + part(x)

    x, y = find("relu").examples(40)
    whole = nn.Sequential(Inside(), find("relu").make())
    found = {check.name: check for check in examine(adopt(whole), Arrays("digits", x, y), find("relu").threat).checks}
    assert found["hidden-paths"].outcome == "warn"
    assert "round" in found["hidden-paths"].evidence
    assert found["steep-units"].outcome == "skipped"
