"""Suites: what an audit does to find the examples that fall.

First an opening on all that stands, from cheap to dear, then slices of a menu, the most promising next
(`sparring.evaluate.schedule`), and last a black-box attack on what looks most fragile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sparring.attacks import (
    PGD,
    Hops,
    Restarts,
    RunnerUp,
    Through,
    apgd_ce,
    apgd_t,
    bim,
    fgsm,
    pgd_cosine,
)
from sparring.attacks.hops import exact
from sparring.attacks.transfer import Transfer, nearby
from sparring.errors import BadInput
from sparring.evaluate.ways import way_of
from sparring.losses import cross_entropy, margin, probability_margin, targeted_margin
from sparring.steps import ascent, chain, cosine, momentum
from sparring.threats import Ball
from sparring.types import Access, Attack, Loss, Model
from sparring.views import settled, smoothed


@dataclass(frozen=True)
class Stage:
    """An attack of a suite, under the name that the result gives it. `role` says what its success means."""

    name: str
    attack: Attack
    role: str


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The stages of an audit.

    Every stage of `opening` is run on all that stands, those of `closing` on the `hardest` examples that stand then. In
    between, slices of `menu` and the `longer` ones are chosen round by round, for `passes` forward and backward passes
    an example of the data, or until the rest would break less than the share `tolerance` of them, with 95 % confidence;
    past that, unless `strict`, those of the menu that were not tried, or still break something. `nearest` makes the
    attack that finds the smallest size for each example, from which the curve is read at any eps; without it, a few
    sizes are tried.
    """

    opening: tuple[Stage, ...]
    menu: tuple[Stage, ...] = ()
    longer: tuple[Stage, ...] = ()
    closing: tuple[Stage, ...] = ()
    passes: int = 0
    strict: bool = False
    tolerance: float = 0.0
    hardest: int = 64
    nearest: Callable[[Ball], Attack] | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All of them."""
        return (*self.opening, *self.menu, *self.longer, *self.closing)

    def wrapped(self, wrap: Callable[[Attack], Attack]) -> Suite:
        """The same, with every attack but the controls inside of another one."""

        def anew(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
            return tuple(s if s.role == "control" else replace(s, attack=wrap(s.attack)) for s in stages)

        return replace(
            self,
            opening=anew(self.opening),
            menu=anew(self.menu),
            longer=anew(self.longer),
            closing=anew(self.closing),
        )


def out_of_the_data(whole: Ball) -> Attack:
    """Steps of a tenth of the box from the input itself: random points of it are something else by themselves."""
    climbs = tuple(bim(whole, steps=40, loss=loss) for loss in (margin, cross_entropy))
    return Restarts(attacks=climbs, times=len(climbs))


def _run(threat: Ball, loss: Loss, *, beta: float, temperature: float = 0.0, steps: int = 20) -> Through:
    """A short run on gradients that dead units do not stop."""
    return Through(
        view=partial(smoothed, beta=beta, temperature=temperature), attack=pgd_cosine(threat, steps=steps, loss=loss)
    )


def menu(threat: Ball, classes: int) -> tuple[Stage, ...]:
    """Slices of about forty passes: losses, targets and smoothnesses, of which each network falls to some.

    Answers that are no classes, 0 of them, have no targets and no probabilities.
    """
    targets = min(classes - 1, 3) if classes > 2 else 0
    slices: dict[str, Attack] = {
        "cross-entropy": _run(threat, cross_entropy, beta=10, temperature=20),
        "sharp cross-entropy": _run(threat, cross_entropy, beta=25),
        "margin": _run(threat, margin, beta=15),
        **{
            f"runner-up {rank + 1}": RunnerUp(attack=_run(threat, targeted_margin, beta=15), rank=rank)
            for rank in range(targets)
        },
        **({"any class": RunnerUp(attack=_run(threat, targeted_margin, beta=15), rank=None)} if classes > 4 else {}),
        **({"probability margin": _run(threat, probability_margin, beta=10)} if classes else {}),
        "exact cross-entropy": pgd_cosine(threat, loss=cross_entropy),
        "exact margin": pgd_cosine(threat, loss=margin),
        "hops": mixed_hops(threat, classes, steps=20, times=5),
        **(way_of(threat).own(threat) or {"margin around": around(threat)}),
    }
    return tuple(Stage(name, attack, "white box") for name, attack in slices.items())


def around(threat: Ball, *, steps: int = 10) -> Transfer:
    """Half of each gradient is taken somewhere around the point: ripples as long as the threat average out."""
    step = chain(momentum(0.9), ascent(threat.norm), cosine(0.5 * threat.unit, steps))
    copies = (settled(nearby, threat=threat.times(0.5)),)
    return Transfer(threat=threat, step=step, copies=copies, now=0.5, loss=margin, steps=steps)


def longer(threat: Ball, classes: int) -> tuple[Stage, ...]:
    """Slices of hundreds or thousands of passes, for what nearly falls."""
    slices = {"many hops": mixed_hops(threat, classes, steps=10, times=40), **way_of(threat).longer(threat)}
    return tuple(Stage(name, attack, "white box") for name, attack in slices.items())


def among(model: Model, classes: tuple[int, ...]) -> Model:
    """The view in which no other class than these can win."""

    def view(x: Tensor) -> Tensor:
        outputs = model(x)
        never = torch.ones(outputs.shape[1], dtype=torch.bool, device=outputs.device)
        never[list(classes)] = False
        return outputs.masked_fill(never, -torch.inf)

    return view


def among_winners(threat: Ball, winners: tuple[int, ...]) -> Stage:
    """A slice that is not led to classes which nothing was seen to be: some come second everywhere, and win nowhere."""
    view = settled(among, classes=winners)
    return Stage("margin among winners", Through(view=view, attack=_run(threat, margin, beta=15)), "white box")


def mixed_hops(threat: Ball, classes: int, *, steps: int, times: int) -> Hops:
    """Each run from the best point of all so far, on the losses and the smoothnesses of the menu in turn."""
    share = 1 / steps
    step = chain(ascent(threat.norm), cosine((0.1 + 4 * share) * threat.unit, steps))
    kinds = ((margin, 0), (cross_entropy, 15), (probability_margin, 10), (cross_entropy, 0), (margin, 15))
    runs = (
        (partial(smoothed, beta=beta) if beta else exact, PGD(threat=threat, step=step, loss=loss, steps=steps))
        for loss, beta in kinds
        if classes or loss is not probability_margin
    )
    return Hops(runs=tuple(runs), times=times, shake=way_of(threat).shake(2 * share))


def controls(threat: Ball, draws: int) -> tuple[Stage, ...]:
    """What breaks without an attack."""
    return tuple(Stage(name, attack, "control") for name, attack in way_of(threat).controls(threat, draws).items())


def black_box(threat: Ball, queries: int) -> tuple[Stage, ...]:
    """Attacks that need no gradients."""
    return tuple(Stage(name, attack, "black box") for name, attack in way_of(threat).blind(threat, queries).items())


def by_scores(threat: Ball, access: Access, *, draws: int, queries: int) -> Suite:
    """What can be done without climbing; and where a search is to be relied on, a wider one on all that stands.

    Slopes of words, which cannot be climbed, say what to try first.
    """
    way = way_of(threat)
    wider, ranked = way.wider, way.first(threat) if access == "gradients" else {}
    more = {} if wider is None else wider(threat, queries)
    return Suite(
        opening=(
            *controls(threat, draws),
            *(Stage(name, attack, "white box") for name, attack in ranked.items()),
            *black_box(threat, queries),
        ),
        closing=tuple(Stage(name, attack, "wider") for name, attack in more.items()),
        hardest=256,
    )


def quick(threat: Ball, access: Access, classes: int) -> Suite:
    """Seconds on a small network: enough to see that a model is not robust."""
    if access != "gradients" or threat.discrete:
        return by_scores(threat, access, draws=2, queries=1000)
    return Suite(
        opening=(*controls(threat, 2), Stage("fgsm", fgsm(threat), "single step"), *_first(threat)),
        menu=menu(threat, classes),
        closing=black_box(threat, 200),
        passes=100,
        tolerance=0.01,
        hardest=64,
    )


def standard(threat: Ball, access: Access, classes: int) -> Suite:
    """What a result should rest on: many short runs where they pay, and a black-box attack."""
    if access != "gradients" or threat.discrete:
        return by_scores(threat, access, draws=2, queries=5000)
    return Suite(
        opening=(*controls(threat, 2), Stage("fgsm", fgsm(threat), "single step"), *_first(threat)),
        menu=menu(threat, classes),
        longer=longer(threat, classes),
        closing=black_box(threat, 400),
        passes=80,
        tolerance=0.001,
        hardest=48,
    )


def thorough(threat: Ball, access: Access, classes: int) -> Suite:
    """The lowest number that patience can buy, and every kind of attack at length."""
    if access != "gradients" or threat.discrete:
        return by_scores(threat, access, draws=10, queries=20_000)
    targeted = (Stage("apgd-t", apgd_t(threat, steps=100, targets=9), "white box"),) if classes >= 4 else ()
    return Suite(
        opening=(*controls(threat, 10), Stage("fgsm", fgsm(threat), "single step"), *_first(threat)),
        menu=menu(threat, classes),
        longer=longer(threat, classes),
        closing=(Stage("apgd-ce", apgd_ce(threat, steps=100), "white box"), *targeted, *black_box(threat, 5000)),
        passes=1000,
        hardest=128,
        nearest=way_of(threat).nearest,
    )


def _first(threat: Ball) -> tuple[Stage, ...]:
    """The first runs, on everything, by which examples are ranked."""
    own = (Stage(f"first {name}", attack, "white box") for name, attack in way_of(threat).first(threat).items())
    return (Stage("first margin", _run(threat, margin, beta=10), "white box"), *own)


SUITES: dict[str, Callable[[Ball, Access, int], Suite]] = {"quick": quick, "standard": standard, "thorough": thorough}


def last_resort(threat: Ball, access: Access) -> Attack:
    """What breaks a model without gradients fastest."""
    return quick(threat, access, 2).opening[-1].attack


def build(suite: str, threat: Ball, access: Access, classes: int) -> Suite:
    """A suite, for a threat and for what the model lets an attacker have.

    Raises:
        BadInput: there is no suite of this name.
    """
    if suite not in SUITES:
        raise BadInput(f"unknown suite {suite!r}", f"one of {', '.join(SUITES)}", "choose one of them")
    return SUITES[suite](threat, access, classes)
