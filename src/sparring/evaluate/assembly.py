"""The result: numbers, checks and verdict, out of what happened in a bout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparring.domains.text.threats import Wording
from sparring.errors import BadInput
from sparring.evaluate import identity
from sparring.evaluate.bout import Story, nearest
from sparring.evaluate.case import Case
from sparring.evaluate.judging import exact, judge
from sparring.evaluate.ledger import Cost, Ledger
from sparring.evaluate.result import (
    AttackRecord,
    CurvePoint,
    Example,
    Interval,
    Passes,
    Progress,
    Result,
    environment,
    recorded,
)
from sparring.evaluate.run import asked, home, own_draws
from sparring.evaluate.statistics import clopper_pearson
from sparring.models.victim import inference
from sparring.tasks import ANSWERS, Classification, of

if TYPE_CHECKING:
    from sparring.report.gallery import Gallery

PICTURES = 12


def assembled(case: Case, story: Story) -> Result:
    """Numbers, checks and verdict, out of what happened."""
    clean, broken = story.outcomes.get("clean", {}), story.broken
    correct = [example for example, outcome in clean.items() if not outcome.reached and outcome.prediction >= 0]
    late = {check.name for check in story.checks}
    checks = (*(check for check in case.diagnosis.checks if check.name not in late), *story.checks)
    safe = {example for example, size in (story.proved or {}).items() if size >= case.threat.eps}
    if story.fought and broken.keys() | safe >= set(correct):
        checks = exact(checks)
    verdict, reasons = judge(checks)
    count = len(clean)
    found = nearest(broken, story.fought, story.outcomes)

    def certified(eps: float) -> float | None:
        """What is right is proved to stand where nothing changes."""
        if story.proved is None:
            return None
        return sum(size >= eps for size in story.proved.values()) / count if eps else len(correct) / count

    task = of(case.data)
    of_classes = isinstance(task, Classification)
    classes = case.data.classes if of_classes else ANSWERS
    accuracy = clopper_pearson(len(correct), count)
    robust = clopper_pearson(len(correct) - len(broken), count)
    if not story.fought:  # nothing was attacked: that bounds nothing but what the clean accuracy does
        robust = Interval(estimate=accuracy.estimate, low=0.0, high=1.0)
    rows = tuple(
        Example(
            index=example,
            label=outcome.label,
            clean=outcome.prediction,
            broken_by=broken[example].attack if example in broken else None,
            distance=found.get(example),
            certified=None if story.proved is None else story.proved.get(example, 0.0) >= case.threat.eps,
            proved=None if story.proved is None else story.proved.get(example, 0.0),
        )
        for example, outcome in sorted(clean.items())
    )
    refuse_contradictions(rows)
    fine = 32 if case.plan().nearest is not None else 0
    attacks = {stage for _, stages in story.fought.values() for stage in stages}
    blows = Counter(blow.attack for blow in broken.values())
    costs = [*story.costs.values(), Cost(forward=case.diagnosis.forward, backward=case.diagnosis.backward)]
    return Result(
        schema=1,
        verdict=verdict,
        reasons=reasons,
        name=case.victim.name,
        command=case.command,
        examples=count,
        digest=identity.of_examples(case.data),
        threat=recorded(case.threat),
        clean_accuracy=accuracy,
        robust_accuracy=robust,
        certified_accuracy=None
        if story.proved is None
        else clopper_pearson(sum(size >= case.threat.eps for size in story.proved.values()), count),
        curve=tuple(
            CurvePoint(eps=eps, robust_accuracy=standing_at(rows, eps), certified_accuracy=certified(eps))
            for eps in (0.0, *case.sizes(fine))
        )
        if story.fought
        else (),
        checks=checks,
        attacks=tuple(
            _record(name, stages, story, config=identity.of_attack(attack), broke=blows[name])
            for name, (attack, stages) in story.fought.items()
        ),
        stages=tuple(_record(name, (name,), story) for name in story.outcomes if name not in attacks),
        progress=story.progress,
        outlook=None
        if story.outlook is None
        else story.outlook.model_copy(update={"examples": min(story.outlook.examples, len(correct) - len(broken))}),
        passes=Passes(forward=sum(cost.forward for cost in costs), backward=sum(cost.backward for cost in costs)),
        seconds=0.0,
        seed=case.seed,
        settings={
            "suite": case.suite,
            "passes": case.passes,
            "certify": case.certify,
            "model": case.victim.name,
            "framework": case.victim.framework,
            "access": case.access,
            "data": case.data.name,
            "classes": json.dumps(classes, ensure_ascii=False) if classes else "",
            **({} if of_classes else {"task": str(task)}),
        },
        environment=environment(),
        per_example=rows,
    )


def refuse_contradictions(rows: Sequence[Example]) -> None:
    """Refuse a proof and an attack that contradict each other: one of the two is wrong, and nothing can be said."""
    for row in rows:
        if row.proved and row.distance is not None and row.proved > row.distance:
            raise BadInput(
                f"example {row.index}, which is proved to stand within {row.proved:g}, and broken at {row.distance:g}",
                "a network that is the same function for certificates and for attacks",
                "audit it without --certify, and report this: the certificate is wrong, or the network changes",
            )


def standing_at(rows: Sequence[Example], eps: float) -> float:
    """The share of examples that are right, and not known to fall within `eps`."""
    within = eps * (1 + 1e-4)  # recorded distances are rounded
    far = (row.distance is None or row.distance > within for row in rows if row.clean == row.label)
    return sum(far) / len(rows)


def joined(result: Result, attack: AttackRecord, fell: Mapping[int, float]) -> Result:
    """A result with one more attack: what it broke, of what still stood, counts, as if it had been the last one.

    `fell` are the examples that fall to it within the audited eps, and at which distances; how many it `broke` is
    counted here. Checks, reasons and verdict stay as they are.
    """
    new = {row.index for row in result.per_example if row.clean == row.label and row.broken_by is None} & fell.keys()
    rows = tuple(
        row.model_copy(update={"broken_by": attack.name, "distance": fell[row.index]}) if row.index in new else row
        for row in result.per_example
    )
    left = sum(row.clean == row.label and row.broken_by is None for row in rows)
    passes = (result.progress[-1].passes if result.progress else 0) + attack.forward + attack.backward
    last = Progress(attack=attack.name, passes=passes, standing=left)
    seen = result.outlook
    return result.model_copy(
        update={
            "robust_accuracy": clopper_pearson(left, len(rows)),
            "curve": tuple(
                point.model_copy(update={"robust_accuracy": standing_at(rows, point.eps)}) for point in result.curve
            ),
            "attacks": (*result.attacks, attack.model_copy(update={"broke": len(new)})),
            "progress": (*result.progress, last),
            "outlook": seen and seen.model_copy(update={"examples": min(seen.examples, left)}),
            "passes": Passes(
                forward=result.passes.forward + attack.forward, backward=result.passes.backward + attack.backward
            ),
            "seconds": result.seconds + attack.seconds,
            "per_example": rows,
        }
    )


def _record(name: str, stages: Sequence[str], story: Story, *, config: str = "", broke: int = 0) -> AttackRecord:
    costs = [story.costs[stage] for stage in stages]
    return AttackRecord(
        name=name,
        config=config,
        broke=broke,
        attacked=len({example for stage in stages for example in story.outcomes[stage]}),
        forward=sum(cost.forward for cost in costs),
        backward=sum(cost.backward for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
    )


def _words(case: Case, x: Tensor, z: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The words of a text before and after, place by place; nothing of what is none."""
    if not isinstance(case.threat, Wording):
        return None
    numbers = zip(x.long().tolist(), z.long().tolist(), strict=True)
    pieces = case.threat.lexicon.pieces
    before, after = zip(*((pieces[one], pieces[other]) for one, other in numbers if one or other), strict=True)
    return before, after


def pictures(case: Case, story: Story, ledger: Ledger) -> Gallery:
    """The first examples that were broken, before and after."""
    from sparring.report.gallery import Picture, confidence

    found: list[Picture] = []
    task, probabilities = of(case.data), case.victim.probabilities
    model = task.view(asked(case.victim))
    for example in sorted(story.broken):
        z = ledger.point(story.broken[example].stage, example)
        if z is None or len(found) == PICTURES:
            break
        x, y = case.data.take([example])
        with torch.no_grad(), inference(case.victim), own_draws(case.seed, "pictures", example):
            said = model(torch.cat([x, z.unsqueeze(0)]).to(home(case.victim))).cpu()
        if isinstance(task, Classification):
            label, measured = int(y), ""
            before, after = (confidence(one, probabilities) for one in said.numpy())
        else:
            label, measured = 0, task.measures
            before, after = ((number,) for number in task.measure(said, torch.cat([y, y])).tolist())
        found.append(
            Picture(
                index=example,
                label=label,
                clean=before,
                attacked=after,
                x=x[0].numpy(),
                z=z.numpy(),
                words=_words(case, x[0], z),
                measured=measured,
            )
        )
    return tuple(found)
