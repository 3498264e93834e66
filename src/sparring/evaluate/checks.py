"""Checks that read the finished run: may its number be trusted?

A `Question` is what a check asks, with its threshold and what to do, written once; the doctor's are in
`sparring.evaluate.doctor`. A check is a function of the record of the run that answers one question, or nothing where
the run has no such stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from sparring.evaluate.ledger import Outcome
from sparring.evaluate.result import Check
from sparring.evaluate.statistics import clopper_pearson
from sparring.threats import Ball
from sparring.types import Access

Subject = TypeVar("Subject")
Weight = Literal["invalid", "suspect", "warning"]
"""What a bad answer makes of the verdict; a warning leaves it as it is."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a set-up or of a finished run: `bad` says when an answer is one, `remedy` what to do then."""

    name: str
    asks: str
    bad: str
    threshold: str
    remedy: str
    serious: Weight = "suspect"

    def passed(self, evidence: str) -> Check:
        """Nothing found."""
        return Check(name=self.name, outcome="pass", evidence=evidence, threshold=self.threshold)

    def warned(self, evidence: str, *, remedy: str = "") -> Check:
        """Something to know, that leaves the verdict as it is."""
        return self._found("warn", evidence, remedy)

    def failed(self, evidence: str, *, remedy: str = "") -> Check:
        """Something that the verdict must say."""
        return self._found("fail", evidence, remedy)

    def answered(self, evidence: str, *, bad: bool) -> Check:
        """Passed, or as serious as this question is."""
        if not bad:
            return self.passed(evidence)
        return self.warned(evidence) if self.serious == "warning" else self.failed(evidence)

    def skipped(self, evidence: str) -> Check:
        """Not asked, and why."""
        return Check(name=self.name, outcome="skipped", evidence=evidence)

    def at(self, threshold: str) -> Question:
        """The same question with the threshold that these bounds or these data give it."""
        return Question(**{**vars(self), "threshold": threshold})

    def _found(self, outcome: Literal["warn", "fail"], evidence: str, remedy: str) -> Check:
        return Check(
            name=self.name,
            outcome=outcome,
            evidence=evidence,
            threshold=self.threshold,
            remedy=remedy or self.remedy,
            serious="invalid" if self.serious == "invalid" else "suspect",
        )


@dataclass(frozen=True)
class Look(Generic[Subject]):
    """A question and how it is answered, of a patient or of a record."""

    question: Question
    answer: Callable[[Subject, Question], Check | None]

    def __call__(self, subject: Subject) -> Check | None:
        """The answer; nothing where the question does not arise."""
        return self.answer(subject, self.question)


def asks(
    name: str, bad: str, *, threshold: str, remedy: str, serious: Weight = "suspect"
) -> Callable[[Callable[[Subject, Question], Check | None]], Look[Subject]]:
    """Make a function of a subject and a question into a look; what it asks is the first line of its docstring."""

    def look(answer: Callable[[Subject, Question], Check | None]) -> Look[Subject]:
        said = (answer.__doc__ or "").strip().split("\n")[0]
        question = Question(name=name, asks=said, bad=bad, threshold=threshold, remedy=remedy, serious=serious)
        return Look(question, answer)

    return look


BLACK_BOX_GAIN = 0.002
"""AutoAttack flags a model on which Square gains more than 0.2 points over its gradient attacks."""

MASKED = "gradients are masked: use BPDA, EOT or a smoothed backward pass, and black-box attacks"

DOUBTFUL = frozenset(
    {
        "gradients",
        "saturation",
        "finite-differences",
        "shattered-gradients",
        "quantised-inputs",
        "double-precision",
        "loss-noise",
        "randomness",
        "inference-time-optimisation",
        "noise-control",
        "iteration",
        "black-box",
        "monotone",
        "unbounded",
        "hidden-paths",
        "scale",
        "convergence",
    }
)
"""Checks whose failure says that gradients mislead: the audit then looks for an attack that fits the model."""

HINTS = frozenset({"hidden-paths", "steep-units", "optimisation", "quantised-inputs"})
"""Checks whose warning says that they may."""


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

    def broke(self, role: str) -> int:
        """How many examples the stages with this role broke."""
        return sum(outcome.reached for outcome in self.of(role).values())


EVERY_INPUT = Question(
    name="every-input",
    asks="Are all examples finite and within the bounds, also those that the doctor did not see?",
    bad="any is not (it appears only then)",
    threshold="none",
    remedy="clean the data",
    serious="invalid",
)
"""Asked by the audit when it looks at every example: a run ends there."""


