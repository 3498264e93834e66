"""Carlini and Wagner's attacks: descend on the size of the change and a constant times the missing margin (2017).

One loop serves all norms: a `Penalty` says what is to be small, a `Descent` how `z` moves. Every row has a clock of
its own: its runs end, and begin again with another constant or under closer limits, whatever the others do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.norms import NORMS, rows
from sparring.registry import register
from sparring.search import take
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

State = tuple[Tensor, ...]
"""What rows carry from step to step: tensors `(B, ...)`."""


class Penalty(Protocol):
    """What is to be small. Changes `delta` are in units of the width of the box, `limits` are the state of the rows."""

    @property
    def eager(self) -> bool:
        """Whether a run is over at its first success, to begin again under closer limits."""
        ...

    def init(self, x: Tensor) -> State:
        """The limits of the first run."""
        ...

    def distance(self, delta: Tensor) -> Tensor:
        """By what successes are compared, `(B,)`."""
        ...

    def value(self, delta: Tensor, limits: State) -> Tensor:
        """The part of the objective that grows with the change, `(B,)`."""
        ...

    def slope(self, delta: Tensor, uphill: Tensor, limits: State) -> Tensor:
        """The gradient of the objective: of `value`, less `uphill`, the constant times the margin's."""
        ...

    def within(self, delta: Tensor, limits: State) -> Tensor:
        """Whether a change keeps the limits, `(B,)` bool."""
        ...

    def start(self, x: Tensor, best: Tensor, limits: State) -> Tensor:
        """Where a run begins; `best` is the nearest success so far, or `x`."""
        ...

    def next(self, success: Tensor, failure: Tensor, near: Tensor, saliency: Tensor, limits: State) -> State:
        """The limits of the next run.

        `success` and `failure` say how the last one ended (neither: another constant may help), `near` how far the
        nearest success is (infinite without one), and `saliency` how much each coordinate does for the margin,
        `|delta_i| |gradient_i|`.
        """
        ...

    def finished(self, near: Tensor, limits: State) -> Tensor:
        """Which rows can have no closer limits, `(B,)` bool."""
        ...


class Descent(Protocol):
    """How a gradient moves `z`, inside the box."""

    @property
    def blind(self) -> bool:
        """Whether steps are as long for a small constant as for a large one: what the first find says nothing of it."""
        ...

    def first(self, farthest: Tensor) -> Tensor:
        """The rate at the beginning of a run; `farthest`, `(B,)`, is the largest change of the nearest success."""
        ...

    def init(self, z: Tensor, x: Tensor, threat: Ball) -> State:
        """The state at the beginning of a run at `z`."""
        ...

    def move(self, gradient: Tensor, x: Tensor, threat: Ball, rate: Tensor, state: State) -> tuple[Tensor, State]:
        """The next point and state; `rate`, `(B,)`, falls as a row stalls."""
        ...


_INSIDE = 0.9
"""How far out in the range of tanh the edge of the box lies: nearer to the end gradients vanish, and black pixels with
them. The little that lies beyond the edge is clipped."""


def _squash(w: Tensor, threat: Ball) -> tuple[Tensor, Tensor]:
    """The point of the box for any `w` (section V.B), and its derivative; a box without bounds needs no squashing."""
    if not (math.isfinite(threat.low) and math.isfinite(threat.high)):
        return w * threat.width, torch.full_like(w, threat.width)
    u, half = torch.tanh(w), threat.width / 2 / _INSIDE
    return threat.low + threat.width / 2 + half * u, half * (1 - u * u)


