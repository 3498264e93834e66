"""The one result: all that reports, comparisons and gates read. Schema 1."""

from __future__ import annotations

import json
import math
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sparring.errors import BadInput
from sparring.threats import Ball
from sparring.types import Boxed
from sparring.writing import in_one_move

Verdict = Literal["trusted", "suspect", "invalid"]
Outcome = Literal["pass", "warn", "fail", "skipped"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Record(BaseModel):
    """A part of the result: frozen; unknown fields are kept, so that a newer file can be read by an older version."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    def save(self, path: Path) -> None:
        """Write it as JSON, in one move."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False)
        with in_one_move(path) as file:
            file.write(f"{text}\n".encode())


class Interval(Record):
    """A fraction of the examples with its exact 95 % (Clopper-Pearson) interval."""

    estimate: Fraction
    low: Fraction
    high: Fraction

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.estimate <= self.high:
            raise ValueError(f"need low <= estimate <= high, got {self.low}, {self.estimate}, {self.high}")
        return self


class CurvePoint(Record):
    """Accuracy when the attacker may go as far as `eps`: under attack, and proved where certificates were asked."""

    eps: float
    robust_accuracy: Fraction
    certified_accuracy: Fraction | None = None


class Check(Record):
    """One question put to the set-up or to the finished run, and what it showed."""

    name: str
    outcome: Outcome
    evidence: str
    remedy: str = ""
    threshold: str = ""
    serious: Literal["invalid", "suspect"] = "suspect"
    """What a failure makes of the verdict."""

    @property
    def fatal(self) -> bool:
        """Whether it failed, and leaves no number to be believed."""
        return self.outcome == "fail" and self.serious == "invalid"


def checked(name: str, bad: Outcome | None, said: str, remedy: str, threshold: str, *, fatal: bool = False) -> Check:
    """A check of a run that has its own questions: it passed, unless it is said how bad it is."""
    return Check(
        name=name,
        outcome=bad or "pass",
        evidence=said,
        remedy=remedy if bad else "",
        threshold=threshold,
        serious="invalid" if fatal else "suspect",
    )


class AttackRecord(Record):
    """What one attack of the suite did, and what it cost. Passes count one example through the model once as 1."""

    name: str
    config: str
    broke: Count
    """Examples that it was the first to break."""
    attacked: Count
    """Examples that it met, each once, in however many rounds."""
    forward: Count
    backward: Count
    seconds: float


class Progress(Record):
    """How far the attack had come after one more stage: passes so far, all examples together, and what still stood."""

    attack: str
    round: Count = 0
    """The number of the round, from 1, where the stage was one."""
    passes: Count
    standing: Count


class Forecast(Record):
    """What the rounds of attacks say of rounds to come.

    `passes` were spent on them; their later half broke `broke_late` examples. As many passes again would break at most
    `examples` more, with this confidence, as far as the attacks of the suite can.
    """

    passes: Count
    broke_late: Count
    examples: float
    confidence: float


class Passes(Record):
    """Forward and backward passes, summed over the examples."""

    forward: Count
    backward: Count


class Example(Record):
    """What became of one example: `clean` is the label that the model gave it before any attack.

    The least eps that breaks it lies between `proved` and `distance`, where these are known: `distance` is beyond the
    audited eps where only an attack of the curve broke it.
    """

    index: Count
    label: int
    clean: int
    broken_by: str | None
    distance: float | None
    certified: bool | None = None
    proved: float | None = None


class Defended(Record):
    """The three numbers of a defence, as shares that stand, beside `missed`; null where there is none to be believed.

    `bare` is the model without it; `unaware` with it, against what PGD made of the examples on the bare model;
    `adaptive` with it, against attacks through the view that knows it. `missed` fell to the second, not to the third.
    """

    name: str
    bare: Fraction | None
    unaware: Fraction | None
    adaptive: Fraction | None
    missed: Count


class Result(Record):
    """An audit, whole. Where the verdict is `invalid` nothing below it may be quoted."""

    schema_: Literal[1] = Field(1, alias="schema")
    verdict: Verdict
    reasons: tuple[str, ...]
    name: str
    """What was audited, in the words of reports."""
    command: str
    """The command, or the call, that makes this result again."""
    examples: Count
    digest: str | None = None
    """What tells these examples from others: of their inputs and labels. None in results from before there was one."""
    threat: dict[str, float | str]
    clean_accuracy: Interval
    robust_accuracy: Interval
    """Accuracy under attack: an upper bound of the true robust accuracy."""
    certified_accuracy: Interval | None = None
    curve: tuple[CurvePoint, ...]
    checks: tuple[Check, ...]
    attacks: tuple[AttackRecord, ...]
    stages: tuple[AttackRecord, ...] = ()
    """What the rest of the audit cost: the clean run, and the attacks that only serve checks. `broke` is 0 there."""
    progress: tuple[Progress, ...] = ()
    """The course of the attacks, stage by stage: robust accuracy against passes."""
    defence: Defended | None = None
    """What the defence is worth that the model is behind; none where it is behind none."""
    outlook: Forecast | None = None
    """What more effort would change; none where no rounds were fought."""
    passes: Passes
    seconds: float
    seed: int
    settings: dict[str, str | int | float | None]
    """suite (budget), model, framework, access, data, classes (as JSON) ...: whatever the run was given."""
    environment: dict[str, str]
    per_example: tuple[Example, ...]

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, use_attribute_docstrings=True)

    @field_validator("threat")
    @classmethod
    def _sized(cls, threat: dict[str, float | str]) -> dict[str, float | str]:
        if texts := [name for name in ("eps", "low", "high") if isinstance(threat.get(name), str)]:
            raise ValueError(f"{texts[0]} is {threat[texts[0]]!r}, and no number")
        return threat

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.examples != len(self.per_example):
            raise ValueError(f"examples is {self.examples}, but per_example has {len(self.per_example)} rows")
        if self.verdict != "trusted" and not self.reasons:
            raise ValueError(f"a verdict of {self.verdict} needs a reason")
        if any(row.certified and row.broken_by for row in self.per_example):
            raise ValueError("an example is both certified and broken: one of the two is a bug")
        if any((row.proved or 0.0) > (math.inf if row.distance is None else row.distance) for row in self.per_example):
            raise ValueError("an example is broken nearer than it is proved to stand: one of the two is a bug")
        return self

    @classmethod
    def load(cls, path: Path | str) -> Result:
        """Read a result and check it against the schema.

        Raises:
            BadInput: there is no such file, it is not JSON, it does not follow schema 1, or a number is not finite.
        """
        remedy = "give the result.json that an audit wrote"
        try:
            found = cls.model_validate_json(Path(path).read_bytes())
            json.dumps(found.model_dump(), allow_nan=False)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise BadInput(f"cannot read {path} ({error.strerror})", "a result.json", remedy) from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise BadInput(f"{path} is not a result: {place}: {first['msg']}", "schema 1", remedy) from None
        except ValueError:  # which JSON does not have, though its readers take it
            raise BadInput(f"{path} is not a result: NaN or infinity in it", "finite numbers", remedy) from None
        return found


def recorded(threat: Boxed) -> dict[str, float | str]:
    """A threat, as results have it: a ball by norm and eps, any other by name; with bounds where there are any."""
    box = {name: end for name, end in (("low", threat.low), ("high", threat.high)) if math.isfinite(end)}
    if isinstance(threat, Ball) and threat.discrete:
        return {"norm": threat.norm.name, "eps": threat.eps}
    if isinstance(threat, Ball):
        said = threat.norm.said(threat.eps)
        decibels = {"decibels": round(said, 6)} if said != threat.eps and math.isfinite(said) else {}
        return {"norm": threat.norm.name, "eps": threat.eps, **box, **decibels}
    return {"name": str(threat), **box}


def environment() -> dict[str, str]:
    """What the run ran on: versions and the kind of machine, nothing that names a person or a host."""
    import torch

    from sparring import __version__

    packages = {"torch": torch.__version__, "numpy": metadata.version("numpy")}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "sparring": __version__,
        "python": platform.python_version(),
        **packages,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": str(torch.get_num_threads()),
        "byte_order": sys.byteorder,
    }
