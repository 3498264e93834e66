"""Bounds by a line under each margin, found backward through the network: intervals, CROWN and alpha-CROWN.

One walk serves all three; they differ in what stands for a non-linear operation on the way back: its bounds, lines
that hold between them, or lines whose slopes are chosen by gradient ascent.

Sound for the network as float32 runs it: bounds are computed in float64, and every operation may be off by what
float32 can round, in any order of summation (`Affine.error`). Each such error is carried to the margin by the same
coefficients as the operation's output, and taken off. Convolutions by Winograd's or Fourier's transforms, and the
ten bits of TF32, round more than that: keep them off where a certificate matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from sparring.certify.graph import UNIT, Affine, Concat, Graph, MaxPool, Op, Rectifier, Sigmoid, Sum, graph, rounding
from sparring.certify.lines import Constants, Lines, Relaxation, relax
from sparring.certify.region import Region, dot
from sparring.registry import register
from sparring.threats import Ball
from sparring.types import Model

CELLS = 2**22
"""Coefficients that are held at once for the inputs of the widest operation, in float64: 32 MB."""

BATCH = 16
"""Examples that are walked together."""

Bound = Callable[[Graph, Region, Tensor], Tensor]


@dataclass
class Reach:
    """What is known of every position: bounds `(B, *shape)`, rounding, and what stands for its operation."""

    region: Region
    low: list[Tensor]
    high: list[Tensor]
    error: list[Tensor | None] = field(default_factory=lambda: [None])
    relaxed: dict[int, Relaxation] = field(default_factory=dict)


def lower(
    net: Graph,
    reach: Reach,
    start: int,
    a: Tensor,
    *,
    which: Tensor | None = None,
    alpha: dict[int, Tensor] | None = None,
) -> Tensor:
    """A lower bound of `<a, h>` over the region, `(B, S)`, for `h` the value at a position, `a` `(B or 1, S, *shape)`.

    With `which` `(B, S')`, `a` is `(1, S, *shape)`, and every example asks only for those of its rows, as they are,
    then negated: `(B, 2 S')`. Up to the first relaxation the rows are the same for all examples, and walked once.
    """
    pending = {start: a}
    total = lost = a.new_zeros(len(reach.region), a.shape[1])
    for k in range(start, 0, -1):
        if k not in pending:
            continue
        op, inputs = net.nodes[k - 1].op, net.nodes[k - 1].inputs
        error = reach.error[k]
        if error is not None:
            lost = lost + dot(pending[k].abs().flatten(2), error.flatten(1))
        if which is not None and k in reach.relaxed:
            pending, total, lost = _apart(which, pending, total, lost)
            which = None
        a = pending.pop(k)
        if k in reach.relaxed:
            part, constant = reach.relaxed[k].back(a, None if alpha is None else alpha.get(k))
            parts: list[Tensor | None] = [part]
            total = total + constant
        else:
            parts, one = _linear(op, a)
            total = total if one is None else total + one
        for i, part in zip(inputs, parts, strict=True):
            if part is not None:
                pending[i] = pending[i] + part if i in pending else part
    if which is not None:
        pending, total, lost = _apart(which, pending, total, lost)
    return total - lost + (reach.region.least(pending[0]) if 0 in pending else 0.0)


def _apart(
    which: Tensor, pending: dict[int, Tensor], total: Tensor, lost: Tensor
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Shared rows, as each example asks for them: once as they are, once negated (the rounding is lost twice)."""
    own = {i: torch.cat([part[0][which], -part[0][which]], 1) for i, part in pending.items()}
    total, lost = total.gather(1, which), lost.gather(1, which)
    return own, torch.cat([total, -total], 1), torch.cat([lost, lost], 1)


def _linear(op: Op, a: Tensor) -> tuple[list[Tensor | None], Tensor | None]:
    """The coefficients of the inputs of a linear operation, and the constant `(B or 1, S)`."""
    match op:
        case Affine():
            flat = op.transpose(a.flatten(0, 1))
            constant = None if op.constant is None else (a * op.constant).flatten(2).sum(2)
            return [flat.view(*a.shape[:2], *flat.shape[1:])], constant
        case Sum(signs):
            return [sign * a for sign in signs], None
        case Concat(dim, sizes):
            return list(torch.split(a, list(sizes), dim + 1)), None
    raise AssertionError(op)


