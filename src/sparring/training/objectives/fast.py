"""Adversarial training for the price of training, or nearly, and how to keep it from falling over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput
from sparring.limits import not_negative
from sparring.registry import register
from sparring.search import finite
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.contract import Objective, Searching, pinned
from sparring.training.objectives.adversarial import adversarial
from sparring.training.objectives.inner import single_step
from sparring.training.objectives.minmax import MinMax, slope


class Free(MinMax, nn.Module):
    """One backward pass for both: the weights go down the loss, and the perturbation up it (Shafahi et al., 2019).

    A batch is used for `replay` updates in a row. The perturbation, one for each place in the batch, goes on from one
    batch to the next, by eps up the gradient in every update (algorithm 1). The batches handed over in between are
    left out: a training of as many updates as usual sees each example in one of `replay` epochs, as in the paper.
    The gradient is that of the update, in training mode, as the paper has it: no pass is spent on the attack.
    """

    def __init__(self, threat: Ball, replay: int = 4) -> None:
        super().__init__()
        if replay < 1:
            raise BadInput(f"replay {replay}", "1 or more", "take 4")
        self.threat, self.replay = threat, replay
        self.ball = Ball(threat.norm, 0.0, -math.inf, math.inf)
        self.forget()

    def forget(self) -> None:
        """Begin anew: no batch to replay, no perturbation."""
        self.turn = 0
        self.batch: tuple[Tensor, Tensor] | None = None
        self.delta: Tensor | None = None

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The batch that is being replayed, as the last update left it."""
        if self.batch is None or self.turn % self.replay == 0:
            self.batch = x, labels
        self.turn += 1
        x, _ = self.batch
        if self.delta is None or self.delta.shape != x.shape:
            self.delta = torch.zeros_like(x)
        threat = self.threat.times(strength)
        self.ball = self.ball.at(threat.eps)
        return threat.project(x + self.delta.to(x), x)

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy at the replayed batch; its backward pass moves the perturbation."""
        assert self.batch is not None
        point = z.detach().requires_grad_()
        point.register_hook(self._climb)  # type: ignore[no-untyped-call]
        return functional.cross_entropy(network(point), self.batch[1])

    def _climb(self, gradient: Tensor) -> None:
        assert self.delta is not None
        move = self.ball.unit * self.threat.norm.ascent(finite(gradient.detach()))
        self.delta = self.ball.project(self.delta.to(move) + move, torch.zeros_like(move))

    def get_extra_state(self) -> dict[str, Any]:
        """The batch, the perturbation and the turn: an exact resume needs them."""
        return {"turn": self.turn, "batch": self.batch, "delta": self.delta}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a state saved before."""
        self.turn, self.delta = int(state["turn"]), state["delta"]
        self.batch = None if state["batch"] is None else tuple(state["batch"])


@register("objectives", "free", family="adversarial", norms=("linf", "l2"), passes="1", paper="Shafahi et al., 2019")
def free(threat: Ball, *, replay: int = 4) -> Free:
    """Adversarial training at the cost of training: every backward pass serves twice (Shafahi et al., 2019)."""
    return Free(threat, replay)


@dataclass(frozen=True, kw_only=True)
class Aligned(Searching):
    """Any objective, and gradients that point the same way all over the ball: `+ weight (1 - E cos(g(x), g(x + u)))`.

    GradAlign (Andriushchenko and Flammarion, 2020, equation 8): `g` is the gradient of the loss in the input, `u` a
    uniform draw from the ball. Where they agree, one step is as good as many. Costs two forward and backward passes,
    and their second derivative. The gradients are those of the network in inference mode, which leaves the running
    statistics alone; the authors' code takes them in training mode.
    """

    threat: Ball
    objective: Objective
    weight: float = 0.2

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The objective at what it finds now, and `weight` times the misalignment."""
        loss = pinned(self.objective, network, x, labels, strength, rng)
        return lambda: loss() + self.weight * self.misaligned(network, x, labels, strength, rng)

    def misaligned(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """`1 - E cos(g(x), g(x + u))`, with a gradient in the weights."""
        away = self.threat.times(strength).sample(x, rng.at("aligned"))
        here, there = (
            functional.normalize(slope(network, z, self._loss(labels), graph=True).flatten(1), eps=1e-20)
            for z in (x, away)
        )
        return 1 - (here * there).sum(1).mean()

    @staticmethod
    def _loss(labels: Tensor) -> Any:
        return lambda outputs: functional.cross_entropy(outputs, labels, reduction="none")


@register("objectives", "grad-align", family="adversarial", passes="1 + 5", paper="Andriushchenko, 2020")
def grad_align(threat: Ball, *, weight: float = 0.2) -> Aligned:
    """Single-step adversarial training that stays honest: gradients must agree (Andriushchenko and Flammarion, 2020).

    The paper's weight for 8/255 on CIFAR-10 is 0.2; larger eps asks for more.
    """
    not_negative(weight=weight)
    return Aligned(threat=threat, objective=adversarial(threat, single_step), weight=weight)
