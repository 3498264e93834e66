"""Branch and bound: split until every part is certified, or an input is found that breaks one.

A statement about the outputs is bounded over the region. Where the bound leaves it open, a rectifier that may be on
either side is chosen, and both sides are bounded apart: each has one relaxation less. What is known of the signs
enters the bound by multipliers, which climb together with the slopes (beta-CROWN, Wang et al., 2021). Meanwhile an
attack goes on from the inputs where the bounds are lowest.

How tight the bounds of units inside of the network are decides how many parts it takes. Each is a statement about
the outputs of a shorter network: so first they are split in the same way, layer by layer. Where inputs are few, it is
their box that is halved: all these bounds are then those of a smaller box.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks import PGD, pgd
from sparring.certify.answers import Answer, Status, rounded_down
from sparring.certify.crown import ascend, margins, matched, slopes_of_crown
from sparring.certify.graph import Bend, Graph
from sparring.certify.lines import Lines
from sparring.certify.reading import graph
from sparring.certify.region import Region
from sparring.certify.walk import CELLS, Known, Reach, explore, lower, room, roughly, some_of
from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

WORST = 8
"""Parts of a batch, those with the least bounds, that an attack goes on from."""


@dataclass(frozen=True)
class Claims:
    """Statements about outputs `y`: `max_j <rows_j, y> + at_j > 0`. Rows `(C, J, *shape)`, `at` `(C, J)`, both float64.

    As a goal, one for each row of a batch: to find inputs where they do not hold.
    """

    rows: Tensor
    at: Tensor
    sign: int = 1

    @property
    def labels(self) -> Tensor:
        """None; a column of zeros for what asks."""
        return torch.zeros(len(self.at), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, rows: Tensor) -> Claims:
        """Some of them."""
        return Claims(self.rows[rows], self.at[rows])

    @property
    def short(self) -> bool:
        """Whether rows are of so few digits that their sums, with weights of twelve bits, are exact."""
        digits = self.rows * 2.0**16
        return bool((digits == digits.round()).all() and self.rows.abs().max() <= 2.0**15 and self.rows.shape[1] <= 512)

    def mixed(self, weights: Tensor) -> Claims:
        """The same with one row more, where there are several: their sum with weights like the softmax of `(C, J)`.

        It is above zero only where one of them is, and may have a bound above zero where each has none, as they take
        turns (Lagrangian duality). Rows that are not `short` stay alone: what a sum of them rounds, outputs of any size
        multiply.
        """
        if self.rows.shape[1] == 1 or not self.short:
            return self
        share = weights.double().softmax(1)
        share = (2.0**12 * share / share.amax(1, keepdim=True)).round() / 2.0**12
        row = torch.einsum("cj,cj...->c...", share, self.rows)
        at = (share * self.at).sum(1) - 2.0**-40 * (share * self.at.abs()).sum(1)  # no more than it is, exactly
        return Claims(torch.cat([self.rows, row.unsqueeze(1)], 1), torch.cat([self.at, at.unsqueeze(1)], 1))

    def values(self, outputs: Tensor) -> Tensor:
        """How far each holds for its row of the outputs, `(C,)`."""
        return (torch.einsum("ck,cjk->cj", outputs.double(), self.rows) + self.at).amax(1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Which do not hold."""
        return self.values(outputs) <= 0


TIE = torch.finfo(torch.float64).tiny
"""Less than any difference of two numbers in float32 but zero."""


def right(margins: Tensor, label: int) -> Claims:
    """That the answer is the label: that every margin `(K - 1, K)` is above zero.

    A tie with a class of a higher number goes to the label, as `argmax` has it, and is no failure.
    """
    after = torch.arange(len(margins)) >= label  # these margins are over the classes label + 1, label + 2, ...
    return Claims(margins.unsqueeze(1), TIE * after.double().unsqueeze(1))


def _against(outputs: Tensor, goal: Goal) -> Tensor:
    """What the attack climbs: by how much a claim fails."""
    assert isinstance(goal, Claims)
    return -goal.values(outputs).float()


