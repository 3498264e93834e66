"""Runs that start where the best one ended, shaken: for examples that nearly fall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.pgd import PGD
from sparring.losses import cross_entropy, margin
from sparring.registry import register
from sparring.search import Search
from sparring.steps import ascent, chain, cosine
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Loss, Model
from sparring.views import settled


def exact(model: Model) -> Model:
    """The view that changes nothing."""
    return model


def redrawn(z: Tensor, x: Tensor, threat: Ball, rng: Streams, share: float) -> Tensor:
    """A share of the coordinates drawn anew."""
    anew = rng.at("where").uniform(*x.shape[1:], device=x.device) < share
    return threat.project(torch.where(anew, threat.sample(x, rng), z), x)


A_FIFTH = settled(redrawn, share=0.2)


@dataclass(frozen=True, kw_only=True)
class Hops:
    """Basin hopping (Wales and Doye, 1997) with projected ascent: climb, keep the best, shake it.

    `runs` take turns: each is a climb, and the view of the model on which it takes its gradients. The first starts
    anywhere in the ball, or where another attack ends if there is a `start`; where the next one does,
    `shake(best, x, threat, rng)` says. Costs the passes of `start` and of `times` climbs, and one forward pass for
    each; rows stop as they reach the goal.
    """

    runs: tuple[tuple[Callable[[Model], Model], PGD], ...]
    times: int = 8
    shake: Callable[[Tensor, Tensor, Ball, Streams], Tensor] = A_FIFTH
    start: Attack | None = None

    @property
    def threat(self) -> Ball:
        """The set that is searched."""
        return self.runs[0][1].threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search = Search(model, x, goal, margin)
        if self.start is None:
            _, x, z, rng = search.judge(x, x, self.threat.sample(x, rng), rng)
        else:
            z = self.start(model, x, goal, rng)
            _, x, z, rng = search.judge(z, x, z, rng)
        for hop in search.steps(self.times):
            view, run = self.runs[hop % len(self.runs)]
            z = run.climb(Search(view(model), x, search.goal, run.loss), x, z)
            _, x, rng = search.judge(z, x, rng)
            z = self.shake(search.best[search.open], x, self.threat, rng.at(hop))
        return search.best


@register("attacks", "hops", threats=("patch", "snr"), passes="times (steps + steps)", paper="Wales and Doye, 1997")
def hops(threat: Ball, *, steps: int = 20, times: int = 8, loss: Loss = cross_entropy) -> Hops:
    """Short runs with a cosine step, each from the best point so far with a fifth of it drawn anew."""
    step = chain(ascent(threat.norm), cosine(0.5 * threat.unit, steps))
    return Hops(runs=((exact, PGD(threat=threat, step=step, loss=loss, steps=steps)),), times=times)
