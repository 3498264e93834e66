"""What the zoo says of its specimens is what the doctor and the audit find, and distances in closed form are true."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from sparring.attacks import DDN
from sparring.data import Arrays
from sparring.errors import BadInput
from sparring.evaluate import audit, examine, rates
from sparring.evaluate.checks import CHECKS
from sparring.evaluate.doctor import LOOKS
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.models.loading import adopt
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import l2
from sparring.zoo import Specimen, find, planes, specimens

DOCTOR = {look.question.name for look in LOOKS}
HERE = [one for one in specimens() if one.name not in ("Wong", "TRADES", "certified")]


def each(some: Iterable[Specimen], *slow: str) -> pytest.MarkDecorator:
    """A case for each specimen; some of them are for `make test-slow`."""
    cases = [pytest.param(one, marks=[pytest.mark.slow] * (one.name in slow)) for one in some]
    return pytest.mark.parametrize("one", cases, ids=lambda one: one.name)


def fired(one: Specimen) -> set[str]:
    x, y = one.examples(100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = examine(adopt(one.make(), name=one.name), Arrays(one.name, x, y), one.threat)
    return {check.name for check in found.checks if check.outcome in ("fail", "warn")}


@each(HERE, "adversarially trained, convolutional", "gated", "early exit")  # the first is inside of the others
def test_the_doctor_sees_what_is_broken_and_nothing_in_what_is_sound(one: Specimen) -> None:
    found = fired(one)
    if one.kind == "broken":
        assert found >= set(one.fires) & DOCTOR
    else:
        assert found == set()


@each(specimens("robust"), *(one.name for one in specimens("robust")))
def test_the_doctor_sees_nothing_in_robust_networks_published_ones_included(one: Specimen) -> None:
    assert fired(one) == set()


def test_there_are_many_ways_to_be_broken() -> None:
    assert len(specimens("broken")) >= 30
    assert len(specimens("honest")) >= 5
    assert len(specimens("robust")) >= 2
    assert all(one.fires for one in specimens("broken"))
    names = {question.name for question in rates.questions()}
    assert all(names.issuperset(one.fires) for one in specimens())
    assert len(names) == len(LOOKS) + len(CHECKS) + 2


def test_a_specimen_is_grown_once_and_handed_out_as_a_copy() -> None:
    one, other = find("relu").make(), find("relu").make()
    assert one is not other
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert bool(next(find("relu").make().parameters()).any())


def test_an_unknown_specimen_is_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match="no specimen 'unicorn'"):
        find("unicorn")


@each(
    (one for one in HERE if set(one.fires) - DOCTOR),
    *("saturated softmax", "few winners", "hard sigmoid", "early exit"),
    *("gated", "ripples", "detach"),  # they, or others like them, are audited in test_verdicts.py and test_adaptive.py
)
def test_the_finished_run_sees_what_the_doctor_cannot(one: Specimen) -> None:
    result = audit(one.make(), one.examples(80), one.threat, suite="quick")
    assert result.verdict == one.verdict
    assert {check.name for check in result.checks if check.outcome in ("fail", "warn")} >= set(one.fires)


@pytest.mark.slow
def test_no_check_is_silent_on_its_fault_and_none_cries_wolf() -> None:
    report = rates.report(rates.measure())
    assert report["totals"] | {"sound": 0, "broken": 0} == {
        "sound": 0,
        "broken": 0,
        "false alarms": 0,
        "misses": 0,
        "wrong verdicts": 0,
    }


def test_rates_count_alarms_on_sound_models_and_misses_on_broken_ones() -> None:
    def trial(kind: str, fired: tuple[str, ...], must_fire: tuple[str, ...] = ()) -> rates.Trial:
        return rates.Trial(
            specimen="s",
            kind=kind,
            what="w",
            expected="trusted",
            verdict="trusted",
            fired=fired,
            passed=("labels",),
            must_fire=must_fire,
            clean_accuracy=1.0,
            robust_accuracy=0.5,
            seconds=1.0,
        )

    trials = (
        trial("honest", ()),
        trial("robust", ("mode",)),
        trial("broken", ("gradients", "logits"), ("gradients", "randomness")),
    )
    found = {rate.check: rate for rate in rates.rates(trials)}
    assert (found["mode"].alarms, found["mode"].sound) == (1, 1)
    assert (found["labels"].alarms, found["labels"].sound) == (0, 2)
    assert (found["randomness"].misses, found["randomness"].faults) == (1, 1)
    assert (found["gradients"].misses, found["gradients"].faults) == (0, 1)
    assert (found["logits"].misses, found["logits"].faults) == (0, 0)
    report = rates.report(trials, suite="quick")
    assert report["totals"] == {"sound": 2, "broken": 1, "false alarms": 1, "misses": 1, "wrong verdicts": 0}
    assert ("`randomness`", "–", "1 of 1") in rates.wrong(report)
    assert len(rates.asked()) == len(rates.questions()) + 1
    assert rates.seen(report)[3][-1] == "`randomness`"


def test_the_published_table_has_every_check_and_every_specimen_that_can_be_made_here() -> None:
    measured = json.loads(
        (Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "checks.json").read_text(encoding="utf-8")
    )
    assert [one["check"] for one in measured["checks"]] == [one.name for one in rates.questions()]
    assert {one.name for one in HERE} <= {one["specimen"] for one in measured["specimens"]}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_linear_models_know_how_far_their_boundaries_are(norm: str) -> None:
    model, x = planes(), Streams.of(1, range(50)).uniform(1, 8, 8)
    labels = model(x).argmax(1)
    distance, nearest = model.distance(x, labels, NORMS[norm]), model.nearest(x, labels, NORMS[norm])
    assert torch.allclose(NORMS[norm].size(nearest - x), distance, rtol=1e-4)
    beyond = x + 1.001 * (nearest - x)
    short = x + 0.999 * (nearest - x)
    assert (model(beyond).argmax(1) != labels).all()
    assert (model(short).argmax(1) == labels).all()
    anywhere = x + 0.999 * (Streams.of(2, range(50)).normal(1, 8, 8).sign() if norm == "linf" else 0) * distance.view(
        -1, 1, 1, 1
    )
    assert (model(anywhere).argmax(1) == labels).all()
    assert (model.distance(x, (labels + 1) % 5, NORMS[norm]) == 0).all()


def test_the_distance_of_a_linear_model_is_what_an_attack_finds() -> None:
    model, x = planes(), Streams.of(1, range(20)).uniform(1, 8, 8)
    labels = model(x).argmax(1)
    # Bounds that the nearest points lie within, and no wider: DDN begins with the width of the box. The margin, for
    # the cross-entropy of five classes that are near each other points between their boundaries.
    threat = l2(10.0, low=-1.0, high=2.0)
    attack = DDN(threat=threat, loss=margin, steps=200)
    z = attack(model, x, Untargeted(labels), Streams.of(0, range(20)))
    assert torch.allclose(threat.distance(z, x), model.distance(x, labels, NORMS["l2"]), rtol=0.02)


def test_counting_norms_have_no_closed_form_here() -> None:
    model, x = planes(), torch.zeros(1, 1, 8, 8)
    with pytest.raises(BadInput, match="l0"):
        model.distance(x, torch.tensor([0]), NORMS["l0"])
