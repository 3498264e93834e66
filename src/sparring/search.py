"""The bookkeeping of a search: which rows are still open, and the best point that each has seen.

A row that reaches its goal is done, and costs no more passes. To climb to the end whatever happens, as training
does, hand over a goal that is never reached (`sparring.goals.Never`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.types import Goal, Loss, Model


def take(tree: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
    """Some of the rows of everything in a tuple: tensors, goals, streams, states, tuples of these (None has none)."""

    def chosen(branch: Any) -> Any:
        if isinstance(branch, tuple):
            return take(branch, rows)
        if isinstance(branch, Tensor):
            return branch.index_select(0, rows)
        return None if branch is None else branch[rows]

    return tuple(map(chosen, tree))


def forward(model: Model, z: Tensor) -> tuple[Tensor, Tensor]:
    """A forward pass that can be followed by a backward pass, wherever it is called: `z` as a leaf, and the outputs.

    Raises:
        BadInput: the model has no gradients.
    """
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        outputs = model(point)
    if not outputs.requires_grad:
        raise _without_gradients()
    return point, outputs


def slope(outputs: Tensor, point: Tensor, weight: Tensor | None = None, *, again: bool = False) -> Tensor:
    """The gradient at `point` of outputs that come from it, or of their sum under `weight`: a backward pass.

    `again` keeps the graph for another one.

    Raises:
        BadInput: no path leads back to `point`. Outputs of a model whose weights can be trained have a graph all the
            same, so `forward` cannot tell.
    """
    gradient: Tensor | None
    (gradient,) = torch.autograd.grad(outputs, point, weight, retain_graph=again, allow_unused=True)
    if gradient is None:
        raise _without_gradients()
    return gradient


def finite(gradient: Tensor) -> Tensor:
    """The gradient with zero, which moves nothing, for NaN and infinity.

    The largest number in place of infinity would outweigh all other coordinates, and give the gradient an infinite
    length. A sum tells whether there is anything to replace, in a fraction of the time; on a GPU, asking would be what
    takes time.
    """
    if gradient.device.type == "cpu" and math.isfinite(float(gradient.sum())):
        return gradient
    return gradient.nan_to_num(0, 0, 0)


def _without_gradients() -> BadInput:
    return BadInput("a model without gradients", "gradients for this attack", "use one that needs scores alone")


class Search:
    """Climb with one forward and one backward pass; the pass that is judged is the pass that is used.

    Scores have the type of the inputs, whatever that of the outputs. The model is never called without rows.
    """

    def __init__(self, model: Model, x: Tensor, goal: Goal, loss: Loss) -> None:
        self.model, self.goal, self.loss = model, goal, loss
        self.best = x.detach().clone()
        self.best_score = torch.full((len(x),), -torch.inf, device=x.device, dtype=x.dtype)
        self.open = torch.arange(len(x), device=x.device)

    def steps(self, count: int) -> Iterator[int]:
        """0, 1, ... while there are open rows."""
        for i in range(count):
            if not len(self.open):
                return
            yield i

    def judge(self, z: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Score `z` with a forward pass, and let rows that reach the goal leave.

        Returns the scores, then `carry`, all for the rows that stay.
        """
        if not len(z):
            return z.new_empty(0), *carry
        with torch.no_grad():
            outputs = self.model(z)
            score = self.loss(outputs, self.goal).to(z.dtype)
        return self._record(z, self.goal.reached(outputs), score, (score, *carry))

    def climb(self, z: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Score `z`, and get the loss's gradient there: a forward and a backward pass.

        Returns the gradient and the scores, then `carry`, all for the rows that stay. What is no number in a gradient,
        or infinite, becomes zero: it moves nothing, and the doctor reports it.
        """
        if not len(z):
            return torch.zeros_like(z), z.new_empty(0), *carry
        point, outputs = forward(self.model, z)
        reached = self.goal.reached(outputs.detach())
        with torch.enable_grad():
            score = self.loss(outputs, self.goal)
            staying = score[~reached] if bool(reached.any()) else score
            gradient = slope(staying.sum(), point) if len(staying) else torch.zeros_like(z)
        score = score.detach().to(z.dtype)
        return self._record(z, reached, score, (finite(gradient), score, *carry))

    def _record(self, z: Tensor, reached: Tensor, score: Tensor, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        """Keep what is better than before; `carry` of the rows that stay."""
        better = (reached | (score > self.best_score[self.open])).nonzero().flatten()
        z = z.detach()
        if len(better) == len(self.best):  # as in most steps of most climbs
            self.best, self.best_score = z.clone(), score
        else:
            place = self.open[better]
            # Copies whole rows, which indexing does element by element.
            self.best.index_copy_(0, place, z.index_select(0, better))
            self.best_score = self.best_score.index_copy(0, place, score[better])
        if not bool(reached.any()):
            return carry  # as it is: copying every row of it would cost a step of a small model one or two percent
        stay = (~reached).nonzero().flatten()
        self.open, self.goal = self.open[stay], self.goal[stay]
        return take(carry, stay)