@dataclass(frozen=True)
class Question:
    """Whether claims hold for every input of a region of one example; `model`, `x` and `threat` are for attacks.

    What attacks move may be other numbers than the region's, on a straight scale: those of the same place in their box.
    """

    net: Graph
    region: Region
    claims: Claims
    model: Model
    x: Tensor
    threat: Ball

    @property
    def wide(self) -> int:
        """How many inputs are free."""
        return int((self.region.low < self.region.high).sum())

    def lowest(self, slope: Tensor, boxes: Tensor) -> Tensor:
        """Where lines of these slopes `(B, *shape)` are least, for attacks: in boxes `(B, 2, n)`, of a ball in all."""
        x, threat = self.x.expand_as(slope), self.threat
        if self.region.norm != "linf":
            return threat.project(x + threat.norm.steepest(-slope.float()) * threat.unit, x)
        low, high = self.region.low.flatten(), self.region.high.flatten()
        corner = torch.where(slope.flatten(1) > 0, boxes[:, 0], boxes[:, 1])
        place = ((corner - low) / (high - low)).nan_to_num(0.0).float().view_as(slope)  # fixed inputs have none
        least, most = ((x + way * threat.eps).clamp(threat.low, threat.high) for way in (-1, 1))
        return threat.project(least + place * (most - least), x)


