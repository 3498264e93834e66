"""What a detector says before anything is thrown away, and what is left of it: one format for all of them.

Predictions are one tensor `(B, A, 5 + K)`, a row of it for each of A places of the network:

    x1, y1, x2, y2    the box, as shares of the image
    objectness        the logit that there is anything
    classes           the logarithms of the shares of K classes

The confidence in a class is `sigmoid(objectness) exp(class)`.

Labels are `(B, N, 5)`, rows of class, x1, y1, x2, y2; where an image has fewer than N objects, the class is -1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.domains.driving.boxes import overlaps, rivals, room
from sparring.errors import BadInput

NONE = -1
"""The class of a row that is no box."""


@dataclass(frozen=True)
class Predictions:
    """The parts of predictions `(B, A, 5 + K)`, by name."""

    outputs: Tensor

    @property
    def boxes(self) -> Tensor:
        """Corners, `(B, A, 4)`."""
        return self.outputs[..., :4]

    @property
    def objectness(self) -> Tensor:
        """Logits, `(B, A)`."""
        return self.outputs[..., 4]

    @property
    def classes(self) -> Tensor:
        """Logarithms of shares, `(B, A, K)`."""
        return self.outputs[..., 5:]

    @property
    def sure(self) -> Tensor:
        """The logarithm of the confidence in the likeliest class, `(B, A)`."""
        return functional.logsigmoid(self.objectness) + self.classes.amax(2)

    def surest(self, count: int) -> Predictions:
        """The `count` places of each image that are surest."""
        if count >= self.outputs.shape[1]:
            return self
        order = self.sure.argsort(dim=1, descending=True, stable=True)[:, :count]
        return Predictions(self.outputs.gather(1, order.unsqueeze(2).expand(-1, -1, self.outputs.shape[2])))


@dataclass(frozen=True)
class Rules:
    """From when on a box is a detection, and a detection one of an object.

    A detection has at least this `confidence` in its likeliest class, and no surer one of that class overlaps it by
    more than `overlap` (non-maximum suppression; 1 for networks that need none). It is one of an object of its class
    that it overlaps by `match`. Overlaps are intersections over unions. The `most` surest places are looked at.
    """

    confidence: float = 0.25
    match: float = 0.5
    overlap: float = 0.45
    most: int = 1000

    def __post_init__(self) -> None:
        for name, share in (("confidence", self.confidence), ("match", self.match), ("overlap", self.overlap)):
            if not 0 < share <= 1:
                raise BadInput(f"a {name} of {share:g}", "a share above 0 and up to 1", "give say 0.5")
        if self.most < 1:
            raise BadInput(f"{self.most} places to look at", "1 or more", "give say 1000")

    @property
    def least(self) -> float:
        """The logarithm of the least confidence of a detection."""
        return math.log(self.confidence)

    def detect(self, outputs: Tensor) -> Tensor:
        """What a user of the detector sees, `(B, D, 6)`: class, box and confidence, the surest first.

        D is the largest number of one of the images; rows of class -1 fill up the others.
        """
        count = int((Predictions(outputs).sure >= self.least).sum(1).amax()) if outputs.numel() else 0
        seen = Predictions(outputs).surest(min(max(count, 1), self.most))
        sure, kind = seen.sure, seen.classes.argmax(2)
        rival = rivals(seen.boxes, sure, kind, self.overlap)
        kept = (sure >= self.least) & (room(seen.boxes, rival, self.overlap) >= 0)
        rows = torch.cat([kind.unsqueeze(2).to(sure.dtype), seen.boxes, sure.exp().unsqueeze(2)], 2)
        rows = torch.where(kept.unsqueeze(2), rows, rows.new_tensor([NONE, 0, 0, 0, 0, 0]))
        order = torch.where(kept, sure, -torch.inf).argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(kept.sum(1).amax()) if kept.numel() else 0]
        return rows.gather(1, order.unsqueeze(2).expand(-1, -1, 6))

    def meet(self, found: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of every detection `(B, D, 6)` and every object `(B, N, 5)`, `(B, D, N)` each.

        Whether they are of one class, and whether they overlap by as much as it takes, which what is none never does.
        """
        same = found[..., :1] == labels[..., 0].unsqueeze(1)
        return same, overlaps(found[..., 1:5], labels[..., 1:]) >= self.match
