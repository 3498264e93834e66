"""The audit: doctor, attacks on what is still unbroken, checks of the finished run, verdict."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sparring import __version__
from sparring.attacks.grid import Grid
from sparring.attacks.restarts import Restarts
from sparring.errors import BadInput
from sparring.evaluate import adaptive, identity
from sparring.evaluate import checks as run_checks
from sparring.evaluate.bracket import WALKS, Prover, entry, prover
from sparring.evaluate.doctor import Diagnosis, examine
from sparring.evaluate.given import Examples, ball, examples, with_gradients
from sparring.evaluate.ledger import Cost, Ledger, Outcome
from sparring.evaluate.result import (
    AttackRecord,
    Check,
    CurvePoint,
    Example,
    Forecast,
    Interval,
    Passes,
    Progress,
    Result,
    Verdict,
    environment,
    recorded,
)
from sparring.evaluate.run import DRAWS, Ring, Runner, Watch, asked, home, one_thread, own_draws, silent, workforce
from sparring.evaluate.schedule import Round, choose, outlook, settled
from sparring.evaluate.statistics import clopper_pearson, spread
from sparring.evaluate.suites import Suite, build, last_resort, margin_runs, out_of_the_data
from sparring.models.loading import adopt
from sparring.models.victim import Victim, inference
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Access, Attack, Data, Defence

if TYPE_CHECKING:
    from sparring.report.gallery import Gallery

CURVE = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Where accuracy is measured, as multiples of the audited eps."""

PICTURES = 12
SAMPLE = 128
"""Examples that a question to the finished run is put to, at most."""

Make = Callable[[Ball], Attack]
"""An attack of the same kind on a threat of any size."""


