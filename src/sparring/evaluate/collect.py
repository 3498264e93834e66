"""Run one attack over a data set, judge what it made, and keep it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from inspect import Parameter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparring import __version__
from sparring.attacks import Restarts, pgd
from sparring.attacks.sparse_rs import random_search
from sparring.data.texts import Texts
from sparring.errors import BadInput, MayPass, named
from sparring.evaluate import identity
from sparring.evaluate.case import treated
from sparring.evaluate.doctor import Diagnosis, examine
from sparring.evaluate.ledger import Cost, Ledger
from sparring.evaluate.own import code_of, guarded, watched
from sparring.evaluate.run import DRAWS, Ring, Runner, Watch, accept, asked, home, one_thread, silent, workforce
from sparring.goals import Untargeted
from sparring.losses import cross_entropy, dlr, logit, margin, probability_margin
from sparring.models.victim import Victim, inference, scores, unwritten
from sparring.registry import Entry, members
from sparring.spelling import hint
from sparring.streams import Streams
from sparring.tasks import Classification
from sparring.threats import Ball, linf
from sparring.training.fitting import counted, fits, settings_of
from sparring.types import Amortised, Attack, Boxed, Data
from sparring.writing import in_one_move

LESSONS = 500
"""The examples that an attack learns from, if it is one that learns: the first of the data."""


CLEAN = "clean"
"""The stage that only looks at the examples; an attack has a stage of its own name."""

RESTARTS = Parameter("restarts", Parameter.KEYWORD_ONLY, default=1, annotation="int")
"""The setting that runs an attack so many times, each on what still stands."""

LOSSES = {loss.__name__.replace("_", "-"): loss for loss in (cross_entropy, margin, dlr, logit, probability_margin)}
"""What the setting `loss` may say in a word."""


@dataclass(frozen=True, kw_only=True)
class Catch:
    """What an attack made: positions of the examples that it broke, with what they are in files.

    `texts` is a file with those that are texts, each with its true label, as `sparring.data.texts.load_tsv` reads it.
    `rejected` are the examples for which it handed over a success outside of its threat or of the bounds. `cost` is
    that of attacking, `learning` that of learning from the first `learned_from` examples before. `record` is the file
    that says all this to a machine.
    """

    examples: int
    already_wrong: int
    broken: tuple[int, ...]
    survive_storage: int
    rejected: int
    cost: Cost
    file: Path
    record: Path
    texts: Path | None = None
    learned_from: int = 0
    learning: Cost = field(default_factory=Cost)

    @property
    def right_before(self) -> int:
        """The examples that the model gets right: those that are attacked."""
        return self.examples - self.already_wrong


def collect(
    victim: Victim,
    data: Data,
    entry: Entry,
    threat: Boxed,
    out: Path,
    *,
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int = 1,
    resume: bool = False,
    watch: Watch = silent,
) -> Catch:
    """Attack every example that the model gets right, and write the successes to `out/adversarial.npz`.

    The file holds `index` (N,), `label` (N,), `prediction` (N,), `x` and `z` (N, *shape) float32, and `distance` (N,).
    Where answers are no classes, labels are as the task has them, and predictions 1: places in `tasks.ANSWERS`.
    `out/attack.json` says what was run and what it cost. A killed run resumes from the ledger in `out`. The doctor
    looks first, as before an audit; within 8/255 of the range, where the threat is no ball.

    `settings` are those of the attack's factory; `loss` may be one of `LOSSES` by name, where the factory's is a
    function. `restarts` fits every attack that does not learn: so many runs, each on what still stands within the
    threat. Of an attack that is none of Sparring's own, a run is resumed with the same code alone.

    Raises:
        BadInput: an attack that is not for this threat or this model, settings that it does not take, a set-up in
            which nothing can be believed, or an attack or a threat of one's own that raises, or returns something else.
    """
    _suits(entry, data, threat)
    taken = chosen(entry, settings or {})
    attack = _made(entry, threat, taken)
    code = code_of(entry.make, attack)
    attack = _repeated(entry, guarded(attack, entry.name, watched(threat)) if code else attack, taken)
    with one_thread(), unwritten(victim):
        small = linf(8 / 255 * (threat.high - threat.low), low=threat.low, high=threat.high)
        diagnosis = examine(victim, data, threat if isinstance(threat, Ball) else small, seed=seed)
        _sound(entry, diagnosis)
        victim = treated(victim, diagnosis)
        draws = DRAWS if diagnosis.failed("randomness") else 1
        ring = Ring(victim=victim, data=data, threat=watched(threat), seed=seed, draws=draws, kept=len(data))
        key: dict[str, object] = {
            "version": __version__,
            "model": identity.of_model(victim, data, steady=draws == 1),
            "data": identity.of_data(data),
            "attack": identity.of_attack(attack),
            "seed": seed,
            **({"code": code} if code else {}),
            **({} if isinstance(ring.task, Classification) else {"task": str(ring.task)}),
        }
        stage = f"{entry.name} (attack)" if entry.name == CLEAN else entry.name
        size = ring.batch_size(batch_size)
        with workforce(ring, workers) as pool, Ledger(out / "ledger.sqlite", key, resume=resume) as ledger:
            runner = Runner(ring=ring, ledger=ledger, batch_size=size, pool=pool, watch=watch)
            with _unblocked(ledger, stage):
                ready, lessons, learning = _taught(ring, stage, attack)
                found = replace(_run(runner, stage, ready, out), learned_from=lessons, learning=learning)
            record = _plain(_record(entry, taken, threat, key, found))
            with in_one_move(found.record) as stream:
                stream.write(json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
            ledger.finish()
    return found


def strike(victim: Victim, data: Data, threat: Ball, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A few examples, what an attack on the model's decisions makes of them, and these: `x`, `z`, `(B,)` classes.

    In memory and unjudged. Wrong decisions are attacked as well as right ones; by PGD where the model gives gradients,
    else by a random search of a thousand queries.

    Raises:
        BadInput: a model that does not return a score for each of two or more classes; inputs that are not finite, or
            outside of the bounds.
    """
    places = range(len(data))
    x = data.take(places)[0].to(home(victim))
    accept(x, data, threat)
    if threat.discrete:
        raise BadInput(f"{threat} to explain", "inputs that are numbers", "run: sparring attack, or sparring audit")
    attack = pgd(threat) if victim.access == "gradients" else random_search(threat)(threat, queries=1000)
    with one_thread(), unwritten(victim), inference(victim):
        with torch.no_grad():
            decided = scores(victim, x).argmax(1)
        z = attack(asked(victim), x, Untargeted(decided), Streams.of(seed, places))
    return x, z, decided


