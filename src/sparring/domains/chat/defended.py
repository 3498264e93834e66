"""What a defence of an assistant is worth: without it, against who does not know it, against who does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from sparring.evaluate.result import Interval
from sparring.evaluate.statistics import clopper_pearson
from sparring.spelling import hint


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Shares of the cases taken over, and what else the defence changes."""

    bare: Injection
    unaware: Interval
    """What was found without the defence, handed to the assistant behind it."""
    adaptive: Injection
    changed: Interval
    """The share of the cases in which the answer is another one where nobody attacks."""


def worth(
    model: Assistant,
    defended: Assistant,
    bare: Injection,
    cases: Sequence[Case],
    threat: Suffix,
    *,
    judge: Judge = begins,
    **given: Any,
) -> Worth:
    """Measure a defence on the cases of an audit without it: `given` is what `audit` takes for the one with it.

    What is counted of the unaware attacker are all texts that took the bare assistant over, by whatever attack.

    Raises:
        BadInput: as `audit`.
    """
    named_cases = dict(zip(named(cases), cases, strict=True))
    found = [bout for bout in bare.bouts if bout.broke]
    eligible = [one.case for one in bare.clean if not one.own]
    held = {
        bout.case
        for bout in found
        if Says(named_cases[bout.case].wanted, judge).reached(defended.answers(named_cases[bout.case], [bout.text])[0])
    }
    adaptive = audit(defended, cases, threat, judge=judge, **given)
    before = {one.case: one.answer for one in bare.clean}
    changed = sum(before[one.case] != one.answer for one in adaptive.clean)
    return Worth(
        bare=bare,
        unaware=clopper_pearson(len(held), len(eligible)),
        adaptive=adaptive,
        changed=clopper_pearson(changed, len(adaptive.clean)),
    )


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
