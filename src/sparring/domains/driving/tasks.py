"""The tasks of an object detector: an example is an image, its labels are the boxes of its objects.

task = Vanishing(0.5)
z = pgd(linf(8 / 255))(detector, x, task.goal(labels), rng)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from sparring.data.arrays import Array, numbers
from sparring.domains.driving.goals import Fabricated, Mislabelled, Vanished
from sparring.domains.driving.predictions import NONE, Rules
from sparring.errors import BadInput
from sparring.tasks import TASKS, Checked, Task, shapes, unusable
from sparring.types import Goal

FAR = 2.0
"""A share of the image that no box reaches: one that does is in pixels."""


class Detection(Task):
    """What the tasks of a detector have in common: predictions `(B, A, 5 + K)` and labels `(B, N, 5)`."""

    needs = "finite predictions (B, A, 5 + K), labels (B, N, 5) of class, x1, y1, x2, y2 as shares of the image"

    confidence: float
    match: float
    overlap: float

    @property
    def rules(self) -> Rules:
        """What a detection is, and when it is one of an object."""
        return Rules(self.confidence, self.match, self.overlap)

    def __str__(self) -> str:
        """Settings stand in their order, up to the last that is not as usual: so the text gives back the task."""
        settings = fields(self)  # type: ignore[arg-type]  # all that inherit are dataclasses
        told = [i for i, one in enumerate(settings, 1) if getattr(self, one.name) != one.default]
        return ":".join([self.name, *(str(getattr(self, one.name)) for one in settings[: max(told)])])

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """Rows of a class from 0, or -1 where there is no object, and a box, `(N, M, 5)`, as float32."""
        y = numbers(y, f"the labels of {name}")
        need = "(N, M, 5): class, x1, y1, x2, y2 for every object"
        if y.ndim != 3 or y.shape[2] != 5 or not y.size:
            raise BadInput(f"the labels of {name} have shape {y.shape}", need, "fill up with rows of class -1")
        if not np.isfinite(y).all():
            raise BadInput(f"the labels of {name} hold NaN or infinity", "finite numbers", "drop such rows")
        kind, corners = y[..., 0], y[y[..., 0] != NONE][:, 1:]
        odd = (kind != np.rint(kind)) | (kind < NONE)
        if odd.any():
            raise BadInput(f"the labels of {name} hold the class {kind[odd][0]:g}", "whole numbers from 0, or -1", need)
        if (np.abs(corners) > FAR).any():
            worst = np.abs(corners).max()
            do = "divide by the width and the height"
            raise BadInput(f"a box of {name} reaches to {worst:g}", "shares of the image, 0 to 1", do)
        if (corners[:, 2:] <= corners[:, :2]).any():
            raise BadInput(f"a box of {name} is empty", "x1 < x2 and y1 < y2", "drop it, or give corners")
        return y.astype(np.float32), ()

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs that are no predictions, labels that are no boxes, classes that the model has not, NaN, infinity."""
        pair = outputs.dim() == labels.dim() == 3 and len(outputs) == len(labels)
        if not pair or outputs.shape[2] < 6 or labels.shape[2] != 5:
            return shapes(outputs, labels)
        classes = outputs.shape[2] - 5
        if labels.numel() and int(labels[..., 0].max()) >= classes:
            return f"labels reach to class {int(labels[..., 0].max())}, and the model has {classes} classes"
        return unusable(outputs)


@dataclass(frozen=True)
class Vanishing(Detection):
    """Find the objects: to be wrong is to lose at least a share `lost` of them. Images without objects are never wrong.

    A detection has at least this `confidence`; it finds an object of its class that it overlaps by `match`; of two of a
    class that overlap by more than `overlap` the surer one is kept.
    """

    name = "vanishing"
    measures = "share of the objects that are found"

    lost: float
    confidence: float = 0.25
    match: float = 0.5
    overlap: float = 0.45

    def __post_init__(self) -> None:
        _share(self.lost, self.rules)

    def goal(self, labels: Tensor) -> Vanished:
        """So many objects that are not found."""
        return Vanished(labels, self.lost, self.rules)

    def target(self, wanted: Tensor) -> Vanished:
        """The wanted boxes are found, but for fewer than may be lost."""
        return Vanished(wanted, self.lost, self.rules, sign=-1)

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The share of the objects that are found; 1 where there are none."""
        return 1 - self.goal(labels).measure(outputs)


@dataclass(frozen=True)
class Mislabelling(Detection):
    """Name the objects: to be wrong is to find at least a share `wrong` of them as something else only."""

    name = "mislabelling"
    measures = "share of the objects that are found as something else only"
    silence = True

    wrong: float
    confidence: float = 0.25
    match: float = 0.5
    overlap: float = 0.45

    def __post_init__(self) -> None:
        _share(self.wrong, self.rules)

    def goal(self, labels: Tensor) -> Mislabelled:
        """So many objects that are found as something else only."""
        return Mislabelled(labels, self.wrong, self.rules)

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """As of the other tasks; and a model of one class, which has no other name for an object."""
        problem = super().misfit(outputs, labels)
        return problem or ("the model has a single class" if outputs.shape[2] == 6 else "")

    def target(self, wanted: Tensor) -> Vanished:
        """The wanted classes at the wanted boxes, but for fewer than may be wrong."""
        return Vanished(wanted, self.wrong, self.rules, sign=-1)


@dataclass(frozen=True)
class Fabrication(Detection):
    """See nothing that is not there: to be wrong is to have at least so many `boxes` that match no object."""

    name = "fabrication"
    measures = "detections that match no object"
    silence = True

    boxes: int
    confidence: float = 0.25
    match: float = 0.5
    overlap: float = 0.45

    def __post_init__(self) -> None:
        if self.boxes < 1:
            raise BadInput(f"{self.boxes} boxes of nothing", "1 or more", "give say 10")
        _ = self.rules

    def goal(self, labels: Tensor) -> Fabricated:
        """So many detections that match no object."""
        return Fabricated(labels, self.boxes, self.rules)

    def target(self, wanted: Tensor) -> Goal:
        """Fewer detections beside the wanted boxes."""
        return Fabricated(wanted, self.boxes, self.rules, sign=-1)


def _share(share: float, _: Rules) -> None:
    """Refuse what is no share; the rules have refused what is none of theirs."""
    if not 0 < share <= 1:
        raise BadInput(f"a share of {share:g} of the objects", "a share above 0 and up to 1", "give say 0.5")


TASKS.update({task.name: task for task in (Vanishing, Mislabelling, Fabrication)})
