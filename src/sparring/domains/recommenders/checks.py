"""Checks of an audit of a recommender: would a stronger attack, or another day, have given another number?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sparring.domains.recommenders.attacks import UNINFORMED
from sparring.domains.recommenders.result import Promotion, Service, Tried
from sparring.evaluate.result import Check, Outcome, checked

SEEDS, USERS, FEW = 3, 100, 10
ALREADY, NOTHING = 0.5, 0.05
SHARE = 0.5
"""Of the uplift: what the control may have of it, and by how much seeds may differ; of what popularity foresees."""


def checks(found: Promotion, baseline: Service, *, moved: bool, repeats: bool, outside: Sequence[str]) -> list[Check]:
    """All checks of a finished run.

    `baseline` is the service of the popular (or of the mean rating), `moved` whether any score differs after an attack,
    `repeats` whether the same training gives the same scores, `outside` names attacks that left the threat.
    """
    return [
        _reads(moved),
        _repeats(repeats),
        _learns(found, baseline),
        _within(outside),
        _users(found),
        _seeds(found),
        *_of_items(found),
    ]


def _reads(moved: bool) -> Check:
    said = "scores change with the data" if moved else "no score changes, whatever the fake users rate"
    remedy = "hand over a function that trains on the data it is given"
    return checked("reads-data", None if moved else "fail", said, remedy, "one score of a real user", fatal=True)


def _repeats(repeats: bool) -> Check:
    said = "the same training gives the same scores" if repeats else "two equal trainings give different scores"
    remedy = "draw from rng, or from torch's own generator, and from nothing else"
    return checked("repeats", None if repeats else "warn", said, remedy, "equal")


def _learns(found: Promotion, baseline: Service) -> Check:
    clean, remedy = found.clean, "check the feedback that it wants, and its settings: what learns nothing says nothing"
    if clean.rmse is not None and baseline.rmse is not None:
        said = f"it predicts ratings to come within {clean.rmse:.2f} stars, the mean of each item {baseline.rmse:.2f}"
        return checked("learns", "fail" if clean.rmse >= baseline.rmse else None, said, remedy, "closer than the mean")
    said = f"it foresees {clean.hit_rate:.1%} of what users do next, popularity {baseline.hit_rate:.1%}"
    level: Outcome = "fail" if clean.hit_rate < SHARE * baseline.hit_rate else "warn"
    return checked(
        "learns", level if clean.hit_rate <= baseline.hit_rate else None, said, remedy, "more than popularity"
    )


def _within(outside: Sequence[str]) -> Check:
    said = f"{', '.join(outside)} left the threat" if outside else "all fake users are within the threat"
    return checked("threat", "fail" if outside else None, said, "what is outside does not count: mend it", "all")


def _users(found: Promotion) -> Check:
    least = min((one.eligible for one in found.tried), default=0)
    bad: Outcome | None = "fail" if least < FEW else "warn" if least < USERS else None
    said = f"{least} users may be shown an item"
    return checked("users", bad, said, "more users say more", f"{USERS}, {FEW} at least", fatal=True)


def _seeds(found: Promotion) -> Check:
    said = f"trained {found.seeds} times with each attack" if found.seeds > 1 else "trained once with each attack"
    return checked("seeds", "fail" if found.seeds < SEEDS else None, said, f"--seeds {SEEDS}", f"{SEEDS} at least")


def _of_items(found: Promotion) -> Iterator[Check]:
    """For each question the item that answers it worst."""
    best = [found.strongest(item) for item in found.items]
    if not best:
        return
    yield max((_room(found, one) for one in best), key=_badness)
    yield max((_control(found, one) for one in best), key=_badness)
    yield max((_informed(found, one) for one in best), key=_badness)
    yield max((_agree(found, one) for one in best), key=_badness)


def _badness(check: Check) -> int:
    return ("skipped", "pass", "warn", "fail").index(check.outcome)


def _room(found: Promotion, one: Tried) -> Check:
    """Whether there is something to win."""
    clean = one.clean.estimate
    bad: Outcome | None = "fail" if (clean > ALREADY if found.sign > 0 else clean < NOTHING) else None
    said = f"item {one.item} is among the top {found.top} of {clean:.1%} of the users before the attack"
    threshold = f"{ALREADY:.0%} at most" if found.sign > 0 else f"{NOTHING:.0%} at least"
    return checked("room", bad, said, "take an item for which there is more to win", threshold)


def _control(found: Promotion, one: Tried) -> Check:
    """Whether fake users who say nothing of the item do as much for it."""
    idle = next((other for other in found.control if other.item == one.item), None)
    if idle is None:
        return checked("control", "skipped", "no control", "", "")
    gained, other = found.sign * one.uplift.estimate, found.sign * idle.uplift.estimate
    sure = found.sign * (idle.uplift.low if found.sign > 0 else idle.uplift.high) > 0
    said = f"fake users who do not rate item {one.item} win {other:+.1%} of the users, the attack {gained:+.1%}"
    bad: Outcome | None = "fail" if sure and other > SHARE * gained else None
    return checked(
        "control", bad, said, "what moves it is not what they say of it", f"{SHARE:.0%} of the attack at most"
    )


def _informed(found: Promotion, one: Tried) -> Check:
    """Whether an attack that knows the data beats one that does not."""
    others = [other for other in found.tried if other.item == one.item and other.attack != UNINFORMED]
    if not others:
        return checked("informed", "fail", "nothing but random profiles was tried", "try every attack", "one")
    if one.attack != UNINFORMED:
        return checked("informed", None, f"{one.attack} does most for item {one.item}", "", "not random")
    second = max(others, key=lambda other: found.sign * other.attacked.estimate)
    apart = one.attacked.low > second.attacked.high if found.sign > 0 else one.attacked.high < second.attacked.low
    said = f"random profiles reach {one.attacked.estimate:.1%}, {second.attack} {second.attacked.estimate:.1%}"
    bad: Outcome | None = "fail" if apart else "warn"
    return checked("informed", bad, said, "better attacks may exist: take the number for a lower bound", "not random")


def _agree(found: Promotion, one: Tried) -> Check:
    """Whether trainings agree on what the strongest attack does."""
    apart, uplift = max(one.by_seed) - min(one.by_seed), abs(one.uplift.estimate)
    bad: Outcome | None = "warn" if apart > max(SHARE * uplift, 0.02) else None
    said = f"from training to training {one.attack} reaches {min(one.by_seed):.1%} to {max(one.by_seed):.1%}"
    return checked("agree", bad, said, "more --seeds", f"{SHARE:.0%} of the uplift, or 2 points")
