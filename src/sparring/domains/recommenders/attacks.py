"""The attacks by name: which feedback they need, and whether they push an item up or down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparring.domains.recommenders.exchange import optimised, optimised_stars
from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions
from sparring.domains.recommenders.recommender import Attack, Recommender
from sparring.domains.recommenders.shilling import (
    average,
    bandwagon,
    love_hate,
    popular,
    power_users,
    random,
    reverse_bandwagon,
    segment,
)
from sparring.domains.recommenders.threats import FakeUsers
from sparring.errors import BadInput
from sparring.factories import locate
from sparring.spelling import hint
from sparring.streams import Streams


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An attack: the function that makes it of a threat, and what it is for."""

    make: Callable[[FakeUsers], Attack]
    ratings: bool = True
    """Whether it can be used on ratings."""
    implicit: bool = True
    """Whether it can be used on implicit feedback, and is another attack there than the ones before it."""
    signs: tuple[int, ...] = (1, -1)
    """+1: pushes up; -1: pushes down."""

    @property
    def summary(self) -> str:
        """The first line of the factory's docstring."""
        return (self.make.__doc__ or "").strip().split("\n")[0]


ATTACKS: dict[str, Entry] = {
    "random": Entry(make=random),
    "average": Entry(make=average, implicit=False),
    "bandwagon": Entry(make=bandwagon, signs=(1,)),
    "reverse-bandwagon": Entry(make=reverse_bandwagon, implicit=False, signs=(-1,)),
    "love-hate": Entry(make=love_hate, implicit=False, signs=(-1,)),
    "segment": Entry(make=segment, signs=(1,)),
    "popular": Entry(make=popular),
    "power-users": Entry(make=power_users),
    "optimised": Entry(make=optimised, ratings=False),
    "optimised-stars": Entry(make=optimised_stars, implicit=False),
}
"""From cheap to dear."""

UNINFORMED = "random"
"""What every attack that knows something should beat."""


def fitting(data: Interactions, sign: int) -> dict[str, Entry]:
    """The attacks for feedback of this kind, in this direction; none pushes down what people merely look at."""
    if data.implicit and sign < 0:
        return {}
    return {
        name: entry
        for name, entry in ATTACKS.items()
        if sign in entry.signs and (entry.implicit if data.implicit else entry.ratings)
    }


def attack(spec: str, data: Interactions, sign: int) -> Callable[[FakeUsers], Attack]:
    """The factory of this name, or one's own as `file.py:factory`: a function `(threat) -> Attack`.

    Raises:
        BadInput: there is none, or it is not for such data or in this direction.
    """
    if ":" in spec:
        make = locate(spec)
        if not callable(make):
            raise BadInput(f"{spec!r} is a {type(make).__name__}", "a function (threat) -> Attack", "name another one")
        return make
    known = fitting(data, sign)
    if spec not in ATTACKS:
        raise BadInput(f"attack {spec!r}", f"one of {', '.join(known)}", hint(spec, known, "choose one of them"))
    if spec not in known:
        what = f"{'implicit feedback' if data.implicit else 'ratings'}, {'up' if sign > 0 else 'down'}"
        raise BadInput(f"attack {spec!r} on {what}", f"one of {', '.join(known) or 'none'}", "choose one of them")
    return known[spec].make


@dataclass(frozen=True, kw_only=True)
class Bystanders:
    """The control: the fake users of an attack, who say nothing of the target. What moves now is not its doing."""

    of: Attack

    def __call__(self, model: Recommender, x: Interactions, goal: Placement, rng: Streams) -> Interactions:
        """The data with the fake users."""
        z = self.of(model, x, goal, rng)
        return z.kept((z.users < x.shape[0]) | (z.items != goal.item))