def _unsquash(z: Tensor, threat: Ball) -> Tensor:
    """The `w` of a point of the box, by logarithms: torch rounds atanh differently in every batch."""
    if not (math.isfinite(threat.low) and math.isfinite(threat.high)):
        return z / threat.width
    u = (_INSIDE * (2 * (z - threat.low) / threat.width - 1)).clamp(-_INSIDE, _INSIDE)
    return 0.5 * (torch.log1p(u) - torch.log1p(-u))


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma and Ba, 2015) on `w`, where `z = x + tanh(w) - tanh(w_x)` on the scale of the box.

    The paper's rate is 0.01, and stays: it circles the boundary at a distance. Here it falls by four where a row
    stalls, and can begin higher.
    """

    blind: ClassVar[bool] = True
    rate: float = 0.05

    def first(self, farthest: Tensor) -> Tensor:
        """Steps of a tenth of the largest change that is known to be enough, at most."""
        return (0.2 * farthest).clamp(max=self.rate)

    def init(self, z: Tensor, x: Tensor, threat: Ball) -> State:
        """`w`, the point of the box that stands for `x`, both moments, and what they still lack of their means.

        In float32 at the least: squares of small gradients are nothing in half precision.
        """
        z, x = (point.to(torch.promote_types(point.dtype, torch.float32)) for point in (z, x))
        origin, _ = _squash(_unsquash(x, threat), threat)
        ones = x.new_ones(len(x))
        return _unsquash(z, threat), origin, torch.zeros_like(x), torch.zeros_like(x), ones, ones

    def move(self, gradient: Tensor, x: Tensor, threat: Ball, rate: Tensor, state: State) -> tuple[Tensor, State]:
        """`w <- w - rate m / sqrt(v)`; what has no gradient stays where `x` is, to the last bit."""
        w, origin, first, second, lack, lacks = state
        gradient = gradient * _squash(w, threat)[1] / threat.width
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        lack, lacks = 0.9 * lack, 0.999 * lacks
        w = w - rows(rate / (1 - lack), w) * first / ((second / rows(1 - lacks, w)).sqrt() + 1e-8)
        z = (x + (_squash(w, threat)[0] - origin)).clamp(threat.low, threat.high)
        return z.to(x.dtype), (w, origin, first, second, lack, lacks)


@dataclass(frozen=True, kw_only=True)
class Length:
    """L2: `|delta|^2`, without limits; only the constant changes from run to run (section VI.A)."""

    eager: ClassVar[bool] = False

    def init(self, x: Tensor) -> State:
        """None."""
        return ()

    def distance(self, delta: Tensor) -> Tensor:
        """`|delta|`."""
        return NORMS["l2"].size(delta)

    def value(self, delta: Tensor, limits: State) -> Tensor:
        """`|delta|^2`."""
        return delta.flatten(1).square().sum(1)

    def slope(self, delta: Tensor, uphill: Tensor, limits: State) -> Tensor:
        """`2 delta - uphill`."""
        return 2 * delta - uphill

    def within(self, delta: Tensor, limits: State) -> Tensor:
        """Always."""
        return torch.ones(len(delta), dtype=torch.bool, device=delta.device)

    def start(self, x: Tensor, best: Tensor, limits: State) -> Tensor:
        """`x`."""
        return x

    def next(self, success: Tensor, failure: Tensor, near: Tensor, saliency: Tensor, limits: State) -> State:
        """None."""
        return ()

    def finished(self, near: Tensor, limits: State) -> Tensor:
        """None."""
        return torch.zeros(len(near), dtype=torch.bool, device=near.device)


@dataclass(frozen=True, kw_only=True)
class Overshoot:
    """Linf: what exceeds tau, `sum (|delta_i| - tau)+`; tau shrinks to 0.9 of each success (section VI.C).

    The paper stops where a tau fails. Here the next is half-way from that to the nearest success, until the two are a
    hundredth apart.
    """

    eager: ClassVar[bool] = True

    def init(self, x: Tensor) -> State:
        """tau, at first no limit, and the largest that failed."""
        return x.new_full((len(x),), torch.inf), x.new_zeros(len(x))

    def distance(self, delta: Tensor) -> Tensor:
        """`max |delta_i|`."""
        return NORMS["linf"].size(delta)

    def value(self, delta: Tensor, limits: State) -> Tensor:
        """`sum (|delta_i| - tau)+`."""
        return (delta.abs() - rows(limits[0], delta)).clamp(min=0).flatten(1).sum(1)

    def slope(self, delta: Tensor, uphill: Tensor, limits: State) -> Tensor:
        """The sign of what exceeds tau, less `uphill`."""
        return delta.sign() * (delta.abs() > rows(limits[0], delta)) - uphill

    def within(self, delta: Tensor, limits: State) -> Tensor:
        """No change beyond tau."""
        return self.distance(delta) <= limits[0]

    def start(self, x: Tensor, best: Tensor, limits: State) -> Tensor:
        """The nearest success."""
        return best

    def next(self, success: Tensor, failure: Tensor, near: Tensor, saliency: Tensor, limits: State) -> State:
        """A smaller tau, or one half-way back."""
        tau, failed = limits
        failed = torch.where(failure & tau.isfinite(), tau, failed)
        return torch.where(success | failure, torch.maximum(0.9 * near, (failed + near) / 2), tau), failed

    def finished(self, near: Tensor, limits: State) -> Tensor:
        """Where no tau is left between failure and success."""
        return limits[1] > 0.99 * near


@dataclass(frozen=True, kw_only=True)
class Free(Length):
    """L0: `|delta|^2` on the coordinates that are free; those that do least are fixed, round by round (section VI.B).

    The paper fixes one coordinate at a time, its code a few. Here as many as together do at most a tenth of it all,
    then half of those if that was too much, until a single one is.
    """

    eager: ClassVar[bool] = True

    def init(self, x: Tensor) -> State:
        """The free coordinates, those of the last success, what each of them does, and how many are fixed at once."""
        everywhere = torch.ones_like(x, dtype=torch.bool)
        return everywhere, everywhere, torch.zeros_like(x), torch.full((len(x),), 2, device=x.device)

    def distance(self, delta: Tensor) -> Tensor:
        """The number of changes."""
        return NORMS["l0"].size(delta)

    def slope(self, delta: Tensor, uphill: Tensor, limits: State) -> Tensor:
        """`2 delta - uphill` on the free coordinates."""
        return (2 * delta - uphill) * limits[0]

    def start(self, x: Tensor, best: Tensor, limits: State) -> Tensor:
        """The nearest success, without its changes of coordinates that are fixed now."""
        return torch.where(limits[0], best, x)

    def next(self, success: Tensor, failure: Tensor, near: Tensor, saliency: Tensor, limits: State) -> State:
        """Fewer free coordinates, or more again."""
        free, kept, does, count = limits
        won = rows(success, free)
        kept, does = torch.where(won, free & (saliency > 0), kept), torch.where(won, saliency, does)
        order = torch.where(kept, does, -1.0).flatten(1).argsort(dim=1, stable=True)
        fixed = (~kept).flatten(1).sum(1)  # they come first, then those that do least
        sums = (does * kept).flatten(1).gather(1, order).cumsum(1)
        few = ((sums <= 0.1 * sums[:, -1:]).sum(1) - fixed).clamp(min=1)
        count = torch.where(success, few, torch.where(failure, count // 2, count))
        free = (order.argsort(dim=1) >= (fixed + count).unsqueeze(1)).view_as(kept)
        return torch.where(rows(success | failure, free), free, limits[0]), kept, does, count

    def finished(self, near: Tensor, limits: State) -> Tensor:
        """Where not one could be fixed."""
        return limits[3] == 0


@dataclass(frozen=True)
class _Rows:
    """Where the runs of the rows stand.

    `constant` is that of the run, `least` one that was too small, `most` one that was enough; `age` counts the steps
    of the run, `stalls` how often its `rate` fell, `found` says whether its constant is enough, `lowest` is the least
    objective it saw, `before` what that was when last looked at; `runs` counts those that brought no closer limits.
    """

    x: Tensor
    z: Tensor
    limits: State
    motion: State
    constant: Tensor
    least: Tensor
    most: Tensor
    rate: Tensor
    lowest: Tensor
    before: Tensor
    found: Tensor
    age: Tensor
    stalls: Tensor
    runs: Tensor

    def __getitem__(self, kept: Tensor) -> _Rows:
        return _Rows(*take(tuple(vars(self).values()), kept))

    def put(self, where: Tensor, other: _Rows) -> _Rows:
        """The same with some of the rows replaced."""
        return _Rows(*_put(tuple(vars(self).values()), where, tuple(vars(other).values())))


def _put(old: tuple[Any, ...], where: Tensor, new: tuple[Any, ...]) -> tuple[Any, ...]:
    def replaced(branch: Any, other: Any) -> Any:
        return _put(branch, where, other) if isinstance(branch, tuple) else branch.index_copy(0, where, other)

    return tuple(map(replaced, old, new))


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """Descend on `penalty(z - x) + c (-margin(z))+`, and search for the constant c of every row.

    Carlini and Wagner (2017). c grows tenfold after a run that failed, falls tenfold after one that did not, and is
    bisected once both are known. A run takes up to `steps`; where the objective has not fallen by 1e-4 in a tenth of
    them, the rate is divided by four, and at the fourth time the run is over (the paper's ends at the first). Where
    the descent is blind to c, a success speaks for c until the rate falls (to the paper every success of a run does). A
    row is done after `runs` runs that brought no closer limits. Sizes are in units of the width of the box, so that c
    means the same in every box. The paper's kappa, which asks for success by a margin, is zero: the nearest success
    counts.

    Returns the nearest success, whatever its size: `threat.eps` is not looked at. Costs at most `runs * steps` forward
    and backward passes.
    """

    threat: Ball
    penalty: Penalty
    descent: Descent
    steps: int = 100
    runs: int = 9
    constant: float = 1e-3

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        search, width = Nearest(model, x, goal, self.threat, margin), self.threat.width
        search.size = lambda delta: self.penalty.distance(delta / width)
        row = self._begin(x.detach())
        for _ in search.steps(self.runs * self.steps):
            gradient, score, reached, _, row = search.climb(row.z, row.x, row)
            delta, gradient, lacking = (row.z - row.x) / width, gradient * width, (-score).clamp(min=0)
            size = self.penalty.value(delta, row.limits)
            uphill = rows(row.constant * ~reached, delta) * gradient  # where logits tie nothing lacks, but the goal
            slope = self.penalty.slope(delta, uphill, row.limits)
            lowest = row.lowest.fmin(size + row.constant * lacking)
            looks = (row.age + 1) % math.ceil(self.steps / 10) == 0
            stalls = looks & (lowest > 0.9999 * row.before)
            rate = torch.where(stalls, row.rate / 4, row.rate)
            # The first steps of a blind descent cross a near boundary whatever the constant, and come back: it is
            # enough if shorter steps cross it too.
            found = row.found & ~(stalls & (row.stalls < 3) & self.descent.blind)
            z, motion = self.descent.move(slope, row.x, self.threat, rate, row.motion)
            row = replace(
                row,
                z=z,
                motion=motion,
                rate=rate,
                lowest=lowest,
                before=torch.where(looks, lowest, row.before),
                found=found | reached & self.penalty.within(delta, row.limits),
                age=row.age + 1,
                stalls=row.stalls + stalls,
            )
            over = (row.age == self.steps) | (row.stalls == 4) | (row.found & self.penalty.eager)
            if bool(over.any()):
                ended = over.nonzero().flatten()
                saliency = (delta.abs() * gradient.abs())[ended]
                place = search.open[ended]
                after = self._next_run(row[ended], reached[ended], search.best[place], search.near[ended], saliency)
                done = self.penalty.finished(search.near[ended], after.limits) | (after.runs == self.runs)
                (row,) = search.leave(over.index_copy(0, ended, done), row.put(ended, after))
        return search.best

    def _begin(self, x: Tensor) -> _Rows:
        """All rows at the beginning of their first runs."""
        none, infinite = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return _Rows(
            x=x,
            z=x,
            limits=self.penalty.init(x),
            motion=self.descent.init(x, x, self.threat),
            constant=none + self.constant,
            least=none,
            most=infinite,
            rate=self.descent.first(infinite),
            lowest=infinite,
            before=infinite,
            found=count > 0,
            age=count,
            stalls=count,
            runs=count,
        )

    def _next_run(self, row: _Rows, reached: Tensor, best: Tensor, near: Tensor, saliency: Tensor) -> _Rows:
        """The same rows at the beginning of their next runs; `reached` says where the last ones ended."""
        enough = row.found | reached
        least, most = torch.where(enough, row.least, row.constant), torch.where(enough, row.constant, row.most)
        other = torch.where(least > 0, (least + most) / 2, most / 10)
        other = torch.where(most.isinf(), 10 * row.constant, other)
        success = row.found & self.penalty.eager
        failure = ~row.found & self.penalty.eager & ((most <= 4 * least) | (row.constant > 1e6))
        anew = success | failure  # other limits, for which nothing is known of the constant
        limits = self.penalty.next(success, failure, near, saliency, row.limits)
        z = self.penalty.start(row.x, best, limits)
        farthest = NORMS["linf"].size(best - row.x) / self.threat.width
        return replace(
            self._begin(row.x),
            z=z,
            limits=limits,
            motion=self.descent.init(z, row.x, self.threat),
            constant=torch.where(anew, row.constant, other),
            least=least.masked_fill(anew, 0),
            most=most.masked_fill(anew, torch.inf),
            rate=self.descent.first(torch.where(near.isfinite(), farthest, torch.inf)),
            runs=row.runs + ~success,
        )


_NORMS: dict[str, tuple[Penalty, float]] = {
    # where c begins: it is to be small for L2; eager runs want one that gets there
    "linf": (Overshoot(), 0.1),
    "l2": (Length(), 1e-3),
    "l0": (Free(), 1.0),
}


@register(
    "attacks",
    "carlini-wagner",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("linf", "l2", "l0"),
    passes="runs x steps + runs x steps",
    paper="Carlini and Wagner, 2017",
)
def carlini_wagner(threat: Ball, *, steps: int = 100, runs: int = 9) -> CarliniWagner:
    """The smallest change: size and missing margin weighed by a constant, searched for (Carlini and Wagner, 2017)."""
    if threat.norm.name not in _NORMS:
        raise BadInput(f"Carlini and Wagner's attack on {threat}", "linf, l2 or l0", "choose ead for l1")
    penalty, constant = _NORMS[threat.norm.name]
    return CarliniWagner(
        threat=threat,
        penalty=penalty,
        descent=Adam(rate=max(0.05, 2 / steps)),  # few steps are to get somewhere
        steps=steps,
        runs=runs,
        constant=constant,
    )
