"""The attacks by name: what each needs of an assistant, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparring.domains.chat.asking import Outright, RandomText
from sparring.domains.chat.assistant import Assistant, Attack
from sparring.domains.chat.gcg import GCG
from sparring.domains.chat.genetic import Genetic
from sparring.domains.chat.random_search import RandomSearch
from sparring.domains.chat.threats import Suffix
from sparring.errors import BadInput
from sparring.factories import locate
from sparring.spelling import hint
from sparring.types import Access

Make = Callable[..., Attack]
"""From a threat (and settings with defaults) to an attack."""

SEES: dict[Access, int] = {"labels": 0, "scores": 1, "gradients": 2}
"""How much an attacker has with each kind of access."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An attack: what makes it, and what it needs."""

    make: Make
    needs: Access
    tokens: bool = False
    """Whether it writes tokens, so that the threat must count them."""

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]


ATTACKS: dict[str, Entry] = {
    "outright": Entry(make=Outright, needs="labels"),
    "random": Entry(make=RandomText, needs="labels"),
    "genetic": Entry(make=Genetic, needs="labels"),
    "random-search": Entry(make=RandomSearch, needs="scores", tokens=True),
    "gcg": Entry(make=GCG, needs="gradients", tokens=True),
}
"""From cheap to dear."""

CONTROLS = ("random", "outright")
"""What is always tried: random text, which should do nothing, and asking in plain words, which a search should beat."""


def fits(entry: Entry, model: Assistant, threat: Suffix) -> bool:
    """Whether an attack can be used on a model, within a threat."""
    return SEES[entry.needs] <= SEES[model.access] and not (entry.tokens and threat.unit != "tokens")


def strongest(model: Assistant, threat: Suffix) -> str:
    """What is tried unless one says otherwise: the attack that makes most of what there is to see."""
    return [name for name, entry in ATTACKS.items() if fits(entry, model, threat)][-1]


def attack(spec: str, model: Assistant, threat: Suffix) -> Make:
    """The attack of this name, or the factory of one's own, `file.py:factory`: (threat) -> Attack.

    Raises:
        BadInput: there is none, or it does not fit the model or the threat.
    """
    if ":" in spec:
        make: Any = locate(spec)
        if not callable(make):
            raise BadInput(f"{spec!r} is a {type(make).__name__}", "a function (threat) -> Attack", "name another one")
        return make  # type: ignore[no-any-return]
    known = [name for name, entry in ATTACKS.items() if fits(entry, model, threat)]
    if spec not in ATTACKS:
        raise BadInput(f"attack {spec!r}", f"one of {', '.join(known)}", hint(spec, known, "choose one of them"))
    if spec not in known:
        given = f"attack {spec!r} within {threat} on {model.name}, which gives its {SAID[model.access]}"
        raise BadInput(given, f"one of {', '.join(known)}", "choose one of them")
    return ATTACKS[spec].make


SAID: dict[Access, str] = {"labels": "answers alone", "scores": "scores", "gradients": "gradients"}
