"""What an attacker wants of a detector: objects that are no longer found, boxes of nothing, objects under another name.

The three goals of TOG (Chow et al., 2020). Outputs are predictions `(B, A, 5 + K)`, the reference is labels
`(B, N, 5)` (see `sparring.domains.driving.predictions`). Each is judged on detections, after suppression; what is
climbed are all places that could become one.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sparring.domains.driving.boxes import overlaps, rivals, room
from sparring.domains.driving.predictions import NONE, Predictions, Rules
from sparring.goals import Measured, finite, log_odds, nearest

BARELY = 1e-6
"""The margin of what is reached, though by a thread."""


def lead(classes: Tensor, wanted: Tensor) -> Tensor:
    """By how much each wanted class leads all others, `(B, A, N)`, of classes `(B, A, K)` and `(B, N)`.

    Infinity where there are no others.
    """
    own = classes.gather(2, wanted.unsqueeze(1).expand(-1, classes.shape[1], -1))
    if classes.shape[2] == 1:
        return torch.full_like(own, torch.inf)
    top, second = classes.topk(2, dim=2).values.unsqueeze(2).unbind(3)
    first = classes.argmax(2, keepdim=True) == wanted.unsqueeze(1)
    return own - torch.where(first, second, top)


def all_of(*terms: Tensor) -> Tensor:
    """By how much all of several terms, that broadcast to each other, are positive: the harmonic mean where they are.

    Elsewhere what is lacking to that, together. So none of them hides the slope of the others, as a minimum would: that
    of a box that does not move, say, of one whose confidence does.
    """
    shape = torch.broadcast_shapes(*(term.shape for term in terms))  # type: ignore[no-untyped-call]
    every = torch.stack([term.expand(shape) for term in terms])
    lacking = every.clamp(max=0).sum(0)
    return torch.where(lacking < 0, lacking, len(terms) / every.clamp(min=1e-12).reciprocal().sum(0))


@dataclass(frozen=True)
class Objects(Measured):
    """Objects of a reference, of which at least a `share` must fall; with `sign` -1 fewer do. Never without objects."""

    reference: Tensor
    share: float
    rules: Rules = field(default_factory=Rules)
    sign: int = 1

    @property
    def counts(self) -> Tensor:
        """Which rows of the reference are objects, `(B, N)`."""
        return self.reference[..., 0] != NONE

    @property
    def kinds(self) -> Tensor:
        """Their classes, 0 where there is no object."""
        return self.reference[..., 0].long().clamp(min=0)

    def _enough(self) -> Tensor:
        """How many objects must fall, `(B,)`."""
        # a share of a count, rounded
        return (self.share * self.counts.sum(1).double() - 1e-6).ceil().long().clamp(min=1)

    def found(self, outputs: Tensor) -> Tensor:
        """Which objects a detection of their class matches, `(B, N)`."""
        same, there = self.rules.meet(self.rules.detect(outputs), self.reference)
        return (same & there).any(1) & self.counts

    def _claims(self, seen: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """What each place has over the thresholds for each object, `(B, A, N)`.

        Of its confidence in the object's class, of the overlap, and of that class over all others.
        """
        own = seen.classes.gather(2, self.kinds.unsqueeze(1).expand(-1, seen.classes.shape[1], -1))
        sure = functional.logsigmoid(seen.objectness).unsqueeze(2) + own - self.rules.least
        fit = overlaps(seen.boxes, self.reference[..., 1:]) / self.rules.match - 1
        return sure, fit, lead(seen.classes, self.kinds)

    def _unclaimed(self, outputs: Tensor) -> Tensor:
        """How lost every object is, `(B, N)`: positive exactly where it is not found.

        What all places together have over the thresholds that could be found as it; where none could, what the nearest
        lacks.
        """
        claim = all_of(*self._claims(Predictions(outputs)))
        over = claim.clamp(min=0).sum(1)
        lost = torch.where(over > 0, -over, -claim.amax(1))
        # What a surer box suppresses, that itself matches nothing, is not found either.
        return torch.where(self.found(outputs.detach()), lost, lost.clamp(min=BARELY))

    @abstractmethod
    def fallen(self, outputs: Tensor) -> Tensor:
        """Which objects have fallen, `(B, N)`, judged on detections."""

    @abstractmethod
    def parts(self, outputs: Tensor) -> Tensor:
        """How fallen every object is, `(B, N)`: positive exactly where it is."""

    def measure(self, outputs: Tensor) -> Tensor:
        """The share of the objects that have fallen; 0 without any."""
        return self.fallen(outputs).sum(1) / self.counts.sum(1).clamp(min=1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows in which so many have fallen (`sign` -1: fewer). Predictions that are no numbers are no success."""
        fallen = self.fallen(outputs).sum(1) >= self._enough()
        return (fallen == (self.sign > 0)) & finite(outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """How near the nearest of the objects are that must fall (`sign` -1: must not)."""
        need = self._enough() if self.sign > 0 else (self.counts.sum(1) - self._enough() + 1).clamp(min=1)
        parts = (self.sign * self.parts(outputs)).where(self.counts, -torch.inf)
        return torch.where(self.counts.any(1), nearest(parts, need), -float(self.sign))


@dataclass(frozen=True)
class Vanished(Objects):
    """At least a `share` of the objects is no longer found (`sign` -1: less). Without objects it can't be reached."""

    def fallen(self, outputs: Tensor) -> Tensor:
        """Which are not found."""
        return ~self.found(outputs) & self.counts

    def parts(self, outputs: Tensor) -> Tensor:
        """How lost they are."""
        return self._unclaimed(outputs)

    def loss(self, outputs: Tensor) -> Tensor:
        """The cross-entropy of objectness with there being nothing anywhere, turned to climb (TOG-vanishing)."""
        return self.sign * functional.logsigmoid(-Predictions(outputs).objectness).sum(1)


@dataclass(frozen=True)
class Mislabelled(Objects):
    """At least a `share` of the objects is found, but as something else only (`sign` -1: less)."""

    def fallen(self, outputs: Tensor) -> Tensor:
        """Which are not found, while a detection of another class lies there."""
        same, there = self.rules.meet(self.rules.detect(outputs), self.reference)
        return (~same & there).any(1) & ~(same & there).any(1) & self.counts

    def parts(self, outputs: Tensor) -> Tensor:
        """How lost they are, and how near the nearest detection of another class is."""
        seen = Predictions(outputs).surest(self.rules.most)
        _, fit, ahead = self._claims(seen)
        sure, apart = _standing(seen, self.rules)
        other = all_of(sure.unsqueeze(2), apart.unsqueeze(2), fit, -ahead).amax(1)
        return all_of(self._unclaimed(outputs), other)

    def loss(self, outputs: Tensor) -> Tensor:
        """The odds against the class of an object where a place overlaps one, and objectness (TOG-mislabelling)."""
        seen = Predictions(outputs)
        there = overlaps(seen.boxes.detach(), self.reference[..., 1:]) >= self.rules.match
        there &= self.counts.unsqueeze(1)
        wanted = self.kinds.unsqueeze(1).expand(-1, seen.classes.shape[1], -1)
        against = log_odds(
            seen.classes.flatten(0, 1).unsqueeze(2).expand(-1, -1, wanted.shape[2]), wanted.flatten(0, 1)
        )
        each = against.view_as(there) + functional.logsigmoid(seen.objectness).unsqueeze(2)
        return self.sign * each.where(there, 0 * each).sum((1, 2))


@dataclass(frozen=True)
class Fabricated(Measured):
    """At least so many detections match no object of the reference (`sign` -1: fewer)."""

    reference: Tensor
    boxes: int
    rules: Rules = field(default_factory=Rules)
    sign: int = 1

    def false(self, outputs: Tensor) -> Tensor:
        """Which detections, `(B, D)`, match no object of their class."""
        found = self.rules.detect(outputs)
        same, there = self.rules.meet(found, self.reference)
        return ~(same & there).any(2) & (found[..., 0] != NONE)

    def measure(self, outputs: Tensor) -> Tensor:
        """How many detections match nothing."""
        return self.false(outputs).sum(1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows with so many (`sign` -1: fewer). Predictions that are no numbers are no success."""
        return ((self.measure(outputs) >= self.boxes) == (self.sign > 0)) & finite(outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """How near the nearest places are to being detections of nothing.

        Each is to be sure, away from objects of its class, and away from its rival.
        """
        seen = Predictions(outputs).surest(self.rules.most)
        sure, apart = _standing(seen, self.rules)
        same = seen.classes.argmax(2).unsqueeze(2) == self.reference[..., 0].unsqueeze(1)
        shared = (overlaps(seen.boxes, self.reference[..., 1:]) * same).amax(2)
        parts = all_of(sure, apart, 1 - shared / self.rules.match)
        count = parts.shape[1]
        need = self.boxes if self.sign > 0 else count - self.boxes + 1
        if not 1 <= need <= count:  # more than there are places
            return parts.sum(1) * 0 - self.sign
        return nearest(self.sign * parts, torch.full((len(parts),), need, device=parts.device))

    def loss(self, outputs: Tensor) -> Tensor:
        """The cross-entropy of objectness with there being something everywhere, turned to climb (TOG-fabrication)."""
        return self.sign * functional.logsigmoid(Predictions(outputs).objectness).sum(1)


def _standing(seen: Predictions, rules: Rules) -> tuple[Tensor, Tensor]:
    """What each place has over the least confidence, and what lies between it and its suppression, `(B, A)`."""
    sure = seen.sure
    rival = rivals(seen.boxes.detach(), sure.detach(), seen.classes.argmax(2), rules.overlap)
    return sure - rules.least, room(seen.boxes, rival, rules.overlap)
