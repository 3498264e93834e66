"""Climb the loss over the parameters of an edit: a flow, a tone curve, a patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sparring.losses import margin
from sparring.search import Search
from sparring.streams import Streams
from sparring.types import Boxed, Goal, Loss, Model, Step


class Edit(Protocol):
    """A way to change images `(B, C, H, W)` by parameters `(B, ...)`, each within `reach` of what changes nothing."""

    @property
    def threat(self) -> Boxed:
        """The set in which its images lie."""
        ...

    @property
    def reach(self) -> float:
        """How far a parameter can go, either way."""
        ...

    def image(self, x: Tensor, parameters: Tensor) -> Tensor:
        """What the parameters make of the images; differentiable in the parameters."""
        ...

    def leap(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The best parameters for the linear function with this gradient at the images."""
        ...

    def cost(self, parameters: Tensor) -> Tensor:
        """What is to be small besides, in units of the loss, `(B,)`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Edited:
    """Leap to the best parameters for the linearised loss, then climb from there, and keep the best image seen.

    Costs `steps` forward and backward passes, and one forward pass to judge the last image; rows stop as they reach
    the goal.
    """

    edit: Edit
    step: Step
    loss: Loss = margin
    steps: int = 40

    @property
    def threat(self) -> Boxed:
        """The set that is searched."""
        return self.edit.threat

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best image seen, `(B, C, H, W)`."""
        search, edit = Search(model, x, goal, self.loss), self.edit
        gradient, _, x = search.climb(x, x)
        parameters = edit.leap(x, gradient)
        state = self.step.init(parameters)
        for i in search.steps(self.steps - 1):
            z = edit.image(x, parameters)
            gradient, _, x, parameters, state = search.climb(z, x, parameters, state)
            move, state = self.step.update(_uphill(edit, x, parameters, gradient), state, i)
            parameters = (parameters + move).clamp(-edit.reach, edit.reach)
        search.judge(edit.image(x, parameters))
        return search.best


def _uphill(edit: Edit, x: Tensor, parameters: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the parameters of the loss less the cost, from that of the loss at the image."""
    with torch.enable_grad():
        leaf = parameters.detach().requires_grad_()
        gain = (edit.image(x, leaf) * gradient).sum() - edit.cost(leaf).sum()
        (uphill,) = torch.autograd.grad(gain, leaf)
    return uphill
