"""Every check answers its question: on records made by hand, and on patients with one thing wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats
from torch import nn

from sparring.data import Arrays
from sparring.errors import BadInput
from sparring.evaluate import checks, examine
from sparring.evaluate.checks import CHECKS, Question, Record
from sparring.evaluate.doctor import LOOKS
from sparring.evaluate.judging import exact
from sparring.evaluate.ledger import Outcome
from sparring.evaluate.outputs import agree, apart
from sparring.evaluate.result import Check
from sparring.evaluate.run import own_draws
from sparring.models.loading import adopt
from sparring.models.torch import function
from sparring.streams import Streams
from sparring.threats import Ball, l2, linf
from sparring.zoo import find
from sparring.zoo.broken import Dimmed, EarlyExit, Gate
from sparring.zoo.honest import fresh, trained

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


@pytest.mark.parametrize(("survivors", "outcome"), [(55, "pass"), (45, "pass"), (35, "warn")])
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


def test_the_unit_of_eps_is_asked_of_what_eight_bits_can_store() -> None:
    table = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), honest("relu"))
    x, y = held_out()
    off = (x.flatten(1) + 0.3 / 255 * (x.flatten(1) < 0.5)).clamp(0, 1)
    for inputs, outcome in ((x.flatten(1), "fail"), (off, "pass")):
        found = examine(adopt(table), Arrays("table", inputs, y), linf(0.001))
        assert {check.name: check for check in found.checks}["eps-unit"].outcome == outcome


def test_pictures_of_floats_off_the_grid_are_warned_of_what_eight_bits_can_store() -> None:
    x, y = held_out()
    for inputs, outcome in ((x, "fail"), ((x + 0.3 / 255).clamp(max=1), "warn")):
        found = examine(adopt(honest("relu")), Arrays("pictures", inputs, y), linf(0.001))
        assert {check.name: check for check in found.checks}["eps-unit"].outcome == outcome


def test_a_rare_class_that_is_known_is_no_wrong_label_and_one_that_is_not_is() -> None:
    """A twentieth of the examples is rare: as good as always naming the other is what a sample of 64 may say of all."""
    network, (x, y) = honest("relu"), held_out(200)
    zero = lambda z: torch.stack([-0.02 * torch.ones(len(z)), network(z).log_softmax(1)[:, 0]], 1)  # noqa: E731
    rare = (y == 0).long()
    keep = torch.cat([(rare == 0).nonzero().flatten(), rare.nonzero().flatten()[:9]]).sort().values
    x, rare = x[keep], rare[keep]
    shuffled = rare[torch.randperm(len(rare), generator=torch.Generator().manual_seed(0))]
    for labels, outcome in ((rare, "warn"), (shuffled, "fail")):
        found = examine(adopt(zero, example=x[:1]), Arrays("rare", x, labels), THREAT)
        assert {check.name: check for check in found.checks}["labels"].outcome == outcome


def test_a_rare_class_that_is_hardly_known_takes_more_examples() -> None:
    """One in seven of it, among as many others that are taken for it: of 512 examples that may be luck."""
    x = torch.rand(4096, 4, generator=torch.Generator().manual_seed(2))
    labels = (x[:, 0] > 0.95).long()

    def model(x: torch.Tensor) -> torch.Tensor:
        score = torch.maximum(x[:, 0] - 0.993, 0.01 - x[:, 1]) * 100
        return torch.stack([-score, score], 1)

    found = examine(adopt(model, example=x[:1]), Arrays("rare", x, labels), THREAT)
    said = {check.name: check for check in found.checks}["labels"]
    assert said.outcome == "warn"
    assert said.evidence.endswith("34 of 207 examples of other classes are")


def test_inputs_beyond_all_pixels_are_not_told_to_be_pixels() -> None:
    x, y = held_out()
    found = examine(adopt(honest("relu")), Arrays("large", 1500 * x, y), linf(0.1))
    said = {check.name: check for check in found.checks}["input-range"]
    assert said.outcome == "fail"
    assert "0 255" not in said.remedy


def test_a_steep_plane_is_not_noise() -> None:
    """A plane that noise moves by more than the margin, all of it along the gradient."""
    plane = nn.Linear(2, 2, bias=False).eval()
    with torch.no_grad():
        plane.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
        x = Streams.of(0, range(60)).uniform(1).repeat(1, 2) * 0.9
        x[::2, 0] += 0.01
        x[1::2, 1] += 0.01
        found = examine(adopt(plane), Arrays("plane", x, plane(x).argmax(1)), THREAT)
    assert {check.name: check for check in found.checks}["loss-noise"].outcome == "pass"


def test_noise_reaches_no_further_than_eps() -> None:
    """A wave of 1/1600: in a ball of 1e-7 there is nothing of it."""
    assert outcomes(find("hashed noise").make(), l2(1.0))["loss-noise"].outcome == "fail"
    assert outcomes(find("hashed noise").make(), l2(1e-5))["loss-noise"].outcome == "pass"


@pytest.mark.parametrize("mask", [False, True])
def test_a_class_at_minus_a_billion_hides_no_change(mask: bool) -> None:
    network = honest("relu")

    def noisy(x: torch.Tensor) -> torch.Tensor:
        logits = network(x)
        logits = logits + 0.05 * torch.randn_like(logits)
        return torch.cat([logits, torch.full((len(x), 1), -1e9)], 1) if mask else logits

    with torch.random.fork_rng():
        assert outcomes(noisy)["randomness"].outcome == "fail"


@given(scale=floats(1e-2, 1e3), shift=floats(-1, 1))
@settings(max_examples=20, deadline=None)
def test_neither_scale_nor_shift_nor_a_masked_class_changes_how_far_outputs_are_apart(
    scale: float, shift: float
) -> None:
    rng = Streams.of(0, range(12))
    z, other = 3 * rng.at("z").normal(5), 3 * rng.at("z").normal(5) + 0.1 * rng.at("other").normal(5)
    far = torch.full((12, 1), -1e9)
    found = apart(z, other)
    assert (found > 0).all()
    moved = apart(scale * z + scale * shift, scale * other + scale * shift)
    torch.testing.assert_close(moved, found, rtol=0.05, atol=1e-4)
    torch.testing.assert_close(apart(torch.cat([z, far], 1), torch.cat([other, far], 1)), found)
    assert not apart(z, z).any()
    assert agree(z, z + 1e-7)


class Beside(nn.Module):
    """The honest network, with a habit that changes none of its outputs."""

    def __init__(self, habit: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.habit = honest("relu"), habit
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.habit(self.network(x), self.scale)


def noting(h: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    _ = h.detach().mean(), (h > 0).float().mean().item()
    with torch.no_grad():
        _ = torch.arange(3)
    return h


@pytest.mark.parametrize(
    "habit",
    [
        noting,
        lambda h, scale: h - h.detach().amax(1, keepdim=True) * 0,
        lambda h, scale: h * scale.detach().sign(),
        lambda h, scale: torch.where(scale > 0.5, h, 0 * h),
        lambda h, scale: h * scale.data.round(),
    ],
    ids=["notes", "shift", "signs", "pruned", "rounded"],
)
def test_what_a_model_does_beside_its_outputs_or_to_its_weights_hides_no_path(
    habit: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    model = Beside(habit)
    assert outcomes(model)["hidden-paths"].outcome == "pass"
    assert model.scale.requires_grad


@pytest.mark.parametrize(
    ("gate", "outcome", "over"), [(Gate, "warn", "comparison"), (EarlyExit, "fail", "getitem, setitem")]
)
def test_a_path_that_gradients_pass_over_is_said(gate: type[nn.Module], outcome: str, over: str) -> None:
    found = outcomes(gate(honest("relu"), honest("adversarially trained")).eval())["hidden-paths"]
    assert found.outcome == outcome
    assert over in found.evidence


def test_outputs_of_one_score_agree_to_the_last_bit() -> None:
    one = torch.rand(5, 1)
    assert agree(one, one.clone())
    assert not agree(one, one + 1e-6)


def test_scores_that_are_no_numbers_under_attack_fail() -> None:
    refused = {n: Outcome(example=n, label=0, prediction=-1 if n < 3 else 1, reached=False) for n in range(10)}
    run = Record(threat=THREAT, access="gradients", examples=10, roles={}, outcomes={"a": refused}, chance=0.1)
    found = answer("finite-under-attack", run)
    assert found is not None
    assert found.outcome == "fail"
    assert "3 examples" in found.evidence


def test_where_nothing_stands_no_doubt_is_left_but_luck() -> None:
    asked = {look.question.name: look.question for look in (*CHECKS, *LOOKS)}
    names = ("gradients", "access", "randomness", "claims")
    settled = {check.name: check.outcome for check in exact([asked[name].failed("so") for name in names])}
    assert settled == {"gradients": "warn", "access": "warn", "randomness": "fail", "claims": "fail"}


class Counting(nn.Module):
    """Counts its calls in a buffer, and is the surer by `haste` the more there were."""

    def __init__(self, haste: float = 0.0) -> None:
        super().__init__()
        self.network, self.haste = honest("relu"), haste
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("calls").add_(1)
        return self.network(x) * (1 + self.haste * self.get_buffer("calls"))


@pytest.mark.parametrize(("haste", "outcome"), [(0.0, "warn"), (1e-6, "fail")])
def test_a_model_that_keeps_count_is_found_out_as_seriously_as_its_answers_depend_on_it(
    haste: float, outcome: str
) -> None:
    found = outcomes(Counting(haste))["state"]
    assert found.outcome == outcome
    assert "calls" in found.evidence


def test_an_input_by_itself_is_asked_by_itself() -> None:
    class Lonely(nn.Module):
        def __init__(self, alone: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.network, self.alone = honest("relu"), alone

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.alone(self.network(x)) if len(x) == 1 else self.network(x)

    assert outcomes(Lonely(lambda logits: logits))["batch-independence"].outcome == "pass"
    assert outcomes(Lonely(lambda logits: logits.flip(1)))["batch-independence"].outcome == "fail"
    found = outcomes(Lonely(lambda logits: logits.squeeze(0)))["batch-independence"]
    assert found.outcome == "fail"
    assert "shape (10,)" in found.evidence


def test_a_model_that_answers_otherwise_where_a_gradient_is_asked_for_is_found_out() -> None:
    network, other = honest("relu"), honest("adversarially trained")
    for told in (lambda x: torch.is_grad_enabled(), lambda x: x.requires_grad):
        found = outcomes(lambda x, told=told: other(x) if told(x) else network(x))["finite-differences"]
        assert found.outcome == "fail"
        assert "where a gradient is asked for" in found.evidence


class Turned(nn.Module):
    """The honest network, whose gradient is turned round where this is told to."""

    def __init__(self, where: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.where = honest("relu"), where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            x, turned = x.view_as(x), self.where(x.detach()).view(-1, 1, 1, 1)
            x.register_hook(lambda g: torch.where(turned, -g, g))
        return self.network(x)


def test_gradients_are_slopes_on_every_example_and_within_the_threat_too() -> None:
    x, _ = held_out(60)
    dim = x.flatten(1).mean(1).quantile(0.3)
    assert outcomes(Turned(lambda z: torch.zeros(len(z), dtype=torch.bool)))["finite-differences"].outcome == "pass"
    some = outcomes(Turned(lambda z: z.flatten(1).mean(1) < dim))["finite-differences"]
    assert some.outcome == "fail"
    assert "(median of 60), on 1" in some.evidence
    assert float(some.evidence.split(" differ by ")[1].split("%")[0]) < 1, "the middle one is right"
    beside = outcomes(Turned(lambda z: torch.cdist(z.flatten(1), x.flatten(1), p=torch.inf).amin(1) > 0.05))
    assert beside["finite-differences"].outcome == "fail"


def test_a_vote_that_no_gradient_sees_is_found_at_borders_between_decisions() -> None:
    """Right slopes nearly everywhere: those of the network that hardly counts."""
    network, quiet = honest("relu"), honest("adversarially trained")

    def voted(x: torch.Tensor) -> torch.Tensor:
        return 10 * nn.functional.one_hot(network(x).argmax(1), 10).float() + 0.1 * quiet(x)

    found = outcomes(voted)["finite-differences"]
    assert found.outcome == "fail"
    assert "borders" in found.evidence


class Edges(nn.Module):
    """How steep the picture is at every pixel: a cone over a flat background."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down, across = x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]
        return (down.square() + across.square() + 1e-8).sqrt()


