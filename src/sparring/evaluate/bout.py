"""The bout: attacks on what is still unbroken, certificates for what stands, and what the checks ask for."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from sparring.attacks import each_way
from sparring.attacks.grid import Grid
from sparring.attacks.restarts import Restarts
from sparring.attacks.through import Through
from sparring.evaluate import adaptive
from sparring.evaluate import checks as run_checks
from sparring.evaluate.bracket import WALKS, Prover, entry
from sparring.evaluate.case import Case, Make
from sparring.evaluate.doctor import calls_leave_no_trace
from sparring.evaluate.ledger import Cost, Outcome
from sparring.evaluate.result import Check, Forecast, Progress
from sparring.evaluate.run import Runner, home, own_draws
from sparring.evaluate.schedule import Round, choose, outlook, settled, unfinished
from sparring.evaluate.statistics import spread
from sparring.evaluate.suites import Suite, out_of_the_data
from sparring.losses import dlr
from sparring.mending import mended
from sparring.models.victim import inference
from sparring.streams import Streams
from sparring.tasks import of
from sparring.threats import Ball
from sparring.types import Attack, Thorough

CLEARLY = 1e-4
"""By how much the worst of all members has to miss the goal, in units of the scores: the last digits of float32 change
with the batch, so that a tie there is a success here."""

SAMPLE = 128
"""Examples that a question to the finished run is put to, at most."""


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What broke an example: the stage, the attack that it ran, and how far it had to go."""

    stage: str
    attack: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened: the outcomes and costs of every stage, the stages of every attack, and who broke whom."""

    outcomes: Mapping[str, Mapping[int, Outcome]] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    fought: Mapping[str, tuple[object, tuple[str, ...]]] = field(default_factory=dict)
    broken: Mapping[int, Blow] = field(default_factory=dict)
    proved: Mapping[int, float] | None = None
    progress: tuple[Progress, ...] = ()
    outlook: Forecast | None = None
    checks: tuple[Check, ...] = ()


class Bout:
    """The audit while it runs: what has been swept, and what stands. Nothing in it outlives the run but its story."""

    def __init__(self, case: Case, runner: Runner) -> None:
        self.case, self.runner = case, runner
        self.outcomes: dict[str, dict[int, Outcome]] = {}
        self.roles: dict[str, tuple[str, ...]] = {}
        self.fought: dict[str, tuple[object, tuple[str, ...]]] = {}
        self.broken: dict[int, Blow] = {}
        self.nearness: dict[int, float] = {}
        self.proved: dict[int, float] = {}
        self.progress: list[Progress] = []

    def sweep(self, stage: str, role: str, attack: Attack | None, examples: Sequence[int]) -> dict[int, Outcome]:
        """Run a stage, and note how near it came with each example."""
        self.outcomes[stage] = self.runner.sweep(stage, attack, examples)
        self.roles[role] = (*self.roles.get(role, ()), stage)
        return self.outcomes[stage]

    def fight(self, stage: str, role: str, attack: Attack, examples: Sequence[int], name: str = "") -> int:
        """A sweep whose successes count, by an attack of this `name`; how many examples it broke."""
        outcomes = self.sweep(stage, role, attack, examples)
        for example, outcome in outcomes.items():
            if outcome.margin is not None and not outcome.counts:
                self.nearness[example] = max(outcome.margin, self.nearness.get(example, -math.inf))
        self.tried(attack, outcomes)
        return self.credit(stage, name or stage, attack, outcomes)

    def credit(self, stage: str, name: str, attack: object, outcomes: Mapping[int, Outcome]) -> int:
        """Count a stage's successes for the attack of this name; how many examples it broke."""
        kind, known = self.fought.get(name, (attack, ()))
        self.fought[name] = (kind, (*known, stage))
        before = len(self.broken)
        for example, outcome in outcomes.items():
            if outcome.counts and outcome.distance is not None:
                self.broken.setdefault(example, Blow(stage=stage, attack=name, distance=outcome.distance))
        return len(self.broken) - before

    def tried(self, attack: Attack, outcomes: Mapping[int, Outcome]) -> None:
        """What stood is proved up to the size of which the attack tries every member, if it is one that does.

        By the worst of them, as the judge finds it: a number, and clearly no success.
        """
        stood = [
            example
            for example, one in outcomes.items()
            if not one.reached and one.margin is not None and one.margin < -CLEARLY
        ]
        if isinstance(attack, Thorough) and self.runner.ring.draws == 1 and stood:
            sizes = attack.tried(self.case.data.take(stood)[0]).tolist()
            for example, size in zip(stood, sizes, strict=True):
                if size:
                    self.proved[example] = max(size, self.proved.get(example, 0.0))

    def standing(self, size: float) -> list[int]:
        """What was right, and is not proved up to this size."""
        return [example for example in self.right if self.proved.get(example, 0.0) < size]

    def ranked(self) -> list[int]:
        """What can still fall of what was right, the nearest to it first."""
        standing = [example for example in self.standing(self.case.threat.eps) if example not in self.broken]
        return sorted(standing, key=lambda example: (-self.nearness.get(example, -math.inf), example))

    def safest(self, examples: Sequence[int]) -> list[int]:
        """These examples, the furthest from falling first."""
        return sorted(examples, key=lambda example: (self.nearness.get(example, -math.inf), example))

    @property
    def right(self) -> list[int]:
        """What was right before any attack."""
        return [example for example, outcome in self.outcomes["clean"].items() if not outcome.reached]

    def cost(self, stage: str) -> int:
        """Forward and backward passes of a stage."""
        cost = self.runner.ledger.cost(stage)
        return cost.forward + cost.backward

    def note(self, attack: str, stage: str, number: int = 0) -> None:
        """Enter a stage, or a round of this number, into the course of the run."""
        before = self.progress[-1].passes if self.progress else 0
        standing = len(self.right) - len(self.broken)
        passes = before + self.cost(stage)
        self.progress.append(Progress(attack=attack, round=number, passes=passes, standing=standing))

    def checks(self) -> tuple[Check, ...]:
        """What the run says so far."""
        case, clean = self.case, self.outcomes["clean"]
        record = run_checks.Record(
            threat=case.threat,
            access=case.access,
            examples=len(case.data),
            roles=self.roles,
            outcomes=self.outcomes,
            chance=_chance(clean) if case.diagnosis.classes else case.diagnosis.unmoved,
        )
        return run_checks.read(record)

    def story(self, **more: Any) -> Story:
        """What happened so far."""
        costs = {stage: self.runner.ledger.cost(stage) for stage in self.outcomes}
        return Story(
            outcomes=self.outcomes,
            costs=costs,
            fought=self.fought,
            broken=self.broken,
            progress=tuple(self.progress),
            **more,
        )


