"""Any threat, and attacks that learn: what `sparring attack` does with them."""

import functools
import json
import math
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import pytest
import torch
from torch import nn

from sparring.attacks import Restarts, pgd
from sparring.data import digits
from sparring.data.arrays import Arrays
from sparring.errors import BadInput
from sparring.evaluate.collect import CLEAN, LESSONS, chosen, collect
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.models.loading import adopt
from sparring.models.torch import function
from sparring.networks import mlp
from sparring.registry import Entry, find
from sparring.registry import attack as named
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball, linf, parse
from sparring.training.fitting import fits, settings_of
from sparring.views import Counted

CASES = [
    ("pose-random", "pose:30"),
    ("stadv", "flow:0.5"),
    ("recoloradv", "recolour:0.2"),
    ("patch", "patch:0.1"),
    ("corruptions", "corruption:2"),
    ("universal", "linf:0.2"),
    ("universal-patch", "patch:0.1"),
]


@pytest.fixture(scope="module")
def victim():
    """A network that has learned a little."""
    (x, y), model = digits("train").take(range(600)), mlp(hidden=32)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(15):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return adopt(model.eval())


def some(count):
    x, y = digits("test").take(range(count))
    return Arrays("some", x.numpy(), y.numpy())


@pytest.mark.parametrize(("name", "threat"), CASES)
def test_what_is_kept_is_inside_the_threat_whatever_the_batches(victim, tmp_path, name, threat):
    data, allowed = some(16), parse(threat)
    found = collect(victim, data, find("attacks", name), allowed, tmp_path / "one", batch_size=16)
    with np.load(found.file) as file:
        z, x, index, distance = (torch.from_numpy(file[part]) for part in ("z", "x", "index", "distance"))
    assert len(index) > 2
    assert allowed.contains(z, x).all()
    assert distance.isfinite().all()
    assert found.cost.forward > 0
    again = collect(victim, data, find("attacks", name), allowed, tmp_path / "two", batch_size=5)
    assert found.broken == again.broken
    with np.load(again.file) as file:
        assert torch.equal(torch.from_numpy(file["z"]), z)


def test_an_attack_that_learns_does_so_on_the_first_examples_and_says_at_what_cost(victim, tmp_path):
    entry, threat = find("attacks", "universal"), parse("linf:0.1")
    found = collect(victim, some(30), entry, threat, tmp_path / "few")
    assert (found.learned_from, found.learning.forward) == (30, 200 * 30)
    found = collect(victim, some(LESSONS + 20), entry, threat, tmp_path / "many")
    assert (found.learned_from, found.learning.forward) == (LESSONS, 200 * 100)
    found = collect(victim, some(30), find("attacks", "fgsm"), threat, tmp_path / "none")
    assert (found.learned_from, found.learning.forward) == (0, 0)


def test_an_attack_for_other_threats_or_for_images_is_refused_in_one_line(victim, tmp_path):
    with pytest.raises(BadInput, match="need the threat flow"):
        collect(victim, some(8), find("attacks", "stadv"), parse("pose:30"), tmp_path)
    with pytest.raises(BadInput, match="a norm of linf, l2"):
        collect(victim, some(8), find("attacks", "universal"), parse("patch:0.1"), tmp_path)
    flat = Arrays("flat", some(8).take(range(8))[0].flatten(1).numpy(), some(8).take(range(8))[1].numpy())
    with pytest.raises(BadInput, match="images"):
        collect(adopt(mlp(hidden=32)), flat, find("attacks", "advgan"), parse("linf:0.1"), tmp_path)


def test_settings_reach_the_attack_and_a_record_says_what_was_run_and_at_what_cost(victim, tmp_path):
    entry, threat = find("attacks", "pgd"), parse("linf:0.05")
    given = {"steps": 7, "loss": "probability-margin"}
    found = collect(victim, some(20), entry, threat, tmp_path, settings=given, seed=3)
    record = json.loads(found.record.read_text())
    assert found.record == tmp_path / "attack.json"
    assert record["attack"] == "pgd"
    assert record["settings"] == {"steps": 7, "loss": "probability_margin", "restarts": 1}
    assert record["threat"] == {"name": "linf:0.05", "low": 0.0, "high": 1.0}
    assert (record["seed"], record["examples"], record["right_before"]) == (3, 20, found.right_before)
    assert (record["broken"], record["rejected"]) == (len(found.broken), 0)
    assert "code" not in record, "what is Sparring's own goes by its version"
    assert record["forward_per_example"] == found.cost.forward / found.right_before
    assert record["backward_per_example"] == found.cost.backward / found.right_before <= 7
    assert record["seconds"] == found.cost.seconds > 0