def _settings(entry: Entry) -> dict[str, Parameter]:
    """What may be set of an attack: what its factory takes, and `RESTARTS`, unless that means something of its own.

    Raises:
        BadInput: it does not say, as some functions and classes that are not written in Python.
    """
    try:
        known = settings_of(entry.make)
    except (TypeError, ValueError):
        need = "a factory: a function (threat) -> Attack"
        raise BadInput(f"{entry.name} does not say what it takes", need, "wrap it in one") from None
    return known if "restarts" in known else {**known, "restarts": RESTARTS}


def chosen(entry: Entry, given: Mapping[str, object]) -> dict[str, Any]:
    """Settings as the factory of an attack takes them; a loss may be said by name where the factory's is a function.

    Raises:
        BadInput: a name that it does not take, or a value of another type; a count below 1.
    """
    known = _settings(entry)
    losses = "loss" in known and callable(known["loss"].default)
    found = {
        name: _loss(value) if name == "loss" and losses and isinstance(value, str) else value
        for name, value in given.items()
    }
    fits(entry.name, known, found)
    ours = members("attacks").get(entry.name) is entry
    counted(entry.name, known if ours else {"restarts": RESTARTS}, found)
    return found


def _loss(name: str) -> Callable[..., Tensor]:
    """The loss of this name."""
    if (said := name.replace("_", "-")) not in LOSSES:
        raise BadInput(f"loss = {name!r}", f"one of {', '.join(LOSSES)}", hint(said, LOSSES, "check the spelling"))
    return LOSSES[said]


def _made(entry: Entry, threat: Boxed, settings: Mapping[str, Any]) -> Attack:
    """The attack with these settings, run once."""
    known = _settings(entry)
    rest = {name: value for name, value in settings.items() if known[name] is not RESTARTS}
    try:
        attack: Any = entry.make(threat, **rest)
    except BadInput:
        raise
    except Exception as error:  # settings, or code, of the user's
        said = ", ".join(f"{name}={value!r}" for name, value in rest.items())
        need = "settings that fit it" if rest else "a factory (threat) -> Attack"
        raise BadInput(
            f"{entry.name}({said}) raised {named(error)}", need, "mend them" if rest else "mend it"
        ) from error
    if not callable(attack) or not hasattr(attack, "threat"):
        need = "an attack: a threat, and a call (model, x, goal, rng) -> z"
        raise BadInput(f"{entry.name} gave {type(attack).__name__}", need, "return one")
    return attack  # type: ignore[no-any-return]


def _repeated(entry: Entry, attack: Attack, settings: Mapping[str, Any]) -> Attack:
    """The attack as often as `restarts` says, unless that is a setting of its factory."""
    restarts = settings.get("restarts", 1)
    if restarts == 1 or _settings(entry)["restarts"] is not RESTARTS:
        return attack
    if isinstance(attack, Amortised):
        raise BadInput(f"restarts for {entry.name}", "an attack that does not learn", "leave restarts out")
    return Restarts(attacks=(attack,), times=restarts)


@contextmanager
def _unblocked(ledger: Ledger, stage: str) -> Iterator[None]:
    """What is refused before the attack's first batch, and would be again, leaves no run that must be gone on with."""
    try:
        yield
    except BadInput as error:
        begun = ledger.stages()
        if begun and stage not in begun and not isinstance(error, MayPass):
            ledger.finish()
        raise