def fight(case: Case, plan: Suite, runner: Runner, prover: Prover | None) -> Story:
    """The whole bout: clean, opening, certificates, rounds of the menu, closing, and what the checks ask for."""
    bout = Bout(case, runner)
    clean = bout.sweep("clean", "clean", None, range(len(case.data)))
    spoiled = [outcome for outcome in clean.values() if outcome.prediction < 0 or outcome.rejected]
    if spoiled:
        return bout.story(checks=(_spoiled(spoiled, case.threat),))
    bout.note("clean", "clean")
    bout.nearness.update({example: outcome.margin or -math.inf for example, outcome in clean.items()})

    for stage in plan.opening:
        bout.fight(stage.name, stage.role, stage.attack, sorted(bout.ranked()))
        bout.note(stage.name, stage.name)
    by = {} if prover is None else _prove(bout, prover)
    rounds = _rounds(plan, bout)
    for stage in plan.closing:
        bout.fight(stage.name, stage.role, stage.attack, bout.ranked()[: plan.hardest])
        bout.note(stage.name, stage.name)
    _ask(plan, bout)
    climber = _adapt(bout) if _doubted(bout) else case.climber(steps=20, times=1)
    if prover is not None:
        _outward(bout, prover.among(WALKS & set(by.values())))
    _trace(plan, bout, climber)
    if prover is not None:
        _inward(bout, prover.among(WALKS))
    proved, late = bout.proved if bout.proved or prover is not None else None, _asked_again(bout)
    return bout.story(outlook=outlook(rounds) if rounds else None, checks=(*bout.checks(), *late), proved=proved)


