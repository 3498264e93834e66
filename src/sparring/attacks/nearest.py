"""The bookkeeping of a search for the nearest success of every row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sparring.search import forward, slope, take
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model, Norm


class Nearest:
    """The nearest success that each row has seen: every pass judges the point that it is taken at.

    A row at distance zero, which reaches the goal as it is given, is done and costs no more passes. Scores have the
    type of the inputs, whatever that of the outputs.
    """

    def __init__(self, model: Model, x: Tensor, goal: Goal, threat: Ball, loss: Loss) -> None:
        self.model, self.goal, self.loss, self.size = model, goal, loss, threat.norm.size
        self.best = x.detach().clone()
        self.distance = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        self.open = torch.arange(len(x), device=x.device)

    @property
    def near(self) -> Tensor:
        """How far the nearest success of each open row is; infinite where there was none."""
        return self.distance[self.open]

    def steps(self, count: int) -> Iterator[int]:
        """0, 1, ... while there are open rows."""
        for i in range(count):
            if not len(self.open):
                return
            yield i

    def climb(self, z: Tensor, x: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Judge `z`, and get the loss's gradient there: a forward and a backward pass.

        Returns the gradient, the loss, and which rows reached the goal, then `x` and `carry`, for the rows that stay.
        """
        point, outputs = forward(self.model, z)
        with torch.enable_grad():
            score = self.loss(outputs, self.goal)
            gradient = slope(score.sum(), point)
        reached = self.goal.reached(outputs.detach())
        return self.record(z, x, reached, gradient.nan_to_num(0, 0, 0), score.detach().to(z.dtype), reached, x, *carry)

    def judge(self, z: Tensor, x: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Judge `z` with a forward pass. Returns which rows reached the goal, then `x` and `carry`, as `climb` does."""
        with torch.no_grad():
            reached = self.goal.reached(self.model(z))
        return self.record(z, x, reached, reached, x, *carry)

    def record(self, z: Tensor, x: Tensor, reached: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Keep what is nearer than before; `carry` of the rows that stay."""
        distance = self.size(z - x)
        closer = (reached & (distance < self.near)).nonzero().flatten()
        place = self.open[closer]
        self.best.index_copy_(0, place, z.detach().index_select(0, closer))
        self.distance.index_copy_(0, place, distance[closer])
        return self.leave(self.near == 0, *carry)

    def leave(self, done: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Close rows that need no more passes; `carry` of the others."""
        if not bool(done.any()):
            return carry
        stay = (~done).nonzero().flatten()
        self.open, self.goal = self.open[stay], self.goal[stay]
        return take(carry, stay)


def dual(gradient: Tensor, norm: Norm) -> Tensor:
    """How fast a linear function rises along the steepest direction of size one: the dual norm, `(B,)`."""
    return (gradient * norm.steepest(gradient)).flatten(1).sum(1)
