"""Backward through a network: a lower bound of any linear function of any of its values.

One walk serves all certificates; they differ in what stands for a non-linear operation on the way back: its bounds,
lines that hold between them, or lines whose slopes were chosen.

Sound for the network as float32 runs it: bounds are computed in float64, and every operation may be off by what
float32 can round, in any order of summation (`graph.off`). Each such error is carried to the margin by the same
coefficients as the operation's output, and taken off. Where a sum may pass what float32 can hold, nothing is claimed.
Convolutions by Winograd's or Fourier's transforms, and the ten bits of TF32, round more than that: keep them off where
a certificate matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparring.certify.graph import (
    LARGEST,
    SMOOTH,
    UNIT,
    Affine,
    Bend,
    Concat,
    Graph,
    Map,
    MaxPool,
    Op,
    Rectifier,
    Sigmoid,
    Softplus,
    Sum,
    Window,
    off,
)
from sparring.certify.lines import Constants, Lines, Picks, Relaxation, relax
from sparring.certify.region import Region, dot

CELLS = 2**22
"""Coefficients that are held at once for the inputs of the widest operation, in float64: 32 MB."""

Known = Mapping[int, tuple[Tensor, Tensor]]
"""Bounds that hold already, by position: from and to, each `(B, *shape)`."""


@dataclass
class Reach:
    """What is known of every position: bounds `(B, *shape)`, rounding, and what stands for its operation."""

    region: Region
    low: list[Tensor]
    high: list[Tensor]
    error: list[Tensor | None] = field(default_factory=lambda: [None])
    relaxed: dict[int, Relaxation] = field(default_factory=dict)
    empty: Tensor = field(init=False)
    """Where what is known contradicts itself: no input is there."""
    beyond: Tensor = field(init=False)
    """Where values may pass what float32 can hold: nothing is claimed."""

    def __post_init__(self) -> None:
        self.empty, self.beyond = torch.zeros(2, len(self.region), dtype=torch.bool)


def lower(
    net: Graph,
    reach: Reach,
    rows: Mapping[int, Tensor],
    *,
    which: Tensor | None = None,
    alpha: Mapping[int, Tensor] | None = None,
    beta: Mapping[int, Tensor] | None = None,
    trail: dict[int, Tensor] | None = None,
) -> Tensor:
    """A lower bound of the sum of `<a, h>` over the region, `(B, S)`: rows `a` `(B or 1, S, *shape)` by position, and
    `h` the values there.

    With `which` `(B, S')`, rows are `(1, S, *shape)`, and every example asks only for those of its own, as they are,
    then negated: `(B, 2 S')`. Up to the first relaxation the rows are the same for all examples, and walked once.

    `alpha` holds slopes for the non-linear operations at these positions, and `beta` multipliers of what is known of
    the signs of their inputs: `<beta, h> >= 0` there. `trail` collects the coefficients of these operations, and those
    of the input at 0.
    """
    pending, start = dict(rows), max(rows)
    total = lost = rows[start].new_zeros(len(reach.region), rows[start].shape[1])
    for k in range(start, 0, -1):
        if k not in pending:
            continue
        op, inputs = net.nodes[k - 1].op, net.nodes[k - 1].inputs
        error = reach.error[k]
        if error is not None:
            lost = lost + dot(pending[k].abs(), error)
        if which is not None and k in reach.relaxed:
            pending, total, lost = _apart(which, pending, total, lost)
            which = None
        a = pending.pop(k)
        if k in reach.relaxed:
            part, constant = reach.relaxed[k].back(a, None if alpha is None else alpha.get(k))
            parts: list[Tensor | None] = [part]
            total = total + constant
            if beta is not None and k in beta and part is not None:
                parts = [part - beta[k]]
            if trail is not None:
                trail[k] = a
        else:
            parts, one = _linear(op, a)
            total = total if one is None else total + one
        for i, part in zip(inputs, parts, strict=True):
            if part is not None:
                pending[i] = pending[i] + part if i in pending else part
    if which is not None:
        pending, total, lost = _apart(which, pending, total, lost)
    if trail is not None and 0 in pending:
        trail[0] = pending[0]
    found = total - lost + (reach.region.least(pending[0]) if 0 in pending else 0.0)
    return found.masked_fill(reach.beyond.unsqueeze(1), -torch.inf) if bool(reach.beyond.any()) else found


@dataclass(frozen=True)
class Route:
    """The way back from a unit of a map for as long as it depends on a window of each map, and a small one.

    `steps` are the positions that are passed, with the window on their inputs; `windows` those on all that are met.
    """

    steps: tuple[tuple[int, Window], ...]
    windows: Mapping[int, Window]

    @property
    def ends(self) -> set[int]:
        """The positions that are not passed."""
        return self.windows.keys() - {k for k, _ in self.steps}


def route(net: Graph, reach: Reach, k: int) -> Route:
    """The way back from the units of a position."""
    steps, windows = list[tuple[int, Window]](), {k: Window()}
    for at in range(k, 0, -1):
        if at not in windows:
            continue
        before, inputs = _stays_small(net, reach, at, windows[at]), net.nodes[at - 1].inputs
        if before is None or any(windows.get(i, before).stride != before.stride for i in inputs):
            break
        windows |= {i: windows.get(i, before).joined(before) for i in inputs}
        steps.append((at, before))
    return Route(tuple(steps), windows)


def near(net: Graph, reach: Reach, k: int, units: Tensor, which: Tensor) -> Tensor:
    """`lower` of single units of a map, `which` of them, then of their negatives: `(B, 2 S')`.

    A unit of a convolution depends on a window of the map before: only this is walked, while it is small. Where ways
    meet again, behind a sum, their windows lie around the same place.
    """
    channels, *sides = net.size(k)
    way, each = route(net, reach, k), torch.arange(len(which)).unsqueeze(1)
    places = (units % math.prod(sides)).expand(len(which), -1)
    a = torch.zeros(1, len(units), channels, 1, 1, dtype=torch.float64)
    a[0, torch.arange(len(units)), units // math.prod(sides)] = 1
    pending, apart = {k: a}, False
    total = lost = a.new_zeros(len(which), len(units))

    def cut(window: Window, maps: Tensor) -> Tensor:
        return window.cut(maps)[each[: len(maps)], places[: len(maps)]]

    for at, before in way.steps:
        op, inputs = net.nodes[at - 1].op, net.nodes[at - 1].inputs
        here, error, line = partial(cut, way.windows[at]), reach.error[at], reach.relaxed.get(at)
        if error is not None:
            lost = lost + dot(pending[at].abs(), here(error))
        if not apart and line is not None:
            pending, total, lost = _apart(which, pending, total, lost)
            places, apart = places.gather(1, which).repeat(1, 2), True
        a = pending.pop(at)
        if isinstance(line, Picks):
            steps = zip((places // sides[1], places % sides[1]), before.stride, before.padding, strict=True)
            down, right = (place * stride - padding for place, stride, padding in steps)
            part, constant = line.each(here, (down, right), before.kernel).back(a)
            parts: list[Tensor | None] = [part]
        elif isinstance(line, Lines):
            part, constant = line.each(here).back(a)
            parts = [part]
        elif isinstance(op, Affine):
            assert op.spread is not None
            constant = a.new_zeros(()) if op.constant is None else (a * op.constant).flatten(2).sum(2)
            flat = _spread(op.spread, a.flatten(0, 1))
            inside = cut(before, torch.ones(len(a), 1, *net.size(inputs[0])[1:], dtype=torch.float64))
            parts = [flat.view(*a.shape[:2], *flat.shape[1:]) * inside]
        else:
            parts, constant = _linear(op, a)[0], a.new_zeros(())
        total = total + constant
        for i, one in zip(inputs, parts, strict=True):
            assert one is not None
            wide = before.within(way.windows[i], one)
            pending[i] = pending[i] + wide if i in pending else wide
    if not apart:
        pending, total, lost = _apart(which, pending, total, lost)
        places = places.gather(1, which).repeat(1, 2)
    if way.ends == {0}:
        return total - lost + reach.region.each(partial(cut, way.windows[0])).least(pending[0])
    whole = {i: _whole(net.size(i), way.windows[i], places, a) for i, a in pending.items()}
    return total - lost + lower(net, reach, whole)


def _spread(spread: Map, a: Tensor) -> Tensor:
    """A linear map of many rows; by its matrix where this is small, because convolutions of small maps are slow."""
    size = a[0].numel()
    if len(a) < 2 * size:
        return spread(a)
    matrix = spread(torch.eye(size, dtype=a.dtype).view(size, *a.shape[1:]))
    return (
        (a.flatten(1) @ matrix.flatten(1)).view(-1, *matrix.shape[1:]) if matrix.numel() <= CELLS // 16 else spread(a)
    )


def _stays_small(net: Graph, reach: Reach, k: int, window: Window) -> Window | None:
    """The window on the inputs of an operation, if it has one that is under half of the map."""
    node = net.nodes[k - 1]
    if isinstance(reach.relaxed.get(k), Lines):
        return window
    match node.op:
        case Sum() | Concat(dim=1) if len(node.shape) == 3:
            return window
        case MaxPool(kernel, stride, padding) if k in reach.relaxed:
            first: Window | None = Window(kernel, stride, padding)
        case Affine() if len(node.shape) == 3:
            first = node.op.window
        case _:
            first = None
    if first is None:
        return None
    before = window.after(first)
    return before if 2 * math.prod(before.kernel) <= math.prod(net.size(node.inputs[0])[1:]) else None


def _whole(shape: tuple[int, ...], window: Window, places: Tensor, a: Tensor) -> Tensor:
    """Windows as whole maps, with zeros around."""
    count = math.prod(shape[1:])
    number = torch.arange(1, count + 1, dtype=torch.float64).view(1, 1, *shape[1:])
    index = window.cut(number).long()[0][places].flatten(3).expand(-1, -1, shape[0], -1)
    whole = a.new_zeros(*a.shape[:2], shape[0], count + 1).scatter_add_(3, index, a.flatten(3))
    return whole[..., 1:].reshape(*a.shape[:2], *shape)


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
            constant = None if op.constant is None else (a * op.constant.to(a.dtype)).flatten(2).sum(2)
            return [flat.view(*a.shape[:2], *flat.shape[1:])], constant
        case Sum(signs):
            return [sign * a for sign in signs], None
        case Concat(dim, sizes):
            return list(torch.split(a, list(sizes), dim + 1)), None
    raise AssertionError(op)


def explore(
    net: Graph, region: Region, *, refine: bool, known: Known | None = None, late: Callable[[], bool] = lambda: False
) -> Reach:
    """Bounds of every position, from the input on: by intervals, and with `refine` by CROWN where they matter.

    They matter for the inputs of non-linear operations, where intervals leave it open which piece is in use; once it is
    `late`, no more are looked for. Bounds that are known already are used, and lines put between them, whether or not
    they are refined.
    """
    reach = Reach(region, [region.low], [region.high])
    for k, node in enumerate(net.nodes, 1):
        op, inputs = node.op, node.inputs
        lows, highs = [reach.low[i] for i in inputs], [reach.high[i] for i in inputs]
        error: Tensor | None = None
        match op:
            case Affine():
                low, high = op.bounds(lows[0], highs[0])
            case Sum(signs):
                ends = [
                    (one, two) if sign > 0 else (two, one) for sign, one, two in zip(signs, lows, highs, strict=True)
                ]
                low, high = op(*(end[0] for end in ends)), op(*(end[1] for end in ends))
            case Concat():
                low, high = op(*lows), op(*highs)
            case Rectifier() | Sigmoid() | Softplus() | MaxPool():
                if refine:
                    _refine(net, reach, inputs[0], op, late)
                low, high = op(reach.low[inputs[0]]), op(reach.high[inputs[0]])
                reach.relaxed[k] = (
                    Constants(low, high)
                    if not refine and known is None
                    else relax(op, reach.low[inputs[0]], reach.high[inputs[0]])
                )
                error = _slip(op, low, high)
        if isinstance(op, Affine | Sum) and op.terms:
            sizes = op.sizes(*(torch.maximum(one.abs(), two.abs()) for one, two in zip(lows, highs, strict=True)))
            error = off(op.terms, sizes)
            reach.beyond = reach.beyond | ~(sizes < LARGEST).flatten(1).all(1)
        low, high = (low, high) if error is None else (low - error, high + error)
        reach.error.append(error)
        if known is not None and k in known:
            low, high = torch.maximum(low, known[k][0]), torch.minimum(high, known[k][1])
            reach.empty = reach.empty | (low > high).flatten(1).any(1)
            high = torch.maximum(low, high)
        reach.low.append(low)
        reach.high.append(high)
    return reach


def _slip(op: Bend, low: Tensor, high: Tensor) -> Tensor | None:
    """What float32 rounds in a non-linear operation: nothing in a maximum, a few units in the last place elsewhere."""
    match op:
        case Sigmoid():
            return torch.full_like(low, 8 * UNIT)
        case Softplus(beta):  # the last term is what the identity leaves out
            return 8 * UNIT * (torch.maximum(low.abs(), high.abs()) + 1 / beta) + math.exp(-SMOOTH) / beta
        case Rectifier(slope) if slope:
            return off(2, torch.maximum(low.abs(), high.abs()))
    return None


def _refine(net: Graph, reach: Reach, k: int, op: Bend, late: Callable[[], bool]) -> None:
    """Tighten the bounds of a position by CROWN, where intervals leave the operation after it undecided."""
    low, high = reach.low[k].flatten(1).clone(), reach.high[k].flatten(1).clone()
    undecided = _matter(op, low, high)
    if k and isinstance(before := net.nodes[k - 1].op, Rectifier | Sigmoid | Softplus):
        (i,) = net.nodes[k - 1].inputs  # what was asked for there: lines of these bounds end where the function does
        undecided &= ~_matter(before, reach.low[i], reach.high[i]).flatten(1)
    if k == 0 or (reach.region.norm == "linf" and not _behind(net, k)):
        return  # one linear map of a box: intervals are exact
    units = undecided.any(0).nonzero().flatten()
    local = len(net.size(k)) == 3 and bool((way := route(net, reach, k)).steps)
    for some in torch.split(units, near_room(net, way, len(low)) if local else room(net, k, len(low))):
        if not len(some) or late():  # nothing splits into one chunk of nothing
            break
        asked = undecided[:, some]
        count = int(asked.sum(1).max())
        which = asked.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]
        if local:
            found = near(net, reach, k, some, which)
        else:
            rows = torch.zeros(1, len(some), low.shape[1], dtype=low.dtype)
            rows[0, torch.arange(len(some)), some] = 1
            found = lower(net, reach, {k: rows.view(1, len(some), *net.size(k))}, which=which)
        least, most = found[:, :count], -found[:, count:]
        units_of = some[which]
        own = asked.gather(1, which)  # the rest only fills the rows up
        old = low.gather(1, units_of), high.gather(1, units_of)
        low.scatter_(1, units_of, torch.where(own, torch.maximum(old[0], least), old[0]))
        high.scatter_(1, units_of, torch.where(own, torch.minimum(old[1], most), old[1]))
    reach.low[k], reach.high[k] = low.view_as(reach.low[k]), high.view_as(reach.high[k])


def _matter(op: Bend, low: Tensor, high: Tensor) -> Tensor:
    """Where better bounds of its inputs change an operation's relaxation."""
    return (low < 0) & (high > 0) if isinstance(op, Rectifier) else low < high