@asks("claims", "any", threshold="none", remedy="an attack is broken: report it, with this result")
def claims_are_inside_the_threat(record: Record, question: Question) -> Check:
    """Did an attack hand over points outside of what the threat allows?"""
    rejected = sum(outcome.rejected for stage in record.outcomes.values() for outcome in stage.values())
    evidence = f"{rejected} claims were rejected: outside of the threat or of the bounds"
    return question.answered(evidence if rejected else "every claim was judged again, and held", bad=rejected > 0)


@asks(
    "access",
    "it gives scores or labels alone; of texts, labels alone",
    threshold="gradients",
    remedy="an attacker who knows the model does better: audit a differentiable form of it",
)
def access_allows_a_verdict(record: Record, question: Question) -> Check | None:
    """Was the model open enough for an attack that could find the worst case?"""
    if record.access == "gradients":
        return None
    if record.access == "scores" and record.threat.discrete:
        return question.at("scores").passed("words are replaced by trying: scores are what such an attacker needs")
    return question.failed(f"the model gives {record.access} alone: only black-box attacks could be run")


def _again(record: Record, question: Question, role: str, said: str) -> Check | None:
    """What a weak attack broke was attacked again by the strong one, which must break it too."""
    tried = record.of(role)
    if not tried:
        return None
    stood = len(tried) - record.broke(role)
    evidence = f"of {len(tried)} examples that {said} failed on {stood}"
    return question.answered(evidence, bad=clopper_pearson(stood, len(tried)).low > 0.05)


@asks(
    "finite-under-attack",
    "any are not",
    threshold="none",
    remedy="give what is refused a class of its own: a score that is no number is neither right nor wrong",
)
def attacked_inputs_get_scores(record: Record, question: Question) -> Check:
    """Does the model answer attacked inputs with finite scores, as it does clean ones?"""
    odd = {
        example
        for stage, outcomes in record.outcomes.items()
        if stage not in record.roles.get("clean", ())
        for example, outcome in outcomes.items()
        if outcome.prediction < 0
    }
    if not odd:
        return question.passed("every score that the judge saw was finite")
    return question.failed(f"{len(odd)} examples got NaN or infinite scores under attack")


@asks(
    "random-rewriting",
    "it fails on more than 5 %, beyond chance",
    threshold="5 %, beyond chance",
    remedy="scores lead the search nowhere: let the model say more than its decision, or raise the budget",
)
def searches_beat_chance(record: Record, question: Question) -> Check | None:
    """Does the search for words break what words replaced blindly break?"""
    return _again(record, question, "after control", "chance broke, the search") if record.threat.discrete else None


@asks(
    "wider-search",
    "surely more than 0.2 % of the examples",
    threshold="0.2 %",
    remedy="raise the budget (--budget): the number still falls",
)
def a_wider_search_changes_nothing(record: Record, question: Question) -> Check | None:
    """Does a search four times as wide break what the suite did not?"""
    if "wider" not in record.roles:
        return None
    return _found_more(record, question, "wider", "a search four times as wide", BLACK_BOX_GAIN)


@asks("noise-control", "it fails on more than 5 %, beyond chance", threshold="5 %, beyond chance", remedy=MASKED)
def gradients_beat_noise(record: Record, question: Question) -> Check | None:
    """Does the white-box attack break what blind noise breaks?"""
    if record.threat.discrete:
        return None
    return _again(record, question, "after control", "noise broke, the white-box attack")


@asks("iteration", "it fails on more than 5 %, beyond chance", threshold="5 %, beyond chance", remedy=MASKED)
def many_steps_beat_one(record: Record, question: Question) -> Check | None:
    """Does the iterated attack break what a single step breaks?"""
    return _again(record, question, "after single step", "a single step broke, the iterated attack")


def _found_more(record: Record, question: Question, role: str, said: str, limit: float) -> Check:
    """How much the stages with this role broke beyond what others had."""
    broke = record.broke(role)
    low = clopper_pearson(broke, record.examples).low
    evidence = (
        f"{said} broke {broke} examples that stood, of {record.examples} (at least {low:.2%}, by the 95% interval)"
    )
    return question.answered(evidence, bad=low > limit)


@asks(
    "black-box",
    "surely more than 0.2 % of the examples",
    threshold="0.2 %",
    remedy="gradients are masked: raise the budget of black-box attacks, attack a smoothed backward pass",
)
def white_box_beats_black_box(record: Record, question: Question) -> Check | None:
    """Does the black-box attack find what the gradient attacks, which know more, did not?"""
    if record.access != "gradients" or record.threat.discrete or "black box" not in record.roles:
        return None  # words are searched for by trying, whatever was ranked by slopes before
    return _found_more(record, question, "black box", "after gradient attacks, black-box attacks", BLACK_BOX_GAIN)


