"""Names to factories. The command line, the docs tables and the law tests read it.

    @register("attacks", "pgd")
    def pgd(threat: Ball, *, steps: int = 40) -> PGD: ...

An attack's factory takes a threat, then keyword-only settings that all have defaults; so does that of an objective of
training. A threat's takes its size, then `low` and `high`; those of a defence and of a detector take settings alone.
A certificate's takes settings, and before them the threat where any classifier will do (`needs="labels"`): what is
certified is then a model that is made of it, for this threat.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sparring.errors import BadInput
from sparring.factories import locate
from sparring.spelling import nearest
from sparring.types import Access

Kind = Literal[
    "attacks", "threats", "rewritings", "defences", "detectors", "objectives", "augmentations", "certificates"
]
Aim = Literal["fixed budget", "smallest perturbation", "control"]
"""The worst point inside the threat; the nearest success, whatever its size; or nothing, for comparison."""

Factory = TypeVar("Factory", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A member of the registry: what the tables say of it, and the function that makes it.

    `aims` says what an attack looks for, `family` where the catalogue lists it, `shape` whether it takes other
    inputs than images. `norms` are the balls that it searches, `threats` the other sets, by their names in the
    registry. One that is `amortised` learns from examples before it attacks (`sparring.types.Amortised`).
    """

    name: str
    make: Callable[..., Any]
    needs: Access = "gradients"
    norms: tuple[str, ...] = ("linf", "l2", "l1", "l0")
    threats: tuple[str, ...] = ()
    amortised: bool = False
    shape: Literal["any", "image"] = "any"
    aims: Aim = "fixed budget"
    family: str = "gradient"
    passes: str = ""
    paper: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of all threats that it searches: balls first."""
        return self.norms + self.threats

    @property
    def summary(self) -> str:
        """The first line of the factory's docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]


_MEMBERS: dict[Kind, dict[str, Entry]] = {}
_HOMES: dict[Kind, str] = {
    "rewritings": "sparring.domains.text.threats",
    "defences": "sparring.defences",
    "detectors": "sparring.defences",
    "objectives": "sparring.training",
    "augmentations": "sparring.training",
    "certificates": "sparring.certify",
}


def register(kind: Kind, name: str, **facts: Any) -> Callable[[Factory], Factory]:
    """Enter a factory under a name, with what the tables say of it (the fields of `Entry`)."""

    def enter(make: Factory) -> Factory:
        entries = _MEMBERS.setdefault(kind, {})
        if name in entries:
            raise ValueError(f"{kind} has a member {name!r} already")
        entries[name] = Entry(name=name, make=make, **facts)
        return make

    return enter


def members(kind: Kind) -> Mapping[str, Entry]:
    """All members of a kind, by name, in an order that is always the same."""
    importlib.import_module(_HOMES.get(kind, "sparring.attacks"))  # registration happens on import
    found = _MEMBERS.get(kind, {})
    return dict(sorted(found.items(), key=_norms_first)) if kind == "threats" else found


def _norms_first(item: tuple[str, Entry]) -> tuple[bool, str]:
    """Threats are in modules that may be imported before all others: norms, then by module, whatever came first."""
    home = item[1].make.__module__
    return home != "sparring.threats", home


def find(kind: Kind, name: str) -> Entry:
    """The member of this name.

    Raises:
        BadInput: there is none; says which name comes closest.
    """
    known = members(kind)
    if name in known:
        return known[name]
    given, near = f"unknown {kind.rstrip('s')} {name!r}", nearest(name, known)
    if near is not None:
        raise BadInput(given, "one that there is", f"did you mean {near!r}? (see: sparring list {kind})")
    need = f"one of {', '.join(known)}" if len(known) <= FEW else f"one of {len(known)} names"
    raise BadInput(given, need, f"see: sparring list {kind}")


def attack(spec: str) -> Entry:
    """The attack of this name, or that of a `file.py:name` or `module:name`: a factory `(threat) -> Attack`.

    The code of the file or module runs, on import. Where it registers the factory, what was registered is believed;
    of any other nothing is known, so that it is tried on every threat and on every model.

    Raises:
        BadInput: no such name, file or module, or no function there.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not path or not name:
        return find("attacks", spec)
    make = locate(spec)
    if not callable(make):
        need = "a factory: a function (threat) -> Attack"
        raise BadInput(f"{spec!r} is of type {type(make).__name__}", need, "name another one")
    registered = (entry for entry in members("attacks").values() if entry.make is make)
    threats = tuple(one for one in members("threats") if one not in Entry.norms)
    return next(registered, Entry(name=name, make=make, needs="labels", threats=threats))


FEW = 12
"""So many names go into one line; more are left to the list."""
