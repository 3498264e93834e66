"""Goals: what counts as success, judged on the outputs alone.

The goals about classes hold labels, and the losses of `sparring.losses` are formulas of these. Goals of any other
shape are `Measured`: they hold a reference, and say themselves how near the outputs are to success.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import BadInput
from sparring.types import Goal


@dataclass(frozen=True)
class Untargeted:
    """Leave the true label: the largest output is another one. `labels` is `(B,)`."""

    labels: Tensor
    sign: int = 1

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows whose decision is not the label. NaN outputs are no decision, and no success."""
        return (outputs.argmax(1) != self.labels) & ~outputs.isnan().any(1)

    def __getitem__(self, rows: Tensor) -> Untargeted:
        """The goal of some of the rows."""
        return Untargeted(self.labels[rows])


@dataclass(frozen=True)
class Targeted:
    """Reach a label that the attacker chose. `labels` is `(B,)`."""

    labels: Tensor
    sign: int = -1

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows whose decision is the target."""
        return (outputs.argmax(1) == self.labels) & ~outputs.isnan().any(1)

    def __getitem__(self, rows: Tensor) -> Targeted:
        """The goal of some of the rows."""
        return Targeted(self.labels[rows])


@dataclass(frozen=True)
class Never(Untargeted):
    """Climb away from the label to the very end: no output is enough. What training's inner maximum asks for.

    With `sign` -1, climb towards it. Labels may also be shares of all classes, `(B, K)`, for the cross-entropy.
    """

    def reached(self, outputs: Tensor) -> Tensor:
        """No row."""
        return torch.zeros(len(self.labels), dtype=torch.bool, device=self.labels.device)

    def __getitem__(self, rows: Tensor) -> Never:
        """The goal of some of the rows."""
        return Never(self.labels[rows], self.sign)


@dataclass(frozen=True)
class Towards:
    """Leave the true label by way of a chosen wrong class. `labels` and `targets` are `(B,)`.

    Any other class is success too; the targeted losses climb towards the chosen one.
    """

    labels: Tensor
    targets: Tensor
    sign: int = 1

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows whose decision is not the label."""
        return Untargeted(self.labels).reached(outputs)

    def __getitem__(self, rows: Tensor) -> Towards:
        """The goal of some of the rows."""
        return Towards(self.labels[rows], self.targets[rows])


def lead(outputs: Tensor, labels: Tensor) -> Tensor:
    """`max_{i != y} z_i - z_y`: by how much another class leads the label, `(B, *rest)`.

    Outputs are `(B, K, *rest)`, labels `(B, *rest)`: a class for every example, or for every pixel of it.
    """
    label = labels.unsqueeze(1)
    return outputs.scatter(1, label, -torch.inf).amax(1) - outputs.gather(1, label).squeeze(1)


def log_odds(outputs: Tensor, labels: Tensor) -> Tensor:
    """`log sum_{i != y} p_i - log p_y`: the odds against the label, `(B, *rest)`; shapes as those of `lead`."""
    label = labels.unsqueeze(1)
    others = outputs.scatter(1, label, -torch.inf)
    others = others.clamp(min=torch.finfo(outputs.dtype).min)  # where all are -inf there is no slope, instead of a NaN
    return others.logsumexp(1) - outputs.gather(1, label).squeeze(1)


