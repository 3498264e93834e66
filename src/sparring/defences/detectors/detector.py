"""What a detector is: a score for every input, higher where it looks attacked, and a threshold that was calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.defences.cleaning import to_learn_from
from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.types import Model

Score = Callable[[Tensor], Tensor]
"""Inputs `(B, *shape)` to scores `(B,)`, higher where they look attacked; differentiable, rows on their own."""


@dataclass(frozen=True, eq=False)
class Learned:
    """A kind of detector, by the function that makes its score: `scoring(model, x, labels)`."""

    scoring: Callable[[Model, Tensor, Tensor], Score]

    def fit(self, model: Model, x: Tensor, labels: Tensor) -> Score:
        """The score for this model, as learned from these examples.

        Whatever mode the model is in, it learns and scores in inference mode, and every part gets its own mode back;
        torch's global random numbers are left alone.

        Raises:
            BadInput: no examples, or not a label for each.
        """
        to_learn_from(x, labels)
        with inference(model), torch.random.fork_rng(devices=[]):
            learned = self.scoring(model, x, labels.long())

        def score(z: Tensor) -> Tensor:
            with inference(model):
                return learned(z)

        return score


@dataclass(frozen=True, eq=False)
class Detector:
    """A score and its threshold: inputs above it are refused.

    On clean inputs like those it was calibrated on this refuses a share of `rate` at most, on average. `spread` is the
    median distance of their scores from the median: the unit in which attacks measure how far above they are.
    """

    score: Score
    threshold: float
    rate: float
    spread: float

    def flagged(self, x: Tensor) -> Tensor:
        """Which inputs `(B, *shape)` are refused, `(B,)` bool."""
        with torch.no_grad():
            return refused(self.score(x), self.threshold)


def refused(scores: Tensor, threshold: float) -> Tensor:
    """Which of these scores `(B,)` a threshold refuses, `(B,)` bool: also one that is no number."""
    return ~(scores <= threshold)


def calibrated(score: Score, x: Tensor, *, rate: float = 0.05) -> Detector:
    """A detector whose threshold lets `rate` of clean inputs be refused, from held-out ones `(N, *shape)`.

    The threshold is the score of rank `ceil((1 - rate)(N + 1))`: for inputs drawn as these were, the chance of a false
    alarm is `rate` at most (split conformal prediction; Vovk et al., 2005).

    Raises:
        BadInput: too few examples for this rate, or scores that are no numbers.
    """
    if not 0 < rate < 1:
        raise BadInput(f"a false-positive rate of {rate:g}", "a share between 0 and 1", "0.05 is usual")
    need = math.ceil(1 / rate) - 1
    if len(x) < need:
        given = f"{len(x)} clean examples for a false-positive rate of {rate:g}"
        raise BadInput(given, f"{need} or more", "calibrate on more examples, or at a higher rate")
    with torch.no_grad():
        scores = torch.cat([score(some) for some in torch.split(x, 200)]).double()
    if not bool(scores.isfinite().all()):
        raise BadInput("scores of clean examples that are not finite", "finite scores", "check inputs and model")
    rank = min(math.ceil((1 - rate) * (len(x) + 1)), len(x))
    spread = float((scores - scores.median()).abs().median())
    return Detector(score, float(scores.sort().values[rank - 1]), rate, max(spread, 1e-6))
