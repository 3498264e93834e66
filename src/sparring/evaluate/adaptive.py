"""An adaptive attack without a hint: which loss, through which view of the model, by which attack?

Tramer et al. (2020) found such attacks by hand for thirteen defences, and Yao et al. (2021) by a search over losses
and transformations. Here candidates come from what is found inside of the model (functions of torch and modules that
stop gradients, randomness, saturation), and successive halving on a few examples keeps those that break most per pass.

An audit does this by itself where its checks doubt the gradients, through its own ledger; `adaptive` does it alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from sparring.attacks import RunnerUp, Through, pgd_cosine
from sparring.attacks.apgd import APGD
from sparring.attacks.sparse_rs import random_search
from sparring.errors import BadInput
from sparring.evaluate.given import with_gradients
from sparring.evaluate.ledger import Outcome
from sparring.evaluate.outputs import agree
from sparring.evaluate.routes import Part, parts, together
from sparring.evaluate.run import asked, home, one_thread, own_draws
from sparring.evaluate.suites import around
from sparring.goals import Untargeted, endless
from sparring.losses import cross_entropy, dlr, margin, probability_margin, targeted_margin
from sparring.mending import Stage, bridged, mended, nearby, obstacles, rescaled, survey
from sparring.models.loading import adopt
from sparring.models.victim import Victim, inference, scores
from sparring.steepness import Steep, moderated, steep
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Loss, Model, Threat
from sparring.views import Counted, eot, eot_until, settled, smoothed

T = TypeVar("T")
Lens = Callable[[Model], Model]
Rule = Callable[[Ball, Loss, int], Attack]

JUDGED = 32
"""Calls whose mean decides, for a model that is random."""

SAMPLE = 32
"""Examples that the search is made on, at most."""

SURVEYED = 8
"""Examples, of these, on which the parts of the model are looked at."""

PARTS = 16
"""Networks inside of the model that are attacked all at once, at most."""

PROBES = 50
"""Passes that a look at the parts costs on each of them, about."""

FIRST, LAST, LONG = 10, 40, 200
"""Steps of the first trial of a candidate, and of its runs on all examples: long ones where each step is a guess."""

RUNS = 3
"""How often each attack that was found is run on what stands."""

WANDERED = 3
"""Views, the likeliest ones, through which gradients are taken from around the point as well."""

SHARE = 1.0
"""What an audit may spend here, at most, as a share of the passes that it had spent until then."""


def climb(threat: Ball, loss: Loss, steps: int) -> Attack:
    """PGD with a cosine step."""
    return pgd_cosine(threat, steps=steps, loss=loss)


def climb_and_halve(threat: Ball, loss: Loss, steps: int) -> Attack:
    """Auto-PGD."""
    return APGD(threat=threat, steps=steps, loss=loss)


def aimed(threat: Ball, loss: Loss, steps: int) -> Attack:
    """PGD with a cosine step, towards any wrong class: the nearest may lie behind the same gate."""
    return RunnerUp(attack=pgd_cosine(threat, steps=steps, loss=loss), rank=None)


def wander(threat: Ball, loss: Loss, steps: int) -> Attack:
    """PGD with momentum, half of each gradient from somewhere around: ripples as long as the threat average out."""
    return replace(around(threat, steps=steps), loss=loss)


def blind(threat: Ball, loss: Loss, steps: int) -> Attack:
    """Square (for L0 and patches Sparse-RS), with two queries for a step's forward and backward pass."""
    return random_search(threat)(threat, queries=2 * steps)


