"""What a defence is worth: under attack without it, with it, and with it against an attack that knows it.

Three numbers, on the same examples:

- **bare**: without the defence;
- **unaware**: with it, against the examples that were made on the bare model, transferred;
- **adaptive**: with it, attacked through the view that it hands out itself; what the transferred examples break is
  broken here too.

The last is the one that counts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Restarts, pgd_cosine
from sparring.attacks.sparse_rs import random_search
from sparring.attacks.within import Within
from sparring.errors import BadInput
from sparring.evaluate import identity
from sparring.evaluate.assembly import joined
from sparring.evaluate.checks import UNAWARE
from sparring.evaluate.given import Examples, ball, examples, with_gradients
from sparring.evaluate.judging import exact, judge
from sparring.evaluate.ledger import admit
from sparring.evaluate.outputs import agree
from sparring.evaluate.result import AttackRecord, Defended, Interval, Result, Verdict
from sparring.evaluate.run import accept, asked, home, one_thread, own_draws
from sparring.evaluate.statistics import clopper_pearson
from sparring.evaluate.suites import last_resort
from sparring.evaluate.verdict import audit
from sparring.goals import Never, Untargeted
from sparring.losses import cross_entropy, margin
from sparring.models.loading import adopt
from sparring.models.torch import function
from sparring.models.victim import Victim, are_probabilities, inference
from sparring.registry import find
from sparring.streams import Streams
from sparring.threats import Ball, linf, parse
from sparring.types import Attack, Boxed, Data, Defence, Learns, Model
from sparring.views import Counted, eot, logarithms

JUDGED = 64
"""Calls whose mean decides, for a defence that is random."""

SAMPLED = 8
"""Examples on which is seen what kind of model it is: one of probabilities, a random one."""

LEARNED_FROM = 2000
"""Examples that a defence learns from, at most, unless told."""

QUERIES = 1000
"""Of random search, on a model of probabilities: where these are 0 and 1, their logarithms do not help."""

BATCH = 200

TRANSFER = "unaware transfer"
"""What an adaptive audit calls the attack with the examples that were made on the bare model."""


@dataclass(frozen=True, kw_only=True)
class Faced:
    """Accuracies of a model and of its defence, with exact intervals: clean, and under three attacks."""

    examples: int
    clean: Interval
    defended: Interval
    bare: Interval
    unaware: Interval
    adaptive: Interval


@dataclass(frozen=True, kw_only=True)
class DefenceAudit:
    """Two audits and a transfer attack: `bare` without the defence, `adaptive` through the view that it hands out.

    `unaware` is the accuracy with it on what PGD made of the examples on the bare model, none where one of the audits
    is invalid; `missed` counts what that broke and the adaptive attacks did not. In `adaptive` it is broken, by
    "unaware transfer".
    """

    name: str
    bare: Result
    unaware: Interval | None
    adaptive: Result
    missed: int

    @property
    def verdict(self) -> Verdict:
        """The adaptive audit's, which is suspect where an attack that knows less breaks what it left standing."""
        return self.adaptive.verdict

    @property
    def reasons(self) -> tuple[str, ...]:
        """Those of the verdict, in words."""
        return self.adaptive.reasons


def climb(threat: Ball, steps: int = 40, *, queries: int = 0) -> Restarts:
    """What is climbed without the defence and with it: PGD on the margin, then on the cross-entropy.

    With `queries`, then a random search, which asks for no gradient: that of a stand-in may lead astray.
    """
    attacks: list[Attack] = [pgd_cosine(threat, steps=steps, loss=loss) for loss in (margin, cross_entropy)]
    if queries:
        attacks.append(random_search(threat)(threat, queries=queries))
    return Restarts(attacks=tuple(attacks), times=len(attacks))