def pooled() -> nn.Module:
    """Windows that overlap, and tie on a flat background."""
    first = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    second = (nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(392, 10))


@pytest.mark.parametrize(
    "make",
    [pooled, lambda: nn.Sequential(Edges(), nn.Flatten(), nn.Linear(729, 64), nn.ReLU(), nn.Linear(64, 10))],
    ids=["pooled", "edges"],
)
def test_kinks_in_a_flat_background_are_no_alarm(make: Callable[[], nn.Module]) -> None:
    found = outcomes(trained(fresh(make)), linf(0.04))
    assert {name for name, check in found.items() if check.outcome in ("warn", "fail")} == set()


def test_gradients_that_come_and_go_are_one_line() -> None:
    network, calls = honest("relu"), itertools.count()

    def once(x: torch.Tensor) -> torch.Tensor:
        return network(x) if not x.requires_grad or next(calls) < 2 else network(x).detach()

    with pytest.raises(BadInput, match="a model without gradients"):
        outcomes(once)


def test_a_backward_pass_that_raises_is_one_line() -> None:
    class Refusing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *gradients: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("not\nlike this")

    network = honest("relu")
    with pytest.raises(BadInput, match=r"RuntimeError: not like this in its backward pass"):
        outcomes(lambda x: network(Refusing.apply(x)))


