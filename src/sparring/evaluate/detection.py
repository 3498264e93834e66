"""What a detector is worth: false alarms, what it notices of attacks that do not know it, and of those that do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks import PGD, Restarts, pgd_cosine
from sparring.defences.detectors import Detector, Unnoticed, refused, watched
from sparring.errors import BadInput
from sparring.evaluate.given import examples, with_gradients
from sparring.evaluate.result import Interval
from sparring.evaluate.run import accept, own_draws
from sparring.evaluate.statistics import clopper_pearson
from sparring.goals import Untargeted
from sparring.losses import cross_entropy, margin
from sparring.models.victim import inference
from sparring.steps import ascent, chain, cosine, momentum
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Model

RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place on the ROC curve: at this threshold, the share of clean inputs and of attacked ones that are refused."""

    threshold: float
    false_positives: Interval
    detected: Interval


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A detector against two attacks, with exact intervals.

    `false_positives` is of clean examples; `unaware` and `adaptive` of the `fooled` examples on which the attack that
    does not know the detector fools the model: the share of them that does not get past model and detector together.
    `auc` is the chance that an attacked example has a higher score than a clean one.
    """

    fooled: int
    false_positives: Interval
    unaware: Interval
    adaptive: Interval
    auc: float
    roc: tuple[Point, ...]


def roc(clean: Tensor, attacked: Tensor) -> tuple[Point, ...]:
    """The curve at thresholds with about the false-positive rates `RATES`, from scores `(N,)` and `(M,)`."""
    clean, attacked = clean.double(), attacked.double()
    thresholds = (float(_ordered(clean).quantile(1 - rate, interpolation="lower")) for rate in RATES)
    return tuple(
        Point(threshold=at, false_positives=_share(refused(clean, at)), detected=_share(refused(attacked, at)))
        for at in thresholds
    )


def _share(happened: Tensor) -> Interval:
    return clopper_pearson(int(happened.sum()), len(happened))


def area(clean: Tensor, attacked: Tensor) -> float:
    """The area under the ROC curve: `P(attacked > clean)`, ties by half (Mann and Whitney, 1947)."""
    if not len(clean) or not len(attacked):
        return 0.5
    clean, attacked = _ordered(clean), _ordered(attacked).unsqueeze(1)
    return float(((attacked > clean).double() + 0.5 * (attacked == clean).double()).mean())


def _ordered(scores: Tensor) -> Tensor:
    """Scores, with those that are no number above all others: a detector refuses them."""
    return scores.double().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)


def joint(threat: Ball) -> Restarts:
    """PGD on both at once, with momentum and without, from the input itself and from random starts; then longer.

    On what both lack, and on the lesser of the two. Momentum (0.75, as in Auto-PGD) gets out of where the gradients of
    the two point against each other; without it, finer steps are taken in the end. What stands after 8 runs of 60 steps
    is climbed with momentum in 4 runs of 200: a narrow way between the two takes long.
    """
    plain, carried = (ascent(threat.norm),), (momentum(0.75), ascent(threat.norm))
    climbs = tuple(
        PGD(threat=threat, step=chain(*rule, cosine(threat.unit, steps)), loss=loss, steps=steps, random_start=start)
        for rule, steps in ((carried, 60), (plain, 60), (carried, 200))
        for start in (False, True)
        for loss in (margin, cross_entropy)
    )
    return Restarts(attacks=climbs, times=len(climbs))


@with_gradients()
def detect(
    model: Model,
    detector: Detector,
    x: Tensor,
    labels: Tensor,
    threat: Ball,
    *,
    attack: Attack | None = None,
    seed: int = 0,
) -> Detection:
    """Test a detector on examples that it has not seen, `(B, *shape)` with labels `(B,)`.

    The attack that does not know the detector is PGD with 40 steps on the model; the one that does climbs `watched`
    with the goal `Unnoticed`, 8 runs of 60 steps and 4 of 200 (or is the attack given).

    Raises:
        BadInput: no examples, labels of others, or inputs that are not finite or outside of the threat's bounds.
    """
    if not len(x):
        raise BadInput("no examples", "at least 1 example", "test the detector on clean examples that it has not seen")
    accept(x, examples((x, labels)), threat)
    x, rng = x.detach().clone(), Streams.of(seed, range(len(x)))
    with inference(model), own_draws("detect", seed):
        with torch.no_grad():
            right = (model(x).argmax(1) == labels).nonzero().flatten()
            clean = detector.score(x)
        x, labels, rng = x[right], labels[right], rng[right]
        z = pgd_cosine(threat, steps=40, loss=margin)(model, x, Untargeted(labels), rng.at("unaware"))
        with torch.no_grad():
            rows = (model(z).argmax(1) != labels).nonzero().flatten()
        x, labels, rng, z = x[rows], labels[rows], rng[rows], z[rows]
        goal, view = Unnoticed(labels), watched(model, detector)
        found = (attack or joint(threat))(view, x, goal, rng.at("adaptive"))
        with torch.no_grad():
            past = goal.reached(view(found)) & threat.contains(found, x)
            scores = detector.score(z)
        unaware = refused(scores, detector.threshold)
    return Detection(
        fooled=len(rows),
        false_positives=_share(refused(clean, detector.threshold)),
        unaware=_share(unaware),
        adaptive=_share(unaware & ~past),
        auc=area(clean, scores),
        roc=roc(clean, scores),
    )