def explore(net: Graph, region: Region, *, refine: bool) -> Reach:
    """Bounds of every position, from the input on: by intervals, and with `refine` by CROWN where they matter.

    They matter for the inputs of non-linear operations, where intervals leave it open which piece is in use.
    """
    reach = Reach(region, [region.low], [region.high])
    for k, node in enumerate(net.nodes, 1):
        op, inputs = node.op, node.inputs
        lows, highs = [reach.low[i] for i in inputs], [reach.high[i] for i in inputs]
        error: Tensor | None = None
        match op:
            case Affine():
                low, high = op.bounds(lows[0], highs[0])
                error = op.error(lows[0], highs[0])
            case Sum(signs):
                ends = [
                    (one, two) if sign > 0 else (two, one) for sign, one, two in zip(signs, lows, highs, strict=True)
                ]
                low, high = op(*(end[0] for end in ends)), op(*(end[1] for end in ends))
                error = rounding(len(signs)) * torch.stack([*(h.abs() for h in highs), *(h.abs() for h in lows)]).sum(0)
            case Concat():
                low, high = op(*lows), op(*highs)
            case Rectifier() | Sigmoid() | MaxPool():
                if refine:
                    _refine(net, reach, inputs[0], op)
                low, high = op(reach.low[inputs[0]]), op(reach.high[inputs[0]])
                reach.relaxed[k] = (
                    relax(op, reach.low[inputs[0]], reach.high[inputs[0]]) if refine else Constants(low, high)
                )
                error = _slip(op, low, high)
        reach.error.append(error)
        reach.low.append(low if error is None else low - error)
        reach.high.append(high if error is None else high + error)
    return reach


def _slip(op: Rectifier | Sigmoid | MaxPool, low: Tensor, high: Tensor) -> Tensor | None:
    """What float32 rounds in a non-linear operation: nothing in a maximum, a few units in the last place elsewhere."""
    match op:
        case Sigmoid():
            return torch.full_like(low, 8 * UNIT)
        case Rectifier(slope) if slope:
            return 2 * UNIT * torch.maximum(low.abs(), high.abs())
    return None