def test_scores_that_float32_cannot_tell_apart_are_invalid() -> None:
    network = honest("relu")
    found = outcomes(lambda x: 1e-40 * network(x))["outputs-and-labels"]
    assert (found.outcome, found.serious) == ("fail", "invalid")


def test_a_data_set_handed_over_twice_is_noticed_however_far_its_copies_are_apart() -> None:
    x, y = held_out(100)
    found = examine(adopt(honest("relu")), Arrays("data", torch.cat([x, x]), torch.cat([y, y])), THREAT)
    (check,) = (check for check in found.checks if check.name == "duplicates")
    assert (check.outcome, check.evidence) == ("warn", "100 of 200 inputs are copies of others")


@pytest.mark.parametrize(("count", "outcome"), [(1, "pass"), (20, "fail")])
def test_one_example_that_another_scale_gets_right_may_be_luck(count: int, outcome: str) -> None:
    network = honest("relu")

    def divides(x: torch.Tensor) -> torch.Tensor:
        """Knows inputs from 0 to 255."""
        bright = x.flatten(1).amax(1, keepdim=True) > 2
        return torch.where(bright, network(x / 255), -network(x))

    x, _ = held_out(20)
    data = Arrays("data", x[:count], network(x).argmax(1)[:count])
    found = examine(function(divides), data, THREAT)
    assert {check.name: check.outcome for check in found.checks}["scaling"] == outcome


