"""Checks that read the finished run: may its number be trusted?

Each is a function of the record of the run, and returns a `Check`, or nothing where the run has no such stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparring.evaluate.ledger import Outcome
from sparring.evaluate.result import Check
from sparring.evaluate.statistics import clopper_pearson
from sparring.threats import Ball
from sparring.types import Access

BLACK_BOX_GAIN = 0.002
"""AutoAttack flags a model on which Square gains more than 0.2 points over its gradient attacks."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the run left behind. `roles` maps the role of a stage to its names; outcomes are by stage, by example."""

    threat: Ball
    access: Access
    examples: int
    roles: Mapping[str, tuple[str, ...]]
    outcomes: Mapping[str, Mapping[int, Outcome]]
    chance: float

    def of(self, role: str) -> dict[int, Outcome]:
        """All outcomes of the stages with this role; a success hides a failure."""
        found: dict[int, Outcome] = {}
        for stage in self.roles.get(role, ()):
            for example, outcome in self.outcomes[stage].items():
                if outcome.reached or example not in found:
                    found[example] = outcome
        return found


def _again(record: Record, role: str, name: str, beaten: str, winner: str) -> Check | None:
    """What a weak attack broke was attacked again by the strong one, which must break it too."""
    tried = record.of(role)
    if not tried:
        return None
    stood = sum(not outcome.reached for outcome in tried.values())
    evidence = f"of {len(tried)} examples that {beaten} broke, {winner} failed on {stood}"
    if clopper_pearson(stood, len(tried)).low > 0.05:
        return Check(
            name=name,
            outcome="fail",
            evidence=evidence,
            threshold="5 %, beyond chance",
            remedy="gradients are masked: use BPDA, EOT or a smoothed backward pass, and black-box attacks",
        )
    return Check(name=name, outcome="pass", evidence=evidence, threshold="5 %")


def gradients_beat_noise(record: Record) -> Check | None:
    """Does the white-box attack break what blind noise breaks?"""
    return _again(record, "after control", "noise-control", "noise", "the white-box attack")


def many_steps_beat_one(record: Record) -> Check | None:
    """Does the iterated attack break what a single step breaks?"""
    return _again(record, "after single step", "iteration", "a single step", "the iterated attack")


def white_box_beats_black_box(record: Record) -> Check | None:
    """Does the black-box attack find what the gradient attacks, which know more, did not?"""
    if record.access != "gradients" or "black box" not in record.roles:
        return None
    broke = sum(outcome.reached for outcome in record.of("black box").values())
    low = clopper_pearson(broke, record.examples).low
    evidence = (
        f"black-box attacks broke {broke} of {record.examples} examples that gradient attacks left standing "
        f"(at least {low:.2%}, with 97.5 % confidence)"
    )
    if low > BLACK_BOX_GAIN:
        return Check(
            name="black-box",
            outcome="fail",
            evidence=evidence,
            threshold="0.2 %",
            remedy="gradients are masked: raise the budget of black-box attacks, attack a smoothed backward pass",
        )
    return Check(name="black-box", outcome="pass", evidence=evidence, threshold="0.2 %")


def accuracy_falls_without_bounds(record: Record) -> Check | None:
    """With eps as large as the box every model must fall: any image can be made another one."""
    tried = record.of("unbounded")
    if not tried:
        return None
    stood = sum(not outcome.reached for outcome in tried.values()) / len(tried)
    limit = max(0.1, record.chance)
    evidence = f"with eps as large as the box, {stood:.0%} of {len(tried)} examples stand"
    if stood > limit:
        return Check(
            name="unbounded",
            outcome="fail",
            evidence=evidence,
            threshold=f"{limit:.0%}",
            remedy="the attack cannot follow the gradient: change the loss, use BPDA or EOT, attack by scores",
        )
    return Check(name="unbounded", outcome="pass", evidence=evidence, threshold=f"{limit:.0%}")