def _refine(net: Graph, reach: Reach, k: int, op: Rectifier | Sigmoid | MaxPool) -> None:
    """Tighten the bounds of a position by CROWN, where intervals leave the operation after it undecided."""
    low, high = reach.low[k].flatten(1).clone(), reach.high[k].flatten(1).clone()
    undecided = (low < 0) & (high > 0) if isinstance(op, Rectifier) else low < high
    if k == 0 or (reach.region.norm == "linf" and not _behind(net, k)):
        return  # one linear map of a box: intervals are exact
    units = undecided.any(0).nonzero().flatten()
    widest = max(torch.Size(net.size(i)).numel() for i in range(k + 1))
    for some in torch.split(units, max(1, CELLS // (widest * len(low)))):
        rows = torch.zeros(1, len(some), low.shape[1], dtype=low.dtype)
        rows[0, torch.arange(len(some)), some] = 1
        asked = undecided[:, some]
        count = int(asked.sum(1).max())
        which = asked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        found = lower(net, reach, k, rows.view(1, len(some), *net.size(k)), which=which)
        least, most = found[:, :count], -found[:, count:]
        units_of = some[which]
        own = asked.gather(1, which)  # the rest only fills the rows up
        old = low.gather(1, units_of), high.gather(1, units_of)
        low.scatter_(1, units_of, torch.where(own, torch.maximum(old[0], least), old[0]))
        high.scatter_(1, units_of, torch.where(own, torch.minimum(old[1], most), old[1]))
    reach.low[k], reach.high[k] = low.view_as(reach.low[k]), high.view_as(reach.high[k])


def _behind(net: Graph, k: int) -> bool:
    """Whether a position depends on a non-linear operation."""
    if k == 0:
        return False
    node = net.nodes[k - 1]
    return isinstance(node.op, Rectifier | Sigmoid | MaxPool) or any(_behind(net, i) for i in node.inputs)


def margins(net: Graph, labels: Tensor) -> Tensor:
    """`logit_y - logit_c` as rows on the logits, `(B, K - 1, K)`: a linear map that joins the last layer's."""
    classes = torch.eye(net.size(len(net.nodes))[0], dtype=torch.float64)
    _, other = (torch.arange(len(classes)) != labels.unsqueeze(1)).nonzero(as_tuple=True)
    others = classes[other].view(len(labels), len(classes) - 1, len(classes))
    return classes[labels].unsqueeze(1) - others


def _each(model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball, bound: Bound) -> Tensor:
    """The least bound of all margins, `(B,)` float32 rounded down, a few examples at a time."""
    with torch.no_grad():
        net = graph(model, x)
        found = [
            bound(net, Region.of(threat, some), margins(net, y)).amin(1)
            for some, y in zip(torch.split(x, BATCH), torch.split(labels, BATCH), strict=True)
            if len(y)  # no rows split into one batch of none
        ]
        least = torch.cat(found) if found else x.new_zeros(0).double()
        return torch.nextafter(least.float(), torch.tensor(-torch.inf))


@dataclass(frozen=True)
class Interval:
    """Bounds of every layer by those of the one before, and of the margins through the last (Gowal et al., 2018)."""

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)`."""
        return _each(model, x, labels, threat, self.bound)

    def bound(self, net: Graph, region: Region, rows: Tensor) -> Tensor:
        """Lower bounds of `<row, logits>`, `(B, S)`."""
        return lower(net, explore(net, region, refine=False), len(net.nodes), rows)


@dataclass(frozen=True)
class CROWN:
    """A line under every margin, carried backward to the input (Zhang et al., 2018)."""

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)`."""
        return _each(model, x, labels, threat, self.bound)

    def bound(self, net: Graph, region: Region, rows: Tensor) -> Tensor:
        """Lower bounds of `<row, logits>`, `(B, S)`."""
        return lower(net, explore(net, region, refine=True), len(net.nodes), rows)


@dataclass(frozen=True, kw_only=True)
class AlphaCROWN:
    """CROWN whose slopes under undecided ReLUs are chosen for each margin by Adam (Xu et al., 2021).

    Only where CROWN leaves a margin open. Bounds inside of the network stay CROWN's: the paper chooses slopes for
    those too. Costs `steps` forward and backward passes of the walk.
    """

    steps: int = 20
    rate: float = 0.2

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)`."""
        return _each(model, x, labels, threat, self.bound)

    def bound(self, net: Graph, region: Region, rows: Tensor) -> Tensor:
        """Lower bounds of `<row, logits>`, `(B, S)`."""
        reach = explore(net, region, refine=True)
        best = lower(net, reach, len(net.nodes), rows)
        hard = (best.amin(1) <= 0).nonzero().flatten()
        if len(hard):
            best[hard] = torch.maximum(best[hard], self.chosen(net, _some(reach, hard), rows[hard]))
        return best

    def chosen(self, net: Graph, reach: Reach, rows: Tensor) -> Tensor:
        """The best bounds seen while slopes climb, from those of CROWN."""
        lines = {k: one for k, one in reach.relaxed.items() if isinstance(one, Lines) and one.open is not None}
        alpha = {
            k: one.below.unsqueeze(1).repeat(1, rows.shape[1], *[1] * (one.below.dim() - 1)) for k, one in lines.items()
        }
        best = rows.new_full(rows.shape[:2], -torch.inf)
        with torch.enable_grad():
            slopes = [one.requires_grad_() for one in alpha.values()]
            if not slopes:
                return best
            adam = torch.optim.Adam(slopes, lr=self.rate, maximize=True)
            for step in range(self.steps):
                adam.param_groups[0]["lr"] = self.rate * (1 - step / self.steps)
                found = lower(net, reach, len(net.nodes), rows, alpha=alpha)
                best = torch.maximum(best, found.detach())
                for one, gradient in zip(slopes, torch.autograd.grad(found.sum(), slopes), strict=True):
                    one.grad = gradient
                adam.step()
                with torch.no_grad():
                    for k, one in alpha.items():
                        one.clamp_(lines[k].least, 1.0)
        return best


def _some(reach: Reach, rows: Tensor) -> Reach:
    """What is known of some of the examples."""

    def taken(one: Relaxation) -> Relaxation:
        parts: dict[str, Any] = {f.name: v[rows] for f in fields(one) if isinstance(v := getattr(one, f.name), Tensor)}
        return replace(one, **parts)

    return Reach(
        reach.region[rows],
        [part[rows] for part in reach.low],
        [part[rows] for part in reach.high],
        [None if part is None else part[rows] for part in reach.error],
        {k: taken(one) for k, one in reach.relaxed.items()},
    )


@register("certificates", "interval", norms=("linf", "l2", "l1"), passes="1", paper="Gowal et al., 2018")
def interval() -> Interval:
    """Intervals, layer by layer: cheapest, and enough only for networks trained for them (Gowal et al., 2018)."""
    return Interval()


@register("certificates", "crown", norms=("linf", "l2", "l1"), passes="layers", paper="Zhang et al., 2018")
def crown() -> CROWN:
    """Lines under every margin, carried backward to the input (Zhang et al., 2018)."""
    return CROWN()


@register("certificates", "alpha-crown", norms=("linf", "l2", "l1"), passes="layers + steps", paper="Xu et al., 2021")
def alpha_crown(*, steps: int = 20) -> AlphaCROWN:
    """CROWN with the slopes under undecided ReLUs chosen by gradient ascent (Xu et al., 2021)."""
    return AlphaCROWN(steps=steps)