@with_gradients()
def audit(
    model: object,
    data: Examples,
    threat: Ball | str,
    *,
    suite: str = "standard",
    passes: int | None = None,
    certify: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int = 1,
    out: Path | str | None = None,
    resume: bool = False,
    name: str | None = None,
    command: str | None = None,
    watch: Watch | None = None,
    behind: Defence | None = None,
) -> Result:
    """Find out how robust a model is, and whether that number can be trusted.

    `model` is of any framework (`sparring.models.adopt`); `data` a `Data`, inputs `(N, *shape)` in the threat's bounds
    with labels `(N,)`, or the name of a data set; `threat` a ball, or its text (`"linf:8/255"`). With `out`, a folder,
    the run keeps a ledger there, from which `resume` goes on, and leaves `result.json` and `gallery.npz`.
    `watch(stage, done, total)` is told of progress.

    `passes` is the budget of the suite's rounds, forward and backward passes an example, where it is not to be the
    suite's own. `certify` names a certificate: with all cheaper ones it is asked, after the first attacks, which of the
    examples that stand are proved to stand, and in the end how far, so that the result brackets the truth from below
    too. What is proved is not attacked again at that size. Beyond eps those certificates are asked that proved
    something at eps, short of it all, and branch and bound, which takes seconds an example, at eps alone.

    `behind` is the defence whose adaptive view `model` is, where it is one (`sparring.audit_defence`): a run is resumed
    with the same one only, and a random model is averaged over as many calls as it asks for, over 8 at least; over 32
    times as many before any attack, and before a success is believed.

    The result depends on model, data, threat, suite, passes, certify and seed alone: not on `batch_size` (chosen by
    free memory unless given; 32 for a model that is random), not on `workers` (processes, each on one thread), not on
    interruptions. The model comes back as it was given.

    Where checks doubt the gradients, attacks are fitted to the model, without a hint, for as many passes again at most
    as were spent until then. What they break counts, the check `adaptive` says how much it was, and the verdict stays
    suspect.

    Raises:
        BadInput: what cannot be audited: no examples, an unknown suite, a run in `out` with other settings; a model
            that cannot be certified, where that was asked for.
    """
    started, threat = time.perf_counter(), ball(threat)
    if threat.norm.name == "linf" and threat.eps > threat.high - threat.low:
        raise BadInput(f"{threat} on inputs from {threat.low:g} to {threat.high:g}", "an eps within them", "lower it")
    if passes is not None and passes < 0:
        raise BadInput(f"passes={passes}", "0 or more", "leave it out for the suite's own")
    subject = examples(data, limit)
    victim = adopt(model, name=name, example=subject.take([0])[0])
    folder = Path(out) if out is not None else None
    with one_thread():
        with own_draws(seed, "doctor"):
            diagnosis = examine(victim, subject, threat, seed=seed)
        case = _Case(
            victim=treated(victim, diagnosis),
            data=subject,
            threat=threat,
            suite=suite,
            passes=passes,
            certify=certify,
            seed=seed,
            behind=behind,
            diagnosis=diagnosis,
            command=command or f"sparring.audit({victim.name}, {subject.name}, {threat}, suite={suite!r}, seed={seed})",
        )
        plan = case.plan()
        proving = None if certify is None else prover(victim, subject, threat, certify)
        if diagnosis.invalid:
            result = _result(case, _Story())
            if folder is not None:
                with Ledger(folder / "ledger.sqlite", case.settings(), resume=resume) as ledger:
                    ledger.finish()
                (folder / "gallery.npz").unlink(missing_ok=True)  # an earlier run's pictures are not this one's
        else:
            result = _run(
                case,
                plan,
                folder,
                proving=proving,
                batch_size=batch_size,
                count=workers,
                watch=watch or silent,
                resume=resume,
            )
    result = result.model_copy(update={"seconds": result.seconds + time.perf_counter() - started})
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / "result.json")
    return result


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What is audited, and what the doctor said of it."""

    victim: Victim
    data: Data
    threat: Ball
    suite: str
    passes: int | None
    certify: str | None
    seed: int
    behind: Defence | None
    diagnosis: Diagnosis
    command: str

    @property
    def access(self) -> Access:
        """What the attacker has, once looked at: a model without gradients gives scores."""
        found = self.diagnosis
        return "scores" if self.victim.access == "gradients" and not found.differentiable else self.victim.access

    @property
    def draws(self) -> int:
        """Calls that are averaged; one where the model is not random."""
        if not self.diagnosis.failed("randomness"):
            return 1
        return DRAWS if self.behind is None else max(DRAWS, self.behind.draws)

    def plan(self) -> Suite:
        """The suite; where gradients cannot be relied on, with a long black-box attack on all that stands."""
        plan = build(self.suite, self.threat, self.access, self.diagnosis.classes)
        doubtful = ("gradients", "finite-differences", "shattered-gradients")
        if self.access == "gradients" and any(self.diagnosis.failed(name) for name in doubtful):
            blind = build(self.suite, self.threat, "scores", self.diagnosis.classes)
            longer = (replace(s, name=f"{s.name}-long") for s in blind.stages if s.role == "black box")
            plan = replace(plan, opening=(*plan.opening, *longer))
        return plan if self.passes is None else replace(plan, passes=self.passes)

    def climber(self, *, steps: int, times: int) -> Make:
        """A short attack for the checks and the curve, of the strongest kind that the model allows."""
        if self.access == "gradients":
            return partial(margin_runs, steps=steps, times=times)
        return partial(last_resort, access=self.access)

    def sizes(self, more: int = 0) -> tuple[float, ...]:
        """The sizes of the curve: the audited eps and multiples of it, `more` of them, no larger than the box."""
        factors = (*CURVE, *(CURVE[-1] * (i + 1) / more for i in range(more)))
        largest = _whole_box(self.threat, 1).eps if self.threat.norm.name == "linf" else float("inf")
        sizes = {float(f"{self.threat.eps * factor:.6g}") if factor != 1 else self.threat.eps for factor in factors}
        if self.threat.norm.name == "l0":
            sizes = {float(int(size)) for size in sizes if size >= 1}
        return tuple(sorted(size for size in sizes if size <= largest))

    def settings(self) -> dict[str, object]:
        """What the result depends on, for the ledger: to resume, it must be the same."""
        return {
            "version": __version__,
            "model": identity.of_model(self.victim, self.data, steady=self.draws == 1),
            "defence": None if self.behind is None else identity.of_attack(self.behind),
            "data": identity.of_data(self.data),
            "threat": f"{self.threat} in {self.threat.low:g}..{self.threat.high:g}",
            "suite": self.suite,
            "passes": self.passes,
            "certify": self.certify,
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class _Blow:
    """What broke an example: the stage, the attack that it ran, and how far it had to go."""

    stage: str
    attack: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class _Story:
    """What happened: the outcomes and costs of every stage, the stages of every attack, and who broke whom."""

    outcomes: Mapping[str, Mapping[int, Outcome]] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    fought: Mapping[str, tuple[object, tuple[str, ...]]] = field(default_factory=dict)
    broken: Mapping[int, _Blow] = field(default_factory=dict)
    proved: Mapping[int, float] | None = None
    progress: tuple[Progress, ...] = ()
    outlook: Forecast | None = None
    checks: tuple[Check, ...] = ()


def treated(victim: Victim, diagnosis: Diagnosis) -> Victim:
    """The victim as the remedies want it: known probabilities are attacked through their logarithms."""
    return replace(victim, probabilities=victim.probabilities or diagnosis.failed("logits"))


def _whole_box(threat: Ball, numel: int) -> Ball:
    """The threat at the size at which it holds the whole box."""
    one = torch.full((1, numel), threat.high - threat.low)
    return threat.at(float(threat.norm.size(one)))


def _run(
    case: _Case,
    plan: Suite,
    folder: Path | None,
    *,
    proving: Callable[[Ledger, Watch], Prover] | None,
    batch_size: int | None,
    count: int,
    watch: Watch,
    resume: bool,
) -> Result:
    """Attack, check, judge. Every sweep goes through the ledger, so that a second call goes on where one stopped."""
    ring = Ring(victim=case.victim, data=case.data, threat=case.threat, seed=case.seed, draws=case.draws)
    path = folder / "ledger.sqlite" if folder is not None else None
    size, settings = ring.batch_size(batch_size), {} if path is None else case.settings()
    with workforce(ring, count) as pool, Ledger(path, settings, resume=resume) as ledger:
        runner = Runner(ring=ring, ledger=ledger, batch_size=size, pool=pool, watch=watch)
        story = _fight(case, plan, runner, None if proving is None else proving(ledger, watch))
        result = _result(case, story)
        if folder is not None:
            from sparring.report.gallery import save

            save(_pictures(case, story, ledger), folder / "gallery.npz")
        ledger.finish()
    return result.model_copy(update={"seconds": ledger.before})


class _Bout:
    """The audit while it runs: what has been swept, and what stands. Nothing in it outlives the run but its story."""

    def __init__(self, case: _Case, runner: Runner) -> None:
        self.case, self.runner = case, runner
        self.outcomes: dict[str, dict[int, Outcome]] = {}
        self.roles: dict[str, tuple[str, ...]] = {}
        self.fought: dict[str, tuple[object, tuple[str, ...]]] = {}
        self.broken: dict[int, _Blow] = {}
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
        return self.credit(stage, name or stage, attack, outcomes)

    def credit(self, stage: str, name: str, attack: object, outcomes: Mapping[int, Outcome]) -> int:
        """Count a stage's successes for the attack of this name; how many examples it broke."""
        kind, known = self.fought.get(name, (attack, ()))
        self.fought[name] = (kind, (*known, stage))
        before = len(self.broken)
        for example, outcome in outcomes.items():
            if outcome.counts and outcome.distance is not None:
                self.broken.setdefault(example, _Blow(stage=stage, attack=name, distance=outcome.distance))
        return len(self.broken) - before

    def ranked(self) -> list[int]:
        """What can still fall of what was right, the nearest to it first."""
        standing = [example for example in self.right if example not in self.broken and example not in self.proved]
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
            chance=_chance(clean),
        )
        return run_checks.read(record)

    def story(self, **more: Any) -> _Story:
        """What happened so far."""
        costs = {stage: self.runner.ledger.cost(stage) for stage in self.outcomes}
        return _Story(
            outcomes=self.outcomes,
            costs=costs,
            fought=self.fought,
            broken=self.broken,
            progress=tuple(self.progress),
            **more,
        )


