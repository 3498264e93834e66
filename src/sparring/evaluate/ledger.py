"""The ledger: every finished batch, in one SQLite file, one transaction a batch. A killed run resumes from it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from sparring.errors import BadInput

_SCHEMA = """
BEGIN;
CREATE TABLE run (settings TEXT NOT NULL, finished INTEGER NOT NULL, seconds REAL NOT NULL);
CREATE TABLE bouts (stage TEXT NOT NULL, forward INTEGER, backward INTEGER, seconds REAL);
CREATE TABLE outcomes (
    stage TEXT NOT NULL, example INTEGER NOT NULL, label INTEGER NOT NULL, prediction INTEGER NOT NULL,
    reached INTEGER NOT NULL, counts INTEGER NOT NULL, distance REAL, margin REAL, rejected INTEGER NOT NULL,
    survives_storage INTEGER, shape TEXT, z BLOB,
    PRIMARY KEY (stage, example)
);
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage did to one example, judged in a fresh forward pass.

    `reached` says that the goal was reached inside the attack's threat, `rejected` that it was only reached outside
    of it, `counts` that it was reached inside the threat of the run, which may be smaller. `margin` says how near the
    point came, where it is inside that.
    """

    example: int
    label: int
    prediction: int
    reached: bool
    counts: bool = False
    distance: float | None = None
    margin: float | None = None
    rejected: bool = False
    survives_storage: bool | None = None
    z: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage has cost so far."""

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0


class Ledger:
    """An open ledger, in memory without a path. Only one process writes to it. `before` is how long a run that is
    resumed had taken, in seconds, until its last finished batch.

    Makes its folder: open it last, so that a refusal before it leaves none. What is refused inside of it, before its
    first batch, leaves none either.

    Raises:
        BadInput: no ledger there, one of other settings, or one that is unfinished, where it is not to be resumed.
    """

    def __init__(self, path: Path | None, settings: dict[str, object], *, resume: bool) -> None:
        self.path = path
        self._made_folder = path is not None and not path.parent.exists()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            admit(path, settings, resume=resume)
            if not resume:
                path.unlink(missing_ok=True)
        exists = path is not None and path.exists() and path.stat().st_size > 0
        self._base = sqlite3.connect(path if path is not None else ":memory:")
        if not exists:
            self._base.executescript(_SCHEMA)  # in one transaction with the settings: whole, or not there
            self._base.execute("INSERT INTO run VALUES (?, 0, 0)", (json.dumps(settings, sort_keys=True),))
            self._base.commit()
        (self.before,) = self._base.execute("SELECT seconds FROM run").fetchone()
        self._noted = time.perf_counter()

    def record(self, stage: str, outcomes: Iterable[Outcome], cost: Cost) -> None:
        """Enter a finished batch, whole or not at all."""
        with self._base:
            self._note_time()
            self._base.execute(
                "INSERT INTO bouts VALUES (?, ?, ?, ?)", (stage, cost.forward, cost.backward, cost.seconds)
            )
            self._base.executemany(
                "INSERT INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        stage,
                        one.example,
                        one.label,
                        one.prediction,
                        one.reached,
                        one.counts,
                        one.distance,
                        one.margin,
                        one.rejected,
                        one.survives_storage,
                        None if one.z is None else json.dumps(list(one.z.shape)),
                        None if one.z is None else one.z.to(torch.float32).cpu().numpy().tobytes(),
                    )
                    for one in outcomes
                ],
            )

    def outcomes(self, stage: str) -> dict[int, Outcome]:
        """All that is known of a stage, by example."""
        rows = self._base.execute(
            "SELECT example, label, prediction, reached, counts, distance, margin, rejected, survives_storage "
            "FROM outcomes WHERE stage = ?",
            (stage,),
        )
        return {
            row[0]: Outcome(
                example=row[0],
                label=row[1],
                prediction=row[2],
                reached=bool(row[3]),
                counts=bool(row[4]),
                distance=row[5],
                margin=row[6],
                rejected=bool(row[7]),
                survives_storage=None if row[8] is None else bool(row[8]),
            )
            for row in rows
        }

    def point(self, stage: str, example: int) -> Tensor | None:
        """The input that reached the goal, where it was kept."""
        row = self._base.execute(
            "SELECT shape, z FROM outcomes WHERE stage = ? AND example = ? AND z IS NOT NULL", (stage, example)
        ).fetchone()
        if row is None:
            return None
        return torch.from_numpy(np.frombuffer(row[1], dtype=np.float32).copy()).view(*json.loads(row[0]))

    def cost(self, stage: str) -> Cost:
        """What a stage has cost."""
        forward, backward, seconds = self._base.execute(
            "SELECT COALESCE(SUM(forward), 0), COALESCE(SUM(backward), 0), COALESCE(SUM(seconds), 0) "
            "FROM bouts WHERE stage = ?",
            (stage,),
        ).fetchone()
        return Cost(forward=forward, backward=backward, seconds=seconds)

    def stages(self) -> tuple[str, ...]:
        """The stages that have begun, in their order."""
        return tuple(row[0] for row in self._base.execute("SELECT stage FROM bouts GROUP BY stage ORDER BY MIN(rowid)"))

    def finish(self) -> None:
        """Say that the result was written."""
        with self._base:
            self._note_time()
            self._base.execute("UPDATE run SET finished = 1")

    def _note_time(self) -> None:
        """Add what has passed since the last time."""
        since, self._noted = self._noted, time.perf_counter()
        self._base.execute("UPDATE run SET seconds = seconds + ?", (self._noted - since,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        refused = kind is BadInput and not self.stages()
        self._base.close()
        if refused and self.path is not None:
            self.path.unlink()  # what was refused before its first batch is no run to resume
            if self._made_folder and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()


def admit(path: Path, settings: Mapping[str, object], *, resume: bool) -> None:
    """Look at the ledger that lies there, before anything is computed: is it one to go on with, or to replace?

    `settings` may be some of the run's. Fine where there is none.

    Raises:
        BadInput: no ledger there, one of other settings, or one that is unfinished, where it is not to be resumed.
    """
    if not path.exists() or not path.stat().st_size:  # as a process that was killed while it made it leaves it
        return
    found, finished = _run(path)
    if not resume:
        if not finished:
            raise BadInput(
                f"{path.parent} holds an unfinished run",
                "a decision",
                "add --resume to go on with it, or give another --out",
            )
        return
    now = json.loads(json.dumps(settings))
    if changed := [key for key in now if found.get(key) != now[key]]:
        raise BadInput(
            f"the run in {path.parent} differs in {', '.join(changed)}",
            "the same settings to resume",
            "give the options of that run, or another --out",
        )


def _run(path: Path) -> tuple[dict[str, object], bool]:
    """The settings of the run that a ledger is of, and whether it is finished."""
    try:
        with closing(sqlite3.connect(path)) as base:
            text, finished = base.execute("SELECT settings, finished FROM run").fetchone()
        return json.loads(text), bool(finished)
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise BadInput(f"{path} is not a ledger ({error})", "one that an audit wrote", "give another --out") from None
