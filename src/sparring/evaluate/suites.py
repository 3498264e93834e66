"""Suites: which attacks run, in which order, from cheap to dear. What one breaks, the next ones leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sparring.attacks import Restarts, apgd_ce, apgd_t, fgsm, gaussian_noise, pgd_cosine, square, uniform_noise
from sparring.attacks.through import Through
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.threats import Ball
from sparring.types import Access, Attack
from sparring.views import smoothed


@dataclass(frozen=True)
class Stage:
    """An attack of a suite, under the name that the result gives it. `role` says what its success means."""

    name: str
    attack: Attack
    role: str


def margin_runs(threat: Ball, *, steps: int, times: int) -> Restarts:
    """Short margin runs with a cosine step, from many random starts."""
    return Restarts(attacks=(pgd_cosine(threat, steps=steps, loss=margin),), times=times)


def smoothed_runs(threat: Ball, *, steps: int, times: int) -> Restarts:
    """Margin runs again, on gradients that dead units do not stop, at three smoothnesses in turn."""
    run = pgd_cosine(threat, steps=steps, loss=margin)
    views = (partial(smoothed, beta=beta) for beta in (10.0, 25.0, 15.0))
    return Restarts(attacks=tuple(Through(view=view, attack=run) for view in views), times=times)


def quick(threat: Ball, access: Access, classes: int) -> tuple[Stage, ...]:
    """Seconds on a small network: enough to see that a model is not robust."""
    white = (
        Stage("fgsm", fgsm(threat), "single step"),
        Stage("margin-pgd", margin_runs(threat, steps=20, times=4), "white box"),
        Stage("apgd-ce", apgd_ce(threat, steps=40), "white box"),
    )
    return _assemble(threat, access, white, draws=5, queries=200)


def standard(threat: Ball, access: Access, classes: int) -> tuple[Stage, ...]:
    """What a result should rest on: several losses, many restarts, each likely class, and a black-box attack."""
    white = (
        Stage("fgsm", fgsm(threat), "single step"),
        Stage("margin-pgd", margin_runs(threat, steps=20, times=5), "white box"),
        Stage("smoothed-pgd", smoothed_runs(threat, steps=20, times=9), "white box"),
        Stage("apgd-ce", apgd_ce(threat, steps=100), "white box"),
        *((Stage("apgd-t", apgd_t(threat, steps=50, targets=3), "white box"),) if classes >= 4 else ()),
        Stage("more-restarts", smoothed_runs(threat, steps=40, times=9), "again"),
    )
    return _assemble(threat, access, white, draws=10, queries=1000)


def _assemble(threat: Ball, access: Access, white: tuple[Stage, ...], *, draws: int, queries: int) -> tuple[Stage, ...]:
    """Controls first, what gradients allow next, and a black-box attack on what still stands."""
    controls = (
        Stage("uniform-noise", uniform_noise(threat, draws=draws), "control"),
        Stage("gaussian-noise", gaussian_noise(threat, draws=draws), "control"),
    )
    queries = queries if access == "gradients" else 5 * queries
    black = (
        (Stage("square", square(threat, queries=queries), "black box"),) if threat.norm.name in ("linf", "l2") else ()
    )
    return (*controls, *(white if access == "gradients" else ()), *black)


def last_resort(threat: Ball, access: Access) -> Attack:
    """What the quick suite ends with where there are no gradients."""
    return quick(threat, access, 2)[-1].attack


SUITES: dict[str, Callable[[Ball, Access, int], tuple[Stage, ...]]] = {"quick": quick, "standard": standard}


def stages(suite: str, threat: Ball, access: Access, classes: int) -> tuple[Stage, ...]:
    """The stages of a suite, for a threat and for what the model lets an attacker have.

    Raises:
        BadInput: there is no suite of this name.
    """
    if suite not in SUITES:
        raise BadInput(f"unknown suite {suite!r}", f"one of {', '.join(SUITES)}", "choose one of them")
    return SUITES[suite](threat, access, classes)
