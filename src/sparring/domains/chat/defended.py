"""What a defence of an assistant is worth: without it, against who does not know it, against who does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparring.domains.chat.assistant import Assistant
from sparring.domains.chat.audit import audit
from sparring.domains.chat.cases import Case, named
from sparring.domains.chat.goals import Judge, Says, begins
from sparring.domains.chat.language_model import LanguageModel
from sparring.domains.chat.perplexity import Watched, calibrated
from sparring.domains.chat.result import Injection
from sparring.domains.chat.smooth_llm import Smoothed
from sparring.domains.chat.spotlighting import DATAMARKING, DELIMITING, Spotlighted
from sparring.domains.chat.threats import Suffix
from sparring.errors import BadInput
from sparring.evaluate.result import Interval, Record, Verdict
from sparring.evaluate.statistics import clopper_pearson
from sparring.spelling import hint


class Worth(Record):
    """Shares of the cases taken over, and what else a defence changes."""

    assistant: str
    """With its defence."""
    bare: Interval
    """Without the defence."""
    unaware: Interval
    """What was found without the defence, handed to the assistant behind it."""
    adaptive: Interval
    """What was found by who knows the defence, and has what was found without it too."""
    changed: Interval
    """The share of the cases in which the answer is another one where nobody attacks."""
    verdict: Verdict
    """Of the audit of the assistant behind its defence."""
    reasons: list[str]


def worth(
    model: Assistant,
    bare: Injection,
    cases: Sequence[Case],
    threat: Suffix,
    *,
    judge: Judge = begins,
    **given: Any,
) -> tuple[Worth, Injection]:
    """Measure a defence, `model` being behind it, on the cases of an audit without it; and its own audit.

    The unaware attacker has all texts that took the bare assistant over, by whatever attack. `given` is what `audit`
    takes for the audit of the assistant behind its defence.

    Raises:
        BadInput: as `audit`.
    """
    known = dict(zip(named(cases), cases, strict=True))
    eligible = [one.case for one in bare.clean if not one.own]
    unaware = {
        bout.case
        for bout in bare.bouts
        if bout.broke and Says(known[bout.case].wanted, judge).reached(model.answers(known[bout.case], [bout.text])[0])
    }
    found = audit(model, cases, threat, judge=judge, **given)
    aware = unaware | {bout.case for bout in found.bouts if bout.broke}
    before = {one.case: one.answer for one in bare.clean}
    changed = sum(before[one.case] != one.answer for one in found.clean)
    number = Worth(
        assistant=found.assistant,
        bare=bare.taken,
        unaware=clopper_pearson(len(unaware), len(eligible)),
        adaptive=clopper_pearson(len(aware & {*eligible}), len(eligible)),
        changed=clopper_pearson(changed, len(found.clean)),
        verdict=found.verdict,
        reasons=found.reasons,
    )
    return number, found


DEFENCES = ("perplexity", "delimiting", "datamarking", "smooth-llm")


def defend(name: str, model: Assistant, clean: Sequence[str] = ()) -> Assistant:
    """An assistant behind the defence of this name; `clean` are documents by which the filter's threshold is set.

    Raises:
        BadInput: there is none, too few clean documents, or a filter around a model that is no language model.
    """
    if name not in DEFENCES:
        raise BadInput(f"defence {name!r}", f"one of {', '.join(DEFENCES)}", hint(name, DEFENCES, "choose one of them"))
    if name == "smooth-llm":
        return Smoothed(model)
    if name != "perplexity":
        return Spotlighted(model, marking=DELIMITING if name == "delimiting" else DATAMARKING)
    if not isinstance(model, LanguageModel):
        raise BadInput(f"perplexity around {model.name}", "a language model to read with", "choose another defence")
    return Watched(model, reader=model, threshold=calibrated(model, clean))
