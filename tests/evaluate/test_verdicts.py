"""Every mistake ends in a verdict with the right reason, and honest networks raise none of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparring.errors import BadInput
from sparring.evaluate import audit
from sparring.evaluate.result import Result
from sparring.evaluate.suites import quick
from sparring.streams import Streams
from sparring.threats import Ball, l0, l1, l2, linf
from sparring.zoo import find

from .networks import HONEST, THREAT, held_out, honest


def failed(result: Result) -> set[str]:
    return {check.name for check in result.checks if check.outcome == "fail"}


@cache
def audited(name: str, count: int) -> Result:
    """The audit of an honest network, with which those of others are compared."""
    return audit(honest(name), held_out(count), THREAT, suite="quick")


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_is_trusted(name: str) -> None:
    few = 40 if name in ("attention", "convolutional") else None  # they take several times as long
    result = audit(honest(name), held_out(), THREAT, suite="quick", limit=few)
    assert failed(result) == set()
    assert result.verdict == "trusted"
    assert result.clean_accuracy.estimate > 0.8


def test_inputs_of_0_to_255_are_invalid() -> None:
    x, y = held_out()
    result = audit(honest("relu"), (255 * x, y), linf(0.3), suite="quick")
    assert result.verdict == "invalid"
    assert "255" in " ".join(result.reasons)
    assert result.attacks == ()


def test_inputs_normalised_outside_of_the_model_are_invalid() -> None:
    x, y = held_out()
    result = audit(honest("relu"), ((x - 0.1307) / 0.3081, y), linf(0.3), suite="quick")
    assert result.verdict == "invalid"
    assert "normalisation" in " ".join(result.reasons)


def test_inputs_that_were_never_normalised_are_invalid() -> None:
    torch.manual_seed(0)
    x, y = held_out()
    expects_255 = nn.Sequential(Scaled(255.0), honest("relu"))
    result = audit(expects_255, (x, y), linf(0.1), suite="quick")
    assert result.verdict == "invalid"
    assert {"scaling", "labels"} & failed(result)


class Scaled(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 3 * x / self.by - 0.02


def test_softmax_outputs_are_suspect_and_attacked_all_the_same() -> None:
    model = nn.Sequential(honest("relu"), nn.Softmax(1))
    result = audit(model, held_out(), THREAT, suite="quick")
    assert result.verdict == "suspect"
    assert "logits" in failed(result)
    assert result.robust_accuracy.estimate < 0.3


def test_a_model_left_in_train_mode_is_invalid_and_stays_in_train_mode() -> None:
    model = find("convolutional").make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = audit(model, held_out(), THREAT, suite="quick")
    assert result.verdict == "invalid"
    assert "train mode" in " ".join(result.reasons)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_rounding_inside_the_model_is_suspect() -> None:
    result = audit(find("input rounding").make(), held_out(60), THREAT, suite="quick")
    assert result.verdict == "suspect"
    assert "gradients" in failed(result)


def test_a_detached_model_is_suspect_and_attacked_by_its_scores() -> None:
    result = audit(find("detach").make(), held_out(60), THREAT, suite="quick")
    assert result.verdict == "suspect"
    assert {"gradients", "access"} <= failed(result)
    assert result.robust_accuracy.estimate < result.clean_accuracy.estimate


def test_labels_shifted_by_one_are_invalid() -> None:
    x, y = held_out()
    result = audit(honest("relu"), (x, (y + 1) % 10), THREAT, suite="quick")
    assert result.verdict == "invalid"
    assert "shifted by 9" in " ".join(result.reasons) or "shifted by 1" in " ".join(result.reasons)


def test_a_nan_in_any_input_is_invalid() -> None:
    x, y = held_out()
    x = x.clone()
    x[7, 0, 3, 3] = torch.nan  # not among the rows that the doctor samples
    result = audit(honest("relu"), (x, y), THREAT, suite="quick")
    assert result.verdict == "invalid"
    assert "finite" in " ".join(result.reasons)


def test_what_an_invalid_audit_never_asked_it_does_not_deny() -> None:
    """The bounds are wrong, so gradients were not looked at: that is no reason to call them missing."""
    x, y = held_out(60)
    assert audit(honest("relu"), (x, y), linf(0.1, low=0, high=255)).settings["access"] == "gradients"


def test_a_model_without_knowledge_is_invalid() -> None:
    torch.manual_seed(0)
    result = audit(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), held_out(), THREAT, suite="quick")
    assert result.verdict == "invalid"
    assert "labels" in failed(result)


def test_a_plain_function_around_a_network_is_attacked_by_gradients() -> None:
    model = honest("relu")
    result = audit(lambda x: 2 * model(x), held_out(80), THREAT, suite="quick")
    assert result.settings["access"] == "gradients"
    assert result.verdict == "trusted"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_audit(mode: type) -> None:
    plain = audited("relu", 30)
    with mode():
        found = audit(honest("relu"), held_out(30), THREAT, suite="quick")
    assert (found.verdict, found.per_example) == (plain.verdict, plain.per_example)


def test_what_callers_hand_over_is_read_or_refused_in_one_line() -> None:
    x, y = held_out(30)
    short = audit(honest("relu"), (x, y), "linf:0.1", suite="quick")
    assert short.per_example == audited("relu", 30).per_example
    assert audit(honest("relu"), "digits", THREAT, suite="quick", limit=30, passes=0).examples == 30
    for data, threat, said in (
        (x, THREAT, "a Tensor for the data"),
        ([(x, y)], THREAT, "a list for the data"),
        ((x, y), 0.1, "0.1 for the threat"),
        ((x, y), "pose:30", "'pose:30' for the threat"),
    ):
        with pytest.raises(BadInput, match=said):
            audit(honest("relu"), data, threat)  # type: ignore[arg-type]


def test_of_a_model_that_loses_all_its_number_is_exact() -> None:
    result = audit(find("detach").make(), held_out(60), linf(0.9), suite="quick")
    assert result.robust_accuracy.estimate == 0
    assert result.verdict == "trusted"
    assert {"gradients", "access"} <= {check.name for check in result.checks if check.outcome == "warn"}


def test_scores_alone_leave_an_upper_bound_in_doubt() -> None:
    model = honest("relu")
    result = audit(lambda x: model(torch.as_tensor(x)).detach().numpy(), held_out(80), THREAT, suite="quick")
    assert result.settings["access"] == "scores"
    assert result.verdict == "suspect"
    assert failed(result) == {"access"}
    assert [attack.name for attack in result.attacks if attack.broke] != []


@pytest.mark.parametrize("threat", [l2(1.0), l1(8.0), l0(15)], ids=str)
def test_every_norm_has_a_suite_and_a_falling_curve(threat: Ball) -> None:
    result = audit(honest("adversarially trained"), held_out(80), threat, suite="quick")
    assert result.verdict == "trusted"
    accuracies = [point.robust_accuracy for point in result.curve]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == result.clean_accuracy.estimate
    at_eps = next(point.robust_accuracy for point in result.curve if point.eps == threat.eps)
    assert at_eps == pytest.approx(result.robust_accuracy.estimate)


class Wrapped(nn.Module):
    """Answers with its scores in a container, as networks with auxiliary heads do."""

    def __init__(self, container: Callable[..., object]) -> None:
        super().__init__()
        self.inner, self.container = honest("relu"), container

    def forward(self, x: torch.Tensor) -> object:
        features = x.flatten(1)
        return self.container([("features", features), ("logits", self.inner(x))])


def values(pairs: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, ...]:
    return tuple(value for _, value in pairs)


@pytest.mark.parametrize(
    ("container", "name", "give"),
    [
        (dict, "dict", "lambda x: model(x)['logits']"),
        (lambda pairs: SimpleNamespace(**dict(pairs)), "SimpleNamespace", "lambda x: model(x).logits"),
        (values, "tuple", "lambda x: model(x)[0]"),
        (tuple, "tuple", "a function that returns the scores"),
    ],
)
def test_scores_in_a_container_are_refused_in_one_line_that_says_how_to_give_them(
    container: Callable[..., object], name: str, give: str
) -> None:
    said = f"outputs of Wrapped that are a {name}; need scores alone, a tensor; give "
    with pytest.raises(BadInput, match=re.escape(said) + ".*" + re.escape(give) + "$"):
        audit(Wrapped(container).eval(), held_out(), THREAT, suite="quick")


def test_a_gate_that_no_function_of_torch_gives_away_is_attacked_by_its_parts() -> None:
    """One network, or another one, by a slope of a million: the gradient follows the one that it is on."""

    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = honest("relu"), honest("adversarially trained")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, other = self.one(x), self.other(x)
            sure = one.softmax(1).amax(1, keepdim=True) - 0.9
            return (1e6 * sure).relu().clamp(max=1) * one + (-1e6 * sure).relu().clamp(max=1) * other

    found = audit(Steep(), held_out(60), THREAT, suite="quick")
    fooled = audited("relu", 60).robust_accuracy.estimate
    robust = audited("adversarially trained", 60).robust_accuracy.estimate
    checks = {check.name: check for check in found.checks}
    assert "adaptive" in checks, "networks inside of it decide otherwise"
    assert found.robust_accuracy.estimate < robust - 0.1
    assert found.robust_accuracy.estimate >= fooled


def test_classes_that_win_nowhere_lead_no_attack_astray() -> None:
    """Twenty classes, always a little behind the best one: the margin to them is what a plain climb climbs."""
    network = honest("relu")
    waves = 0.12 * Streams.of(0, range(20)).normal(784)

    def crowded(x: torch.Tensor) -> torch.Tensor:
        logits = network(x)
        behind = 0.5 * (x.flatten(1) @ waves.T).tanh() - 0.55
        return torch.cat([logits, logits.amax(1, keepdim=True) + behind], 1)

    found = audit(crowded, held_out(60), THREAT, suite="quick").robust_accuracy.estimate
    assert found <= audited("relu", 60).robust_accuracy.estimate + 0.05


class Late(nn.Module):
    """Another network, after this many calls, of which nothing but itself knows."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.one, self.other, self.left = honest("relu"), honest("adversarially trained"), calls

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return (self.one if self.left > 0 else self.other)(x)