@asks(
    "adaptive",
    "surely more than 1 % of the examples",
    threshold="1 %",
    remedy="part of the model hides its gradients: report the number of the adaptive attack, with its views",
)
def the_suite_needs_no_adaptive_attack(record: Record, question: Question) -> Check | None:
    """Does an attack that was fitted to the model break what the suite did not?"""
    if "adaptive" not in record.roles:
        return None
    return _found_more(record, question, "adaptive", "attacks that were fitted to the model", 0.01)


@asks(
    "monotone",
    "surely more than 1 %",
    threshold="1 %",
    remedy="the attack gets lost on the way: more steps, smaller ones, more restarts",
)
def a_larger_eps_never_hurts(record: Record, question: Question) -> Check | None:
    """Does the attack at half of eps break what it could not break at eps?"""
    tried = record.of("half")
    if not tried:
        return None
    broke = record.broke("half")
    evidence = f"at half of eps, {broke} of {len(tried)} examples fell that had stood at eps"
    return question.answered(evidence, bad=clopper_pearson(broke, len(tried)).low > 0.01)


@asks(
    "convergence", "surely more than 1 %", threshold="1 %", remedy="raise the budget (--budget): the number still falls"
)
def more_effort_changes_nothing(record: Record, question: Question) -> Check | None:
    """Does the later half of the rounds still break examples?"""
    if not record.of("again"):
        return None
    return _found_more(record, question, "again", "the later half of the rounds", 0.01)


@asks(
    "unbounded",
    "more than 10 % stand, or more than chance",
    threshold="10 %, or chance",
    remedy="the attack cannot follow the gradient: change the loss, use BPDA or EOT, attack by scores",
)
def accuracy_falls_without_bounds(record: Record, question: Question) -> Check | None:
    """Does every example fall when eps is as large as the box, and any image can be made another one?"""
    tried = record.of("unbounded")
    if not tried:
        return None
    stood, limit = 1 - record.broke("unbounded") / len(tried), max(0.1, record.chance)
    evidence = f"with eps as large as the box, {stood:.0%} of {len(tried)} examples stand"
    return question.at(f"{limit:.0%}").answered(evidence, bad=stood > limit)


@asks(
    "storage",
    "surely under 50 % do",
    threshold="50 %",
    serious="warning",
    remedy="part of the damage is gone once an image is stored: say which of the two you mean",
)
def success_survives_storage(record: Record, question: Question) -> Check | None:
    """Are examples that fell still broken by what was found when it is stored as files keep such inputs?"""
    survives: dict[int, bool] = {}
    for stage in record.outcomes.values():
        for example, one in stage.items():
            if one.counts and one.survives_storage is not None:
                survives[example] = survives.get(example, False) or one.survives_storage
    if not survives:
        return None
    share = clopper_pearson(sum(survives.values()), len(survives))
    evidence = (
        f"of {len(survives)} examples that fell, {share.estimate:.0%} still do when what broke them is stored "
        f"as files keep it (at most {share.high:.0%}, by the 95% interval)"
    )
    return question.answered(evidence, bad=share.high < 0.5)


@asks("sample-size", "fewer than 50 examples", threshold="50", serious="warning", remedy="audit more examples")
def there_are_enough_examples(record: Record, question: Question) -> Check:
    """Is the sample large enough to say anything?"""
    width = clopper_pearson(record.examples // 2, record.examples)
    evidence = f"{record.examples} examples: an interval is up to {width.high - width.low:.0%} wide"
    return question.answered(evidence, bad=record.examples < 50)


UNAWARE = Question(
    name="unaware",
    asks="Does the adaptive attack break all that an attack on the bare model breaks?",
    bad="it misses any",
    threshold="none",
    remedy="give the defence a better surrogate, or more draws",
)
"""Asked by the audit of a defence."""


CHECKS: tuple[Look[Record], ...] = (
    claims_are_inside_the_threat,
    access_allows_a_verdict,
    attacked_inputs_get_scores,
    gradients_beat_noise,
    searches_beat_chance,
    a_wider_search_changes_nothing,
    many_steps_beat_one,
    white_box_beats_black_box,
    the_suite_needs_no_adaptive_attack,
    a_larger_eps_never_hurts,
    more_effort_changes_nothing,
    accuracy_falls_without_bounds,
    success_survives_storage,
    there_are_enough_examples,
)


def read(record: Record) -> tuple[Check, ...]:
    """All checks that the run allows."""
    return tuple(check for look in CHECKS if (check := look(record)) is not None)