def _rounds(plan: Suite, bout: Bout) -> list[Round]:
    """Slices of the menu, the most promising next, while something stands and is likely to fall, or still does."""
    slices = {stage.name: stage for stage in (*plan.menu, *plan.longer)}
    budget, tolerance = (share * len(bout.case.data) for share in (plan.passes, plan.tolerance))
    rounds: list[Round] = []
    while standing := bout.ranked():
        done = settled(rounds, budget, tolerance)
        menu = () if plan.strict else tuple(stage.name for stage in plan.menu)
        names = unfinished(menu, rounds) if done else tuple(slices)
        if not names:
            break
        chosen = choose(names, standing, rounds, budget, nearest=done)
        stage = slices[chosen.slice]
        label = f"{stage.name} #{len(rounds) + 1}"
        broke = bout.fight(label, stage.role, stage.attack, chosen.examples, stage.name)
        bout.note(stage.name, label, len(rounds) + 1)
        passes = bout.cost(label)
        rounds.append(
            Round(
                slice=stage.name,
                band=chosen.band,
                broke=broke,
                passes=passes,
                examples=len(chosen.examples),
                expected=chosen.expected(passes),
            )
        )
        if late := tuple(f"{one.slice} #{k}" for k, one in enumerate(rounds, 1) if k > len(rounds) / 2):
            bout.roles["again"] = late
    return rounds


def _ask(plan: Suite, bout: Bout) -> None:
    """Attacks that only serve the checks; what they break counts all the same."""
    case, right = bout.case, bout.right
    standing = sorted(bout.ranked())
    few = [standing[place] for place in spread(len(standing), SAMPLE)]
    half = case.threat.times(0.5)
    bout.fight("half-eps", "half", case.climber(steps=20, times=1)(half), few)
    white = tuple(stage.attack for stage in plan.stages if stage.role == "white box")[:3]
    if case.threat.discrete:
        white = tuple(stage.attack for stage in plan.opening if stage.role == "black box")[-3:]
    for role in ("control", "single step"):
        weak = bout.roles.get(role, ())
        fell = [example for example in right if example in bout.broken and bout.broken[example].stage in weak]
        if white and fell:
            bout.sweep(f"after {role}", f"after {role}", Restarts(attacks=white, times=len(white)), fell[:SAMPLE])
    if right:
        whole = case.threat.whole(case.data.take([0])[0])
        attack = out_of_the_data(whole) if case.climbs else case.climber(steps=40, times=5)(whole)
        attack = each_way(attack) if of(case.data).two_ways else attack
        if case.diagnosis.warned("hidden-paths") and not case.diagnosis.failed("gradients"):
            attack = Through(view=mended, attack=attack)  # a cut that moves no decision nearby stops it far away
        bout.sweep("unbounded", "unbounded", attack, [right[place] for place in spread(len(right), 64)])


def _asked_again(bout: Bout) -> tuple[Check, ...]:
    """Clean examples once more: a model that learns or counts where the doctor does not look is another one by now."""
    if bout.case.victim.access != "gradients" or bout.runner.ring.draws > 1:
        return ()  # queries may be dear, and random answers differ
    right, clean = bout.right, bout.outcomes["clean"]
    found = bout.sweep("afterwards", "afterwards", None, [right[place] for place in spread(len(right), 64)])
    before = {example: abs(clean[example].margin or 0.0) for example in found}
    moved = (abs(abs(one.margin or 0.0) - before[example]) for example, one in found.items())
    if not found or max(moved) <= 1e-3 * median(before.values()):
        return ()
    return (calls_leave_no_trace.question.failed("the model gives other answers after the run than before it"),)


def _doubted(bout: Bout) -> bool:
    """Whether a check says that gradients mislead, of a model that can be looked into, or networks inside of it may."""
    case = bout.case
    checks = (*case.diagnosis.checks, *bout.checks())
    failed, warned = ({check.name for check in checks if check.outcome == outcome} for outcome in ("fail", "warn"))
    doubted = failed & run_checks.DOUBTFUL or warned & run_checks.HINTS or case.diagnosis.rivals
    return case.victim.access == "gradients" and not case.threat.discrete and bool(doubted)