def test_a_model_that_is_another_one_after_the_run_is_suspect() -> None:
    found = audit(Late(400), held_out(60), THREAT, suite="quick")
    state = [check for check in found.checks if check.name == "state"]
    assert [check.outcome for check in state] == ["fail"]
    assert "after the run" in state[0].evidence
    assert found.verdict == "suspect"


def test_buffers_and_gradients_come_back_as_they_were() -> None:
    class Noting(nn.Module):
        """Counts its calls, remembers its largest score, and leaves gradients behind."""

        def __init__(self) -> None:
            super().__init__()
            self.network = find("relu").make()
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("peak", torch.zeros(()), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.network(x)
            self.calls += 1
            self.peak = torch.maximum(self.peak, logits.detach().abs().max())
            with torch.enable_grad():
                self.network(x.detach()).sum().backward()
            return logits

    model = Noting().eval()
    audit(model, held_out(20), THREAT, suite="quick", passes=0)
    assert (int(model.calls), float(model.peak)) == (0, 0.0)
    assert all(weight.grad is None for weight in model.parameters())


def test_a_compiled_network_is_run_as_it_was_written() -> None:
    network = honest("relu")

    def refused(*given: object) -> object:
        raise AssertionError("compiled")

    compiled = torch.compile(network, backend=refused)
    found, plain = (audit(model, held_out(20), THREAT, suite="quick", passes=0) for model in (compiled, network))
    assert found.verdict == plain.verdict == "trusted"
    assert found.robust_accuracy == plain.robust_accuracy


def test_a_contrast_window_in_front_of_an_honest_network_leaves_it_trusted() -> None:
    """Black and white pixels are cut off, and have no gradient; from far away an attack moves them all the same."""

    class Window(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ((x - 0.1) / 0.8).clamp(0, 1)

    found = audit(nn.Sequential(Window(), honest("relu")).eval(), held_out(60), linf(0.06), suite="quick", passes=0)
    assert found.verdict == "trusted"
    assert {check.name: check.outcome for check in found.checks}["unbounded"] == "pass"


@cache
def steep_as_it_is() -> Result:
    """The audit of the zoo's network with steep units."""
    one = find("steep units")
    return audit(one.make(), one.examples(20), one.threat, suite="quick", passes=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_network_with_checkpoints_gets_the_audit_of_one_without(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.network, x, use_reentrant=reentrant)

    one = find("steep units")
    model, plain = Checkpointed(one.make()), steep_as_it_is()
    found = audit(model, one.examples(20), one.threat, suite="quick", passes=0)
    assert [check.outcome for check in found.checks] == [check.outcome for check in plain.checks]
    assert found.robust_accuracy == plain.robust_accuracy
    x = one.examples(2)[0].requires_grad_()
    model(x).sum().backward()  # and is checkpointed again afterwards
    assert x.grad is not None
    if reentrant:
        with pytest.raises(RuntimeError, match="use_reentrant=True"):
            torch.autograd.grad(model(x).sum(), x)


def test_a_spent_budget_ends_the_rounds_only_where_it_was_asked_for() -> None:
    def slices(passes: int | None) -> set[str]:
        found = audit(honest("relu"), held_out(40), linf(0.03), suite="quick", passes=passes)
        assert (found.outlook is None) == (passes == 0)
        return {attack.name for attack in found.attacks} - {stage.name for stage in (*plan.opening, *plan.closing)}

    plan = quick(linf(0.03), "gradients", 10)
    menu = {stage.name for stage in plan.menu}
    assert slices(None) >= menu
    assert not slices(0) & menu
    assert len(slices(1) - {"half-eps", "curve"}) == 1