def test_a_random_model_is_not_taken_for_one_at_another_scale() -> None:
    """Its calls are right on more or fewer of the sample, each by its own luck."""
    model = find("random resize").make()
    for seed in (4, 6):
        with own_draws(seed, "doctor"):
            x, y = held_out(200)
            found = examine(adopt(model), Arrays("data", x, y), THREAT, seed=seed)
        assert {check.name: check.outcome for check in found.checks}["scaling"] == "pass"


def test_a_model_that_writes_into_its_inputs_is_examined_as_it_answers() -> None:
    network = honest("relu")

    class Writing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network(x.mul_(0.5).mul_(2))

    model, (x, y) = Writing().eval(), held_out(60)
    found = examine(adopt(model), Arrays("data", x, y), THREAT)
    assert {check.name for check in found.checks if check.outcome in ("warn", "fail")} == set()


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


def test_half_precision_inside_is_seen_and_is_no_sum_that_cancels() -> None:
    class Automatic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = honest("relu")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.network(x).float()

    found = outcomes(Automatic())
    assert found["precision"].outcome == "warn"
    assert found["precision"].evidence == "outputs are float32, computed in bfloat16"
    assert found["double-precision"].outcome == "skipped"
    assert outcomes(honest("relu"))["precision"].evidence == "outputs are float32"