def _adapt(bout: Bout) -> Make:
    """Fit attacks to the model: a search on a few of what stands, then what it found on all of it, the nearest first.

    Costs no more than `adaptive.SHARE` of what was spent until then, half of it at most on the search. Returns, for the
    curve, the best attack that was found, or where nothing was tried the likeliest.
    """
    case, ring = bout.case, bout.runner.ring
    passes = adaptive.SHARE * sum(bout.cost(stage) for stage in bout.outcomes)
    standing = sorted(bout.ranked())
    some = standing or bout.right
    few = [some[place] for place in spread(len(some), adaptive.SAMPLE)]
    if not few:
        return case.climber(steps=20, times=1)
    found = _survey(bout, few)
    passes -= bout.cost("survey")
    field = adaptive.candidates(case.threat, replace(found, random=False), case.diagnosis.classes)  # draws are averaged
    field = tuple(replace(one, onward=one.onward or found.random) for one in field)
    if case.diagnosis.failed("scale"):
        field = tuple(sorted(field, key=lambda one: one.loss is not dlr))
    if not standing:
        return _backed(adaptive.Resized(field[0], steps=20), case)

    def attempt(one: adaptive.Candidate, steps: int) -> adaptive.Trial:
        stage = f"adaptive: {one}, {steps} steps"
        bout.fought.setdefault("adaptive search", (tuple(map(str, field)), ()))
        bout.fight(stage, "adaptive", one.run(steps), few, "adaptive search")
        bout.note("adaptive search", stage)
        return adaptive.tried(one, steps, bout.outcomes[stage], bout.cost(stage))

    trials = adaptive.halved(field, attempt, passes / 2, examples=len(few), draws=ring.draws)
    passes -= sum(trial.passes for trial in trials)
    plan = adaptive.cover(trials)
    for run in range(adaptive.RUNS):
        for one in plan:
            fit = bout.ranked()[: max(0, int(passes / (ring.draws * one.price(one.last))))]
            if fit:
                name, stage = f"adaptive: {one}", f"adaptive: {one} #{run + 1}"
                bout.fight(stage, "adaptive", one.run(one.last), fit, name)
                bout.note(name, stage, run + 1)
                passes -= bout.cost(stage)
    return _backed(adaptive.Resized((*plan, *field)[0], steps=20), case)


def _backed(fitted: Make, case: Case) -> Make:
    """The fitted attack, and behind it the plain one where there are gradients: what was fitted may be worse."""
    return Behind(fitted, case.climber(steps=20, times=1)) if case.access == "gradients" else fitted


@dataclass(frozen=True)
class Behind:
    """An attack, and behind it another one on what it leaves."""

    first: Make
    second: Make

    def __call__(self, threat: Ball) -> Attack:
        """Both on this threat."""
        return Restarts(attacks=(self.first(threat), self.second(threat)), times=2)


def _survey(bout: Bout, few: Sequence[int]) -> adaptive.Findings:
    """What stops gradients inside of the model. A resumed run looks again, and enters the cost once."""
    case, ring, ledger = bout.case, bout.runner.ring, bout.runner.ledger
    started, model = time.perf_counter(), ring.attacked()
    x, rng = case.data.take(few)[0].to(home(case.victim)), Streams.of(case.seed, few).at("survey")
    with inference(case.victim), own_draws(case.seed, "survey"):
        found = adaptive.examined(model, x, case.threat, rng)
    if "survey" not in ledger.stages():
        parts = adaptive.PROBES * len(x[: adaptive.SURVEYED])
        forward, backward = ring.draws * (model.forward + parts), ring.draws * model.backward
        cost = Cost(forward=forward, backward=backward, seconds=time.perf_counter() - started)
        ledger.record("survey", (), cost)
    bout.outcomes["survey"] = {}
    return found


