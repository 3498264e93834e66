"""SimBA: one direction of an orthonormal basis after the other, forwards or backwards (Guo et al., 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.losses import margin
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


def pixels(n: int) -> Tensor:
    """The basis of single coordinates, a row each."""
    return torch.eye(n)


def cosines(n: int) -> Tensor:
    """The orthonormal cosine basis (DCT-II), from the lowest frequency to the highest, a row each."""
    waves = torch.cos(math.pi / n * torch.arange(n)[:, None] * (torch.arange(n) + 0.5)) * math.sqrt(2 / n)
    waves[0] /= math.sqrt(2)
    return waves


@dataclass(frozen=True, kw_only=True)
class SimBA:
    """Step along a direction of the basis, else step back along it, else stay; then take the next (Guo et al., 2019).

    The directions of an image `(B, C, H, W)` are products of one row of `basis(H)` and one of `basis(W)` in one
    channel, in random order, those of the lowest `share` of rows and columns first; any other input counts as an image
    of one row. `step` is in widths of the box. Costs `queries` forward passes, or as many as a row needs, and
    `H^2 + W^2` numbers of memory.

    Three departures. The score is the margin: the paper's probability of the label stops moving where a model is very
    sure. Points stay inside the threat, where the paper bounds the number of steps, and thereby the length. And once
    the basis is used up it starts again, at half the step after a round without gain.
    """

    threat: Ball
    basis: Callable[[int], Tensor]
    share: float = 1.0
    step: float = 0.2
    loss: Loss = margin
    queries: int = 5000

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape = x.shape[1:]
        x = x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)
        search = Search(lambda z: model(z.reshape(len(z), *shape)), x, goal, self.loss)
        (channels, height, width), n = x.shape[1:], x.shape[1:].numel()
        upright, level = (self.basis(side).to(x) for side in (height, width))
        channel, i, j = (axis.to(x.device) for axis in _places(channels, height, width))
        late = (i >= self.share * height) | (j >= self.share * width)
        order = (rng.uniform(n, device=x.device) + late).argsort(1)
        none = torch.zeros_like(order[:, 0])
        walk = (none, none, x.new_ones(len(x)), x.new_full((len(x),), self.step * self.threat.width))
        score, x, order, change, walk = search.judge(x, x, order, torch.zeros_like(x), walk)
        for _ in search.steps(self.queries - 1):
            turn, idle, side, length = walk
            at = order.gather(1, (turn % n)[:, None]).flatten()
            wave = upright[i[at]][:, None, :, None] * level[j[at]][:, None, None, :]
            direction = wave * (torch.arange(channels, device=x.device) == channel[at][:, None])[:, :, None, None]
            trial = change + rows(side * length, x) * direction
            z = self.threat.project(x + trial, x)
            found, x, order, trial, change, score, walk = search.judge(z, x, order, trial, change, score, walk)
            turn, idle, side, length = walk
            better = found > score
            change, score = torch.where(rows(better, x), trial, change), torch.where(better, found, score)
            done = better | (side < 0)  # with this direction
            turn, idle = turn + done, torch.where(better, 0, idle + done)
            length, side = torch.where(idle < n, length, length / 2), torch.where(done, side.abs(), -side)
            walk = (turn, idle % n, side, length)
        return search.best.view(-1, *shape)


def _places(*sides: int) -> tuple[Tensor, ...]:
    """The channel, row and column of every coordinate."""
    return torch.unravel_index(torch.arange(math.prod(sides)), sides)


@register(
    "attacks",
    "simba",
    needs="scores",
    norms=("l2",),
    family="scores",
    passes="queries + 0",
    paper="Guo et al., 2019",
)
def simba(threat: Ball, *, queries: int = 5000) -> SimBA:
    """Change one pixel at a time, up or down, if the score falls (Guo et al., 2019)."""
    return SimBA(threat=threat, basis=pixels, queries=queries)


@register(
    "attacks",
    "simba-dct",
    needs="scores",
    norms=("l2",),
    family="scores",
    passes="queries + 0",
    paper="Guo et al., 2019",
)
def simba_dct(threat: Ball, *, queries: int = 5000, share: float = 0.25) -> SimBA:
    """Add one cosine wave at a time, the slow ones first, if the score falls (Guo et al., 2019).

    The paper keeps to an eighth of the frequencies of each side on images of 224 pixels; a quarter suits small ones.
    """
    return SimBA(threat=threat, basis=cosines, share=share, queries=queries)