class Particular(nn.Module):
    """A network that says which inputs it takes."""

    def __init__(self, refuses: Callable[[torch.Tensor], bool], network: nn.Module) -> None:
        super().__init__()
        self.network, self.refuses = network, refuses

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.refuses(x):
            raise ValueError("other inputs, please")
        return self.network(x)


def test_a_model_that_refuses_inputs_beyond_the_bounds_is_asked_within_them() -> None:
    def beyond(x: torch.Tensor) -> bool:
        return bool((x < 0).any() or (x > 1).any())

    found = outcomes(Particular(beyond, honest("relu")))
    assert {found[name].outcome for name in ("scaling", "loss-noise", "finite-differences")} == {"pass"}
    found = outcomes(Particular(beyond, find("contrary gradient").make()))
    assert found["finite-differences"].outcome == "fail", "to refuse hides nothing"


def test_a_model_that_refuses_double_precision_is_not_asked() -> None:
    assert (
        outcomes(Particular(lambda x: x.dtype != torch.float32, honest("relu")))["double-precision"].outcome
        == "skipped"
    )


@pytest.mark.parametrize("scale", [1e-20, 1e-8])
def test_no_scale_of_the_outputs_raises_an_alarm_or_silences_one(scale: float) -> None:
    network, noisy = honest("relu"), find("hashed noise").make()
    raised = {name for name, check in outcomes(lambda x: scale * network(x)).items() if check.outcome == "fail"}
    assert raised == set()
    found = outcomes(lambda x: scale * noisy(x))
    assert (found["shattered-gradients"].outcome, found["loss-noise"].outcome) == ("fail", "fail")


def test_climbs_that_shrink_all_scores_alike_are_seen() -> None:
    assert outcomes(find("dimmed").make())["scale"].outcome == "fail"
    assert outcomes(honest("relu"))["scale"].outcome == "pass"


def test_scores_that_shrink_alike_mislead_nobody_where_a_climb_without_scale_breaks_no_more() -> None:
    """Certified networks do so: attacks switch their units off."""
    found = outcomes(Dimmed(find("adversarially trained").make()).eval(), linf(0.05))["scale"]
    assert found.outcome == "pass"
    assert "a climb of DLR breaks 0 of these" in found.evidence


def test_two_classes_have_no_scale_beside_their_margin() -> None:
    network = honest("relu")
    x, y = held_out(60)
    found = examine(adopt(lambda z: network(z)[:, [0, 1]], example=x[:1]), Arrays("data", x, y.clamp(max=1)), THREAT)
    assert {check.name: check.outcome for check in found.checks}.get("scale", "skipped") == "skipped"


def test_a_model_without_gradients_that_cannot_be_watched_is_examined() -> None:
    network = honest("relu")
    found = outcomes(lambda x: network(x.detach().requires_grad_(False)))
    assert found["gradients"].outcome == "fail"
    assert found["hidden-paths"].outcome == found["saturation"].outcome == "skipped"


def test_a_sum_of_few_features_is_not_taken_for_rounded() -> None:
    """Changes of one size would cancel in `x_0 + x_1` for half of the examples."""
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1, 0, 0], [-1, -1, 0, 0]]))
    x = Streams.of(0, range(200)).uniform(4) * 2 - 1
    data = Arrays("table", x, (x[:, 0] + x[:, 1] < 0).long())
    found = examine(adopt(layer, example=x[:1]), data, linf(0.1, low=-1, high=1))
    assert {check.name: check.outcome for check in found.checks}["quantised-inputs"] == "pass"
