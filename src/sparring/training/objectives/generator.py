"""Adversarial training against a network that learns to attack."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks.advgan import Weights, convolved, kernel
from sparring.errors import BadInput
from sparring.limits import positive
from sparring.models.victim import inference
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.objectives.minmax import MinMax, both, slope

WIDTH = 16


def _fresh(channels: int, rng: Streams) -> Weights:
    return (
        kernel(rng.at(0), WIDTH, channels),
        kernel(rng.at(1), WIDTH, WIDTH),
        kernel(rng.at(2), channels, WIDTH, gain=0.01),
    )


def _change(weights: Weights, v: Tensor) -> Tensor:
    """What the generator makes of a gradient, in [-1, 1]."""
    first, middle, last = weights
    return convolved(convolved(convolved(v, first).relu(), middle).relu(), last).tanh()


class AgainstGenerator(MinMax, nn.Module):
    """Be right on data, and on what a generator that learns along makes of it: `min_f max_G L(x)/2 + L(x + G(g))/2`.

    Lee et al. (2017): the generator sees the gradient `g` of the loss in the image, here its signs. Before every
    update it takes a step of Adam up the loss. Three convolutions at full resolution, bounded by `eps tanh`; what they
    learned lasts as long as the training. AdvGAN's own generator (Xiao et al., 2018), which sees the image alone,
    taught a network of digits no robustness to PGD in as many updates. Costs two forward and backward passes.
    """

    def __init__(self, threat: Ball, rate: float = 0.01) -> None:
        super().__init__()
        self.threat, self.rate = threat, rate
        self.forget()

    def forget(self) -> None:
        """Begin anew, with a generator that has learned nothing."""
        self.learned: Weights | None = None
        self.memory: dict[str, Any] | None = None

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """What the generator makes of the batch, once it has learned from it.

        Raises:
            BadInput: the inputs are no images.
        """
        if x.dim() != 4:
            raise BadInput(f"inputs {tuple(x.shape[1:])}", "images (C, H, W) for the generator", "take 'adversarial'")
        if self.learned is None:
            self.learned = _fresh(x.shape[1], Streams(rng.keys.sum().view(1)))  # one stream, whatever the order of rows
        weights = tuple(weight.detach().clone().to(x).requires_grad_() for weight in self.learned)
        optimiser = torch.optim.Adam(weights, lr=self.rate)
        if self.memory is not None:
            optimiser.load_state_dict(copy.deepcopy(self.memory))
        threat = self.threat.times(strength)
        seen = slope(network, x, partial(functional.cross_entropy, target=labels, reduction="none")).sign()

        def made() -> Tensor:
            return threat.project(x + threat.eps * _change(weights, seen), x)

        with inference(network), torch.enable_grad():
            loss = -functional.cross_entropy(network(made()), labels)
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
        optimiser.step()
        self.learned, self.memory = tuple(weight.detach() for weight in weights), optimiser.state_dict()
        with torch.no_grad():
            return made()

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The mean of both cross-entropies."""
        return both(network, x, z, labels)

    def get_extra_state(self) -> dict[str, Any]:
        """The generator and its optimiser: an exact resume needs them."""
        return {"learned": self.learned, "memory": self.memory}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from a state saved before."""
        self.learned = None if state["learned"] is None else tuple(state["learned"])
        self.memory = state["memory"]


@register(
    "objectives",
    "generator",
    family="adversarial",
    norms=("linf",),
    shape="image",
    passes="2 + 2",
    paper="Lee et al., 2017",
)
def against_generator(threat: Ball, *, rate: float = 0.01) -> AgainstGenerator:
    """Train against a generator of perturbations that learns along (Lee et al., 2017; Xiao et al., 2018)."""
    positive(rate=rate)
    return AgainstGenerator(threat, rate)
