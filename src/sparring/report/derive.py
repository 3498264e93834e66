"""What follows from a result, and from two of them: counts and comparisons that several reports show."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from sparring.evaluate.result import Example, Result

Obstacle = Literal["invalid", "threat", "examples"]


def keeps(example: Example) -> bool:
    """Whether the model was right before any attack and no attack broke the example."""
    return example.clean == example.label and example.broken_by is None


@dataclass(frozen=True)
class Fates:
    """What became of the examples: four numbers that sum to all of them."""

    certified: int
    stood: int
    broken: int
    wrong: int


def fates(result: Result) -> Fates:
    """Count the examples by what became of them."""
    right = [example for example in result.per_example if example.clean == example.label]
    kept = [example for example in right if keeps(example)]
    certified = sum(example.certified is True for example in kept)
    return Fates(certified, len(kept) - certified, len(right) - len(kept), len(result.per_example) - len(right))


def standing(result: Result) -> tuple[float, ...]:
    """Robust accuracy before any attack and after each one, in the order they ran: one more than the attacks."""
    fallen: set[str | None] = set()
    rows = [example for example in result.per_example if example.clean == example.label]
    after = [len(rows)]
    for attack in result.attacks:
        fallen.add(attack.name)
        after.append(sum(example.broken_by not in fallen for example in rows))
    return tuple(count / max(result.examples, 1) for count in after)


def spans(result: Result) -> tuple[tuple[float, float], ...]:
    """Between which eps each example falls, the weakest first: proved to stand at one, broken at the other.

    Zero where it is wrong before any attack, infinity where nothing broke it.
    """
    found = [
        (row.proved or 0.0, math.inf if row.distance is None else row.distance)
        if row.clean == row.label
        else (0.0, 0.0)
        for row in result.per_example
    ]
    return tuple(sorted(found, key=lambda span: span[::-1]))


@dataclass(frozen=True)
class Point:
    """Where the attacks had come: passes per example so far, robust accuracy, and the round, 0 outside of rounds."""

    attack: str
    round: int
    passes: float
    accuracy: float


def course(result: Result) -> tuple[Point, ...]:
    """Robust accuracy against passes, from the clean run on."""
    each = max(result.examples, 1)
    if result.progress:
        return tuple(Point(p.attack, p.round, p.passes / each, p.standing / each) for p in result.progress)
    spent, points = 0, [Point("clean", 0, 0.0, standing(result)[0])]
    for attack, left in zip(result.attacks, standing(result)[1:], strict=True):
        spent += attack.forward + attack.backward
        points.append(Point(attack.name, 0, spent / each, left))
    return tuple(points)


@dataclass(frozen=True)
class Stop:
    """A stage that cost something, or a stretch of `count` rounds or of adaptive attacks: where it ended."""

    kind: Literal["stage", "rounds", "adaptive"]
    attack: str
    count: int
    passes: float
    accuracy: float
    rows: tuple[int, ...]
    """Which attacks of the result it is made of, counted from 1 as reports do; 0 is the clean run."""


def stops(result: Result) -> tuple[Stop, ...]:
    """The course in stretches, from the clean run on: what took turns, or was tried out one after the other, is one."""
    start, *course_ = course(result)
    rows = {start.attack: 0} | {attack.name: row for row, attack in enumerate(result.attacks, 1)}
    found = [_stop("stage", [start], rows)]
    for kind, points in groupby(course_, _kind):
        stretch = list(points)
        parts = [[point] for point in stretch] if kind == "stage" else [stretch]
        found += [_stop(kind, part, rows) for part in parts]
    return tuple(
        one for one, before in zip(found, [None, *found], strict=False) if not before or one.passes > before.passes
    )


def _stop(kind: Literal["stage", "rounds", "adaptive"], points: Sequence[Point], rows: Mapping[str, int]) -> Stop:
    end, of = points[-1], {rows[point.attack] for point in points if point.attack in rows}
    return Stop(kind, end.attack, len(points), end.passes, end.accuracy, tuple(sorted(of)))


def _kind(point: Point) -> Literal["stage", "rounds", "adaptive"]:
    if point.attack.startswith("adaptive"):
        return "adaptive"
    return "rounds" if point.round else "stage"


def names(results: Sequence[Result]) -> tuple[str, ...]:
    """What to call each result: its name, numbered where several carry the same (better: `told_apart`)."""
    return tuple(result.name for result in told_apart(results))


def told_apart(results: Sequence[Result], places: Sequence[Path | str] = ()) -> tuple[Result, ...]:
    """The results under names that no two of them share: where several carry the same, their folder follows.

    `places` are the folders or files that they were read from, one each; without them equal names are numbered.
    """
    called = [result.name for result in results]
    for name in dict.fromkeys(called) if places else ():
        same = [i for i, result in enumerate(results) if result.name == name]
        if len(same) > 1:
            for i, end in zip(same, _ends([Path(places[i]) for i in same]), strict=True):
                called[i] = f"{name} ({end})"
    taken: set[str] = set()
    for i, name in enumerate(called):
        numbered = (name, *(f"{name} ({k})" for k in range(2, len(called) + 2)))
        called[i] = next(one for one in numbered if one not in taken)
        taken.add(called[i])
    return tuple(
        result if result.name == name else result.model_copy(update={"name": name})
        for result, name in zip(results, called, strict=True)
    )


def _ends(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart, if any do; a result.json goes by its folder."""
    parts = [(place.parent if place.name == "result.json" else place).absolute().parts for place in places]
    lengths = range(1, max(map(len, parts)) + 1)
    return max(
        ([Path(*part[-length:]).as_posix() for part in parts] for length in lengths), key=lambda ends: len(set(ends))
    )


def classes(result: Result) -> tuple[str, ...]:
    """The names of the classes, in the order of the labels; empty where the run was not told."""
    listed = str(result.settings.get("classes") or "[]")
    return tuple(json.loads(listed)) if listed.startswith("[") else tuple(part.strip() for part in listed.split(","))


@dataclass(frozen=True)
class Pair:
    """How many of the same examples each of two models kept, and how likely so uneven a split is by chance."""

    both: int
    first: int
    second: int
    neither: int
    p: float
    """Exact McNemar test: two-sided binomial on the examples that only one of them kept."""


def pair(first: Result, second: Result) -> Pair | Obstacle:
    """Compare two results example by example, or say what stands in the way."""
    if "invalid" in (first.verdict, second.verdict):
        return "invalid"
    if first.threat != second.threat:
        return "threat"
    one, other = ({(row.index, row.label): keeps(row) for row in result.per_example} for result in (first, second))
    digests = {first.digest, second.digest} - {None}
    if one.keys() != other.keys() or len(digests) > 1:
        return "examples"
    counts = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for key, kept in one.items():
        counts[kept, other[key]] += 1
    return Pair(
        both=counts[True, True],
        first=counts[True, False],
        second=counts[False, True],
        neither=counts[False, False],
        p=_mcnemar(counts[True, False], counts[False, True]),
    )


def gate(result: Result, fail_under: float) -> str | None:
    """Why a result does not pass a gate at this robust accuracy; None where it is trusted, and high enough."""
    if result.verdict == "invalid":
        return "the verdict is invalid: there is no number to hold against the gate"
    if result.verdict == "suspect":
        return "the verdict is suspect: a number in doubt passes no gate"
    reached = result.robust_accuracy.estimate
    return None if reached >= fail_under else f"robust accuracy {reached:.4g} is under {fail_under:.4g}"


def _mcnemar(first: int, second: int) -> float:
    if first + second == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(first, first + second, 0.5).pvalue)