@dataclass(frozen=True, kw_only=True)
class BranchAndBound:
    """Split until all is certified or something breaks: on the signs of rectifiers (Wang et al., 2021), or on inputs.

    Stops after `seconds` for an example. Parts are bounded `batch` at a time, each by `steps` of slopes and
    multipliers, `root` where there are none to start from. `rates` are Adam's, of slopes, of multipliers, and of the
    weights of statements of which one must hold. The unit to split is the one whose two sides gain most (Bunel et al.,
    2020; tried out, as De Palma et al., 2021, do): of `candidates` of every rectifier, of more while parts are few.

    What `soon` parts do not decide is begun anew: units inside of the network are bounded in the same way, in the
    order of the network, as far as these are few enough (`cells` coefficients), and half of the time at most is spent.
    The `leaves` parts that bound a unit worst are split, so many `rounds`; then more, where a claim is still open.
    Every part gains from it.

    Where no more than `inputs` are free in a box, and more units than inputs are undecided in a part of it, the range
    of an input is halved: the one that CROWN's line loses most over (Wang et al., 2018, have the gradient's). Every
    part is bounded anew.
    """

    seconds: float = 10.0
    batch: int = 256
    steps: int = 10
    root: int = 30
    rates: tuple[float, float, float] = (0.2, 0.1, 0.5)
    candidates: int = 8
    soon: int = 2048
    rounds: tuple[int, ...] = (0, 6, 24)
    leaves: int = 4
    cells: int = 2**20
    inputs: int = 16
    restarts: int = 5
    searches: ClassVar[bool] = True
    clock: Callable[[], float] = field(default=time.monotonic, compare=False, repr=False)
    watch: Callable[[int, int, float], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise BadInput(f"{self.seconds:g} seconds for an example", "0 or more", "give it 10, say")

    def at_once(self, net: Graph) -> int:
        """One by one: each takes seconds."""
        return 1

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)` float32 rounded down."""
        lower = [answer.lower for answer in self.answers(model, x, labels, threat)]
        return rounded_down(torch.tensor(lower, dtype=torch.float64))

    def answers(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> list[Answer]:
        """What was found for every example."""
        matched(x, labels)
        net = graph(model, x)
        source = net.source or model
        found = []
        with inference(source):
            for i in range(len(x)):
                one, label = x[i : i + 1], labels[i : i + 1]
                claims = right(margins(net, label)[0], int(label))
                found.append(self.decide(Question(net, Region.of(threat, one), claims, source, one.detach(), threat)))
        return found

    def decide(self, question: Question) -> Answer:
        """Answer one question. The network is asked in the mode that it is in: in inference mode, to mean anything."""
        with torch.no_grad():
            return _Tree(self, question).grow()


@dataclass(frozen=True, order=True)
class _Part:
    """A part of the region in which a claim is to be bounded: the least bound comes first.

    All rectifiers' inputs stand in one row, `(N,)`: `bounds` `(2, N)` that hold in the whole region, the `signs` that
    make the part, in `found` `(2, N)` the slopes below and the multipliers, NaN before there are any, and the `weights`
    `(J,)` of the claim's statements, before the softmax. `box` `(2, n)` holds the least and greatest inputs. `unit` is
    the one to split, from N on an input, -1 where there is none.
    """

    least: float
    order: int
    claim: int = field(compare=False)
    bounds: Tensor = field(compare=False)
    signs: Tensor = field(compare=False)
    found: Tensor = field(compare=False)
    weights: Tensor = field(compare=False)
    box: Tensor = field(compare=False)
    unit: int = field(compare=False, default=-1)

    def halves(self) -> list[_Part]:
        """In two, where there is something to split."""
        if self.unit < 0:
            return [self]
        if (i := self.unit - len(self.signs)) >= 0:
            boxes = self.box.repeat(2, 1, 1)
            boxes[0, 1, i] = boxes[1, 0, i] = self.box[:, i].mean()
            return [replace(self, box=box) for box in boxes]
        signs = self.signs.repeat(2, 1)
        signs[0, self.unit], signs[1, self.unit] = 1, -1
        return [replace(self, signs=sign) for sign in signs]


class _Layout:
    """Where the inputs of a network's non-linear operations stand, when all are put in one row of length N."""

    def __init__(self, net: Graph) -> None:
        nodes = enumerate(net.nodes, 1)
        self.nodes = [k for k, node in nodes if isinstance(node.op, Bend)]
        self.inputs = [net.nodes[k - 1].inputs[0] for k in self.nodes]
        self.shapes = [net.size(i) for i in self.inputs]
        self.ends = list(itertools.accumulate(map(math.prod, self.shapes), initial=0))

    def split(self, rows: Tensor) -> dict[int, Tensor]:
        """Rows `(B, N)` by operation, `(B, *shape)`."""
        parts = (rows[:, a:b] for a, b in itertools.pairwise(self.ends))
        each = zip(self.nodes, parts, self.shapes, strict=True)
        return {k: part.reshape(len(rows), *shape) for k, part, shape in each}

    def joined(self, parts: Mapping[int, Tensor], count: int) -> Tensor:
        """The inverse for so many rows, `(count, N)` in float32; zero for the operations that are left out."""
        zeros = self.split(torch.zeros(count, self.ends[-1]))
        return torch.cat(
            [torch.zeros(count, 0), *(parts.get(k, zero).flatten(1).float() for k, zero in zeros.items())], 1
        )

    def known(self, low: Tensor, high: Tensor) -> Known:
        """Bounds in rows, `(B, N)` each, by position."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for i, one, two in zip(self.inputs, self.split(low).values(), self.split(high).values(), strict=True):
            before = found.get(i, (one, two))  # where two operations have one input: all that is known of it
            found[i] = torch.maximum(one, before[0]), torch.minimum(two, before[1])
        return found

    def bounds(self, reach: Reach) -> Tensor:
        """The inverse, of the first example: `(2, N)`."""
        none = torch.zeros(0, dtype=torch.float64)
        return torch.stack(
            [torch.cat([none, *(end[i][0].flatten() for i in self.inputs)]) for end in (reach.low, reach.high)]
        )


class _Brancher:
    """Bounds of the parts of one question, and which unit to split in each."""

    def __init__(self, how: BranchAndBound, question: Question) -> None:
        self.how, self.question, self.net, self.layout = how, question, question.net, _Layout(question.net)
        self.room = CELLS // max(1, self.layout.ends[-1])  # so many rows of coefficients at once
        self.batch = max(2, min(how.batch, self.room))
        self.halving = question.region.norm == "linf" and question.wide <= how.inputs

    def whole(self, bounds: Tensor) -> list[_Part]:
        """For every claim the whole region, where the bounds `(2, N)` hold."""
        size = bounds.shape[1]
        signs, found = torch.zeros(size, dtype=torch.int8), torch.full((2, size), torch.nan)
        even = torch.zeros(self.question.claims.rows.shape[1])
        box = torch.stack([self.question.region.low.flatten(), self.question.region.high.flatten()])
        count = len(self.question.claims)
        return [_Part(-torch.inf, claim, claim, bounds, signs, found, even, box) for claim in range(count)]

    def bound(self, parts: list[_Part]) -> tuple[list[_Part], Tensor]:
        """Parts with the bounds that are found, and the slopes of these bounds in the input, `(B, *shape)`."""
        batches = (parts[first : first + self.batch] for first in range(0, len(parts), self.batch))
        found, slopes = zip(*map(self.together, batches), strict=True)
        return list(itertools.chain.from_iterable(found)), torch.cat(slopes)

    def together(self, parts: list[_Part]) -> tuple[list[_Part], Tensor]:
        """`bound` of one batch: slopes and multipliers climb in float32, and float64 says what they prove."""
        last, claims = len(self.net.nodes), self.question.claims[torch.tensor([part.claim for part in parts])]
        before = torch.tensor([part.least for part in parts], dtype=torch.float64)
        signs, found = torch.stack([part.signs for part in parts]), torch.stack([part.found for part in parts])
        boxes = torch.stack([part.box for part in parts])
        reach = self.explored(torch.stack([part.bounds for part in parts]), signs, boxes)
        alpha, beta = (self.layout.split(one) for one in found.nan_to_num(0.0).unbind(1))
        fresh = bool(found.isnan().any())
        sign = {k: one.unsqueeze(1).float() for k, one in self.layout.split(signs).items() if bool(one.any())}
        slopes, weights = slopes_of_crown(reach, 1), torch.stack([part.weights for part in parts])
        alpha, beta, climbed = ascend(
            self.net,
            reach,
            claims.rows,
            start=last,
            alpha=slopes if fresh or self.halving else {k: alpha[k].unsqueeze(1) for k in slopes},
            beta={k: beta[k].unsqueeze(1) for k in sign},
            signs=sign,
            at=claims.at,
            weights=weights if weights.shape[1] > 1 else None,
            steps=self.how.root if fresh else self.how.steps,
            rates=self.how.rates,
        )
        weights = weights if climbed is None else climbed
        claims = claims.mixed(weights)
        signed, trail = {k: beta[k] * sign[k] for k in beta}, dict[int, Tensor]()
        each = lower(self.net, reach, {last: claims.rows}, alpha=alpha, beta=signed, trail=trail) + claims.at
        bounds, nearest = each.max(1)
        least = torch.maximum(unknown(bounds), before).masked_fill(reach.empty, torch.inf)
        trail = {k: one[torch.arange(len(one)), nearest].unsqueeze(1).float() for k, one in trail.items()}
        found = torch.stack([self.layout.joined(one, len(parts)) for one in (alpha, beta)], 1)
        units, open_ = torch.full((len(parts),), -1), (least <= 0).nonzero().flatten()
        if len(open_):
            groups = ({k: one[open_].float() for k, one in group.items()} for group in (alpha, signed, trail))
            some, asked = roughly(some_of(reach, open_)), claims.rows[open_, nearest[open_]].float()
            units[open_] = self.branch(some, bounds[open_].float(), *groups)
            if self.halving:
                units[open_] = self.halved(some, asked.unsqueeze(1), boxes[open_], units[open_])
        rows = zip(parts, least.tolist(), found, weights, units.tolist(), strict=True)
        slope = trail[0].squeeze(1) if 0 in trail else torch.zeros(len(parts), *self.net.shape)
        better = [
            replace(part, least=one, found=way.clone(), weights=weight.clone(), unit=unit)
            for part, one, way, weight, unit in rows
        ]
        return better, slope

    def explored(self, bounds: Tensor, signs: Tensor, boxes: Tensor) -> Reach:
        """What is known where inputs of rectifiers, between bounds `(B, 2, N)`, have the signs `(B, N)`, in boxes."""
        low, high = bounds.unbind(1)
        low, high = low + (signs > 0) * (low.relu() - low), high - (signs < 0) * high.relu()
        least, most = (end.reshape(-1, *self.net.shape) for end in boxes.unbind(1))
        region = replace(self.question.region[torch.zeros(len(signs), dtype=torch.int64)], low=least, high=most)
        return explore(self.net, region, refine=self.halving, known=self.layout.known(low, high))

    def halved(self, reach: Reach, rows: Tensor, boxes: Tensor, units: Tensor) -> Tensor:
        """What to split in every part: the unit, or the input that CROWN's line under these rows loses most over.

        An input where more units than inputs are undecided, or none can be split, as in smooth networks. Slopes that
        were chosen to lose little over the whole box say less of which half of it would be easier: CROWN's own do.
        """
        trail: dict[int, Tensor] = {}
        lower(self.net, reach, {len(self.net.nodes): rows}, trail=trail)
        if 0 not in trail:
            return units
        undecided = torch.zeros_like(units)
        for k, i in zip(self.layout.nodes, self.layout.inputs, strict=True):
            if k in trail and isinstance(line := reach.relaxed[k], Lines):
                bent = reach.low[i] < reach.high[i] if line.open is None else line.open
                undecided += (bent & (trail[k].squeeze(1) != 0)).flatten(1).sum(1)
        low, high = boxes.unbind(1)
        splits = high - low > torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs())
        lost, widest = (trail[0].flatten(1).abs() * (high - low) * splits).max(1)
        wanted = (undecided > (low < high).sum(1)) | ((units < 0) & (undecided > 0))
        return torch.where(wanted & (lost > 0), widest + self.layout.ends[-1], units)

    def branch(
        self, reach: Reach, bounds: Tensor, alpha: dict[int, Tensor], beta: dict[int, Tensor], trail: dict[int, Tensor]
    ) -> Tensor:
        """For every part, of bounds `(B,)`, the unit whose two sides gain most, -1 where none is left to split.

        Tried out for the units of every rectifier that the bound may lose most at. What is behind the rectifier stays
        as it is, so that the walk starts at its input, from the coefficients that the sides give (an estimate where
        the network forks). All in float32: whichever is split, what is proved of its sides holds.
        """
        layout = self.layout
        best, unit = torch.zeros(len(bounds)), torch.full((len(bounds),), -1)
        count = max(self.how.candidates, self.room // (2 * len(bounds) * max(1, len(layout.nodes))))
        for k, i, first in zip(layout.nodes, layout.inputs, layout.ends[:-1], strict=True):
            line = reach.relaxed[k]
            if k not in trail or not isinstance(line, Lines) or line.open is None:
                continue
            a, above = trail[k].flatten(1), line.above_at.flatten(1)
            low, high = reach.low[i].flatten(1).float(), reach.high[i].flatten(1).float()
            score, units = _lost(line, alpha[k].flatten(1), low, high, a).topk(min(count, a.shape[1]), dim=1)
            at = units.repeat(1, 2)
            sides = a.gather(1, at) * torch.tensor([1.0, line.least], dtype=a.dtype).repeat_interleave(units.shape[1])
            before = line.back(trail[k], alpha.get(k))[0].flatten(1)
            rows = (before - beta[k].flatten(1) if k in beta else before).unsqueeze(1).repeat(1, at.shape[1] + 1, 1)
            rows[:, 1:].scatter_add_(2, at.unsqueeze(2), (sides - before.gather(1, at)).unsqueeze(2))
            found = lower(self.net, reach, {i: rows.view(*rows.shape[:2], *self.net.size(i))}, alpha=alpha, beta=beta)
            gain = found[:, 1:] - found[:, :1] + (-a).relu().gather(1, at) * above.gather(1, at)
            both = torch.minimum(gain, -bounds.unsqueeze(1)).clamp(min=1e-6).view(*units.shape[:1], 2, -1).prod(1)
            gain, place = (both * (score > 0)).max(1)
            unit = torch.where(gain > best, first + units.gather(1, place.unsqueeze(1)).squeeze(1), unit)
            best = torch.maximum(gain, best)
        return unit

    def squeezed(self, bounds: Tensor, rounds: int, late: Callable[[], bool]) -> Tensor:
        """A lower bound of every claim, `(C,)`, by splitting the parts that bound it worst, so many times."""
        groups = [[part] for part in self.bound(self.whole(bounds))[0]]
        for _ in range(rounds):
            torn = [[part for part in group[: self.how.leaves] if part.least <= 0] for group in groups]
            if late() or not any(torn):
                break
            groups = [group[len(some) :] for group, some in zip(groups, torn, strict=True)]
            halves, _ = self.bound([half for some in torn for part in some for half in part.halves()])
            for half in halves:
                bisect.insort(groups[half.claim], half)
        return torch.tensor([group[0].least for group in groups], dtype=torch.float64)


def _lost(line: Lines, below: Tensor, low: Tensor, high: Tensor, a: Tensor) -> Tensor:
    """How much a bound with these coefficients may lose to the lines in place of rectifiers, `(B, n)`; zero if decided.

    Where no coefficient asks for any, a split still tells the multipliers more: of the widest.
    """
    above = line.above_at.flatten(1)
    assert line.open is not None
    under = torch.maximum((below - line.least) * -low, (1 - below) * high)
    return line.open.flatten(1) * (a.relu() * under + (-a).relu() * above + 1e-9 * above)


class _Tree:
    """The parts of one question that are open."""

    def __init__(self, how: BranchAndBound, question: Question) -> None:
        self.how, self.question, self.net = how, question, question.net
        self.start = how.clock()
        self.brancher = _Brancher(how, question)
        self.open: list[_Part] = []
        self.stuck: list[_Part] = []
        self.closed = math.inf
        self.count = 0

    @property
    def seconds(self) -> float:
        return self.how.clock() - self.start

    def grow(self) -> Answer:
        """Attack, bound, and split until nothing is open, or time is up."""
        bounds = self.rooted()
        z = self.attacked(torch.tensor([part.claim for part in self.open], dtype=torch.int64))
        z = self.divided(z, self.how.soon)
        for rounds in () if self.brancher.halving else self.how.rounds:
            if z is None and (self.open or self.stuck) and not self.late():
                self.tighten(bounds, rounds)
                z = self.bound(self.afresh(bounds))
        z = self.divided(z, math.inf)
        least = min([self.closed, *(part.least for part in (*self.open, *self.stuck))])
        status: Status = "broken" if z is not None else "certified" if least > TIE else "unknown"  # a tie is no margin
        return Answer(status, least, z, self.count)

    def divided(self, z: Tensor | None, most: float) -> Tensor | None:
        """Split, until an input that breaks a claim is found or known, nothing is open, or there are so many parts."""
        while z is None and self.open and not self.stuck and self.count < most and self.seconds < self.how.seconds:
            z = self.bound(self.halves())
            if self.how.watch is not None and self.open:
                self.how.watch(self.count, len(self.open), self.open[0].least)
        return z

    def rooted(self) -> Tensor:
        """Close what CROWN can close, and open a part for each of the rest; bounds of rectifiers' inputs, `(2, N)`."""
        claims, layout = self.question.claims, self.brancher.layout
        claims = claims.mixed(torch.zeros_like(claims.at))
        reach = explore(self.net, self.question.region, refine=True, late=lambda: self.seconds > self.how.seconds)
        bounds = layout.bounds(reach)
        last = len(self.net.nodes)
        some = torch.split(claims.rows.flatten(0, 1).unsqueeze(0), room(self.net, last, 1), dim=1)
        found = torch.cat([lower(self.net, reach, {last: rows}) for rows in some], 1)
        each = unknown(found.view_as(claims.at) + claims.at).amax(1).tolist()
        for part, least in zip(self.brancher.whole(bounds), each, strict=True):
            self.put(replace(part, least=least))
        return bounds

    def tighten(self, bounds: Tensor, rounds: int) -> None:
        """Better bounds of rectifiers' inputs, `(2, N)` in place: each is a question about the network up to there."""
        net, region, layout = self.net, self.question.region, self.brancher.layout
        for i, first in zip(layout.inputs, layout.ends[:-1], strict=True):
            if self.late():
                return
            known = layout.known(*bounds.unsqueeze(1))
            bounds.copy_(layout.bounds(explore(net, region, refine=True, known=known, late=self.late)))
            low, high = bounds[:, first : first + math.prod(net.size(i))]
            units = ((low < 0) & (high > 0)).nonzero().flatten()
            ones = torch.eye(len(low), dtype=torch.float64)[units]
            rows = torch.cat([ones, -ones]).view(-1, 1, *net.size(i))
            inner = replace(
                self.question, net=Graph(net.shape, net.nodes[:i]), claims=Claims(rows, torch.zeros(len(rows), 1))
            )
            brancher = _Brancher(self.how, inner)
            before = brancher.layout.ends[-1]
            if 0 < len(units) * before <= self.how.cells:
                least, most = brancher.squeezed(bounds[:, :before].clone(), rounds, self.late).view(2, -1)
                low[units], high[units] = torch.maximum(low[units], least), torch.minimum(high[units], -most)

    def late(self) -> bool:
        """Whether half of the time is spent."""
        return self.seconds > self.how.seconds / 2

    def put(self, part: _Part) -> None:
        """Note a part: one that is done with, or that is open."""
        self.count += 1
        if part.least > 0:
            self.closed = min(self.closed, part.least)
        else:
            heapq.heappush(self.open, replace(part, order=self.count))

    def afresh(self, bounds: Tensor) -> list[_Part]:
        """The whole region again for the claims that are open, where better bounds hold."""
        whole = self.brancher.whole(bounds.clone())
        least = {part.claim: part.least for part in sorted((*self.open, *self.stuck), reverse=True)}
        self.open.clear()
        self.stuck.clear()
        return [replace(whole[claim], least=one) for claim, one in least.items()]

    def halves(self) -> list[_Part]:
        """The parts with the least bounds, in two where there is a unit to split."""
        halves: list[_Part] = []
        while self.open and len(halves) + 1 < self.brancher.batch:
            halves += heapq.heappop(self.open).halves()
        return halves

    def bound(self, parts: list[_Part]) -> Tensor | None:
        """Put parts back with the bounds that are found; an input that breaks a claim."""
        better, slope = self.brancher.bound(parts)
        for old, new in zip(parts, better, strict=True):
            if old.unit < 0 and new.unit < 0 and new.least <= old.least * (1 - 1e-6) <= 0:
                self.stuck.append(new)  # nothing is left to split, and no multiplier helps
            else:
                self.put(new)
        worst = sorted((part.least, row) for row, part in enumerate(better) if part.least <= 0)[:WORST]
        return self.descend([better[row] for _, row in worst], slope[[row for _, row in worst]])

    def attacked(self, claim: Tensor) -> Tensor | None:
        """An input for which one of these claims fails, if the library's attack finds one."""
        if not len(claim):
            return None
        q = self.question
        goal = q.claims[claim.repeat(self.how.restarts)]
        x = q.x.expand(len(goal), *q.x.shape[1:])
        return self.judged(pgd(q.threat, loss=_against)(q.model, x, goal, Streams.of(0, range(len(goal)))), goal)

    def descend(self, parts: list[_Part], slope: Tensor) -> Tensor | None:
        """As `attacked`, from the inputs where the bounds of these parts are lowest on."""
        if not parts:
            return None
        q = self.question
        x = q.x.expand(len(parts), *q.x.shape[1:])
        goal = q.claims[torch.tensor([part.claim for part in parts])]
        z = q.lowest(slope, torch.stack([part.box for part in parts]))
        attack: PGD = pgd(q.threat, steps=10, loss=_against)
        return self.judged(attack.climb(Search(q.model, x, goal, _against), x, z), goal)

    def judged(self, z: Tensor, goal: Claims) -> Tensor | None:
        """The first that breaks its claim, when it is run alone, within the threat."""
        q = self.question
        for row in goal.reached(q.model(z)).nonzero().flatten():
            one = z[row : row + 1]
            if bool(goal[row.view(1)].reached(q.model(one))) and bool(q.threat.contains(one, q.x).all()):
                return one
        return None


def unknown(bounds: Tensor) -> Tensor:
    """Bounds, of which one that is no number says nothing."""
    return bounds.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


@register(
    "certificates", "branch-and-bound", norms=("linf", "l2", "l1"), passes="until decided", paper="Wang et al., 2021"
)
def branch_and_bound(*, seconds: float = 10.0) -> BranchAndBound:
    """Splits on the signs of units until all is certified, with an attack inside (Wang et al., 2021)."""
    return BranchAndBound(seconds=seconds)