def test_restarts_fit_every_attack_and_break_no_less(victim, tmp_path):
    entry, threat = find("attacks", "pgd"), parse("linf:0.04")
    once = collect(victim, some(40), entry, threat, tmp_path / "once", settings={"steps": 3})
    more = collect(victim, some(40), entry, threat, tmp_path / "more", settings={"steps": 3, "restarts": 4})
    assert len(more.broken) >= len(once.broken) > 0
    assert more.cost.backward > 2 * once.cost.backward
    with pytest.raises(BadInput, match="does not learn"):
        collect(victim, some(8), find("attacks", "universal"), threat, tmp_path / "no", settings={"restarts": 2})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stepz": 3}, "'pgd.stepz'; need one of steps, loss, restarts; did you mean 'steps'"),
        ({"steps": "ten"}, "steps = 'ten'; need a whole number"),
        ({"steps": 0}, "steps = 0; need 1 or more"),
        ({"restarts": 0}, "restarts = 0; need 1 or more"),
        ({"loss": "margn"}, "did you mean 'margin'"),
        ({"loss": 3}, "loss = 3; need a function"),
        ({"eps": 0.1}, "the setting 'pgd.eps'"),
        ({"deepfool": {"classes": 1}}, "deepfool.classes = 1; need 2 or more"),
        ({"fab": {"classes": 1}}, "fab.classes = 1; need 2 or more"),
        ({"admix": {"pool": "x"}}, "admix.pool = 'x'; need what only Python can make"),
        ({"admix": {"pool": 3}}, "admix.pool = 3; need what only Python can make"),
    ],
)
def test_settings_that_an_attack_does_not_take_are_refused_in_one_line(victim, tmp_path, given, said):
    [(name, settings)] = given.items() if isinstance(next(iter(given.values())), dict) else [("pgd", given)]
    with pytest.raises(BadInput, match=said) as refusal:
        collect(victim, some(8), find("attacks", name), parse("linf:0.1"), tmp_path / "out", settings=settings)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Does:
    """An attack that hands over what a function `(x, rng) -> z` makes."""

    threat: Any
    what: Any

    def __call__(self, model, x, goal, rng):
        return self.what(x, rng)


def own(make, name="own", **facts):
    return Entry(name=name, make=make, **facts)


def doing(what, **facts):
    return own(lambda threat: Does(threat, what), **facts)


def test_a_restart_is_for_every_row_that_has_no_success_inside_the_threat():
    seen = []

    def push(x, rng):
        seen.append(x.flatten().tolist())
        return x + (0.3, 0.05, 0.2, 0.3)[len(seen) - 1]

    def model(z):
        return torch.stack([0.5 - z[:, 0], z[:, 0] - 0.5], 1)

    x = torch.tensor([[0.46], [0.44], [0.3]])
    goal = Untargeted(torch.zeros(3, dtype=torch.int64))
    z = Restarts(attacks=(Does(linf(0.1), push),), times=4)(model, x, goal, Streams.of(0, range(3)))
    near = torch.tensor([0.46, 0.44, 0.3]).tolist()
    assert seen == [near, near, near[1:], near[1:]]
    torch.testing.assert_close(z.flatten(), torch.tensor([0.51, 0.49, 0.35]), msg="what is inside is better")
    far = Restarts(attacks=(Does(linf(0.1), lambda x, rng: x + 0.3),), times=2)
    assert (far(model, x, goal, Streams.of(0, range(3))) > 0.55).all(), "a claim is handed on, to be rejected"


@pytest.mark.parametrize("norm", ["linf:0.03", "l2:0.5", "l1:4", "l0:5"])
def test_restarts_of_what_stays_inside_are_bit_for_bit_a_search_at_the_same_cost(victim, norm):
    attack = pgd(parse(norm), steps=3)
    x, y = some(40).take(range(40))
    rng = Streams.of(0, range(40))
    one, other = Counted(victim), Counted(victim)
    z = Restarts(attacks=(attack,), times=3)(one, x, Untargeted(y), rng)
    search, left = Search(other, x, Untargeted(y), margin), x
    for run in search.steps(3):
        _, left, rng = search.judge(attack(other, left, search.goal, rng.at(run)), left, rng)
    assert torch.equal(z, search.best)
    assert (one.forward, one.backward) == (other.forward, other.backward)


def test_restarts_help_an_attack_that_looks_for_the_nearest_success(victim, tmp_path):
    entry, threat = find("attacks", "hop-skip-jump"), parse("l2:3")
    runs = [
        collect(victim, some(20), entry, threat, tmp_path / str(n), settings={"queries": 200, "restarts": n})
        for n in (1, 3)
    ]
    assert len(runs[1].broken) >= len(runs[0].broken) > 0
    assert runs[0].rejected > 0, "what is too far is handed over all the same"
    assert runs[1].cost.forward > 1.5 * runs[0].cost.forward


