"""Branch and bound: split on the signs of units until every part is certified, or an input is found that breaks one.

A statement about the outputs is bounded over the region. Where the bound leaves it open, a rectifier that may be on
either side is chosen, and both sides are bounded apart: each has one relaxation less, and bounds behind it are found
anew. What is known of the signs enters the bound by multipliers, which climb together with the slopes (beta-CROWN,
Wang et al., 2021). Meanwhile an attack goes on from the inputs where the bounds are lowest.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from sparring.attacks import PGD, pgd
from sparring.certify.crown import (
    Known,
    Reach,
    Slopes,
    ascend,
    explore,
    lower,
    margins,
    slopes_of_crown,
    some_of,
)
from sparring.certify.graph import Graph, Rectifier, graph
from sparring.certify.lines import Lines
from sparring.certify.region import Region
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

Status = Literal["certified", "broken", "unknown"]


@dataclass(frozen=True)
class Claims:
    """Statements about outputs `y`: `max_j <rows_j, y> + at_j > 0`. Rows are `(C, J, K)`, `at` is `(C, J)`; float64.

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

    def values(self, outputs: Tensor) -> Tensor:
        """How far each holds for its row of the outputs, `(C,)`."""
        return (torch.einsum("ck,cjk->cj", outputs.double(), self.rows) + self.at).amax(1)

    def reached(self, outputs: Tensor) -> Tensor:
        """Which do not hold."""
        return self.values(outputs) <= 0


def _against(outputs: Tensor, goal: Goal) -> Tensor:
    """What the attack climbs: by how much a claim fails."""
    assert isinstance(goal, Claims)
    return -goal.values(outputs).float()


@dataclass(frozen=True)
class Question:
    """Whether claims hold for every input of a region of one example; `model`, `x` and `threat` are for attacks."""

    net: Graph
    region: Region
    claims: Claims
    model: Model
    x: Tensor
    threat: Ball


