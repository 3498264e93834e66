"""Attacks and threats that are none of Sparring's: what they raise and return is looked at, and whose code it is."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sparring.errors import BadInput, line, named
from sparring.streams import Streams
from sparring.types import Amortised, Attack, Boxed, Goal, Model


@dataclass(frozen=True, kw_only=True)
class Own:
    """An attack that is none of Sparring's: what it raises and what it returns is looked at.

    It gets a copy of the inputs, so that it cannot change what it is measured by; for the same reason the threat is
    that of the run, whatever its own.
    """

    attack: Attack
    name: str
    threat: Boxed

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """What the attack returns, `(B, *shape)`.

        Raises:
            BadInput: it raised, or returned anything else.
        """
        with _said(self.name, ATTACK):
            z: object = self.attack(model, x.clone(), goal, rng)
        if not isinstance(z, Tensor) or z.shape != x.shape:
            what = f"a tensor {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise BadInput(f"{self.name} returned {what}", f"a tensor like x, {tuple(x.shape)}", "mend it")
        return z.detach().to(x)


@dataclass(frozen=True, kw_only=True)
class OwnLearner(Own):
    """One that learns."""

    attack: Amortised

    def fit(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Attack:
        """The attack as it has learned from these examples.

        Raises:
            BadInput: it raised.
        """
        with _said(self.name, ATTACK):
            learned = self.attack.fit(model, x.clone(), goal, rng)
        return Own(attack=learned, name=self.name, threat=self.threat)


def guarded(attack: Attack, name: str, threat: Boxed) -> Own:
    """An attack of one's own, looked at."""
    if isinstance(attack, Amortised):
        return OwnLearner(attack=attack, name=name, threat=threat)
    return Own(attack=attack, name=name, threat=threat)


@dataclass(frozen=True)
class OwnThreat:
    """A threat that is none of Sparring's: what it raises and what it answers is looked at."""

    threat: Boxed

    @property
    def low(self) -> float:
        """Its own."""
        return self.threat.low

    @property
    def high(self) -> float:
        """Its own."""
        return self.threat.high

    def contains(self, z: Tensor, x: Tensor) -> Tensor:
        """Its own, `(B,)` bool.

        Raises:
            BadInput: it raised, or answered anything else.
        """
        return self._asked("contains", z, x, "bool")

    def distance(self, z: Tensor, x: Tensor) -> Tensor:
        """Its own, `(B,)`.

        Raises:
            BadInput: it raised, or answered anything else.
        """
        return self._asked("distance", z, x, str(x.dtype).removeprefix("torch."))

    def _asked(self, question: str, z: Tensor, x: Tensor, kind: str) -> Tensor:
        asked = f"{question} of the threat {self}"
        with _said(asked, f"{question}(z, x) -> (B,) {kind}"):
            found: object = getattr(self.threat, question)(z, x)
        if not isinstance(found, Tensor) or found.shape != (len(x),) or (found.dtype is torch.bool) != (kind == "bool"):
            what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise BadInput(f"{asked} returned {what}", f"{kind} ({len(x)},)", "mend it")
        return found

    def __str__(self) -> str:
        return str(self.threat)


def watched(threat: Boxed) -> Boxed:
    """A threat of one's own, looked at; one of Sparring's as it is."""
    return threat if type(threat).__module__.startswith("sparring.") else OwnThreat(threat)


ATTACK = "an attack: a call (model, x, goal, rng) -> z"


@contextmanager
def _said(name: str, need: str) -> Iterator[None]:
    """Say in one line what code of one's own raises; where memory ran out, its batch is halved."""
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in line(error).lower():
            raise
        raise BadInput(f"{name} raised {named(error)}", need, "mend it") from error


def code_of(make: object, attack: object) -> str:
    """Sixteen hexadecimal digits of the files that an attack of one's own is from; nothing of Sparring's."""
    make = make.func if isinstance(make, partial) else inspect.unwrap(make)  # type: ignore[arg-type]
    things = (make, attack if inspect.isroutine(attack) else type(attack))
    if all(str(getattr(thing, "__module__", "")).startswith("sparring.") for thing in things):
        return ""
    return hashlib.sha256(b"".join(map(_source, things))).hexdigest()[:16]


def _source(thing: object) -> bytes:
    """The file that something is from, or its class; nothing of what is not written in Python."""
    try:
        file = inspect.getsourcefile(thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing))
    except (TypeError, OSError):
        return b""
    return Path(file).read_bytes() if file is not None and Path(file).is_file() else b""
