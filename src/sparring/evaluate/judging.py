"""The verdict, out of the checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sparring.evaluate.checks import DOUBTFUL
from sparring.evaluate.result import Check, Verdict

UPPER_BOUND = (DOUBTFUL - {"randomness"}) | {
    "access",
    "adaptive",
    "coarse-scores",
    "logits",
    "random-rewriting",
    "unaware",
    "wider-search",
}
"""Checks whose failure says that a better attack would break more."""


def exact(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The same checks where each example is broken or proved: no attack could break more, such doubts are warnings."""
    return tuple(
        check.model_copy(update={"outcome": "warn"})
        if check.outcome == "fail" and check.name in UPPER_BOUND and not check.fatal
        else check
        for check in checks
    )


def judge(checks: Sequence[Check]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict: as bad as the worst failed check; the reasons in words."""
    failed = [check for check in checks if check.outcome == "fail"]
    reasons = tuple(f"{check.evidence} → {check.remedy}" if check.remedy else check.evidence for check in failed)
    if any(check.fatal for check in failed):
        return "invalid", reasons
    if failed:
        return "suspect", reasons
    counts = Counter(check.outcome for check in checks)
    warned = f", {counts['warn']} warned" if counts["warn"] else ""
    return "trusted", (f"{counts['pass']} checks passed, none failed{warned}",)