def chosen(defence: Defence | Learns | str) -> Defence | Learns:
    """A defence, by its name in the registry too.

    Raises:
        BadInput: no defence of this name, or something that is none.
    """
    made = find("defences", defence).make() if isinstance(defence, str) else defence
    if not isinstance(made, Defence | Learns):
        raise BadInput(
            f"a {type(made).__name__} for a defence",
            "defend, adaptive and draws, or fit",
            "see: sparring list defences",
        )
    return made


def ready(
    defence: Defence | Learns | str, model: Victim | Model, train: Data | None, audited: Data | None = None
) -> Defence:
    """A defence that has learned from the first of these examples what it has to, for inputs like those `audited`.

    Raises:
        BadInput: it has to learn, and there is nothing to learn from, or only inputs of another shape or range.
    """
    made = chosen(defence)
    if isinstance(made, Defence):
        return made
    if train is None or not len(train):
        raise BadInput("a defence that learns, without examples", "training data", "pass train=, a data set")
    x, labels = train.take(range(min(LEARNED_FROM, len(train))))
    accept(x, train, linf(0.0))
    if audited is not None and (shape := tuple(audited.take([0])[0].shape[1:])) != x.shape[1:]:
        raise BadInput(f"training inputs of shape {tuple(x.shape[1:])}", f"those of the audit, {shape}", "give others")
    return made.fit(model.call if isinstance(model, Victim) else model, x, labels)


@with_gradients()
def face(
    model: object,
    defence: Defence,
    data: Examples,
    threat: Boxed | str,
    *,
    attack: Attack | None = None,
    seed: int = 0,
) -> Faced:
    """The three numbers, by one attack: PGD on the margin and on the cross-entropy unless told, 40 steps each.

    Then Square on a model of probabilities; an attack by scores or decisions alone where there are no gradients.
    Threats of no norm want an attack of theirs. The same attack runs on the bare model and on the adaptive view,
    averaged over `defence.draws` calls where that is random. Whoever knows the defence can do what somebody who does
    not can: what the transferred examples break is broken for the adaptive attack too. A random defence is judged by
    the mean of 64 calls. Not an audit: no checks and no verdict.

    Raises:
        BadInput: inputs that are not finite, or not from 0 to 1.
    """
    threat, subject = parse(threat) if isinstance(threat, str) else threat, examples(data)
    _in_range(threat)
    victim = adopt(model, example=subject.take([0])[0])
    climber = attack or _usual(victim, subject, ball(threat))
    counts = torch.zeros(5, dtype=torch.int64)
    with one_thread():
        for rows in torch.arange(len(subject)).split(BATCH):  # type: ignore[no-untyped-call]
            x, y = (part.to(home(victim)) for part in subject.take(rows.tolist()))
            accept(x, subject, threat)
            counts += _counted(victim, defence, x, y, attack=climber, rng=Streams.of(seed, rows))
    names = ("clean", "defended", "bare", "unaware", "adaptive")
    found = {name: clopper_pearson(int(n), len(subject)) for name, n in zip(names, counts, strict=True)}
    return Faced(examples=len(subject), **found)


def _in_range(threat: Boxed) -> None:
    """Refuse inputs of another range than defences are made for: they would clip or round them to something else."""
    if getattr(threat, "discrete", False):
        do = "put a cleaner before the model: behind(model, latin)"
        raise BadInput(f"{threat} for a defence", "a threat on numbers", do)
    if (threat.low, threat.high) != (0, 1):
        given = f"inputs from {threat.low:g} to {threat.high:g} for a defence"
        raise BadInput(given, "inputs from 0 to 1", "put the scaling inside of the model")