@dataclass(frozen=True)
class Answer:
    """What was found: a bound that holds, and where one was found an input `(1, *shape)` for which a claim fails."""

    status: Status
    lower: float
    z: Tensor | None
    parts: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BranchAndBound:
    """Split on the signs of rectifiers until all is certified or something breaks (Wang et al., 2021).

    Stops after `seconds` for an example. Parts are bounded `batch` at a time, each by `steps` of slopes and
    multipliers; at the root slopes are chosen for the units inside of the network too, `root` steps, where these are
    few enough (`cells` coefficients), and parts inherit them. `rates` are Adam's, of slopes and of multipliers. The
    unit to split is the one of `candidates` whose two sides gain most (Bunel et al., 2020; tried out, as De Palma et
    al., 2021, do).
    """

    seconds: float = 10.0
    batch: int = 16
    steps: int = 10
    root: int = 30
    rates: tuple[float, float] = (0.2, 0.1)
    candidates: int = 8
    most: int = 512
    cells: int = 2**20
    restarts: int = 5
    clock: Callable[[], float] = field(default=time.monotonic, compare=False, repr=False)
    watch: Callable[[int, int, float], None] | None = field(default=None, compare=False, repr=False)

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin, `(B,)` float32 rounded down."""
        return rounded_down([answer.lower for answer in self.answers(model, x, labels, threat)])

    def answers(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> list[Answer]:
        """What was found for every example."""
        net = graph(model, x)
        source = net.source or model
        found = []
        for one, label in zip(torch.split(x, 1), torch.split(labels, 1), strict=True):
            rows = margins(net, label)[0].unsqueeze(1)
            claims = Claims(rows, rows.new_zeros(len(rows), 1))
            found.append(self.decide(Question(net, Region.of(threat, one), claims, source, one.detach(), threat)))
        return found

    def decide(self, question: Question) -> Answer:
        """Answer one question."""
        with torch.no_grad():
            return _Tree(self, question).grow()


@dataclass(frozen=True, order=True)
class _Part:
    """A part of the region for which a claim is open: the least bound comes first.

    `state` is five rows over all rectifiers' inputs, one after the other: what is known of the least and the greatest
    value, and of the sign, the slope below, and the multiplier. `unit` is the one to split, -1 where there is none;
    `since` the position behind which something new is known, -1 for the whole region.
    """

    least: float
    order: int
    claim: int = field(compare=False)
    state: Tensor = field(compare=False)
    unit: int = field(compare=False)
    since: int = field(compare=False)


class _Tree:
    """The parts of one question."""

    def __init__(self, how: BranchAndBound, question: Question) -> None:
        self.how, self.question, self.net = how, question, question.net
        self.start = how.clock()
        self.nodes = [k for k, node in enumerate(self.net.nodes, 1) if isinstance(node.op, Rectifier)]
        self.inputs = [self.net.nodes[k - 1].inputs[0] for k in self.nodes]
        self.ends = list(itertools.accumulate((math.prod(self.net.size(k)) for k in self.nodes), initial=0))
        self.slopes: dict[int, Slopes] = {}
        self.open: list[_Part] = []
        self.stuck: list[float] = []
        self.closed = math.inf
        self.count = 0

    @property
    def seconds(self) -> float:
        return self.how.clock() - self.start

    def grow(self) -> Answer:
        """Attack, bound, and split until nothing is open, or time is up."""
        root = self.rooted()
        z = self.attacked(torch.tensor([part.claim for part in self.open], dtype=torch.int64))
        if z is None and self.open:
            for n in range(len(self.nodes)):
                self.tighten(root, n)
        while z is None and self.open and not self.stuck and self.seconds < self.how.seconds:
            z = self.bound(self.halves())
            if self.how.watch is not None and self.open:
                self.how.watch(self.count, len(self.open), self.open[0].least)
        least = min([self.closed, *self.stuck, *(part.least for part in self.open)])
        status: Status = "broken" if z is not None else "certified" if least > 0 else "unknown"
        return Answer(status, least, z, self.count, self.seconds)

    def rooted(self) -> Tensor:
        """Close what CROWN can close; the rest are the first parts, which share the state that is returned."""
        claims = self.question.claims
        state = torch.zeros(1, 5, self.ends[-1], dtype=torch.float64)
        state[:, 0], state[:, 1] = -torch.inf, torch.inf
        reach = explore(self.net, self.question.region, refine=True)
        found = lower(self.net, reach, len(self.net.nodes), claims.rows.flatten(0, 1).unsqueeze(0))
        for claim, least in enumerate((found.view_as(claims.at) + claims.at).amax(1).tolist()):
            self.put(least, claim, state[0], -1, -1)
        return state

    def put(self, least: float, claim: int, state: Tensor, unit: int, since: int) -> None:
        """Note a bound: of a part that is done with, or that is open."""
        self.count += 1
        if least > 0:
            self.closed = min(self.closed, least)
        else:
            heapq.heappush(self.open, _Part(least, self.count, claim, state, unit, since))

    def halves(self) -> list[_Part]:
        """The parts with the least bounds, in two where there is a unit to split."""
        halves: list[_Part] = []
        while self.open and len(halves) + 1 < self.how.batch:
            part = heapq.heappop(self.open)
            if part.unit < 0:
                halves.append(part)
                continue
            n = bisect.bisect_right(self.ends, part.unit) - 1
            up, down = part.state.clone(), part.state.clone()
            up[0, part.unit], up[2, part.unit] = up[0, part.unit].clamp(min=0), 1.0
            down[1, part.unit], down[2, part.unit] = down[1, part.unit].clamp(max=0), -1.0
            halves += [replace(part, state=state, since=self.inputs[n]) for state in (up, down)]
        return halves

    # --- bounds

    def field(self, states: Tensor, row: int, n: int) -> Tensor:
        """A row of the states, for the rectifier number `n`: `(B, *shape)`."""
        return states[:, row, self.ends[n] : self.ends[n + 1]].view(len(states), *self.net.size(self.nodes[n]))

    def known(self, states: Tensor, since: Tensor, most: int) -> Known:
        low = {i: self.field(states, 0, n) for n, i in enumerate(self.inputs)}
        high = {i: self.field(states, 1, n) for n, i in enumerate(self.inputs)}
        return Known(low, high, since, most, self.slopes)

    def tighten(self, root: Tensor, n: int) -> None:
        """Bounds of the inputs of a rectifier, by slopes chosen for each of them, as far as they are few enough."""
        net, i = self.net, self.inputs[n]
        reach = explore(net, self.question.region, refine=True, known=self.known(root, torch.tensor([-1]), 2**30))
        self.keep(root, reach)
        low, high = reach.low[i].flatten(), reach.high[i].flatten()
        units = ((low < 0) & (high > 0)).nonzero().flatten()
        reach.relaxed = {k: one for k, one in reach.relaxed.items() if k <= i}
        before = sum(math.prod(net.size(k)) for k in reach.relaxed)
        if self.seconds > self.how.seconds or not before or not 0 < len(units) * before <= self.how.cells:
            return
        rows = torch.eye(len(low), dtype=torch.float64)[units]
        best, alpha, _ = ascend(
            net,
            reach,
            torch.cat([rows, -rows]).view(1, -1, *net.size(i)),
            start=i,
            alpha=slopes_of_crown(reach, 2 * len(units)),
            beta={},
            signs={},
            steps=self.how.root,
            rates=self.how.rates,
            score=lambda bounds: bounds,
        )
        least, most = best[0].view(2, -1)
        at = self.ends[n] + units
        root[0, 0, at], root[0, 1, at] = torch.maximum(low[units], least), torch.minimum(high[units], -most)
        row = torch.full((len(low),), -1)
        row[units] = torch.arange(len(units))
        self.slopes[i] = Slopes(row, {k: one.view(2, len(units), *one.shape[2:]) for k, one in alpha.items()})

    def keep(self, states: Tensor, reach: Reach) -> None:
        """Note the bounds that were found."""
        for n, i in enumerate(self.inputs):
            self.field(states, 0, n).copy_(reach.low[i])
            self.field(states, 1, n).copy_(reach.high[i])

    def bound(self, parts: list[_Part]) -> Tensor | None:
        """Put parts back with the bounds that are found; an input that breaks a claim."""
        q = self.question
        states = torch.stack([part.state for part in parts])
        claim, since = (torch.tensor([getattr(part, name) for part in parts]) for name in ("claim", "since"))
        region = q.region[torch.zeros(len(parts), dtype=torch.int64)]
        reach = explore(self.net, region, refine=True, known=self.known(states, since, self.how.most))
        self.keep(states, reach)
        alpha = slopes_of_crown(reach, 1)
        signs: dict[int, Tensor] = {}
        beta: dict[int, Tensor] = {}
        for n, k in enumerate(self.nodes):
            if k in alpha:
                whole = (since < 0).view(-1, 1, *[1] * len(self.net.size(k)))
                alpha[k] = torch.where(whole, alpha[k], self.field(states, 3, n).unsqueeze(1))
            sign = self.field(states, 2, n).unsqueeze(1)
            if bool(sign.any()):
                signs[k], beta[k] = sign, self.field(states, 4, n).unsqueeze(1)
        claims = q.claims[claim]
        best, alpha, beta = ascend(
            self.net,
            reach,
            claims.rows,
            start=len(self.net.nodes),
            alpha=alpha,
            beta=beta,
            signs=signs,
            steps=self.how.root if bool((since < 0).any()) else self.how.steps,
            rates=self.how.rates,
            score=lambda bounds: (bounds + claims.at).amax(1, keepdim=True),
        )
        for n, k in enumerate(self.nodes):
            for row, found in ((3, alpha), (4, beta)):
                if k in found:
                    self.field(states, row, n).copy_(found[k].squeeze(1))
        bounds = torch.maximum(best[:, 0], torch.tensor([part.least for part in parts], dtype=torch.float64))
        bounds[reach.empty] = torch.inf
        rows = (bounds <= 0).nonzero().flatten()
        units, z = torch.full((len(parts),), -1), None
        if len(rows):
            alpha, beta = ({k: one[rows] for k, one in group.items()} for group in (alpha, beta))
            signed = {k: one * signs[k][rows] for k, one in beta.items()}
            units[rows], slope = self.branch(some_of(reach, rows), claims[rows], alpha, signed)
            z = self.descend(slope, claim[rows])
        for part, least, unit, state in zip(parts, bounds.tolist(), units.tolist(), states, strict=True):
            if unit < 0 and part.unit < 0 and not least > max(0.0, part.least + 1e-6 * abs(part.least)) and least <= 0:
                self.stuck.append(least)  # nothing is left to split, and no multiplier helps
            else:
                self.put(least, part.claim, state.clone(), unit, 2**30 if unit < 0 else part.since)
        return z

    # --- branching

    def branch(
        self, reach: Reach, claims: Claims, alpha: dict[int, Tensor], beta: dict[int, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """For every part the unit whose two sides gain most, and the slope of the bound in the input."""
        last, trail = len(self.net.nodes), dict[int, Tensor]()
        bounds = lower(self.net, reach, last, claims.rows, alpha=alpha, beta=beta, trail=trail) + claims.at
        base, nearest = bounds.max(1)
        each = torch.arange(len(base))
        slope = trail[0][each, nearest] if 0 in trail else torch.zeros_like(reach.region.x)
        scores = torch.cat([self.gap(reach, k, trail, alpha)[each, nearest].flatten(1) for k in self.nodes], 1)
        score, units = scores.topk(min(self.how.candidates, scores.shape[1]), dim=1)
        shape = (*units.shape, 2)
        rows = each.view(-1, 1, 1).expand(shape).flatten()
        sides = torch.tensor([1.0, -1.0]).double().expand(shape).flatten()
        tried = some_of(reach, rows)
        self.settle(tried, units.unsqueeze(2).expand(shape).flatten(), sides)
        found = lower(
            self.net,
            tried,
            last,
            claims.rows[rows],
            alpha={k: one[rows] for k, one in alpha.items()},
            beta={k: one[rows] for k, one in beta.items()},
        )
        gain = ((found + claims.at[rows]).amax(1).view(shape).clamp(max=0) - base.view(-1, 1, 1)).clamp(min=1e-6)
        best = gain.prod(2).masked_fill(score <= 0, -1).argmax(1, keepdim=True)
        return torch.where(score[:, 0] > 0, units.gather(1, best)[:, 0], -1), slope

    def gap(self, reach: Reach, k: int, trail: dict[int, Tensor], alpha: dict[int, Tensor]) -> Tensor:
        """How much of the bound may be lost to the line that stands for each rectifier, `(B, J, *shape)`."""
        line, i = reach.relaxed[k], self.net.nodes[k - 1].inputs[0]
        if k not in trail or not isinstance(line, Lines) or line.open is None:
            rows = self.question.claims.rows.shape[1]
            return torch.zeros_like(reach.low[i]).unsqueeze(1).repeat(1, rows, *[1] * (reach.low[i].dim() - 1))
        a, low, high = trail[k], reach.low[i].unsqueeze(1), reach.high[i].unsqueeze(1)
        below = alpha.get(k, line.below.unsqueeze(1))
        under = torch.maximum((below - line.least) * -low, (1 - below) * high)
        lost = torch.where(a > 0, a * under, -a * line.above_at.unsqueeze(1))
        # Where no coefficient asks for any, a split still tells the multipliers more: of the widest.
        return torch.where(line.open.unsqueeze(1), lost + 1e-9 * line.above_at.unsqueeze(1), 0.0)

    def settle(self, reach: Reach, units: Tensor, sides: Tensor) -> None:
        """In every part, put the function itself in place of one unit's lines: as it is on this side of zero."""
        for n, k in enumerate(self.nodes):
            line = reach.relaxed[k]
            mine = (units >= self.ends[n]) & (units < self.ends[n + 1])
            if not isinstance(line, Lines) or line.open is None or not bool(mine.any()):
                continue
            one = torch.zeros_like(line.open).flatten(1)
            one[mine, units[mine] - self.ends[n]] = True
            one = one.view_as(line.open)
            value = torch.where(sides > 0, 1.0, line.least).double().view(-1, *[1] * (one.dim() - 1))
            reach.relaxed[k] = replace(
                line,
                below=torch.where(one, value, line.below),
                above=torch.where(one, value, line.above),
                above_at=torch.where(one, 0.0, line.above_at),
                open=line.open & ~one,
            )

    # --- attack

    def attacked(self, claim: Tensor) -> Tensor | None:
        """An input for which one of these claims fails, if the library's attack finds one."""
        if not len(claim):
            return None
        q = self.question
        goal = q.claims[claim.repeat(self.how.restarts)]
        x = q.x.expand(len(goal), *q.x.shape[1:])
        return self.judged(pgd(q.threat, loss=_against)(q.model, x, goal, Streams.of(0, range(len(goal)))), goal)

    def descend(self, slope: Tensor, claim: Tensor) -> Tensor | None:
        """As `attacked`, from the inputs where the bounds are lowest on."""
        q, threat = self.question, self.question.threat
        x, goal = q.x.expand(len(claim), *q.x.shape[1:]), q.claims[claim]
        z = threat.project(x + threat.norm.steepest(-slope.float()) * threat.unit, x)
        attack: PGD = pgd(threat, steps=10, loss=_against)
        return self.judged(attack.climb(Search(q.model, x, goal, _against), x, z), goal)

    def judged(self, z: Tensor, goal: Claims) -> Tensor | None:
        """The first that breaks its claim, when it is run alone, within the threat."""
        q = self.question
        for row in goal.reached(q.model(z)).nonzero().flatten():
            one = z[row : row + 1]
            if bool(goal[row.view(1)].reached(q.model(one))) and bool(q.threat.contains(one, q.x).all()):
                return one
        return None


def rounded_down(bounds: list[float]) -> Tensor:
    """Bounds as float32, `(B,)`, none above itself."""
    return torch.nextafter(torch.tensor(bounds, dtype=torch.float64).float(), torch.tensor(-torch.inf))


@register(
    "certificates", "branch-and-bound", norms=("linf", "l2", "l1"), passes="until decided", paper="Wang et al., 2021"
)
def branch_and_bound(*, seconds: float = 10.0) -> BranchAndBound:
    """Splits on the signs of units until all is certified, with an attack inside (Wang et al., 2021)."""
    return BranchAndBound(seconds=seconds)
