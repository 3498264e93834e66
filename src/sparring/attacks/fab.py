"""FAB: along the boundary towards the input, by projections on its linearisation (Croce and Hein, 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.deepfool import enough, leads, nearest_rival, rivals, untargeted
from sparring.attacks.nearest import Nearest
from sparring.losses import margin
from sparring.norms import divisor, rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

Spread = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(slope, room, gap) -> change`: the smallest change that gains `gap`, or all that there is room for.

Slopes, rooms and changes are sizes, `(B, n)`, and `gap` is `(B, 1)`; a change gains `sum slope_i change_i`.
"""


def _level(gain: Tensor, stop: Tensor, gap: Tensor) -> Tensor:
    """The `t` at which `sum gain_i min(t, stop_i)` is `gap`: it rises in pieces, which a sort of the stops finds."""
    stop, order = stop.sort(dim=1)
    gain = gain.gather(1, order)
    free = gain.flip(1).cumsum(1).flip(1)
    stopped = torch.cat([torch.zeros_like(gap), (gain * stop).cumsum(1)[:, :-1]], 1)
    enough = stopped + stop * free >= gap
    k = torch.where(enough.any(1, keepdim=True), enough.to(torch.uint8).argmax(1, keepdim=True), gain.shape[1] - 1)
    return (gap - stopped.gather(1, k)) / divisor(free.gather(1, k))


def evenly(slope: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Linf: every coordinate as far as the others, or as there is room."""
    return torch.minimum(_level(slope, room, gap), room)


def in_proportion(slope: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """L2: every coordinate in proportion to its slope, or as far as there is room."""
    stop = torch.where(slope > 0, room / divisor(slope), 0)
    return torch.minimum(_level(slope.square(), stop, gap) * slope, room)


def steepest_first(slope: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """L1: the steepest coordinate as far as there is room, then the next."""
    steep, order = slope.sort(dim=1, descending=True, stable=True)
    space = room.gather(1, order)
    before = torch.cat([torch.zeros_like(gap), (steep * space).cumsum(1)[:, :-1]], 1)
    change = ((gap - before) / divisor(steep)).clamp(min=0).minimum(space)
    return torch.zeros_like(change).scatter(1, order, change)


SPREADS: dict[str, Spread] = {"linf": evenly, "l2": in_proportion, "l1": steepest_first}


def to_plane(x: Tensor, w: Tensor, gap: Tensor, threat: Ball) -> Tensor:
    """The smallest change of `x`, in the threat's norm, that adds `gap` to `<w, x>` and stays in the box.

    Exact (Croce and Hein, 2020, section 2.2). Where the box does not reach the plane, it is the corner nearest to it.
    """
    uphill = w * rows(torch.where(gap < 0, -1.0, 1.0), w)
    room = torch.where(uphill > 0, threat.high - x, x - threat.low).clamp(min=0)
    room = torch.where(w != 0, room, 0)
    spread = SPREADS[threat.norm.name]
    change = spread(w.abs().flatten(1), room.flatten(1), gap.abs().unsqueeze(1)).view_as(x)
    return uphill.sign() * change


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Project `z` and `x` on the linearised boundary and go between them, a little beyond; come back from successes.

    Croce and Hein (2020), algorithm 1, with their constants. Returns the nearest success, whatever its size:
    `threat.eps` is not looked at. A step costs a forward pass, and a backward pass for each of the `classes` - 1
    likeliest rivals where the goal is not reached; three more forward passes halve the way to the result.

    Departure: a success moves back towards `x` by a tenth until it is none, and only then is the model linearised.
    The paper does so after one tenth, with a second forward pass a step.
    """

    threat: Ball
    steps: int = 100
    classes: int = 10
    alpha: float = 0.1
    beyond: float = 1.05
    back: float = 0.9

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`.

        Raises:
            BadInput: a goal that has a target already, or no classes.
        """
        untargeted(goal, "fab")
        search = Nearest(model, x, goal, self.threat, margin)
        x = x.detach()
        self.run(search, x, None)
        return halved(search, x)

    def run(self, search: Nearest, x: Tensor, others: Tensor | None) -> None:
        """Algorithm 1 on the open rows, towards the rivals `others`, `(B, K)`, or the likeliest of each moment."""
        threat, size = self.threat, self.threat.norm.size
        x = z = x[search.open]
        others = None if others is None else others[search.open]
        for _ in search.steps(self.steps):
            lead, gradients, reached, x, others, z = leads(search, z, x, self.classes - 1, others, z)
            lead, w = nearest_rival(lead, gradients, threat)
            from_z = to_plane(z, w, -lead, threat)
            from_x = to_plane(x, w, (w * (z - x)).flatten(1).sum(1) - lead, threat)
            share = size(from_z) / divisor(size(from_z) + size(from_x))
            share = rows(share.clamp(max=self.alpha), x)
            ahead = (1 - share) * (z + self.beyond * from_z) + share * (x + self.beyond * from_x)
            z = torch.where(rows(reached, x), x + self.back * (z - x), ahead.clamp(threat.low, threat.high))


@dataclass(frozen=True, kw_only=True)
class TargetedFAB:
    """FAB towards each of the `targets` likeliest wrong classes in turn (Croce and Hein, 2020; their FAB-T).

    One backward pass a step, whatever the number of classes. Costs a forward pass, `targets` runs of `fab`, and three
    forward passes that halve the way to the result.
    """

    fab: FAB
    targets: int = 9

    @property
    def threat(self) -> Ball:
        """The norm and the box."""
        return self.fab.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`.

        Raises:
            BadInput: a goal that has a target already, or no classes.
        """
        untargeted(goal, "fab-t")
        with torch.no_grad():
            others = rivals(model(x), goal.labels)
        search = Nearest(model, x, goal, self.threat, margin)
        x = x.detach()
        for t in range(min(self.targets, others.shape[1])):
            self.fab.run(search, x, others[:, t : t + 1])
        return halved(search, x)


def halved(search: Nearest, x: Tensor, times: int = 3) -> Tensor:
    """The nearest success after some halvings of the way to it, `(B, *shape)`: a forward pass each."""
    near = search.best[search.open]
    x = far = x[search.open]
    for _ in search.steps(times):
        z = (far + near) / 2
        reached, x, z, near, far = search.judge(z, x, z, near, far)
        near, far = torch.where(rows(reached, x), z, near), torch.where(rows(reached, x), far, z)
    return search.best


@register(
    "attacks",
    "fab",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("linf", "l2", "l1"),
    passes="steps + steps x classes",
    paper="Croce and Hein, 2020",
)
def fab(threat: Ball, *, steps: int = 100, classes: int = 10) -> FAB:
    """A small change by projections on the linearised boundary and on the box (Croce and Hein, 2020)."""
    return FAB(threat=threat, steps=steps, classes=enough(classes, "fab"))


@register(
    "attacks",
    "fab-t",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("linf", "l2", "l1"),
    passes="targets (steps + steps)",
    paper="Croce and Hein, 2020",
)
def fab_t(threat: Ball, *, steps: int = 100, targets: int = 9) -> TargetedFAB:
    """FAB towards each of the likeliest wrong classes, at one backward pass a step (Croce and Hein, 2020)."""
    return TargetedFAB(fab=FAB(threat=threat, steps=steps), targets=targets)