def _counted(victim: Victim, defence: Defence, x: Tensor, y: Tensor, *, attack: Attack, rng: Streams) -> Tensor:
    """How many stand: clean, defended, bare, unaware, adaptive."""
    bare, attack = asked(victim), Within(attack=attack)
    deployed, view = defence.defend(victim.call), defence.adaptive(victim.call)
    with inference(victim), inference(deployed), inference(view), own_draws("face", int(rng.keys[0])):
        judge = _judge(deployed, x, defence.draws)
        z = attack(_climbed(bare, x), x, Never(y), rng.at("bare"))
        climbed, goal = (view, Untargeted(y)) if defence.draws == 1 else (eot(view, defence.draws), Never(y))
        known = attack(_climbed(climbed, x), x, goal, rng.at("adaptive"))
        with torch.no_grad():
            cases = ((bare, x), (judge, x), (bare, z), (judge, z), (judge, known))
            stand = torch.stack([model(at).argmax(1) == y for model, at in cases])
    stand[4] &= stand[3]
    return stand.sum(1).cpu()


def _usual(victim: Victim, data: Data, threat: Ball) -> Attack:
    """What a model is attacked by unless told: PGD; by scores too where gradients may vanish, or there are none."""
    if victim.access != "gradients":
        return last_resort(threat, access=victim.access)
    with inference(victim), torch.no_grad():
        outputs = asked(victim)(data.take(range(min(SAMPLED, len(data))))[0].to(home(victim)))
    return climb(threat, queries=QUERIES if are_probabilities(outputs) else 0)


def _climbed(model: Model, x: Tensor) -> Model:
    """The view of a model that attacks climb: of its logarithms, where it gives probabilities."""
    with torch.no_grad():
        return logarithms(model) if are_probabilities(model(x[:SAMPLED])) else model


def _judge(model: Model, x: Tensor, draws: int) -> Model:
    """Who judges a defended model: itself; where it is random, the mean of many calls."""
    few = x[:SAMPLED]
    with torch.no_grad():
        steady = draws == 1 and agree(model(few), model(few))
    return model if steady else eot(model, JUDGED)


@with_gradients()
def audit_defence(
    model: object,
    defence: Defence | Learns | str,
    data: Examples,
    threat: Ball | str,
    *,
    train: Data | None = None,
    limit: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    command: str | None = None,
    **settings: Any,
) -> DefenceAudit:
    """Audit a defence: the model without it, and with it through the view that knows it; the verdict is the latter's.

    `defence` may be a name (`sparring list defences`); one that has to learn does so from the first 2000 examples of
    `train`. `settings` are those of `sparring.audit`. With `out`, a folder, the audit of the defended model is written
    there, with the three numbers as `defence` in its result, and that of the bare model in its folder `bare`.

    Raises:
        BadInput: what `sparring.audit` refuses, inputs that are not from 0 to 1, an unknown defence, or one that has
            nothing to learn from.
    """
    threat, subject = ball(threat), examples(data, limit)
    _in_range(threat)
    victim = adopt(model, example=subject.take([0])[0])
    name = defence if isinstance(defence, str) else type(defence).__name__.lower()
    made, folder = ready(defence, victim, train, subject), Path(out) if out is not None else None
    deployed, known = (_behind(victim, model, name) for model in (made.defend(victim.call), made.adaptive(victim.call)))
    x = subject.take(range(min(SAMPLED, len(subject))))[0].to(home(victim))
    with own_draws(seed, "defence"):  # what it refuses is refused before the bare model takes its time
        outputs = _agreeing(deployed, known, torch.cat([x, _around(threat, x, seed)]), made.draws)[: len(x)]
    known = replace(known, probabilities=victim.access != "labels" and are_probabilities(outputs))
    if folder is not None:
        behind, resume = identity.of_attack(made), bool(settings.get("resume", False))
        admit(folder / "ledger.sqlite", {"defence": behind}, resume=resume)  # before the bare model takes its time
    bare = audit(victim, subject, threat, seed=seed, out=folder / "bare" if folder else None, **settings)
    adaptive = audit(known, subject, threat, seed=seed, out=folder, command=command, behind=made, **settings)
    unaware, missed, checks = None, 0, adaptive.checks
    if "invalid" not in (bare.verdict, adaptive.verdict):  # else nothing can be said of what would be attacked
        attack, fell = _transferred(victim, deployed, made.draws, subject, threat, seed=seed)
        adaptive = joined(adaptive, attack, fell)
        unaware, missed = clopper_pearson(len(subject) - len(fell), len(subject)), adaptive.attacks[-1].broke
        said = f"{missed} examples fell to an attack that does not know the defence, and not to the adaptive one"
        checks = (*checks, UNAWARE.answered(said, bad=missed > 0))
        if not adaptive.robust_accuracy.estimate:
            checks = exact(checks)
    verdict, reasons = judge(checks)
    numbers = Defended(
        name=name,
        bare=_stood(bare),
        unaware=None if unaware is None else unaware.estimate,
        adaptive=_stood(adaptive),
        missed=missed,
    )
    said_of_all = {"checks": checks, "verdict": verdict, "reasons": reasons, "defence": numbers}
    adaptive = adaptive.model_copy(update=said_of_all)
    if folder is not None:
        adaptive.save(folder / "result.json")
    return DefenceAudit(name=name, bare=bare, unaware=unaware, adaptive=adaptive, missed=missed)


