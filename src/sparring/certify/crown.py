"""Certificates by a line under each margin: intervals, CROWN and alpha-CROWN.

They differ in what stands for a non-linear operation on the walk back (`sparring.certify.walk`): its bounds, lines that
hold between them, or lines whose slopes are chosen by gradient ascent.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.certify.answers import Answer, rounded_down
from sparring.certify.graph import Graph, classes
from sparring.certify.lines import Lines
from sparring.certify.reading import graph
from sparring.certify.region import Region
from sparring.certify.walk import Reach, explore, lower, room, roughly, some_of
from sparring.errors import BadInput
from sparring.registry import members, register
from sparring.steps import adam
from sparring.threats import Ball
from sparring.types import Model


def margins(net: Graph, labels: Tensor) -> Tensor:
    """`logit_y - logit_c` as rows on the logits, `(B, K - 1, K)`: a linear map that joins the last layer's.

    Raises:
        BadInput: other outputs than a row of logits, or a label that there is not.
    """
    count = classes(net)
    if bool(((labels < 0) | (labels >= count)).any()):
        raise BadInput(f"labels from {labels.min()} to {labels.max()}", f"0 to {count - 1}", "check the labels")
    labels, logits = labels.long(), torch.eye(count, dtype=torch.float64)
    _, other = (torch.arange(count) != labels.unsqueeze(1)).nonzero(as_tuple=True)
    return logits[labels].unsqueeze(1) - logits[other].view(len(labels), count - 1, count)


def matched(x: Tensor, labels: Tensor) -> None:
    """Refuse what is no number, and what is no label for each input: one for all would be taken for each of them.

    Raises:
        BadInput: inputs that are not finite; labels of another shape, or that are no whole numbers.
    """
    if not bool(x.isfinite().all()):
        raise BadInput("inputs that are not finite", "numbers", "clean the data")
    if x.dim() < 2:
        raise BadInput(f"inputs of shape {tuple(x.shape)}", "(B, *shape), an axis or more an input", "add an axis")
    if labels.shape != x.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        given = f"labels of shape {tuple(labels.shape)}, {labels.dtype}, for {len(x)} inputs"
        raise BadInput(given, "a whole number for each input", "pass one label an input")


WIDE = 50_000
"""Values in all layers of a network above which examples are walked through one by one."""


class Walk(ABC):
    """A certificate by lines under the margins, that are walked back from the outputs to the input."""

    searches: ClassVar[bool] = False
    refine: ClassVar[bool] = True
    """Whether what stands before a non-linear operation is bounded by a walk of its own."""

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)` float32 rounded down."""
        matched(x, labels)
        with torch.no_grad():
            net = graph(model, x)
            parts = (torch.split(part, self.at_once(net)) for part in (x, labels))
            found = [
                self.bound(net, Region.of(threat, some), margins(net, y)).amin(1)
                for some, y in zip(*parts, strict=True)
                if len(y)  # no rows split into one batch of none
            ]
            return rounded_down(torch.cat(found) if found else x.new_zeros(0))

    def at_once(self, net: Graph) -> int:
        """Sixteen; one by one where walks from every unit of wide maps take seconds an example."""
        return 1 if self.refine and sum(math.prod(node.shape) for node in net.nodes) > WIDE else 16

    def answers(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> list[Answer]:
        """The same, as answers: certified, or unknown."""
        lower = self(model, x, labels, threat).tolist()
        return [Answer("certified" if bound > 0 else "unknown", bound) for bound in lower]

    def bound(self, net: Graph, region: Region, rows: Tensor) -> Tensor:
        """Lower bounds of `<row, logits>`, `(B, S)`, of as many rows at once as fit."""
        reach = explore(net, region, refine=self.refine)
        some = torch.split(rows, room(net, len(net.nodes), len(region)), dim=1)
        return torch.cat([self.under(net, reach, part) for part in some], 1)

    @abstractmethod
    def under(self, net: Graph, reach: Reach, rows: Tensor) -> Tensor:
        """Lower bounds of `<row, logits>`, once all positions are bounded."""


@dataclass(frozen=True)
class CROWN(Walk):
    """A line under every margin, carried backward to the input (Zhang et al., 2018)."""

    def under(self, net: Graph, reach: Reach, rows: Tensor) -> Tensor:
        """One walk."""
        return lower(net, reach, {len(net.nodes): rows})


@dataclass(frozen=True)
class Interval(CROWN):
    """Bounds of every layer by those of the one before, and of the margins through the last (Gowal et al., 2018)."""

    refine: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class AlphaCROWN(Walk):
    """CROWN whose slopes under undecided ReLUs are chosen for each margin by Adam (Xu et al., 2021).

    Only where CROWN leaves a margin open. Bounds inside of the network stay CROWN's: the paper chooses slopes for
    those too. Costs `steps` forward and backward passes of the walk.
    """

    steps: int = 20
    rate: float = 0.2

    def under(self, net: Graph, reach: Reach, rows: Tensor) -> Tensor:
        """CROWN's walk, and those of Adam."""
        best = lower(net, reach, {len(net.nodes): rows})
        hard = (best.amin(1) <= 0).nonzero().flatten()
        if len(hard):
            some = some_of(reach, hard)
            alpha, _, _ = ascend(
                net,
                some,
                rows[hard],
                start=len(net.nodes),
                alpha=slopes_of_crown(some, rows.shape[1]),
                steps=self.steps,
                rates=(self.rate, 0.0, 0.0),
            )
            chosen = lower(net, some, {len(net.nodes): rows[hard]}, alpha=alpha)
            best[hard] = torch.maximum(best[hard], chosen)
        return best


def slopes_of_crown(reach: Reach, rows: int) -> dict[int, Tensor]:
    """The slopes that CROWN takes under undecided rectifiers, for so many rows: where climbing starts."""
    return {
        k: one.below.unsqueeze(1).repeat(1, rows, *[1] * (one.below.dim() - 1))
        for k, one in reach.relaxed.items()
        if isinstance(one, Lines) and one.open is not None
    }


Multipliers = dict[int, Tensor]
"""Numbers for the operations at these positions, `(B, S, *shape)`."""


def ascend(
    net: Graph,
    reach: Reach,
    rows: Tensor,
    *,
    start: int,
    alpha: Multipliers,
    beta: Multipliers | None = None,
    signs: Multipliers | None = None,
    at: Tensor | float = 0.0,
    weights: Tensor | None = None,
    steps: int,
    rates: tuple[float, float, float],
) -> tuple[Multipliers, Multipliers, Tensor | None]:
    """Climb slopes and multipliers (Wang et al., 2021) by Adam: the best that were met.

    What climbs is the bound of every row, `(B, S)`; or with `weights` `(B, S)` that of the mean of all rows plus `at`,
    `(B, 1)`, whose weights, the softmax of these, climb too. Any slopes and multipliers give a bound, so they are
    looked for in float32, without regard to rounding; `lower` in float64 then says what they prove. `signs` are those
    that inputs of operations are known to have, zero where they are not.
    """
    rough, rows = roughly(reach), rows.float()
    lines = {k: one for k, one in rough.relaxed.items() if isinstance(one, Lines)}
    climbing = (alpha, beta or {}, {} if weights is None else {0: weights.unsqueeze(1)})
    alpha, beta, free = ({k: one.detach().float().clone() for k, one in part.items()} for part in climbing)
    kept = [{k: one.clone() for k, one in part.items()} for part in (alpha, beta, free)]
    leaves, best_leaves = ([one for part in parts for one in part.values()] for parts in ((alpha, beta, free), kept))
    best, signs = torch.tensor(-torch.inf), signs or {}
    if not leaves:
        return alpha, beta, None
    rule, paces = adam(), [rate for part, rate in zip((alpha, beta, free), rates, strict=True) for _ in part]
    states = [rule.init(one) for one in leaves]
    for one in leaves:
        one.requires_grad_()
    for step in range(steps):
        with torch.enable_grad():
            asked, constant = rows, at
            if free:
                share = free[0].softmax(2)
                asked = (share @ rows.flatten(2)).view(len(rows), 1, *rows.shape[2:])
                constant = (share.squeeze(1) * at).sum(1, keepdim=True)
            signed = {k: beta[k] * signs[k] for k in beta}
            found = lower(net, rough, {start: asked}, alpha=alpha, beta=signed) + constant
            gradients = torch.autograd.grad(found.sum(), leaves, materialize_grads=True)
        better, best = found > best, torch.maximum(best, found.detach())
        for i, (one, gradient, good, pace) in enumerate(zip(leaves, gradients, best_leaves, paces, strict=True)):
            good[better] = one.detach()[better]
            move, states[i] = rule.update(gradient, states[i], step)
            one.detach().add_(move, alpha=pace * (1 - step / steps))
        for k, one in alpha.items():
            one.detach().clamp_(lines[k].least, 1.0)
        for one in beta.values():
            one.detach().clamp_(min=0.0)
    within = {k: one.double().clamp(lines[k].least, 1.0) for k, one in kept[0].items()}  # as float64 has the ends
    return within, {k: one.double() for k, one in kept[1].items()}, kept[2][0].squeeze(1) if free else None


WORDS = tuple(members("rewritings"))
"""The threats that replace words: lines have their least value there too (`sparring.certify.wordings`)."""

NORMS = ("linf", "l2", "l1")


@register("certificates", "interval", norms=NORMS, threats=WORDS, passes="1", paper="Gowal et al., 2018")
def interval() -> Interval:
    """Intervals, layer by layer: cheapest, and enough only for networks trained for them (Gowal et al., 2018)."""
    return Interval()


@register("certificates", "crown", norms=NORMS, threats=WORDS, passes="layers", paper="Zhang et al., 2018")
def crown() -> CROWN:
    """Lines under every margin, carried backward to the input (Zhang et al., 2018)."""
    return CROWN()


@register("certificates", "alpha-crown", norms=NORMS, threats=WORDS, passes="layers + steps", paper="Xu et al., 2021")
def alpha_crown(*, steps: int = 20) -> AlphaCROWN:
    """CROWN with the slopes under undecided ReLUs chosen by gradient ascent (Xu et al., 2021)."""
    return AlphaCROWN(steps=steps)
