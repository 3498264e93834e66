"""Attacks that are none of Sparring's: what they raise and return is looked at, and of which code they are."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
        with _said(self.name):
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
        with _said(self.name):
            learned = self.attack.fit(model, x.clone(), goal, rng)
        return Own(attack=learned, name=self.name, threat=self.threat)


def guarded(attack: Attack, name: str, threat: Boxed) -> Own:
    """An attack of one's own, looked at."""
    if isinstance(attack, Amortised):
        return OwnLearner(attack=attack, name=name, threat=threat)
    return Own(attack=attack, name=name, threat=threat)


@contextmanager
def _said(name: str) -> Iterator[None]:
    """Say in one line what an attack of one's own raises; where memory ran out, its batch is halved."""
    try:
        yield
    except (BadInput, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "memory" in line(error).lower():
            raise
        need = "an attack: a call (model, x, goal, rng) -> z"
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