def a_larger_eps_never_hurts(record: Record) -> Check | None:
    """Does the attack at half of eps break what it could not break at eps?"""
    tried = record.of("half")
    if not tried:
        return None
    broke = sum(outcome.reached for outcome in tried.values())
    low = clopper_pearson(broke, len(tried)).low
    evidence = f"at half of eps, {broke} of {len(tried)} examples fell that had stood at eps"
    if low > 0.01:
        return Check(
            name="monotone",
            outcome="fail",
            evidence=evidence,
            threshold="1 %",
            remedy="the attack gets lost on the way: more steps, smaller ones, more restarts",
        )
    return Check(name="monotone", outcome="pass", evidence=evidence, threshold="1 %")


def more_effort_changes_nothing(record: Record) -> Check | None:
    """Do more steps and restarts still break examples?"""
    tried = record.of("again")
    if not tried:
        return None
    broke = sum(outcome.reached for outcome in tried.values())
    low = clopper_pearson(broke, record.examples).low
    evidence = f"twice the steps and as many restarts again broke {broke} more of {record.examples} examples"
    if low > 0.01:
        return Check(
            name="convergence",
            outcome="fail",
            evidence=evidence,
            threshold="1 %",
            remedy="raise the budget: the number still falls",
        )
    return Check(name="convergence", outcome="pass", evidence=evidence, threshold="1 %")


def claims_are_inside_the_threat(record: Record) -> Check | None:
    """Did an attack hand over points outside of what the threat allows?"""
    rejected = sum(outcome.rejected for stage in record.outcomes.values() for outcome in stage.values())
    if rejected:
        return Check(
            name="claims",
            outcome="fail",
            evidence=f"{rejected} claims were rejected: outside of the threat or of the bounds",
            threshold="none",
            remedy="an attack is broken: report it, with this result",
        )
    return Check(name="claims", outcome="pass", evidence="every claim was judged again, and held", threshold="none")


def success_survives_storage(record: Record) -> Check | None:
    """Do adversarial examples still work when they are stored in 8 bits?"""
    claims = [
        outcome.survives_storage
        for stage in record.outcomes.values()
        for outcome in stage.values()
        if outcome.survives_storage is not None
    ]
    if not claims:
        return None
    share = sum(claims) / len(claims)
    evidence = f"{share:.1%} of {len(claims)} successes still are when they are rounded to 8 bits"
    if share < 0.9:
        return Check(
            name="storage",
            outcome="warn",
            evidence=evidence,
            threshold="90 %",
            remedy="part of the damage is gone once an image is stored: say which of the two you mean",
        )
    return Check(name="storage", outcome="pass", evidence=evidence, threshold="90 %")


def access_allows_a_verdict(record: Record) -> Check | None:
    """Was the model open enough for an attack that could find the worst case?"""
    if record.access == "gradients":
        return None
    return Check(
        name="access",
        outcome="fail",
        evidence=f"the model gives {record.access} alone: only black-box attacks could be run",
        threshold="gradients",
        remedy="an attacker who knows the model does better: audit a differentiable form of it",
    )


def there_are_enough_examples(record: Record) -> Check | None:
    """Is the sample large enough to say anything?"""
    width = clopper_pearson(record.examples // 2, record.examples)
    evidence = f"{record.examples} examples: an interval is up to {width.high - width.low:.0%} wide"
    if record.examples < 50:
        return Check(
            name="sample-size", outcome="warn", evidence=evidence, threshold="50", remedy="audit more examples"
        )
    return Check(name="sample-size", outcome="pass", evidence=evidence, threshold="50")


CHECKS = (
    claims_are_inside_the_threat,
    access_allows_a_verdict,
    gradients_beat_noise,
    many_steps_beat_one,
    white_box_beats_black_box,
    a_larger_eps_never_hurts,
    more_effort_changes_nothing,
    accuracy_falls_without_bounds,
    success_survives_storage,
    there_are_enough_examples,
)


def read(record: Record) -> tuple[Check, ...]:
    """All checks that the run allows."""
    return tuple(check for look in CHECKS if (check := look(record)) is not None)