def surprise(outputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy, `-log p_y = log(1 + odds)`, `(B, *rest)`; shapes as those of `lead`.

    By way of the odds, because `p_y` rounds to one where a model is sure (in float32 from a margin of about 16): the
    softmax loses the slope along the label then, and later all differences between points.
    """
    return -functional.logsigmoid(-log_odds(outputs, labels))  # not softplus, which rounds a row as its batch has it


def nearest(margins: Tensor, need: Tensor) -> Tensor:
    """How near a row is to `need` successes among its parts, `(B,)`: positive exactly where there are so many.

    `margins` `(B, P)` are positive where a part succeeds, and -inf where it does not count; `need` `(B,)` is from 1 to
    P. What the `need` parts that are nearest to success still lack on average, times the soft share of all parts that
    have not succeeded; where none of these lacks anything, the least of their margins. A budget that the parts share
    goes where it is needed and can help; where there is one for each part, all are pushed. For one part of one this is
    its margin.
    """
    best, known = margins.sort(dim=1, descending=True).values, margins != -torch.inf
    among = torch.arange(best.shape[1], device=best.device) < need.unsqueeze(1)
    lacking = torch.where(among, -best.clamp(max=0), 0).sum(1) / need
    u = margins.where(known, 0) / lacking.clamp(min=1e-12).unsqueeze(1)
    # u / (1 + |u|) in place of a tanh, which torch rounds differently from one batch to another
    standing = torch.where(known, (1 - u / (1 + u.abs())) / 2, 1).mean(1)
    return best.gather(1, need.unsqueeze(1) - 1).squeeze(1).clamp(min=0) - lacking * standing / 0.75


class Measured(ABC):
    """A goal that is not about one class an example: it measures the outputs against a reference, row by row.

    `losses.margin` and `losses.cross_entropy` ask it for `margin` and `loss`; whatever asks for class labels is
    refused. Like every goal: `sign` +1 leaves the reference, -1 reaches it.
    """

    reference: Tensor

    @property
    @abstractmethod
    def sign(self) -> int:
        """+1: leave the reference; -1: reach it."""

    @property
    def labels(self) -> Tensor:
        """There are none.

        Raises:
            BadInput: whoever asks needs a goal about classes.
        """
        raise BadInput(
            f"a goal of {type(self).__name__}, which has no class labels",
            "a goal about classes for this loss or attack",
            "use one that climbs the margin or the cross-entropy (pgd, apgd-ce, ddn), or square",
        )

    @abstractmethod
    def measure(self, outputs: Tensor) -> Tensor:
        """The figure that decides, `(B,)`, as reports give it."""

    @abstractmethod
    def reached(self, outputs: Tensor) -> Tensor:
        """Which rows are successes, `(B,)` bool."""

    @abstractmethod
    def margin(self, outputs: Tensor) -> Tensor:
        """How near the outputs are to success, `(B,)`: positive exactly where it is reached, ties between parts aside.

        A NaN is not positive.
        """

    @abstractmethod
    def loss(self, outputs: Tensor) -> Tensor:
        """What such models are trained on, `(B,)`, with a sign that makes it climb towards success."""

    def __getitem__(self, rows: Tensor) -> Self:
        """The goal of some of the rows."""
        return replace(self, reference=self.reference[rows])  # type: ignore[type-var]  # all that inherit are dataclasses


@dataclass(frozen=True)
class Values(Measured):
    """Regression: some output is off by more than a tolerance; with `sign` -1 all are as near as that to a target.

    Outputs and reference are `(B, D)`, or of any other shape that they have in common; one value an example may also
    be `(B,)`. The tolerance is in the unit of the outputs. `way` 1 counts only what is too large, -1 too small.
    """

    reference: Tensor
    tolerance: float
    sign: int = 1
    way: int = 0

    def error(self, outputs: Tensor) -> Tensor:
        """How far every output is off, `(B, D)`. Its slope is never zero: a perfect answer can be climbed away from."""
        off = outputs - aligned(self.reference, outputs)
        return _flat(self.way * off if self.way else torch.where(off < 0, -off, off))

    def measure(self, outputs: Tensor) -> Tensor:
        """The largest error of a row."""
        return self.error(outputs).amax(1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows beyond the tolerance (`sign` -1: within). Outputs that are no numbers are no success."""
        return (self.margin(outputs) > 0) & finite(outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """The largest error less the tolerance."""
        return self.sign * (self.measure(outputs) - self.tolerance)

    def loss(self, outputs: Tensor) -> Tensor:
        """The mean absolute error; not the squared one, whose slope vanishes where the model is right."""
        return self.sign * self.error(outputs).mean(1)


@dataclass(frozen=True)
class Direction(Measured):
    """Embeddings: the cosine to a reference falls below a threshold; with `sign` -1 it rises above it.

    Outputs and reference are `(B, D)`. Where an output points exactly along its reference the cosine has no slope:
    climb from a random start.
    """

    reference: Tensor
    cosine: float
    sign: int = 1

    def measure(self, outputs: Tensor) -> Tensor:
        """The cosine similarity to the reference."""
        return functional.cosine_similarity(outputs, aligned(self.reference, outputs).to(outputs.dtype), dim=1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows below the threshold (`sign` -1: above). Outputs that are no numbers are no success."""
        return (self.margin(outputs) > 0) & finite(outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """The threshold less the cosine."""
        return self.sign * (self.cosine - self.measure(outputs))

    def loss(self, outputs: Tensor) -> Tensor:
        """One less the cosine."""
        return self.sign * (1 - self.measure(outputs))


@dataclass(frozen=True)
class Labels(Measured):
    """Multi-label: more than `wrong` of the labels are decided wrongly; with `sign` -1 no more than that are.

    Outputs are logits `(B, L)`, and a label is set where its logit is above 0; the reference is `(B, L)`, 0 or 1.
    """

    reference: Tensor
    wrong: int = 0
    sign: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.wrong < self.reference.shape[1]:
            raise BadInput(
                f"{self.wrong} wrong labels of {self.reference.shape[1]}", "fewer than there are", "allow fewer"
            )

    def measure(self, outputs: Tensor) -> Tensor:
        """How many labels are decided wrongly."""
        return ((outputs > 0) != (aligned(self.reference, outputs) > 0)).sum(1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows with more wrong labels than allowed (`sign` -1: with no more). A NaN is no decision, and no success."""
        return ((self.measure(outputs) > self.wrong) == (self.sign > 0)) & ~_missing(outputs)

    def _wrongly(self, outputs: Tensor) -> Tensor:
        """By how much each label is decided wrongly, `(B, L)`."""
        return torch.where(aligned(self.reference, outputs) > 0, -outputs, outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """How near the nearest of the labels are that must change."""
        need = self.wrong + 1 if self.sign > 0 else outputs.shape[1] - self.wrong
        return nearest(self.sign * self._wrongly(outputs), torch.full((len(outputs),), need, device=outputs.device))

    def loss(self, outputs: Tensor) -> Tensor:
        """The mean binary cross-entropy over the labels."""
        # not torch's binary cross-entropy, nor softplus: these round a row by where it stands in the batch
        return -self.sign * functional.logsigmoid(-self._wrongly(outputs)).mean(1)


@dataclass(frozen=True)
class Pixels(Measured):
    """Segmentation: the share of pixels that are right falls below `accuracy`; with `sign` -1 it is no less than that.

    Outputs are logits `(B, K, *places)`, the reference `(B, *places)` int64; places of class `ignore` do not count.
    """

    reference: Tensor
    accuracy: float
    ignore: int = 255
    sign: int = 1

    @property
    def counts(self) -> Tensor:
        """Which places count, `(B, P)` bool."""
        return (self.reference != self.ignore).flatten(1)

    def _need(self) -> Tensor:
        """How many right pixels are enough, and for `sign` +1 how many wrong ones prevent that: `(B,)`."""
        count = self.counts.sum(1)
        right = (self.accuracy * count.double() - 1e-6).ceil().long().clamp(min=1)  # a share of a count, rounded
        return right if self.sign < 0 else (count - right + 1).clamp(min=1)

    def measure(self, outputs: Tensor) -> Tensor:
        """The pixel accuracy; 1 where no pixel counts."""
        right, counts = (outputs.argmax(1) == self.reference).flatten(1), self.counts
        return torch.where(counts.any(1), (right & counts).sum(1) / counts.sum(1).clamp(min=1), 1.0)

    def reached(self, outputs: Tensor) -> Tensor:
        """Rows below the accuracy (`sign` -1: at it or above). A NaN is no decision, and no success."""
        decided = (outputs.argmax(1) == self.reference).flatten(1) == (self.sign < 0)
        return ((decided & self.counts).sum(1) >= self._need()) & ~_missing(outputs)

    def margin(self, outputs: Tensor) -> Tensor:
        """How near the nearest of the pixels are that must change."""
        known = self.reference.where(self.reference != self.ignore, 0)
        margins = self.sign * lead(outputs, known).flatten(1)
        return nearest(margins.where(self.counts, -torch.inf), self._need())

    def loss(self, outputs: Tensor) -> Tensor:
        """The mean cross-entropy over the pixels."""
        known = self.reference.where(self.reference != self.ignore, 0)
        each = surprise(outputs, known).flatten(1).where(self.counts, 0)
        return self.sign * each.sum(1) / self.counts.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Endless(Measured):
    """Climb another measured goal to the very end: no output is enough. What `Never` is to classes."""

    goal: Measured

    @property
    def sign(self) -> int:
        """That of the goal."""
        return self.goal.sign

    def measure(self, outputs: Tensor) -> Tensor:
        """As the goal measures."""
        return self.goal.measure(outputs)

    def reached(self, outputs: Tensor) -> Tensor:
        """No row."""
        return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)

    def margin(self, outputs: Tensor) -> Tensor:
        """That of the goal."""
        return self.goal.margin(outputs)

    def loss(self, outputs: Tensor) -> Tensor:
        """That of the goal."""
        return self.goal.loss(outputs)

    def __getitem__(self, rows: Tensor) -> Endless:
        """The goal of some of the rows."""
        return Endless(self.goal[rows])


def endless(goal: Goal) -> Never | Endless:
    """The same climb to the very end, through success."""
    return Endless(goal) if isinstance(goal, Measured) else Never(goal.labels, goal.sign)


def aligned(reference: Tensor, outputs: Tensor) -> Tensor:
    """The reference in the shape of the outputs: one value an example may be `(B,)` or `(B, 1)`.

    Raises:
        BadInput: shapes that only broadcasting could bring together, which would mix examples.
    """
    if reference.shape != outputs.shape and not reference.numel() == outputs.numel() == len(outputs):
        raise BadInput(
            f"outputs {tuple(outputs.shape)} for a reference of {tuple(reference.shape)}",
            "one shape",
            "hand over labels in the shape of the model's outputs",
        )
    return reference.reshape(outputs.shape)


def _flat(outputs: Tensor) -> Tensor:
    return outputs.unsqueeze(1) if outputs.dim() == 1 else outputs.flatten(1)


def _missing(outputs: Tensor) -> Tensor:
    return _flat(outputs).isnan().any(1)


def finite(outputs: Tensor) -> Tensor:
    """Rows that hold neither NaN nor infinity, `(B,)` bool."""
    return _flat(outputs).isfinite().all(1)
