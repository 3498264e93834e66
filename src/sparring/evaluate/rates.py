"""How often a check is wrong: false alarms on honest and robust models, misses on what is broken on purpose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sparring.evaluate.checks import CHECKS, EVERY_INPUT, UNAWARE, Question
from sparring.evaluate.doctor import LOOKS
from sparring.evaluate.result import environment
from sparring.evaluate.verdict import audit
from sparring.zoo import Specimen, specimens


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What an audit said of a specimen: the checks that failed or warned, those that passed, and the verdict."""

    specimen: str
    kind: str
    what: str
    expected: str
    verdict: str
    fired: tuple[str, ...]
    passed: tuple[str, ...]
    must_fire: tuple[str, ...]
    clean_accuracy: float
    robust_accuracy: float
    seconds: float
    """Of the processor."""

    @property
    def missed(self) -> tuple[str, ...]:
        """Checks that should have fired, and did not."""
        return tuple(name for name in self.must_fire if name not in self.fired)

    def __str__(self) -> str:
        """A line about it."""
        wrong = f" (not {self.expected})" if self.verdict != self.expected else ""
        missed = f"; MISSED: {', '.join(self.missed)}" if self.missed else ""
        fired = ", ".join(self.fired) or "none"
        return f"{self.seconds:6.1f} s  {self.kind:6}  {self.specimen}: {self.verdict}{wrong}; fired: {fired}{missed}"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often a check was wrong: alarms on `sound` models that it was asked about, misses on its own `faults`."""

    check: str
    alarms: int
    sound: int
    misses: int
    faults: int


def questions() -> tuple[Question, ...]:
    """All that is asked, in its order: of the set-up, then of the finished run."""
    return (*(look.question for look in LOOKS), EVERY_INPUT, *(look.question for look in CHECKS), UNAWARE)


def measure(
    zoo: Iterable[Specimen] | None = None,
    *,
    examples: int = 100,
    suite: str = "quick",
    seed: int = 0,
    watch: Callable[[Trial], None] = lambda trial: None,
) -> tuple[Trial, ...]:
    """Audit every specimen of the zoo. Takes four minutes on one core, published networks included."""
    trials = []
    for one in specimens() if zoo is None else zoo:
        started = time.process_time()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # random specimens draw from torch's own generator
            result = audit(one.make(), one.examples(examples), one.threat, suite=suite, seed=seed, name=one.name)
        outcome = {check.name: check.outcome for check in result.checks}
        trial = Trial(
            specimen=one.name,
            kind=one.kind,
            what=one.what,
            expected=one.verdict,
            verdict=result.verdict,
            fired=tuple(name for name, said in outcome.items() if said in ("fail", "warn")),
            passed=tuple(name for name, said in outcome.items() if said == "pass"),
            must_fire=one.fires,
            clean_accuracy=result.clean_accuracy.estimate,
            robust_accuracy=result.robust_accuracy.estimate,
            seconds=time.process_time() - started,
        )
        watch(trial)
        trials.append(trial)
    return tuple(trials)


def rates(trials: Sequence[Trial]) -> tuple[Rate, ...]:
    """False alarms and misses of every check."""
    sound = [trial for trial in trials if trial.kind != "broken"]
    broken = [trial for trial in trials if trial.kind == "broken"]
    return tuple(
        Rate(
            check=question.name,
            alarms=sum(question.name in trial.fired for trial in sound),
            sound=sum(question.name in (*trial.fired, *trial.passed) for trial in sound),
            misses=sum(question.name in trial.missed for trial in broken),
            faults=sum(question.name in trial.must_fire for trial in broken),
        )
        for question in questions()
    )


def report(trials: Sequence[Trial], **settings: Any) -> dict[str, Any]:
    """All of it, for a JSON file."""
    sound = [trial for trial in trials if trial.kind != "broken"]
    return {
        "settings": settings,
        "environment": environment(),
        "totals": {
            "sound": len(sound),
            "broken": len(trials) - len(sound),
            "false alarms": sum(len(trial.fired) for trial in sound),
            "misses": sum(len(trial.missed) for trial in trials),
            "wrong verdicts": sum(trial.verdict != trial.expected for trial in trials),
        },
        "checks": [asdict(rate) for rate in rates(trials)],
        "specimens": [asdict(trial) | {"missed": trial.missed, "seconds": round(trial.seconds, 2)} for trial in trials],
    }


FAULTS = ("false alarms", "misses", "wrong verdicts")
"""Totals of a report that should be 0."""

NEVER = "–"
"""In the tables: nothing in the zoo asks this."""

Rows = list[tuple[str, ...]]


def asked() -> Rows:
    """A table of what is asked: the head, then a row a check."""
    rows: Rows = [("check", "what it asks", "fails when", "makes it", "what to do")]
    rows += [(f"`{one.name}`", one.asks, one.bad, one.serious, one.remedy) for one in questions()]
    return rows


def wrong(measured: dict[str, Any]) -> Rows:
    """A table of how often each check was wrong, out of a report; a dash where nothing in the zoo has the fault."""
    rows: Rows = [("check", "false alarms", "misses")]
    for one in measured["checks"]:
        alarms = f"{one['alarms']} of {one['sound']}" if one["sound"] else NEVER
        misses = f"{one['misses']} of {one['faults']}" if one["faults"] else NEVER
        rows.append((f"`{one['check']}`", alarms, misses))
    return rows


def seen(measured: dict[str, Any]) -> Rows:
    """A table of the specimens, and what an audit said of each."""
    rows: Rows = [("specimen", "what it is", "verdict", "checks that fired", "missed")]
    for one in measured["specimens"]:
        verdict = one["verdict"] if one["verdict"] == one["expected"] else f"{one['verdict']}, not {one['expected']}"
        fired = " ".join(f"`{name}`" for name in one["fired"])
        missed = " ".join(f"`{name}`" for name in one["missed"])
        rows.append((f"{one['specimen']} ({one['kind']})", one["what"], verdict, fired or NEVER, missed or NEVER))
    return rows
