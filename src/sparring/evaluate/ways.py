"""What suites do that depends on the norm: a table of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sparring.attacks import (
    PGD,
    Hops,
    Restarts,
    Through,
    apgd_l1_shrinking,
    bisection,
    every_wording,
    gaussian_noise,
    hotflip,
    patch,
    pgd_cosine,
    pgd_l0_shrinking,
    smallest,
    textfooler,
    uniform_noise,
    word_beam,
    word_genetic,
)
from sparring.attacks.hops import exact, redrawn
from sparring.attacks.sparse_rs import random_search
from sparring.attacks.within import Within
from sparring.domains.images.patches import carried
from sparring.domains.text.threats import Wording
from sparring.losses import margin
from sparring.norms import NORMS
from sparring.steps import ascent, chain, scale
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack
from sparring.views import settled, smoothed

Shake = Callable[[Tensor, Tensor, Ball, Streams], Tensor]
Slices = Callable[[Ball], dict[str, Attack]]
Blind = Callable[[Ball, int], dict[str, Attack]]
"""Attacks that need scores alone, for so many queries."""


def none(threat: Ball) -> dict[str, Attack]:
    """No slices."""
    return {}


def from_many_starts(threat: Ball, *, steps: int, times: int) -> Attack:
    """Short margin runs with a cosine step, from many random starts."""
    return Restarts(attacks=(pgd_cosine(threat, steps=steps, loss=margin),), times=times)


def redrawing(share: float) -> Shake:
    """A share of the coordinates drawn anew."""
    return settled(redrawn, share=share)


def bisected(threat: Ball) -> Attack:
    """The smallest size by halving, where that is no larger than eps."""
    return Within(attack=bisection(threat, steps=20, rounds=8))


def noises(threat: Ball, draws: int) -> dict[str, Attack]:
    """What breaks without an attack."""
    return {
        "uniform-noise": uniform_noise(threat, draws=draws),
        "gaussian-noise": gaussian_noise(threat, draws=draws),
    }


def random_searches(threat: Ball, queries: int) -> dict[str, Attack]:
    """One that keeps what does best."""
    search = random_search(threat)
    return {search.__name__.replace("_", "-"): search(threat, queries=queries)}


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a ball of some norm asks for.

    Slices of its own, by name: `first` in the opening, `own` and `longer` where they pay. `runs(threat, steps=...,
    times=...)` makes short runs from many places; `shake(share)` says where the next hop begins; `nearest` finds the
    smallest size, as in `Suite`. `controls(threat, draws)` are no attacks, `blind(threat, queries)` need scores alone,
    the last of them the one to rely on; `wider` looks on where they found nothing.
    """

    first: Slices = none
    own: Slices = none
    longer: Slices = none
    runs: Callable[..., Attack] = from_many_starts
    shake: Callable[[float], Shake] = redrawing
    nearest: Callable[[Ball], Attack] | None = bisected
    controls: Blind = noises
    blind: Blind = random_searches
    wider: Blind | None = None


def shrinking(ball: Callable[..., Attack], threat: Ball) -> dict[str, Attack]:
    """Balls that shrink, and the nearest success: plain ascent is weak in L1 and L0."""
    return {"shrinking": ball(threat, steps=60), "nearest": Within(attack=smallest(threat, steps=60))}


def many_places(threat: Ball, *, steps: int, places: int, looked_at: int = 400) -> Through:
    """A patch at each of the likeliest places, on gradients that dead units do not stop."""
    attack = patch(threat, steps=steps, places=places, looked_at=looked_at)
    return Through(view=partial(smoothed, beta=15.0), attack=attack)


def from_place_to_place(threat: Ball, *, times: int, runs: int = 1, start: Attack | None = None) -> Attack:
    """The best patch so far carried elsewhere, near or far, and a step of the signs there, across the box; and anew.

    The worst patches have few pixels between the ends of the box, and small ones fool a network in few places.
    """
    step = chain(ascent(NORMS["linf"]), scale(threat.width))
    climb = PGD(threat=threat, step=step, loss=margin, steps=1)
    views = ((partial(smoothed, beta=15.0), climb), (exact, climb))
    return Restarts(attacks=(Hops(runs=views, times=times, shake=carried, start=start),), times=runs)


def at_likely_places(threat: Ball) -> dict[str, Attack]:
    """Climbs at the likeliest places, and from place to place."""
    places = from_place_to_place(threat, times=50, start=many_places(threat, steps=3, places=20))
    return {
        "places": places,
        "carried": from_place_to_place(threat, times=20, runs=10),
        "climbed": many_places(threat, steps=20, places=20),
    }


def at_every_place(threat: Ball) -> dict[str, Attack]:
    """Places a pixel apart, which networks that take every other pixel tell from each other; and again from anywhere.

    Climbs at places draw nothing, so that those of the opening would end where they did.
    """
    return {
        "carried": from_place_to_place(threat, times=20, runs=10),
        "every place": many_places(threat, steps=10, places=100, looked_at=1000),
    }


def carried_longer(threat: Ball) -> dict[str, Attack]:
    """From place to place at length."""
    return {"carried longer": from_place_to_place(threat, times=60, runs=15)}


def runs_at_places(threat: Ball, *, steps: int, times: int) -> Attack:
    """Two steps at each of as many places as there would be steps."""
    return many_places(threat, steps=2, places=steps * times)


def carrying(share: float) -> Shake:
    """The best patch elsewhere, however much of it might be drawn anew."""
    return carried


def random_rewriting(threat: Ball, draws: int) -> dict[str, Attack]:
    """Words replaced blindly."""
    return {"random-rewriting": uniform_noise(threat, draws=draws)}


def word_searches(threat: Ball, queries: int) -> dict[str, Attack]:
    """From cheap to dear: down the ranks, a population where scores say little, and a beam."""
    assert isinstance(threat, Wording)
    width = max(1, queries // 1000)
    return {
        "textfooler": textfooler(threat),
        "every-wording": every_wording(threat, most=4 * queries),
        "word-genetic": word_genetic(threat, generations=max(queries // 50, 10)),
        "word-beam": word_beam(threat, width=width, most=50),
    }


def by_slopes(threat: Ball) -> dict[str, Attack]:
    """What the embeddings' gradient says, before anything is tried blindly."""
    assert isinstance(threat, Wording)
    return {"hotflip": hotflip(threat)}


def wider_beam(threat: Ball, queries: int) -> dict[str, Attack]:
    """A beam four times as wide, that draws on twice as many changes."""
    assert isinstance(threat, Wording)
    return {"wider-beam": word_beam(threat, width=4 * max(1, queries // 1000), each=8, most=100)}


WORDS = Way(first=by_slopes, nearest=None, controls=random_rewriting, blind=word_searches, wider=wider_beam)

WAYS = {
    "l1": Way(first=partial(shrinking, apgd_l1_shrinking), own=partial(shrinking, apgd_l1_shrinking)),
    "l0": Way(first=partial(shrinking, pgd_l0_shrinking), own=partial(shrinking, pgd_l0_shrinking)),
    "patch": Way(
        first=at_likely_places,
        own=at_every_place,
        longer=carried_longer,
        runs=runs_at_places,
        shake=carrying,
        nearest=None,
    ),
    "snr": Way(nearest=None),
}


def way_of(threat: Ball) -> Way:
    """What the threat asks for; of most norms nothing more."""
    return WORDS if threat.discrete else WAYS.get(threat.norm.name, Way())
