"""Universal perturbations: one change that fools the model on nearly every input (Moosavi-Dezfooli et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.losses import cross_entropy, margin
from sparring.norms import NORMS
from sparring.registry import register
from sparring.search import Search, finite, forward, slope
from sparring.steps import ascent, chain, cosine
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Boxed, Goal, Loss, Model, Step


def batches(rng: Streams, size: int, steps: int) -> Iterator[tuple[int, Tensor]]:
    """Steps 0, 1, ... with rows for each, `size` at a time: every row once, in a random order, and again."""
    count, i = len(rng), 0
    while i < steps and count:
        order = rng.at(i).uniform(1).flatten().argsort(stable=True)
        for first in range(0, min(count, size * (steps - i)), size):
            yield i, order[first : first + size]
            i += 1


def slopes(model: Model, z: Tensor, goal: Goal, loss: Loss, most: float) -> Tensor:
    """The gradients at `z` of the loss, clipped at `most`: a row that has it will not make up for the others."""
    point, outputs = forward(model, z)
    with torch.enable_grad():
        gradient = slope(loss(outputs, goal).clamp(max=most).sum(), point)
    return finite(gradient)


@dataclass(frozen=True, eq=False)
class Learned:
    """What came of learning: `make(x, rng)` gives a candidate, without a pass of the model.

    Keeps the best of `draws` candidates and `x`; costs `draws` + 1 forward passes.
    """

    threat: Boxed
    make: Callable[[Tensor, Streams], Tensor]
    draws: int = 1

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best candidate of each row, or `x`, `(B, *shape)`."""
        search = Search(model, x, goal, margin)
        _, x, rng = search.judge(x, x, rng)
        for i in search.steps(self.draws):
            _, x, rng = search.judge(self.make(x, rng.at(i)), x, rng)
        return search.best


@dataclass(frozen=True, eq=False)
class Added:
    """Adds the same change to every input."""

    threat: Ball
    delta: Tensor

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """`x + delta`, brought back into ball and box."""
        return self.threat.project(x + self.delta.to(x), x)


@dataclass(frozen=True, kw_only=True)
class Universal:
    """Climb the mean loss over examples, clipped at `most`, with one change for all (Shafahi et al., 2020, SGD-UAP).

    Learning costs a forward and a backward pass for each of `batch` examples in each of `steps` steps.
    """

    threat: Ball
    step: Step
    loss: Loss = cross_entropy
    most: float = 9.0
    steps: int = 200
    batch: int = 100

    def fit(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Learned:
        """The change learned from these examples."""
        free = Ball(self.threat.norm, self.threat.eps, -torch.inf, torch.inf)
        origin = torch.zeros_like(x[:1]) if len(x) else x.new_zeros(1, *x.shape[1:])
        delta, state = origin, self.step.init(origin)
        for i, rows in batches(rng, self.batch, self.steps):
            z = self.threat.project(x[rows] + delta, x[rows])
            gradient = slopes(model, z, goal[rows], self.loss, self.most)
            move, state = self.step.update(gradient.mean(0, keepdim=True), state, i)
            delta = free.project(delta + move, origin)
        return Learned(self.threat, Added(self.threat, delta))

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """Learn from these rows, and attack them, `(B, *shape)`."""
        learned: Attack = self.fit(model, x, goal, rng.at("learn"))
        return learned(model, x, goal, rng.at("attack"))


@register(
    "attacks",
    "universal",
    norms=("linf", "l2"),
    amortised=True,
    family="generative",
    passes="1 + 0, once learned",
    paper="Shafahi et al., 2020",
)
def universal(threat: Ball, *, steps: int = 200) -> Universal:
    """One change for all inputs, learned from examples (Shafahi et al., 2020)."""
    step = chain(ascent(NORMS[threat.norm.name]), cosine(threat.unit / 4, steps))
    return Universal(threat=threat, step=step, steps=steps)