def _trace(plan: Suite, bout: Bout, climber: Make) -> None:
    """The curve; what is broken on the way, within eps, counts. What is proved all along is not attacked."""
    case = bout.case
    eps, sizes = case.threat.eps, case.sizes()
    right = bout.standing(sizes[-1])
    if plan.nearest is not None:
        bout.fight("curve", "curve", plan.nearest(case.threat.at(sizes[-1])), right)
        return
    # What stands at eps is only tried at larger sizes, what fell only at smaller ones.
    stood = set(right) - set(bout.broken)
    above, below = tuple(size for size in sizes if size > eps), tuple(size for size in sizes if size < eps)
    for name, wanted, some in (
        ("curve above", [one for one in right if one in stood], above),
        ("curve below", [one for one in right if one not in stood], below),
    ):
        if wanted and some and case.threat.discrete:
            _stepwise(bout, name, climber, wanted, some)
        elif wanted and some:
            bout.fight(name, "curve", Grid(make=climber, ball=case.threat, sizes=some), wanted, "curve")


def _stepwise(bout: Bout, name: str, climber: Make, wanted: Sequence[int], sizes: Sequence[float]) -> None:
    """Size by size, from the largest down, on what fell at the one before; of a single change on all: that proves."""
    falling = wanted
    for size in sorted(sizes, reverse=True):
        stage = f"{name}: {size:g}"
        some = wanted if size == 1 else falling
        bout.fight(stage, "curve", climber(bout.case.threat.at(size)), some, "curve")
        falling = [example for example in some if bout.outcomes[stage][example].reached]


def _prove(bout: Bout, prover: Prover) -> Mapping[int, str]:
    """What stands is proved, as far as it can be, or is broken on the way; what proved each example."""
    eps = bout.case.threat.eps
    found = prover(eps, bout.ranked()[::-1])
    bout.proved.update(dict.fromkeys(found.proved, eps))
    for name, certificate in prover.rungs:
        outcomes, stage = found.outcomes[name], entry(name, eps)
        if any(outcome.counts for outcome in outcomes.values()):
            bout.outcomes[stage] = dict(outcomes)
            bout.credit(stage, name, certificate, outcomes)
            bout.note(name, stage)
    return found.proved


def _outward(bout: Bout, prover: Prover) -> None:
    """Up to which larger size of the curve stands what is proved to stand at eps, by what was of use there."""
    reached = bout.safest(list(bout.proved))
    for size in (size for size in bout.case.sizes() if size > bout.case.threat.eps):
        found = prover(size, reached).proved
        bout.proved.update(dict.fromkeys(found, size))
        reached = [example for example in reached if example in found]


def _inward(bout: Bout, prover: Prover) -> None:
    """Up to which smaller size stands what is not proved at eps, as far as it was not broken nearer."""
    fell = nearest(bout.broken, bout.fought, bout.outcomes)
    for size in (size for size in reversed(bout.case.sizes()) if size < bout.case.threat.eps):
        some = [example for example in bout.right if example not in bout.proved and fell.get(example, math.inf) > size]
        bout.proved.update(dict.fromkeys(prover(size, bout.safest(some)).proved, size))


def nearest(
    broken: Mapping[int, Blow],
    fought: Mapping[str, tuple[object, tuple[str, ...]]],
    outcomes: Mapping[str, Mapping[int, Outcome]],
) -> dict[int, float]:
    """The least distance at which each example was broken, by attacks and on the way of the curve."""
    found = {example: blow.distance for example, blow in broken.items()}
    for stage in fought.get("curve", (None, ()))[1]:
        for example, outcome in outcomes[stage].items():
            if outcome.distance is not None:
                found[example] = min(outcome.distance, found.get(example, outcome.distance))
    return found


def _chance(clean: Mapping[int, Outcome]) -> float:
    """What always naming the commonest label would get right."""
    labels = [outcome.label for outcome in clean.values()]
    return max(map(labels.count, set(labels))) / len(labels)


def _spoiled(rows: Sequence[Outcome], threat: Ball) -> Check:
    """Examples that the doctor's sample did not hold: not finite, or out of bounds."""
    places = ", ".join(str(outcome.example) for outcome in rows[:5])
    said = f"{len(rows)} examples are not finite, or outside of {threat.low:g} to {threat.high:g}: {places}"
    return run_checks.EVERY_INPUT.failed(said)
