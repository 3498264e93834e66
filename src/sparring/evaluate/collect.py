"""Run one attack over a data set, judge what it made, and keep it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparring import __version__
from sparring.evaluate import identity
from sparring.evaluate.ledger import Cost, Ledger
from sparring.evaluate.run import Ring, Runner, Watch, memory_batch, one_thread, workforce
from sparring.evaluate.suites import Stage
from sparring.models.victim import Victim
from sparring.threats import Ball
from sparring.types import Data


@dataclass(frozen=True, kw_only=True)
class Catch:
    """What an attack made: positions of the examples that it broke, and how far it had to go for them."""

    examples: int
    already_wrong: int
    broken: tuple[int, ...]
    distances: tuple[float, ...]
    survive_storage: int
    cost: Cost
    file: Path


def collect(
    victim: Victim,
    data: Data,
    stage: Stage,
    threat: Ball,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int = 1,
    resume: bool = False,
    watch: Watch = lambda stage, done, total: None,
) -> Catch:
    """Attack every example that the model gets right, and write the successes to `out/adversarial.npz`.

    The file holds `index` (N,), `label` (N,), `prediction` (N,), `x` and `z` (N, *shape) float32, and `distance`
    (N,). A killed run resumes from the ledger in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings: dict[str, object] = {
        "version": __version__,
        "model": identity.of_model(victim),
        "data": identity.of_data(data),
        "attack": identity.of_attack(stage.attack),
        "seed": seed,
    }
    ring = Ring(victim=victim, data=data, threat=threat, seed=seed, kept=len(data))
    with (
        one_thread(),
        Ledger(out / "ledger.sqlite", settings, resume=resume) as ledger,
        workforce(ring, workers) as pool,
    ):
        size = batch_size or memory_batch(victim, data.take(range(min(8, len(data))))[0])
        runner = Runner(ring=ring, ledger=ledger, batch_size=size, pool=pool, watch=watch)
        clean = runner.sweep("clean", None, range(len(data)))
        right = [example for example, outcome in clean.items() if not outcome.reached]
        outcomes = runner.sweep(stage.name, stage.attack, right)
        broken = [example for example in right if outcomes[example].reached]
        points = [ledger.point(stage.name, example) for example in broken]
        file = out / "adversarial.npz"
        x, y = data.take(broken) if broken else data.take([0])
        z = torch.stack([point for point in points if point is not None]) if broken else x[:0]
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        with scratch.open("wb") as stream:
            np.savez_compressed(
                stream,
                index=np.array(broken, dtype=np.int64),
                label=y[: len(broken)].numpy(),
                prediction=np.array([outcomes[example].prediction for example in broken], dtype=np.int64),
                x=x[: len(broken)].numpy(),
                z=z.numpy(),
                distance=np.array([outcomes[example].distance for example in broken], dtype=np.float32),
            )
        scratch.replace(file)
        cost = ledger.cost([stage.name])
        ledger.finish()
    return Catch(
        examples=len(data),
        already_wrong=len(data) - len(right),
        broken=tuple(broken),
        distances=tuple(outcomes[example].distance or 0.0 for example in broken),
        survive_storage=sum(bool(outcomes[example].survives_storage) for example in broken),
        cost=cost,
        file=file,
    )