@dataclass(frozen=True, kw_only=True)
class Onward:
    """An attack that does not stop at success: on a random model one success may be luck."""

    attack: Attack

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point of all its steps, `(B, *shape)`."""
        return self.attack(model, x, endless(goal), rng)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attack that may find no gradient where it looks for one: it hands back `x` then."""

    attack: Attack

    @property
    def threat(self) -> Threat:
        """The set that is searched."""
        return self.attack.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """What the attack found, or `x`, `(B, *shape)`."""
        try:
            return self.attack(model, x, goal, rng)
        except (BadInput, RuntimeError) as error:
            if "memory" in str(error).lower():
                raise  # a smaller batch may do
            return x


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One adaptive attack: a rule on a loss, through a view of a view ... of the model (the last is the outermost).

    `onward`: to the end, through success. `last`: the steps of its runs on all examples.
    """

    threat: Ball
    rule: Rule = climb
    loss: Loss = margin
    views: tuple[Lens, ...] = ()
    onward: bool = False
    last: int = LAST

    def run(self, steps: int, threat: Ball | None = None) -> Attack:
        """The attack of so many steps, on its own threat or on another."""
        attack = self.rule(threat or self.threat, self.loss, steps)
        if self.onward:
            attack = Onward(attack=attack)
        for view in reversed(self.views):
            attack = Through(view=view, attack=attack)
        return Attempt(attack=attack)

    def price(self, steps: int) -> int:
        """The most passes, forward and backward, that so many steps and judging them may cost on an example."""
        calls = 2 if self.rule is wander else 1
        for view in self.views:
            drawn = view.keywords if isinstance(view, partial) else {}
            calls *= drawn.get("most", drawn.get("draws", 0) + 1)
        return 2 * calls * (steps + 2) + 2

    def __str__(self) -> str:
        seen = [getattr(getattr(view, "func", view), "__name__", str(view)) for view in self.views]
        return f"{self.rule.__name__} on {self.loss.__name__}, {' of '.join(reversed(seen)) or 'exact'}"


@dataclass(frozen=True)
class Resized:
    """The attack of a candidate, on a threat of another size."""

    candidate: Candidate
    steps: int

    def __call__(self, threat: Ball) -> Attack:
        """The attack on this threat."""
        return self.candidate.run(self.steps, threat)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What stands in the way of gradients inside of a model."""

    random: bool = False
    blind: bool = False
    obstacles: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    steep: tuple[Steep, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate on the sample: which examples it broke, what that cost, and how near it came with the others."""

    candidate: Candidate
    steps: int
    broke: frozenset[int]
    passes: int
    nearness: float

    @property
    def merit(self) -> tuple[float, float]:
        """Newly broken per pass; where that is equal, how near the others came."""
        return len(self.broke) / max(self.passes, 1), self.nearness


def tried(candidate: Candidate, steps: int, outcomes: Mapping[int, Outcome], passes: int) -> Trial:
    """A trial, out of what a stage of an audit did."""
    near = [-math.inf if one.margin is None else min(one.margin, 0.0) for one in outcomes.values()]
    return Trial(
        candidate=candidate,
        steps=steps,
        broke=frozenset(example for example, one in outcomes.items() if one.counts),
        passes=passes,
        nearness=sum(max(one, -1e30) for one in near) / len(near),
    )


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What the search found, and what it did to all examples."""

    z: Tensor
    broken: Tensor
    robust_accuracy: float
    findings: Findings
    plan: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    passes: int


def examined(model: Model, x: Tensor, threat: Ball, rng: Streams) -> Findings:
    """Look for what stops gradients, on eight of the examples and around them; costs some fifty passes on each."""
    few, around = x[:SURVEYED], threat.sample(x, rng)[:SURVEYED]
    far = threat.low + threat.width * rng.at("far").uniform(*x.shape[1:], device=x.device)[:SURVEYED].to(x)
    with torch.no_grad():
        answers = torch.stack([model(few) for _ in range(3)])
    both = torch.cat([few, around])
    stop = _if_possible(obstacles, model, both)
    lenses: tuple[Lens | None, ...] = (mended, None) if stop else (None,)
    shut = {unit.call: unit for lens in lenses for unit in _if_possible(partial(steep, view=lens), model, both)}
    return Findings(
        random=not agree(answers[0], answers),
        blind=not _differentiable(model, few),
        obstacles=stop,
        stages=_if_possible(survey, model, around),
        steep=tuple(shut[call] for call in sorted(shut)),
        parts=_if_possible(parts, model, torch.cat([both, far]))[:PARTS],
    )


def _if_possible(look: Callable[[Model, Tensor], tuple[T, ...]], model: Model, x: Tensor) -> tuple[T, ...]:
    """What a look finds; nothing in a model, of another framework say, that cannot be run in parts or while watched."""
    try:
        return look(model, x)
    except Exception:  # whatever one of its parts raises, of inputs that it never gets
        return ()


def _differentiable(model: Model, x: Tensor) -> bool:
    with torch.enable_grad():
        point = x.clone().requires_grad_()
        try:
            (gradient,) = torch.autograd.grad(model(point).sum(), point, allow_unused=True)
        except (RuntimeError, NotImplementedError):
            return False
    return gradient is not None


def candidates(threat: Ball, found: Findings, classes: int) -> tuple[Candidate, ...]:
    """What is worth a try, the likeliest first: each view with each loss, then other rules on the best known loss.

    Where answers are none of `classes`, 0 of them, no scale of them and no vote of parts says what they say.
    """
    drawn: tuple[Lens, ...] = (settled(eot_until, draws=4, most=16),) if found.random else ()
    bridge, near = settled(bridged, stages=found.stages), settled(nearby, width=0.05 * threat.width, draws=4)
    cures: list[tuple[Lens, ...]] = []
    if found.steep:
        moderate = settled(moderated, units=found.steep, draws=3)
        cures += [(moderate,), *([(moderate, mended)] if found.obstacles else [])]
    if found.obstacles:
        cures.append((mended,))
    if found.stages:
        cures.append((bridge, mended))
    if not found.blind and not (found.obstacles or found.stages):
        cures.append(())  # what looks like steep units may be something else
    views: dict[tuple[Lens, ...], None] = {}
    for cure in cures:
        seen = (*cure, *drawn)
        alike = ((*seen, rescaled),) if classes else ()
        views |= dict.fromkeys([seen, *alike, (*seen, settled(smoothed, beta=25.0)), (*seen, near)])
    if not found.blind:
        views[drawn] = None
    of_classes: tuple[Loss, ...] = (probability_margin, dlr)[: 2 if classes >= 3 else bool(classes)]
    losses: tuple[Loss, ...] = (margin, cross_entropy, *of_classes)
    first = Candidate(threat=threat, onward=found.random)
    tried = [
        replace(first, views=(part, *drawn), loss=one, onward=True)
        for one in losses[:2]
        for part in (together(found.parts) if classes else ())
    ]
    tried += [replace(first, views=view) for view in views]
    tried += [replace(first, rule=wander, views=view, last=LONG) for view in list(views)[:WANDERED]]
    tried += [replace(first, views=view, loss=loss) for loss in losses[1:] for view in views]
    if classes >= 3:
        tried += [replace(first, rule=aimed, views=view, loss=targeted_margin) for view in views]
    tried += [replace(first, rule=climb_and_halve, views=view, loss=loss) for loss in losses[:2] for view in views]
    tried.append(replace(first, rule=blind, views=(settled(eot, draws=8),) if found.random else ()))
    return tuple(tried)


def halved(
    field: Sequence[Candidate],
    attempt: Callable[[Candidate, int], Trial],
    passes: float,
    *,
    examples: int,
    draws: int = 1,
) -> tuple[Trial, ...]:
    """Trials of candidates: short runs of all, runs twice as long of the better third, and so on to the best one.

    Successive halving (Jamieson and Talwalkar, 2016), on a sample of so many `examples`, for `passes` at most: a round
    may spend half of what is left, and runs what fits in at the worst, where a call of the model takes `draws`. Ends
    with a candidate that breaks the whole sample.
    """
    trials: list[Trial] = []
    steps = FIRST
    while field:
        done, purse = list[Trial](), passes if len(field) == 1 else passes / 2
        for one in field:
            if one.price(steps) * examples * draws <= purse:
                trial = attempt(one, steps)
                if len(trial.broke) == examples:
                    return (*trials, *done, trial)
                done.append(trial)
                purse, passes = purse - trial.passes, passes - trial.passes
        trials += done
        if len(field) == 1:
            break
        done.sort(key=lambda trial: trial.merit, reverse=True)
        field = [trial.candidate for trial in done[: -(-len(done) // 3)]]
        steps *= 2
    return tuple(trials)


def search(
    model: Model, x: Tensor, y: Tensor, threat: Ball, *, passes: int = 1000, seed: int = 0
) -> tuple[tuple[Candidate, ...], tuple[Trial, ...], Findings]:
    """The candidates that together break most of a sample, best first, with all trials.

    `passes` is what the trials may cost for each example of the sample, at most; it decides how many candidates are
    tried. What was found depends on these arguments alone.
    """
    with torch.no_grad():
        outputs = model(x)
    rng = Streams.of(seed, range(len(x)))
    found = examined(model, x, threat, rng.at("survey"))
    bench = _Bench(model, x, Untargeted(y), rng, found.random)
    trials = halved(candidates(threat, found, outputs.shape[1]), bench.trial, passes * len(x), examples=len(x))
    return cover(trials), trials, found


@dataclass(frozen=True)
class _Bench:
    """The sample on which candidates are tried."""

    model: Model
    x: Tensor
    goal: Untargeted
    rng: Streams
    random: bool

    def trial(self, one: Candidate, steps: int) -> Trial:
        """Run a candidate, and judge what it made on the model itself."""
        counted = Counted(self.model)
        z = one.run(steps)(counted, self.x, self.goal, self.rng.at(f"{one}, {steps}"))
        reached, score = _judged(self.model, z, self.goal, self.random)
        allowed = one.threat.contains(z, self.x)
        return Trial(
            candidate=one,
            steps=steps,
            broke=frozenset((reached & allowed).nonzero().flatten().tolist()),
            passes=counted.forward + counted.backward,
            nearness=float(torch.where(allowed, score, -torch.inf).clamp(max=0).nan_to_num(-1e30).mean()),
        )


def _judged(model: Model, z: Tensor, goal: Untargeted, random: bool) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        outputs = (eot(model, JUDGED) if random else model)(z)
        return goal.reached(outputs), margin(outputs, goal)


def cover(trials: Sequence[Trial]) -> tuple[Candidate, ...]:
    """The candidate that broke most in all, then what broke most of the rest, each once; then the best of the last."""
    plan: list[Candidate] = []
    rest = frozenset[int]().union(*(trial.broke for trial in trials))
    while rest:
        best = max(trials, key=lambda trial: (len(trial.broke & rest), *trial.merit))
        if not best.broke & rest:
            break
        rest -= best.broke
        if best.candidate not in plan:
            plan.append(best.candidate)
    last = max(trials, key=lambda trial: (trial.steps, *trial.merit), default=None)
    if last is not None and last.candidate not in plan:
        plan.append(last.candidate)
    return tuple(plan)


@with_gradients()
def adaptive(
    model: object,
    x: Tensor,
    y: Tensor,
    threat: Ball,
    *,
    passes: int = 1000,
    steps: int = LAST,
    restarts: int = RUNS,
    seed: int = 0,
) -> Adapted:
    """Find an adaptive attack on a few examples, and attack all of them with it.

    `model` is of any framework, with nothing said about what it does. `passes` is what the search may cost for each
    of at most 32 sampled examples; then what it ranked runs on all examples, `steps` steps, `restarts` times,
    each on what still stands. A model that is random is judged by the mean of 32 calls, afresh at the end. Inputs
    `(B, *shape)`, labels `(B,)`. Torch's global random numbers, from which a random model draws, are set by `seed` and
    given back.

    Raises:
        BadInput: a model that does not return scores for two or more classes.

    """
    victim = adopt(model, example=x[:1])
    x, y = x.clone().to(home(victim)), y.to(home(victim))
    with _quiet(victim, seed) as answer:
        counted, goal = Counted(answer), Untargeted(y)
        place = _sampled(counted, x, y)
        ranked, trials, found = search(counted, x[place], y[place], threat, passes=passes, seed=seed)
        broken, score = _judged(counted, x, goal, found.random)
        z, rng = x.detach().clone(), Streams.of(seed, range(len(x))).at("all")
        for run in range(restarts):
            if found.random and run:  # what is broken by luck alone is attacked again
                broken, score = _judged(counted, z, goal, found.random)
            for one in ranked:
                rows = (~broken).nonzero().flatten()
                if not len(rows):
                    break
                point = one.run(steps)(counted, x[rows], goal[rows], rng[rows].at(f"{run}, {one}"))
                reached, near = _judged(counted, point, goal[rows], found.random)
                better = threat.contains(point, x[rows]) & (reached | (near > score[rows]))
                z[rows[better]], score[rows[better]] = point[better], near[better]
                broken[rows[better & reached]] = True
        if found.random:
            broken = _judged(counted, z, goal, found.random)[0]
    return Adapted(
        z=z,
        broken=broken,
        robust_accuracy=1 - float(broken.float().mean()),
        findings=found,
        plan=ranked,
        trials=trials,
        passes=counted.forward + counted.backward,
    )


def _sampled(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Positions of at most 32 examples that are right, evenly spread."""
    with torch.no_grad():
        right = (scores(model, x).argmax(1) == y).nonzero().flatten()
    take = torch.linspace(0, max(len(right) - 1, 0), min(SAMPLE, len(right))).round().long()
    return right[take] if len(right) else torch.arange(min(SAMPLE, len(x)))


@contextmanager
def _quiet(victim: Victim, seed: int) -> Iterator[Model]:
    """The model in inference mode on one thread, with random numbers of its own."""
    with one_thread(), inference(victim), own_draws(seed):
        yield asked(victim)