@pytest.mark.parametrize("restarts", [1, 2])
def test_claims_outside_of_the_threat_are_counted(victim, tmp_path, restarts):
    entry = doing(lambda x, rng: x + 100)
    found = collect(victim, some(20), entry, parse("linf:0.1"), tmp_path, settings={"restarts": restarts})
    assert found.broken == ()
    assert 0 < found.rejected <= found.right_before
    assert json.loads(found.record.read_text())["rejected"] == found.rejected


def test_an_attack_of_ones_own_is_measured_by_the_inputs_and_the_threat_of_the_run(victim, tmp_path):
    found = collect(victim, some(20), doing(lambda x, rng: x.copy_(1 - x)), parse("linf:0.1"), tmp_path / "inputs")
    assert (found.broken, found.rejected > 0) == ((), True)
    wide = own(lambda threat: Does(linf(1.0), lambda x, rng: 1 - x))
    found = collect(victim, some(20), wide, parse("linf:0.1"), tmp_path / "threat")
    assert (found.broken, found.rejected > 0) == ((), True)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda x, rng: 1 / 0, "own raised ZeroDivisionError: division by zero; need an attack"),
        (lambda x: x, "own raised TypeError: .* need an attack: a call"),
        (lambda x, rng: None, r"own returned NoneType; need a tensor like x, \(\d+, 1, 28, 28\)"),
        (lambda x, rng: x[:1, 0], r"own returned a tensor \(1, 28, 28\); need a tensor like x"),
        (lambda x, rng: x.numpy(), "own returned ndarray"),
    ],
)
@pytest.mark.parametrize("restarts", [1, 2])
def test_an_attack_of_ones_own_that_fails_is_refused_in_one_line_and_blocks_no_folder(
    victim, tmp_path, what, said, restarts
):
    for _ in range(2):
        with pytest.raises(BadInput, match=said) as refusal:
            collect(victim, some(20), doing(what), parse("linf:0.1"), tmp_path, settings={"restarts": restarts})
        assert "\n" not in str(refusal.value)
    assert collect(victim, some(20), find("attacks", "fgsm"), parse("linf:0.1"), tmp_path).broken is not None


def test_what_an_attack_of_ones_own_returns_may_have_another_type_and_a_graph(victim, tmp_path):
    negative = doing(lambda x, rng: (1 - x.double()).requires_grad_())
    assert collect(victim, some(20), negative, parse("linf:1"), tmp_path).broken


def test_an_attack_of_ones_own_that_learns_is_looked_at_as_well(victim, tmp_path):
    @dataclass(frozen=True)
    class Learner(Does):
        def fit(self, model, x, goal, rng):
            return Does(self.threat, self.what(x, rng))

    for what, said in (
        (lambda x, rng: 1 / 0, "own raised ZeroDivision"),
        (lambda x, rng: None, "own raised TypeError"),
    ):
        entry = own(lambda threat, what=what: Learner(threat, what))
        with pytest.raises(BadInput, match=said):
            collect(victim, some(20), entry, parse("linf:0.1"), tmp_path)
    entry = own(lambda threat: Learner(threat, lambda x, rng: lambda x, rng: x))
    assert collect(victim, some(20), entry, parse("linf:0.1"), tmp_path).learned_from == 20


def test_an_attack_may_have_the_name_of_the_stage_that_looks(victim, tmp_path):
    entry, threat = find("attacks", "pgd"), parse("linf:0.2")
    found = collect(victim, some(20), own(entry.make, CLEAN), threat, tmp_path)
    assert found.broken
    assert found.cost.backward > 0


def test_a_run_is_resumed_with_the_same_code_alone(victim, tmp_path):
    file, threat, out = tmp_path / "mine.py", parse("linf:0.2"), tmp_path / "out"
    text = "from sparring.attacks import pgd\ndef mine(threat):\n    return pgd(threat, steps=3)\n"
    file.write_text(text)
    found = collect(victim, some(20), named(f"{file}:mine"), threat, out)
    code = json.loads(found.record.read_text())["code"]
    assert len(code) == 16
    again = collect(victim, some(20), named(f"{file}:mine"), threat, out, resume=True)
    assert again.broken == found.broken
    file.write_text(text + "# mended\n")
    with pytest.raises(BadInput, match="differs in code"):
        collect(victim, some(20), named(f"{file}:mine"), threat, out, resume=True)
    assert json.loads(collect(victim, some(20), named(f"{file}:mine"), threat, out).record.read_text())["code"] != code