def _around(threat: Ball, x: Tensor, seed: int) -> Tensor:
    """Points of the ball at random, where attacks go."""
    return threat.sample(x, Streams.of(seed, range(len(x))).at("defence"))


def _agreeing(deployed: Victim, known: Victim, x: Tensor, draws: int) -> Tensor:
    """What the defended model says; the view that its attacks climb has to say the same, where neither is random.

    Raises:
        BadInput: other outputs.
    """
    with inference(deployed), inference(known), torch.no_grad():
        outputs, seen = asked(deployed)(x), asked(known)(x)
        same = draws > 1 or (outputs.shape == seen.shape and agree(outputs, seen))
        if not same and agree(outputs, asked(deployed)(x)):
            raise BadInput(
                "a defence whose adaptive view gives other outputs than the model that it deploys",
                "the same outputs, with gradients to climb",
                "let adaptive(model) change the backward pass alone (sparring.views.bpda)",
            )
    return outputs


def _stood(result: Result) -> float | None:
    """Robust accuracy, where it may be quoted."""
    return None if result.verdict == "invalid" else result.robust_accuracy.estimate


def _behind(victim: Victim, model: Model, name: str) -> Victim:
    """A view of a victim as one of its own, that lets an attacker have what the victim does."""
    found = (
        adopt(model) if isinstance(model, nn.Module) else function(model)
    )  # a torch function, whatever it looks like
    return replace(found, name=f"{victim.name} behind {name}", access=victim.access, framework=victim.framework)


def _transferred(
    victim: Victim, defended: Victim, draws: int, data: Data, threat: Ball, *, seed: int
) -> tuple[AttackRecord, dict[int, float]]:
    """The unaware attack: what it cost, and which examples it breaks with the defence, at which distances."""
    fell, started = dict[int, float](), time.perf_counter()
    attack = _usual(victim, data, threat)
    bare, deployed = Counted(asked(victim)), Counted(asked(defended))
    with one_thread(), inference(victim), inference(defended):
        for rows in torch.arange(len(data)).split(BATCH):  # type: ignore[no-untyped-call]
            x, y = (part.to(home(victim)) for part in data.take(rows.tolist()))
            with own_draws(seed, "unaware", int(rows[0])):
                z = Within(attack=attack)(_climbed(bare, x), x, Never(y), Streams.of(seed, rows).at("bare"))
                with torch.no_grad():
                    broken = (_judge(deployed, x, draws)(z).argmax(1) != y).cpu()
            distances = threat.distance(z, x).cpu()[broken]
            fell |= dict(zip(rows[broken].tolist(), distances.tolist(), strict=True))
    record = AttackRecord(
        name=TRANSFER,
        config=identity.of_attack(attack),
        broke=0,
        attacked=len(data),
        forward=bare.forward + deployed.forward,
        backward=bare.backward,
        seconds=time.perf_counter() - started,
    )
    return record, fell