def _plain(value: object) -> object:
    """A value as JSON has it: what is no plain value, and no finite number, as text."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
    return identity.of_attack(value)


def _record(
    entry: Entry, given: Mapping[str, object], threat: Boxed, key: Mapping[str, object], found: Catch
) -> dict[str, object]:
    """What was run, what it did, and what it cost an example that was right before."""
    settings = {name: given.get(name, one.default) for name, one in _settings(entry).items()}
    each = max(found.right_before, 1)
    return {
        "sparring": __version__,
        "attack": entry.name,
        "settings": settings,
        **({"code": key["code"]} if "code" in key else {}),
        "threat": {"name": str(threat), "low": threat.low, "high": threat.high},
        "model": key["model"],
        "data": key["data"],
        "seed": key["seed"],
        "examples": found.examples,
        "right_before": found.right_before,
        "broken": len(found.broken),
        "rejected": found.rejected,
        "survive_storage": found.survive_storage,
        "forward_per_example": found.cost.forward / each,
        "backward_per_example": found.cost.backward / each,
        "seconds": found.cost.seconds,
        "learned_from": found.learned_from,
        "learning": {"forward": found.learning.forward, "backward": found.learning.backward},
    }


def _suits(entry: Entry, data: Data, threat: Boxed) -> None:
    """Refuse an attack that is not for this threat or these data."""
    if str(threat).partition(":")[0] not in entry.kinds:
        fitting = f"a norm of {', '.join(entry.norms)}" if entry.norms else f"the threat {' or '.join(entry.threats)}"
        raise BadInput(f"{entry.name} on {threat}", fitting, "choose another attack")
    shape = tuple(data.take([0])[0].shape[1:])
    if entry.shape == "image" and len(shape) != 3:
        raise BadInput(f"{entry.name} on inputs of shape {shape}", "images (C, H, W)", "choose another attack")


def _sound(entry: Entry, diagnosis: Diagnosis) -> None:
    """Refuse a set-up in which nothing can be believed, and a model without the gradients that the attack needs."""
    bad = next((check for check in diagnosis.checks if check.fatal), None)
    if bad is not None:
        need = f"one that passes the check {bad.name}"
        raise BadInput(f"a set-up that is not sound: {bad.evidence}", need, bad.remedy)
    if entry.needs == "gradients" and not diagnosis.differentiable:
        raise BadInput(f"{entry.name} on a model without gradients", "gradients", "choose a black-box attack")


def _taught(ring: Ring, stage: str, attack: Attack) -> tuple[Attack, int, Cost]:
    """The attack, once it has learned from the first examples if it is one that learns; how many, and at what cost."""
    if not isinstance(attack, Amortised):
        return attack, 0, Cost()
    start, view, lessons = time.perf_counter(), ring.attacked(), range(min(LESSONS, len(ring.data)))
    x, y = (part.to(home(ring.victim)) for part in ring.data.take(lessons))
    with inference(ring.victim):
        learned = attack.fit(view, x, ring.task.goal(y), Streams.of(ring.seed, lessons).at(stage).at("learn"))
    return learned, len(lessons), ring.cost(start, view)


def _run(runner: Runner, stage: str, attack: Attack, out: Path) -> Catch:
    """Attack what is right before, and write down what is wrong after."""
    data, ledger, file = runner.ring.data, runner.ledger, out / "adversarial.npz"
    clean = runner.sweep(CLEAN, None, range(len(data)))
    usable = {
        example: outcome for example, outcome in clean.items() if outcome.prediction >= 0 and not outcome.rejected
    }
    right = [example for example, outcome in usable.items() if not outcome.reached]
    outcomes = runner.sweep(stage, attack, right)
    points = {example: z for example in right if (z := ledger.point(stage, example)) is not None}
    broken = tuple(points)
    x, y = data.take(broken or [0])
    with in_one_move(file) as stream:
        np.savez_compressed(
            stream,
            index=np.array(broken, dtype=np.int64),
            label=y[: len(broken)].numpy(),
            prediction=np.array([outcomes[example].prediction for example in broken], dtype=np.int64),
            x=x[: len(broken)].numpy(),
            z=torch.stack(list(points.values())).numpy() if broken else x[:0].numpy(),
            distance=np.array([outcomes[example].distance for example in broken], dtype=np.float32),
        )
    texts = None
    if isinstance(data, Texts):
        texts = out / "adversarial.tsv"
        rows = zip(data.words.decode(torch.stack(list(points.values())) if broken else x[:0]), y.tolist(), strict=False)
        with in_one_move(texts) as stream:
            stream.write("".join(f"{' '.join(text.split())}\t{label}\n" for text, label in rows).encode())
    return Catch(
        examples=len(data),
        already_wrong=len(data) - len(right),
        broken=broken,
        survive_storage=sum(bool(outcomes[example].survives_storage) for example in broken),
        rejected=sum(outcome.rejected for outcome in outcomes.values()),
        cost=ledger.cost(stage),
        file=file,
        record=out / "attack.json",
        texts=texts,
    )