def test_a_loss_goes_by_name_where_the_factory_takes_a_function_alone():
    def text(threat, *, loss: str = "soft"):
        return loss

    def function(threat, *, loss=margin):
        return loss

    assert chosen(own(text), {"loss": "margin"}) == {"loss": "margin"}
    assert chosen(own(text), {"loss": "my own"}) == {"loss": "my own"}
    assert chosen(own(function), {"loss": "margin"}) == {"loss": margin}


def test_what_is_none_unless_it_is_given_takes_what_its_annotation_says():
    def make(threat, *, a: int | None = None, b: Optional[float] = None, c=None, d: list[int] | None = None): ...  # noqa: UP045

    given = {"a": 3, "b": 0.5, "c": "anything", "d": [1, 2]}
    assert chosen(own(make), given) == given
    assert chosen(own(make), dict.fromkeys(given)) == dict.fromkeys(given)
    for bad in ({"a": "x"}, {"a": 0.5}, {"b": "x"}):
        with pytest.raises(BadInput, match=r"need a (whole )?number"):
            chosen(own(make), bad)
    assert chosen(find("attacks", "admix"), {"pool": margin}) == {"pool": margin}, "in Python"
    teach = find("objectives", "distillation").make
    fits("objective", settings_of(teach), {"teacher": nn.Linear(1, 1)})
    fits("objective", settings_of(teach), {"teacher": "teacher.pt"})


def test_settings_are_recorded_as_json_has_them(victim, tmp_path):
    def make(threat, *, sizes: Any = (1, 2), most: float = math.inf, loss=margin, table=None):
        return pgd(threat, steps=2)

    settings = {"sizes": [1, 2, [math.nan]], "table": {"a": 1}}
    found = collect(victim, some(20), own(make), parse("linf:0.1"), tmp_path, settings=settings)
    record = json.loads(found.record.read_text(), parse_constant=pytest.fail)
    expected = {"sizes": [1, 2, ["nan"]], "most": "inf", "loss": "margin", "table": {"a": 1}, "restarts": 1}
    assert record["settings"] == expected


def test_what_does_not_say_what_it_takes_is_refused_in_one_line(victim, tmp_path):
    for make in (math.hypot, dict):
        with pytest.raises(BadInput, match="own does not say what it takes; need a factory"):
            collect(victim, some(20), own(make), parse("linf:0.1"), tmp_path / "out")
    assert collect(victim, some(20), own(functools.partial(pgd, steps=2)), parse("linf:0.1"), tmp_path).file.exists()


def test_an_attack_of_ones_own_is_run_judged_and_recorded(victim, tmp_path):
    @dataclass(frozen=True)
    class Darken:
        threat: Ball
        share: float

        def __call__(self, model, x, goal, rng):
            return (x - self.share * self.threat.eps).clamp(0)

    def darken(threat, *, share: float = 1):  # types that are no text, as in a file without postponed annotations
        return Darken(threat, share)

    found = collect(victim, some(20), own(darken), parse("linf:0.3"), tmp_path, settings={"share": 0.5})
    assert json.loads(found.record.read_text())["settings"] == {"share": 0.5, "restarts": 1}
    with np.load(found.file) as file:
        assert file["distance"].max(initial=0) <= 0.15 + 1e-6
    cheating = collect(victim, some(20), own(darken), parse("linf:0.1"), tmp_path, settings={"share": 5})
    assert cheating.broken == (), "what it hands over is outside of the threat"
    with pytest.raises(BadInput, match="share = 'much'; need a number"):
        collect(victim, some(20), own(darken), parse("linf:0.1"), tmp_path, settings={"share": "much"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda threat: 3, "own gave int; need an attack"),
        (lambda threat: len, "own gave builtin_function_or_method; need an attack"),
        (lambda threat: 1 / 0, r"own\(\) raised ZeroDivisionError: .* need a factory"),
        (lambda threat, n=1: 1 / (n - 2), r"own\(n=2\) raised ZeroDivisionError: .* need settings that fit it"),
        (lambda: None, r"own\(\) raised TypeError"),
    ],
)
def test_a_factory_that_gives_no_attack_is_refused_in_one_line(victim, tmp_path, make, said):
    settings = {"n": 2} if "n=2" in said else {}
    with pytest.raises(BadInput, match=said):
        collect(victim, some(20), own(make), parse("linf:0.1"), tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_a_random_model_is_attacked_the_same_whatever_batch_size_is_asked_for(victim, tmp_path):
    def noisy(x):
        return victim(x + 0.2 * torch.randn_like(x))

    files = [
        collect(
            function(noisy), some(24), find("attacks", "fgsm"), parse("linf:0.1"), tmp_path / str(size), batch_size=size
        ).file
        for size in (5, 24)
    ]
    with np.load(files[0]) as one, np.load(files[1]) as other:
        assert np.array_equal(one["z"], other["z"])
