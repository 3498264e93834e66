"""Alarms: what goes wrong in robust training, read off its history by pure functions.

An alarm is a function of the epochs so far that gives an `Alarm`, or nothing. The trainer asks all of `ALARMS` after
every epoch; `gradient_masking` is asked of the audit at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparring.evaluate.result import Result


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch of training left in the history; None where nothing was measured.

    `loss` is its mean. `clean` and `robust` are accuracies on the examples held out, of the weights that training
    would return (the averaged ones); `live`, under the same attack, and `single_step`, under FGSM, are those of the
    weights that are being trained, at the size that the threat has grown to. `constant` is the share of the answer
    that these give most often, and `common` the share of the commonest label. `at_rest` is the mean loss before a
    neighbourhood perturbed the weights, where `loss` is that after. `leaks` counts passes of the attack, in one update,
    in which BatchNorm gathered statistics.
    """

    epoch: int
    step: int
    seconds: float
    loss: float
    lr: float
    strength: float
    gradient_norm: float | None = None
    clean: float | None = None
    robust: float | None = None
    live: float | None = None
    single_step: float | None = None
    constant: float | None = None
    common: float | None = None
    at_rest: float | None = None
    leaks: int | None = None
    examples: int = 0
    classes: int = 0


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something went wrong: what was seen, and against which threshold; and what to do."""

    name: str
    epoch: int
    seen: str
    threshold: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name} in epoch {self.epoch}: {self.seen} (threshold: {self.threshold}); {self.remedy}"


def _measured(history: Sequence[Epoch]) -> list[tuple[Epoch, float, float]]:
    """Epochs with the accuracy of the live weights under a single step, and under the whole attack."""
    return [(e, e.single_step, e.live) for e in history if e.single_step is not None and e.live is not None]


GAP, WIDENED, FELL = 0.5, 0.2, 0.1


def catastrophic_overfitting(history: Sequence[Epoch]) -> Alarm | None:
    """Does the network stand a single step, and no longer several (Wong et al., 2020; Andriushchenko, 2020)?

    Accuracy under FGSM minus that under PGD is a few points on an honest network. It counts as catastrophic where it
    widens by 20 points while the accuracy under PGD falls 10 below its best, and in any case above 50 points.
    """
    measured = _measured(history)
    if not measured or measured[-1][0] is not history[-1]:
        return None
    now, single, several = measured[-1]
    gap = single - several
    _, best_single, best = max(measured, key=lambda one: one[2])
    if not (gap > GAP or (gap - (best_single - best) > WIDENED and best - several > FELL)):
        return None
    return Alarm(
        name="catastrophic-overfitting",
        epoch=now.epoch,
        seen=f"accuracy {single:.1%} under a single step, but {several:.1%} under several (best so far {best:.1%})",
        threshold=f"the gap widens by {WIDENED:.0%} while the second falls by {FELL:.0%}, or exceeds {GAP:.0%}",
        remedy="train against several steps (pgd), start them from noise (n-fgsm), or align gradients (grad-align)",
    )


PATIENCE, LOST = 3, 0.03


def robust_overfitting(history: Sequence[Epoch]) -> Alarm | None:
    """Does accuracy under attack fall on examples held out while the loss still falls (Rice et al., 2020)?"""
    measured = [(e, e.robust) for e in history if e.robust is not None]
    if len(measured) <= PATIENCE or measured[-1][0] is not history[-1]:
        return None
    (peak, best), last = max(measured, key=lambda one: one[1]), measured[-PATIENCE:]
    noise = 2 * math.sqrt(0.5 / max(peak.examples, 1))  # of a difference of two shares, at most
    lost = max(LOST, noise)
    if peak.epoch >= last[0][0].epoch or any(best - robust <= lost for _, robust in last):
        return None
    if last[-1][0].loss >= peak.loss or peak.strength < 1:
        return None
    return Alarm(
        name="robust-overfitting",
        epoch=last[-1][0].epoch,
        seen=f"robust accuracy was {best:.1%} in epoch {peak.epoch} and is {last[-1][1]:.1%}, while the loss fell",
        threshold=f"{lost:.1%} below its best in {PATIENCE} measurements in a row",
        remedy="the best weights are kept: train for fewer epochs, average the weights, augment, or add data",
    )


CONSTANT = 0.95


def collapse(history: Sequence[Epoch]) -> Alarm | None:
    """Does the network say the same of nearly everything?"""
    seen = [(e, e.constant, e.common) for e in history if e.constant is not None and e.common is not None]
    if len(seen) < 2 or seen[-1][0] is not history[-1]:
        return None
    limit = max(CONSTANT, (1 + seen[-1][2]) / 2)
    if any(constant <= limit for _, constant, _ in seen[-2:]):  # all labels may be one class
        return None
    return Alarm(
        name="collapse",
        epoch=history[-1].epoch,
        seen=f"{seen[-1][1]:.1%} of the answers are one class; the commonest label has {seen[-1][2]:.1%}",
        threshold=f"{limit:.0%} in two measurements in a row",
        remedy="lower the learning rate, warm it up longer, let eps grow in over more epochs (ramp), or lower eps",
    )


def exploding_perturbation(history: Sequence[Epoch]) -> Alarm | None:
    """Are the weights pushed so far (AWP, SAM) that the network knows nothing there?"""
    now = history[-1]
    if now.at_rest is None or now.classes < 2:
        return None
    chance = math.log(now.classes)
    if now.loss <= max(chance, 2 * now.at_rest):
        return None
    return Alarm(
        name="exploding-perturbation",
        epoch=now.epoch,
        seen=f"the mean loss is {now.loss:.3g} at the perturbed weights, {now.at_rest:.3g} before",
        threshold=f"above chance, {chance:.3g}, and above twice that before",
        remedy="perturb the weights by less (a smaller radius), or later in the training",
    )


def batchnorm_leak(history: Sequence[Epoch]) -> Alarm | None:
    """Do the attack's own passes change the statistics that BatchNorm will use?"""
    now = history[-1]
    if not now.leaks:
        return None
    return Alarm(
        name="batchnorm-leak",
        epoch=now.epoch,
        seen=f"{now.leaks} passes of the attack in one update moved the running statistics",
        threshold="none",
        remedy="search for adversarial examples in inference mode: with sparring.models.victim.inference(network)",
    )


ALARMS: tuple[Callable[[Sequence[Epoch]], Alarm | None], ...] = (
    catastrophic_overfitting,
    robust_overfitting,
    collapse,
    exploding_perturbation,
    batchnorm_leak,
)

MASKING = (
    "gradients",
    "finite-differences",
    "shattered-gradients",
    "noise-control",
    "iteration",
    "black-box",
    "adaptive",
    "unbounded",
)
"""The evaluator's checks that fail where gradients lead nowhere."""


def gradient_masking(result: Result, epoch: int) -> Alarm | None:
    """Has training taught the network to hide its gradients, and not to be robust (Athalye et al., 2018)?"""
    failed = [check for check in result.checks if check.name in MASKING and check.outcome == "fail"]
    if not failed:
        return None
    return Alarm(
        name="gradient-masking",
        epoch=epoch,
        seen="; ".join(f"{check.name}: {check.evidence}" for check in failed),
        threshold="; ".join(dict.fromkeys(check.threshold for check in failed)),
        remedy="train against another attack (more steps, another loss, exact gradients), and audit again",
    )