def _fight(case: _Case, plan: Suite, runner: Runner, prover: Prover | None) -> _Story:
    """The whole bout: clean, opening, certificates, rounds of the menu, closing, and what the checks ask for."""
    bout = _Bout(case, runner)
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
    proved = None if prover is None else bout.proved
    return bout.story(outlook=outlook(rounds) if rounds else None, checks=bout.checks(), proved=proved)


def _rounds(plan: Suite, bout: _Bout) -> list[Round]:
    """Slices of the menu, the most promising next, while something stands and is likely to fall."""
    slices = {stage.name: stage for stage in plan.menu}
    count = len(bout.case.data)
    rounds: list[Round] = []
    while (
        slices
        and (standing := bout.ranked())
        and not settled(rounds, plan.passes * count, tolerance=plan.tolerance * count)
    ):
        chosen = choose(tuple(slices), standing, rounds, plan.passes * count)
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


def _ask(plan: Suite, bout: _Bout) -> None:
    """Attacks that only serve the checks; what they break counts all the same."""
    case, right = bout.case, bout.right
    standing = sorted(bout.ranked())
    few = [standing[place] for place in spread(len(standing), SAMPLE)]
    half = case.threat.times(0.5)
    bout.fight("half-eps", "half", case.climber(steps=20, times=1)(half), few)
    white = tuple(stage.attack for stage in plan.stages if stage.role == "white box")[:3]
    for role in ("control", "single step"):
        weak = bout.roles.get(role, ())
        fell = [example for example in right if example in bout.broken and bout.broken[example].stage in weak]
        if white and fell:
            bout.sweep(f"after {role}", f"after {role}", Restarts(attacks=white, times=len(white)), fell[:SAMPLE])
    if right:
        whole = _whole_box(case.threat, case.data.take([0])[0][0].numel())
        attack = out_of_the_data(whole) if case.access == "gradients" else case.climber(steps=40, times=5)(whole)
        bout.sweep("unbounded", "unbounded", attack, [right[place] for place in spread(len(right), 64)])


