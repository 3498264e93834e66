"""Runs that start where the best one ended, shaken: for examples that nearly fall."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.losses import cross_entropy
from sparring.registry import register
from sparring.search import Search
from sparring.steps import ascent, chain, cosine
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model, Step


@dataclass(frozen=True, kw_only=True)
class Hops:
    """Basin hopping (Wales and Doye, 1997) with projected ascent: climb, keep the best, draw a share of it anew.

    The first run starts anywhere in the ball. Costs `times` runs of `steps` forward and backward passes and one
    forward pass; rows stop as they reach the goal.
    """

    threat: Ball
    step: Step
    loss: Loss = cross_entropy
    steps: int = 20
    times: int = 8
    share: float = 0.25

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search = Search(model, x, goal, self.loss)
        z = self.threat.sample(x, rng)
        _, x, z, rng = search.judge(x, x, z, rng)
        for hop in search.steps(self.times):
            state = self.step.init(x)
            for i in search.steps(self.steps):
                gradient, _, x, z, state, rng = search.climb(z, x, z, state, rng)
                move, state = self.step.update(gradient, state, i)
                z = self.threat.project(z + move, x)
            _, x, rng = search.judge(z, x, rng)
            draw = rng.at(hop)
            anew = draw.at("where").uniform(*x.shape[1:], device=x.device) < self.share
            best = search.best[search.open]
            z = self.threat.project(torch.where(anew, self.threat.sample(x, draw), best), x)
        return search.best


@register("attacks", "hops", passes="times (steps + steps)", paper="Wales and Doye, 1997")
def hops(threat: Ball, *, steps: int = 20, times: int = 8, share: float = 0.25, loss: Loss = cross_entropy) -> Hops:
    """Short runs with a cosine step, each from the best point so far with a quarter of it drawn anew."""
    step = chain(ascent(threat.norm), cosine(0.5 * threat.unit, steps))
    return Hops(threat=threat, step=step, loss=loss, steps=steps, times=times, share=share)
