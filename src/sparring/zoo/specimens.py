"""What a specimen is: a model with data and a threat, of which it is known what an audit must say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Literal

from torch import Tensor, nn

from sparring.data import digits
from sparring.errors import BadInput
from sparring.threats import Ball, linf

Kind = Literal["honest", "robust", "broken"]
Pair = tuple[Tensor, Tensor]


def some_digits(count: int) -> Pair:
    """The first embedded test digits: inputs `(count, 1, 28, 28)` in [0, 1] and labels."""
    return digits("test").take(range(count))


def unaltered(x: Tensor, y: Tensor) -> Pair:
    """The data as they are."""
    return x, y


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A model of which it is known what an audit must say.

    `fires` are the checks that must fail or warn, all of them; an honest or robust model sets off none. `alter` is
    what was done to the data, where the fault is in them. Where checks only warn, the verdict stays trusted.
    """

    name: str
    what: str
    kind: Kind
    make: Callable[[], nn.Module]
    threat: Ball
    data: Callable[[int], Pair] = some_digits
    alter: Callable[[Tensor, Tensor], Pair] = unaltered
    fires: tuple[str, ...] = ()
    verdict: Literal["trusted", "suspect", "invalid"] = "trusted"

    def examples(self, count: int) -> Pair:
        """The first inputs and labels, as they are handed to an audit."""
        return self.alter(*self.data(count))


_SPECIMENS: dict[str, Specimen] = {}


def specimen(
    name: str,
    kind: Kind,
    *fires: str,
    threat: Ball | None = None,
    verdict: Literal["trusted", "suspect", "invalid"] | None = None,
    data: Callable[[int], Pair] = some_digits,
    alter: Callable[[Tensor, Tensor], Pair] = unaltered,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Enter a factory into the zoo; what it is comes from the first line of its docstring.

    It runs when its model is first asked for; what is handed out, each time, is a copy. A broken one makes a verdict
    suspect, unless told otherwise.
    """

    def enter(grow: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        grown = cache(grow)

        @wraps(grow)
        def make() -> nn.Module:
            return copy.deepcopy(grown())

        _SPECIMENS[name] = Specimen(
            name=name,
            what=(make.__doc__ or "").strip().split("\n")[0],
            kind=kind,
            make=make,
            threat=threat or linf(0.1),
            data=data,
            alter=alter,
            fires=fires,
            verdict=verdict or ("suspect" if kind == "broken" else "trusted"),
        )
        return make

    return enter


def specimens(kind: Kind | None = None) -> tuple[Specimen, ...]:
    """All specimens, or those of a kind: published networks only where `SPARRING_DATA` has them."""
    from sparring.zoo import broken, honest, published, setups

    published.enter()
    assert all((honest, broken, setups))  # they enter theirs on import
    return tuple(one for one in _SPECIMENS.values() if kind in (None, one.kind))


def find(name: str) -> Specimen:
    """The specimen of this name.

    Raises:
        BadInput: there is none.

    """
    known = {one.name: one for one in specimens()}
    if name not in known:
        raise BadInput(f"no specimen {name!r}", f"one of {', '.join(map(repr, known))}", "choose one of them")
    return known[name]