def _doubted(bout: _Bout) -> bool:
    """Whether a check says that gradients mislead, of a model that can be looked into."""
    case = bout.case
    checks = (*case.diagnosis.checks, *bout.checks())
    failed, warned = ({check.name for check in checks if check.outcome == outcome} for outcome in ("fail", "warn"))
    doubted = failed & run_checks.DOUBTFUL or run_checks.HIDDEN in warned
    return case.victim.access == "gradients" and bool(doubted)


def _adapt(bout: _Bout) -> Make:
    """Fit attacks to the model: a search on a few of what stands, then what it found on all of it, the nearest first.

    Costs no more than `adaptive.SHARE` of what was spent until then, half of it at most on the search. Returns the
    best attack that was found, or where nothing stands the likeliest, for the curve.
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
    field = tuple(replace(one, onward=found.random) for one in field)
    if not standing:
        return adaptive.Resized(field[0], steps=20)

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
            fit = bout.ranked()[: max(0, int(passes / (ring.draws * one.price(adaptive.LAST))))]
            if fit:
                name, stage = f"adaptive: {one}", f"adaptive: {one} #{run + 1}"
                bout.fight(stage, "adaptive", one.run(adaptive.LAST), fit, name)
                bout.note(name, stage, run + 1)
                passes -= bout.cost(stage)
    return adaptive.Resized((*plan, *field)[0], steps=20)


def _survey(bout: _Bout, few: Sequence[int]) -> adaptive.Findings:
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


def _trace(plan: Suite, bout: _Bout, climber: Make) -> None:
    """The curve; what is broken on the way, within eps, counts. What is proved all along is not attacked."""
    case = bout.case
    eps, sizes = case.threat.eps, case.sizes()
    right = [example for example in bout.right if bout.proved.get(example, 0.0) < sizes[-1]]
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
        if wanted and some:
            grid = Grid(make=climber, ball=case.threat, sizes=some)
            bout.fight(name, "curve", grid, wanted, "curve")


def _prove(bout: _Bout, prover: Prover) -> Mapping[int, str]:
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


def _outward(bout: _Bout, prover: Prover) -> None:
    """Up to which larger size of the curve stands what is proved to stand at eps, by what was of use there."""
    reached = bout.safest(list(bout.proved))
    for size in (size for size in bout.case.sizes() if size > bout.case.threat.eps):
        found = prover(size, reached).proved
        bout.proved.update(dict.fromkeys(found, size))
        reached = [example for example in reached if example in found]


def _inward(bout: _Bout, prover: Prover) -> None:
    """Up to which smaller size stands what is not proved at eps, as far as it was not broken nearer."""
    fell = _nearest(bout.broken, bout.fought, bout.outcomes)
    for size in (size for size in reversed(bout.case.sizes()) if size < bout.case.threat.eps):
        some = [example for example in bout.right if example not in bout.proved and fell.get(example, math.inf) > size]
        bout.proved.update(dict.fromkeys(prover(size, bout.safest(some)).proved, size))


def _nearest(
    broken: Mapping[int, _Blow],
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


def _result(case: _Case, story: _Story) -> Result:
    """Numbers, checks and verdict, out of what happened."""
    clean, broken = story.outcomes.get("clean", {}), story.broken
    correct = [example for example, outcome in clean.items() if not outcome.reached and outcome.prediction >= 0]
    checks = (*case.diagnosis.checks, *story.checks)
    if story.fought and len(broken) == len(correct):
        checks = run_checks.exact(checks)
    verdict, reasons = judge(checks)
    count = len(clean)
    found = _nearest(broken, story.fought, story.outcomes)

    def certified(eps: float) -> float | None:
        """What is right is proved to stand where nothing changes."""
        if story.proved is None:
            return None
        return sum(size >= eps for size in story.proved.values()) / count if eps else len(correct) / count

    accuracy = clopper_pearson(len(correct), count)
    robust = clopper_pearson(len(correct) - len(broken), count)
    if not story.fought:  # nothing was attacked: that bounds nothing but what the clean accuracy does
        robust = Interval(estimate=accuracy.estimate, low=0.0, high=1.0)
    rows = tuple(
        Example(
            index=example,
            label=outcome.label,
            clean=outcome.prediction,
            broken_by=broken[example].attack if example in broken else None,
            distance=found.get(example),
            certified=None if story.proved is None else story.proved.get(example, 0.0) >= case.threat.eps,
            proved=None if story.proved is None else story.proved.get(example, 0.0),
        )
        for example, outcome in sorted(clean.items())
    )
    _agree(rows)
    fine = 32 if case.plan().nearest is not None else 0
    attacks = {stage for _, stages in story.fought.values() for stage in stages}
    blows = Counter(blow.attack for blow in broken.values())
    costs = [*story.costs.values(), Cost(forward=case.diagnosis.forward, backward=case.diagnosis.backward)]
    return Result(
        schema=1,
        verdict=verdict,
        reasons=reasons,
        name=case.victim.name,
        command=case.command,
        examples=count,
        threat=recorded(case.threat),
        clean_accuracy=accuracy,
        robust_accuracy=robust,
        certified_accuracy=None
        if story.proved is None
        else clopper_pearson(sum(size >= case.threat.eps for size in story.proved.values()), count),
        curve=tuple(
            CurvePoint(eps=eps, robust_accuracy=_standing(rows, eps), certified_accuracy=certified(eps))
            for eps in (0.0, *case.sizes(fine))
        )
        if story.fought
        else (),
        checks=checks,
        attacks=tuple(
            _record(name, stages, story, config=identity.of_attack(attack), broke=blows[name])
            for name, (attack, stages) in story.fought.items()
        ),
        stages=tuple(_record(name, (name,), story) for name in story.outcomes if name not in attacks),
        progress=story.progress,
        outlook=None
        if story.outlook is None
        else story.outlook.model_copy(update={"examples": min(story.outlook.examples, len(correct) - len(broken))}),
        passes=Passes(forward=sum(cost.forward for cost in costs), backward=sum(cost.backward for cost in costs)),
        seconds=0.0,
        seed=case.seed,
        settings={
            "suite": case.suite,
            "passes": case.passes,
            "certify": case.certify,
            "model": case.victim.name,
            "framework": case.victim.framework,
            "access": case.access,
            "data": case.data.name,
            "classes": ", ".join(case.data.classes),
        },
        environment=environment(),
        per_example=rows,
    )


def _agree(rows: Sequence[Example]) -> None:
    """Refuse a proof and an attack that contradict each other: one of the two is wrong, and nothing can be said."""
    for row in rows:
        if row.proved and row.distance is not None and row.proved > row.distance:
            raise BadInput(
                f"example {row.index}, which is proved to stand within {row.proved:g}, and broken at {row.distance:g}",
                "a network that is the same function for certificates and for attacks",
                "audit it without --certify, and report this: the certificate is wrong, or the network changes",
            )


def _standing(rows: Sequence[Example], eps: float) -> float:
    """The share of examples that are right, and not known to fall within `eps`."""
    within = eps * (1 + 1e-4)  # recorded distances are rounded
    far = (row.distance is None or row.distance > within for row in rows if row.clean == row.label)
    return sum(far) / len(rows)


def joined(result: Result, attack: AttackRecord, fell: Mapping[int, float]) -> Result:
    """A result with one more attack: what it broke, of what still stood, counts, as if it had been the last one.

    `fell` are the examples that fall to it within the audited eps, and at which distances; how many it `broke` is
    counted here. Checks, reasons and verdict stay as they are.
    """
    new = {row.index for row in result.per_example if row.clean == row.label and row.broken_by is None} & fell.keys()
    rows = tuple(
        row.model_copy(update={"broken_by": attack.name, "distance": fell[row.index]}) if row.index in new else row
        for row in result.per_example
    )
    left = sum(row.clean == row.label and row.broken_by is None for row in rows)
    passes = (result.progress[-1].passes if result.progress else 0) + attack.forward + attack.backward
    last = Progress(attack=attack.name, passes=passes, standing=left)
    seen = result.outlook
    return result.model_copy(
        update={
            "robust_accuracy": clopper_pearson(left, len(rows)),
            "curve": tuple(
                point.model_copy(update={"robust_accuracy": _standing(rows, point.eps)}) for point in result.curve
            ),
            "attacks": (*result.attacks, attack.model_copy(update={"broke": len(new)})),
            "progress": (*result.progress, last),
            "outlook": seen and seen.model_copy(update={"examples": min(seen.examples, left)}),
            "passes": Passes(
                forward=result.passes.forward + attack.forward, backward=result.passes.backward + attack.backward
            ),
            "seconds": result.seconds + attack.seconds,
            "per_example": rows,
        }
    )


def _record(name: str, stages: Sequence[str], story: _Story, *, config: str = "", broke: int = 0) -> AttackRecord:
    costs = [story.costs[stage] for stage in stages]
    return AttackRecord(
        name=name,
        config=config,
        broke=broke,
        attacked=len({example for stage in stages for example in story.outcomes[stage]}),
        forward=sum(cost.forward for cost in costs),
        backward=sum(cost.backward for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
    )


def judge(checks: Sequence[Check]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict: as bad as the worst failed check; the reasons in words."""
    failed = [check for check in checks if check.outcome == "fail"]
    reasons = tuple(f"{check.evidence} → {check.remedy}" if check.remedy else check.evidence for check in failed)
    if any(check.fatal for check in failed):
        return "invalid", reasons
    if failed:
        return "suspect", reasons
    counts = Counter(check.outcome for check in checks)
    warned = f", {counts['warn']} warned" if counts["warn"] else ""
    return "trusted", (f"{counts['pass']} checks passed, none failed{warned}",)


def _pictures(case: _Case, story: _Story, ledger: Ledger) -> Gallery:
    """The first examples that were broken, before and after."""
    from sparring.report.gallery import Picture, confidence

    pictures: list[Picture] = []
    model, probabilities = asked(case.victim), case.victim.probabilities
    for example in sorted(story.broken):
        z = ledger.point(story.broken[example].stage, example)
        if z is None or len(pictures) == PICTURES:
            break
        x, y = case.data.take([example])
        with torch.no_grad(), inference(case.victim), own_draws(case.seed, "pictures", example):
            before, after = model(torch.cat([x, z.unsqueeze(0)]).to(home(case.victim))).cpu().numpy()
        pictures.append(
            Picture(
                index=example,
                label=int(y),
                clean=confidence(before, probabilities),
                attacked=confidence(after, probabilities),
                x=x[0].numpy(),
                z=z.numpy(),
            )
        )
    return tuple(pictures)
