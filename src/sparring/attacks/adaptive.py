"""Adaptive attacks: several ways to climb, of which every input keeps those that get it furthest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.pgd import pgd_cosine
from sparring.attacks.through import Through
from sparring.losses import cross_entropy, margin
from sparring.mending import mended, nearby, rescaled
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Loss, Model
from sparring.views import settled, smoothed

Lens = Callable[[Model], Model]


@dataclass(frozen=True, kw_only=True)
class Climb:
    """One way to climb: a loss, seen through a view of a view ... of the model (the last is the outermost)."""

    threat: Ball
    loss: Loss = margin
    views: tuple[Lens, ...] = ()

    def run(self, steps: int) -> Attack:
        """The attack of so many steps."""
        attack: Attack = pgd_cosine(self.threat, steps=steps, loss=self.loss)
        for view in reversed(self.views):
            attack = Through(view=view, attack=attack)
        return attack


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Give every way to climb a short run, the better half of them runs twice as long, and so on to the best one.

    Successive halving (Jamieson and Talwalkar, 2016), by every row for itself, on the margin that the model itself
    gives to what a way returns. The last run has `steps` steps. Rows stop as they reach the goal. There are `log2(n)`
    rounds and one for n ways, and each costs at most `2 steps` forward and backward passes of the views.
    """

    ways: tuple[Climb, ...]
    steps: int = 40

    @property
    def threat(self) -> Ball:
        """The set that is searched."""
        return self.ways[0].threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        tally = _Tally(x, *_judged(model, x, goal))
        kept = torch.ones(len(self.ways), len(x), dtype=torch.bool, device=x.device)
        rounds = math.ceil(math.log2(len(self.ways))) + 1
        for halvings in range(rounds):
            steps = max(1, self.steps // 2 ** (rounds - 1 - halvings))
            got = torch.full(kept.shape, -torch.inf, dtype=x.dtype, device=x.device)
            for k, way in enumerate(self.ways):
                rows = (kept[k] & ~tally.reached).nonzero().flatten()
                if len(rows):
                    attack = way.run(steps)
                    z = attack(model, x[rows], goal[rows], rng[rows].at(f"{halvings}, {k}"))
                    got[k, rows] = tally.offer(rows, z, *_judged(model, z, goal[rows]))
            half = math.ceil(len(self.ways) / 2 ** (halvings + 1))
            place = got.argsort(dim=0, descending=True, stable=True).argsort(dim=0)
            kept &= place < half
        return tally.best


def _judged(model: Model, z: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """The margin, and whether the goal is reached."""
    with torch.no_grad():
        outputs = model(z)
        return margin(outputs, goal).to(z.dtype), goal.reached(outputs)


class _Tally:
    """The best point of every row, and whether it is a success."""

    def __init__(self, x: Tensor, score: Tensor, reached: Tensor) -> None:
        self.best, self.score, self.reached = x.detach().clone(), score, reached

    def offer(self, rows: Tensor, z: Tensor, score: Tensor, reached: Tensor) -> Tensor:
        """Keep what is better than before; the scores, with those that are no number last."""
        better = reached | (score > self.score[rows])
        place = rows[better]
        self.best[place], self.score[place] = z[better], score[better]
        self.reached[place] = reached[better]
        return score.nan_to_num(-torch.inf)


def ways(threat: Ball) -> tuple[Climb, ...]:
    """Four ways that fail for different reasons: as it is, mended, past dead units, and around the point."""
    exact = Climb(threat=threat)
    around = settled(nearby, width=0.05 * threat.width, draws=4)
    return (
        exact,
        replace(exact, views=(mended,)),
        replace(exact, views=(settled(smoothed, beta=25.0),)),
        replace(exact, views=(mended, around, rescaled), loss=cross_entropy),
    )


@register("attacks", "adaptive", family="adaptive", passes="4 to 10 steps of both", paper="Tramer et al., 2020")
def adaptive(threat: Ball, *, steps: int = 40) -> Halving:
    """PGD that finds for each input the loss and the view of the model that work (after Tramer et al., 2020).

    The views: exact, mended, smoothed backward, and mended with gradients averaged over noise and outputs rescaled.
    The last costs five passes a pass.
    """
    return Halving(ways=ways(threat), steps=steps)
