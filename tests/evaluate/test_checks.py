"""Every check answers its question: on records made by hand, and on patients with one thing wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.data import Arrays
from sparring.evaluate import checks, examine
from sparring.evaluate.checks import CHECKS, Question, Record
from sparring.evaluate.doctor import LOOKS
from sparring.evaluate.ledger import Outcome
from sparring.evaluate.result import Check
from sparring.models.loading import adopt
from sparring.threats import Ball, l2, linf

from .networks import THREAT, held_out, honest


def record(examples: int = 200, chance: float = 0.1, **roles: dict[int, bool]) -> Record:
    """A run in which the stage of each role broke some examples; spaces in roles are written as underscores."""
    outcomes = {
        role: {
            example: Outcome(example=example, label=0, prediction=int(fell), reached=fell, counts=fell)
            for example, fell in fate.items()
        }
        for role, fate in roles.items()
    }
    named = {role.replace("_", " "): (role,) for role in roles}
    return Record(threat=THREAT, access="gradients", examples=examples, roles=named, outcomes=outcomes, chance=chance)


def fell(count: int, of: int) -> dict[int, bool]:
    return {example: example < count for example in range(of)}


def answer(name: str, run: Record) -> Check | None:
    return {check.name: check for check in checks.read(run)}.get(name)


@pytest.mark.parametrize(
    ("name", "role", "good", "bad"),
    [
        ("noise-control", "after_control", fell(40, 40), fell(30, 40)),
        ("iteration", "after_single_step", fell(40, 40), fell(30, 40)),
        ("black-box", "black_box", fell(1, 64), fell(10, 64)),
        ("adaptive", "adaptive", fell(2, 64), fell(20, 64)),
        ("monotone", "half", fell(1, 100), fell(10, 100)),
        ("convergence", "again", fell(2, 100), fell(20, 100)),
        ("unbounded", "unbounded", fell(64, 64), fell(50, 64)),
    ],
)
def test_a_check_of_the_run_passes_what_is_sound_and_fails_what_is_not(
    name: str, role: str, good: dict[int, bool], bad: dict[int, bool]
) -> None:
    asked = next(look.question for look in CHECKS if look.question.name == name)
    passed, failed = answer(name, record(**{role: good})), answer(name, record(**{role: bad}))
    assert passed is not None
    assert failed is not None
    assert (passed.outcome, failed.outcome) == ("pass", "fail")
    assert failed.remedy == asked.remedy
    assert failed.serious == asked.serious == "suspect"
    assert passed.remedy == ""
    assert answer(name, record()) is None, "no stage, no answer"


def test_claims_outside_of_the_threat_fail() -> None:
    outcome = Outcome(example=0, label=0, prediction=1, reached=False, rejected=True)
    run = Record(threat=THREAT, access="gradients", examples=1, roles={}, outcomes={"stage": {0: outcome}}, chance=0.1)
    found = answer("claims", run)
    assert found is not None
    assert found.outcome == "fail"
    assert "1 claims were rejected" in found.evidence


@pytest.mark.parametrize(("survivors", "outcome"), [(80, "pass"), (70, "pass"), (60, "warn")])
def test_an_example_survives_storage_if_anything_that_broke_it_does_and_chance_warns_of_nothing(
    survivors: int, outcome: str
) -> None:
    def stored(survive: int) -> dict[int, Outcome]:
        return {
            n: Outcome(example=n, label=0, prediction=1, reached=True, counts=True, survives_storage=n < survive)
            for n in range(100)
        }

    run = Record(
        threat=THREAT,
        access="gradients",
        examples=100,
        roles={},
        outcomes={"one": stored(survivors), "other": stored(10)},
        chance=0.1,
    )
    found = answer("storage", run)
    assert found is not None
    assert found.outcome == outcome
    assert f"{survivors}%" in found.evidence


def test_every_question_is_asked_once_and_says_all_that_a_table_needs() -> None:
    questions = [look.question for look in (*LOOKS, *CHECKS)]
    assert len({one.name for one in questions}) == len(questions)
    for one in questions:
        assert all((one.asks, one.bad, one.threshold, one.remedy)), one.name
        assert one.asks.endswith(("?", ")?")), one.name
        assert one.serious in ("invalid", "suspect", "warning")


def test_a_question_answers_as_seriously_as_it_is() -> None:
    grave = Question(name="n", asks="?", bad="b", threshold="t", remedy="r", serious="invalid")
    light = Question(name="n", asks="?", bad="b", threshold="t", remedy="r", serious="warning")
    assert grave.answered("e", bad=True) == Check(
        name="n", outcome="fail", evidence="e", threshold="t", remedy="r", serious="invalid"
    )
    assert light.answered("e", bad=True).outcome == "warn"
    assert light.answered("e", bad=False) == Check(name="n", outcome="pass", evidence="e", threshold="t")
    assert light.failed("e", remedy="other").remedy == "other"
    assert light.at("5").passed("e").threshold == "5"
    assert light.skipped("e").outcome == "skipped"


def outcomes(model: object, threat: Ball = THREAT, count: int = 60) -> dict[str, Check]:
    x, y = held_out(count)
    found = examine(adopt(model, example=x[:1]), Arrays("data", x, y), threat)
    return {check.name: check for check in found.checks}


def test_the_doctor_names_the_functions_that_stop_the_gradient() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = honest("relu")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return self.network((x * 7).round() / 7)

    found = outcomes(Hidden().eval())["gradients"]
    assert found.outcome == "fail"
    assert "no_grad, round" in found.evidence


def test_a_function_without_a_derivative_is_a_missing_gradient() -> None:
    network = honest("relu")
    assert outcomes(lambda x: network(x // 0.125 * 0.125))["gradients"].outcome == "fail"


def test_an_eps_that_can_turn_every_input_grey_is_said_and_fails_nothing() -> None:
    assert outcomes(honest("relu"), linf(0.5))["eps-unit"].outcome == "warn"
    assert outcomes(honest("relu"), linf(0.4))["eps-unit"].outcome == "pass"
    assert outcomes(honest("relu"), l2(20))["eps-unit"].outcome == "pass"


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = honest("relu")
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("calls").add_(1)
        return self.network(x)


def test_a_model_that_keeps_count_is_found_out_and_given_its_count_back() -> None:
    found = outcomes(Counting())["state"]
    assert found.outcome == "fail"
    assert "calls" in found.evidence


@pytest.mark.parametrize("backward", ["grad", "backward"])
def test_a_backward_pass_inside_of_a_forward_pass_is_heard(backward: str) -> None:
    network = honest("relu")

    def purified(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            sure = network(z).logsumexp(1).sum()
            if backward == "backward":
                sure.backward()
                gradient = z.grad
            else:
                (gradient,) = torch.autograd.grad(sure, z)
        assert gradient is not None
        return network(x + 0.01 * gradient.sign())

    found = outcomes(purified)["inference-time-optimisation"]
    network.zero_grad()
    assert found.outcome == "fail"
    assert backward in found.evidence


def test_a_model_that_cannot_run_in_double_precision_is_not_asked() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = honest("relu")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x.float())

    assert outcomes(Single())["double-precision"].outcome == "skipped"
    assert outcomes(honest("relu"))["double-precision"].outcome == "pass"
