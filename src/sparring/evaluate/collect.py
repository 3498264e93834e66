"""Run one attack over a data set, judge what it made, and keep it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparring import __version__
from sparring.attacks import pgd, square
from sparring.errors import BadInput
from sparring.evaluate import identity
from sparring.evaluate.doctor import Diagnosis, examine
from sparring.evaluate.ledger import Cost, Ledger
from sparring.evaluate.run import DRAWS, Ring, Runner, Watch, accept, asked, home, one_thread, silent, workforce
from sparring.evaluate.verdict import treated
from sparring.goals import Untargeted
from sparring.models.victim import Victim, inference, scores
from sparring.registry import Entry
from sparring.streams import Streams
from sparring.threats import Ball, linf
from sparring.types import Amortised, Attack, Boxed, Data
from sparring.writing import in_one_move

LESSONS = 500
"""The examples that an attack learns from, if it is one that learns: the first of the data."""


@dataclass(frozen=True, kw_only=True)
class Catch:
    """What an attack made: positions of the examples that it broke, and how far it had to go for them.

    `cost` is that of attacking, `learning` that of learning from the first `learned_from` examples before.
    """

    examples: int
    already_wrong: int
    broken: tuple[int, ...]
    distances: tuple[float, ...]
    survive_storage: int
    cost: Cost
    file: Path
    learned_from: int = 0
    learning: Cost = field(default_factory=Cost)


def collect(
    victim: Victim,
    data: Data,
    entry: Entry,
    threat: Boxed,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int = 1,
    resume: bool = False,
    watch: Watch = silent,
) -> Catch:
    """Attack every example that the model gets right, and write the successes to `out/adversarial.npz`.

    The file holds `index` (N,), `label` (N,), `prediction` (N,), `x` and `z` (N, *shape) float32, and `distance`
    (N,). A killed run resumes from the ledger in `out`. The doctor looks first, as before an audit; within 8/255 of
    the range, where the threat is no ball.

    Raises:
        BadInput: an attack that is not for this threat or this model, or a set-up in which nothing can be believed.
    """
    with one_thread():
        small = linf(8 / 255 * (threat.high - threat.low), low=threat.low, high=threat.high)
        diagnosis = examine(victim, data, threat if isinstance(threat, Ball) else small, seed=seed)
        attack = _made(entry, data, threat, diagnosis)
        victim = treated(victim, diagnosis)
        draws = DRAWS if diagnosis.failed("randomness") else 1
        ring = Ring(victim=victim, data=data, threat=threat, seed=seed, draws=draws, kept=len(data))
        settings: dict[str, object] = {
            "version": __version__,
            "model": identity.of_model(victim, data, steady=draws == 1),
            "data": identity.of_data(data),
            "attack": identity.of_attack(attack),
            "seed": seed,
        }
        size = ring.batch_size(batch_size)
        with workforce(ring, workers) as pool, Ledger(out / "ledger.sqlite", settings, resume=resume) as ledger:
            runner = Runner(ring=ring, ledger=ledger, batch_size=size, pool=pool, watch=watch)
            ready, lessons, learning = _taught(ring, entry.name, attack)
            found = _run(runner, entry.name, ready, out / "adversarial.npz")
            ledger.finish()
    return replace(found, learned_from=lessons, learning=learning)


def strike(victim: Victim, data: Data, threat: Ball, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A few examples, what an attack on the model's decisions makes of them, and these: `x`, `z`, `(B,)` classes.

    In memory and unjudged. Wrong decisions are attacked as well as right ones; by PGD where the model gives gradients,
    else by a thousand queries of Square.

    Raises:
        BadInput: a model that does not return a score for each of two or more classes; inputs that are not finite, or
            outside of the bounds.
    """
    places = range(len(data))
    x = data.take(places)[0].to(home(victim))
    accept(x, data, threat)
    attack = pgd(threat) if victim.access == "gradients" else square(threat, queries=1000)
    with one_thread(), inference(victim):
        with torch.no_grad():
            decided = scores(victim, x).argmax(1)
        z = attack(asked(victim), x, Untargeted(decided), Streams.of(seed, places))
    return x, z, decided


def _made(entry: Entry, data: Data, threat: Boxed, diagnosis: Diagnosis) -> Attack:
    """The attack, if it can be run on this model and these data within this threat."""
    if str(threat).partition(":")[0] not in entry.kinds:
        fitting = f"a norm of {', '.join(entry.norms)}" if entry.norms else f"the threat {' or '.join(entry.threats)}"
        raise BadInput(f"{entry.name} on {threat}", fitting, "choose another attack")
    shape = tuple(data.take([0])[0].shape[1:])
    if entry.shape == "image" and len(shape) != 3:
        raise BadInput(f"{entry.name} on inputs of shape {shape}", "images (C, H, W)", "choose another attack")
    bad = next((check for check in diagnosis.checks if check.fatal), None)
    if bad is not None:
        need = f"one that passes the check {bad.name}"
        raise BadInput(f"a set-up that is not sound: {bad.evidence}", need, bad.remedy)
    if entry.needs == "gradients" and not diagnosis.differentiable:
        raise BadInput(f"{entry.name} on a model without gradients", "gradients", "choose a black-box attack")
    attack: Attack = entry.make(threat)
    return attack


def _taught(ring: Ring, name: str, attack: Attack) -> tuple[Attack, int, Cost]:
    """The attack, once it has learned from the first examples if it is one that learns; how many, and at what cost."""
    if not isinstance(attack, Amortised):
        return attack, 0, Cost()
    start, view, lessons = time.perf_counter(), ring.attacked(), range(min(LESSONS, len(ring.data)))
    x, y = (part.to(home(ring.victim)) for part in ring.data.take(lessons))
    with inference(ring.victim):
        learned = attack.fit(view, x, Untargeted(y), Streams.of(ring.seed, lessons).at(name).at("learn"))
    return learned, len(lessons), ring.cost(start, view)


def _run(runner: Runner, name: str, attack: Attack, file: Path) -> Catch:
    """Attack what is right before, and write down what is wrong after."""
    data, ledger = runner.ring.data, runner.ledger
    clean = runner.sweep("clean", None, range(len(data)))
    usable = {
        example: outcome for example, outcome in clean.items() if outcome.prediction >= 0 and not outcome.rejected
    }
    right = [example for example, outcome in usable.items() if not outcome.reached]
    outcomes = runner.sweep(name, attack, right)
    points = {example: z for example in right if (z := ledger.point(name, example)) is not None}
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
    return Catch(
        examples=len(data),
        already_wrong=len(data) - len(right),
        broken=broken,
        distances=tuple(outcomes[example].distance or 0.0 for example in broken),
        survive_storage=sum(bool(outcomes[example].survives_storage) for example in broken),
        cost=ledger.cost(name),
        file=file,
    )
