"""Auto-PGD: projected ascent that chooses its own step size (Croce and Hein, 2020)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.runner_up import runners_up
from sparring.errors import BadInput
from sparring.goals import Towards
from sparring.losses import cross_entropy, dlr, margin, targeted_dlr
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model, Near


@dataclass(frozen=True)
class _Climb:
    """What every row carries from step to step; `size` is its step size, `rises` counts since the checkpoint."""

    near: Near
    z: Tensor
    before: Tensor
    score: Tensor
    best: Tensor
    best_gradient: Tensor
    best_score: Tensor
    size: Tensor
    rises: Tensor
    halved: Tensor
    best_at_checkpoint: Tensor

    def __getitem__(self, kept: Tensor) -> _Climb:
        return _Climb(**{name: value[kept] for name, value in vars(self).items()})


def _checkpoints(steps: int) -> set[int]:
    """The steps at which the step size is reconsidered: after 0.22 of the budget, then ever closer (section 3)."""
    at, interval, least, less = 0, max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    points = set()
    while at + interval <= steps:
        at += interval
        points.add(at)
        interval = max(interval - less, least)
    return points


@dataclass(frozen=True, kw_only=True)
class APGD:
    """Auto-PGD (Croce and Hein, 2020, algorithm 1): a step of 2 eps that halves where a row stalls.

    Costs `steps` + 1 forward and backward passes; rows stop as they reach the goal (the original spends them all).
    """

    threat: Ball
    loss: Loss = cross_entropy
    steps: int = 100
    rho: float = 0.75
    momentum: float = 0.75

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search, direction = Search(model, x, goal, self.loss), self.threat.norm.ascent
        z = self.threat.sample(x, rng)
        _, x, z = search.judge(x, x, z)
        gradient, score, x, z = search.climb(z, x, z)
        ones = torch.ones_like(score)
        size = 2 * self.threat.unit * self.threat.norm.measure(x) * ones
        row = _Climb(self.threat.around(x), z, z, score, z, gradient, score, size, 0 * ones, ones < 0, score)
        checkpoints, interval_start = _checkpoints(self.steps), 0
        for i in search.steps(self.steps):
            # z(k+1) = P(z + a (P(z + eta s) - z) + (1 - a) (z - z(k-1))); the first step has no momentum
            a = self.momentum if i else 1.0
            ahead = row.near(row.z + rows(row.size, row.z) * direction(gradient))
            z = row.near(row.z + a * (ahead - row.z) + (1 - a) * (row.z - row.before))
            gradient, score, z, row = search.climb(z, z, row)
            better = score > row.best_score
            row = replace(
                row,
                z=z,
                before=row.z,
                score=score,
                rises=row.rises + (score > row.score),
                best=torch.where(rows(better, z), z, row.best),
                best_gradient=torch.where(rows(better, z), gradient, row.best_gradient),
                best_score=torch.where(better, score, row.best_score),
            )
            if i + 1 in checkpoints:
                stalls = row.rises <= self.rho * (i + 1 - interval_start)
                stalls |= ~row.halved & (row.best_score <= row.best_at_checkpoint)
                back = rows(stalls, z)
                gradient = torch.where(back, row.best_gradient, gradient)
                row = replace(
                    row,
                    size=torch.where(stalls, row.size / 2, row.size),
                    z=torch.where(back, row.best, row.z),
                    before=torch.where(back, row.best, row.before),
                    score=torch.where(stalls, row.best_score, row.score),
                    rises=torch.zeros_like(row.rises),
                    halved=stalls,
                    best_at_checkpoint=row.best_score,
                )
                interval_start = i + 1
        return search.best


@dataclass(frozen=True, kw_only=True)
class TargetedAPGD:
    """APGD with the targeted DLR loss, once for each of the likeliest wrong classes (Croce and Hein, 2020).

    Costs one forward pass, then an APGD of `steps` for each of `targets` classes on the rows that still stand.
    """

    threat: Ball
    loss: Loss = targeted_dlr
    steps: int = 100
    targets: int = 9

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The first success of each row, or the best of its tries, `(B, *shape)`.

        Raises:
            BadInput: a goal that has a target already.
        """
        if goal.sign < 0:
            raise BadInput("a targeted goal", "an untargeted one for apgd-t, which picks targets", "use apgd-dlr")
        with torch.no_grad():
            outputs = model(x)
        wrong = runners_up(outputs, goal.labels)
        attack = APGD(threat=self.threat, loss=self.loss, steps=self.steps)
        search = Search(model, x, goal, margin)
        for t in search.steps(min(self.targets, wrong.shape[1])):
            z = attack(model, x, Towards(search.goal.labels, wrong[:, t]), rng.at(t))
            _, x, wrong, rng = search.judge(z, x, wrong, rng)
        return search.best


@register("attacks", "apgd-ce", threats=("snr",), passes="steps + steps", paper="Croce and Hein, 2020")
def apgd_ce(threat: Ball, *, steps: int = 100) -> APGD:
    """Auto-PGD on the cross-entropy (Croce and Hein, 2020)."""
    return APGD(threat=threat, steps=steps)


@register("attacks", "apgd-dlr", threats=("snr",), passes="steps + steps", paper="Croce and Hein, 2020")
def apgd_dlr(threat: Ball, *, steps: int = 100) -> APGD:
    """Auto-PGD on the difference of logits ratio, blind to the scale of the logits (Croce and Hein, 2020)."""
    return APGD(threat=threat, steps=steps, loss=dlr)


@register("attacks", "apgd-t", threats=("snr",), passes="targets (steps + steps)", paper="Croce and Hein, 2020")
def apgd_t(threat: Ball, *, steps: int = 100, targets: int = 9) -> TargetedAPGD:
    """Auto-PGD towards each of the likeliest wrong classes (Croce and Hein, 2020)."""
    return TargetedAPGD(threat=threat, steps=steps, targets=targets)