def room(net: Graph, k: int, count: int) -> int:
    """How many rows on a position are walked together, for so many examples."""
    widest = max(math.prod(net.size(i)) for i in range(k + 1))
    return max(1, CELLS // (widest * max(1, count)))


def near_room(net: Graph, way: Route, count: int) -> int:
    """How many units `near` walks together: where windows become whole maps on the way, no more than fit as these."""
    if far := max(way.ends):
        return room(net, far, count)
    widest = max(net.size(i)[0] * math.prod(window.kernel) for i, window in way.windows.items())
    return max(1, CELLS // (max(512, widest) * max(1, count)))


def _behind(net: Graph, k: int) -> bool:
    """Whether a position depends on a non-linear operation."""
    behind = [False]
    for node in net.nodes[:k]:
        behind.append(isinstance(node.op, Bend) or any(behind[i] for i in node.inputs))
    return behind[k]


def roughly(reach: Reach) -> Reach:
    """The same in float32, and without the rounding: half the time, and no proof."""

    def single(part: Any) -> Any:
        return part.float() if isinstance(part, Tensor) and part.is_floating_point() else part

    return Reach(
        _mapped(reach.region, single),
        reach.low,
        reach.high,
        [None] * len(reach.error),
        {k: _mapped(one, single) for k, one in reach.relaxed.items()},
    )


def some_of(reach: Reach, rows: Tensor) -> Reach:
    """What is known of some of the examples."""

    def taken(part: Any) -> Any:
        return part[rows] if isinstance(part, Tensor) else part

    some = Reach(
        _mapped(reach.region, taken),
        [part[rows] for part in reach.low],
        [part[rows] for part in reach.high],
        [None if part is None else part[rows] for part in reach.error],
        {k: _mapped(one, taken) for k, one in reach.relaxed.items()},
    )
    some.empty, some.beyond = reach.empty[rows], reach.beyond[rows]
    return some


Fields = TypeVar("Fields", Region, Relaxation)


def _mapped(one: Fields, part: Callable[[Any], Any]) -> Fields:
    """The same, of parts of its tensors."""
    return replace(one, **{f.name: part(getattr(one, f.name)) for f in fields(one)})
