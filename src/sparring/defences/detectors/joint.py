"""The adaptive attack on a detector: fool the classifier, and do not be noticed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.defences.detectors.detector import Detector
from sparring.goals import Measured, lead
from sparring.types import Model


def watched(model: Model, detector: Detector) -> Model:
    """The logits, and in one more column how far the score is above the threshold, in units of its spread.

    What an attacker climbs who knows the detector, with the goal `Unnoticed`. Costs a pass and the score.
    """

    def view(x: Tensor) -> Tensor:
        excess = (detector.score(x) - detector.threshold) / detector.spread
        return torch.cat([model(x), excess.unsqueeze(1)], 1)

    return view


@dataclass(frozen=True)
class Unnoticed(Measured):
    """Leave the label, with the score at the threshold or below: both at once (Carlini and Wagner, 2017).

    Outputs are those of `watched`, `(B, K + 1)`; the reference is the labels `(B,)`.
    """

    reference: Tensor
    sign: int = 1

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        return lead(outputs[:, :-1], self.reference), -outputs[:, -1]

    def measure(self, outputs: Tensor) -> Tensor:
        """The lesser of the lead of another class and the room below the threshold."""
        return torch.minimum(*self._parts(outputs))

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows with another decision whose score is not above the threshold. A NaN is no success."""
        ahead, room = self._parts(outputs)
        return (ahead > 0) & (room >= 0) & ~outputs.isnan().any(1)

    def margin(self, outputs: Tensor) -> Tensor:
        """What both lack, the logarithms of 1 + each added up; where neither lacks anything, the lesser of the two."""
        ahead, room = self._parts(outputs)
        lacking = (-ahead).clamp(min=0).log1p() + (-room).clamp(min=0).log1p()
        return torch.where((ahead > 0) & (room >= 0), torch.minimum(ahead, room), -lacking)

    def loss(self, outputs: Tensor) -> Tensor:
        """The lesser of the two: with momentum both rise in turn, where their sum would let one of them go."""
        return self.measure(outputs)
