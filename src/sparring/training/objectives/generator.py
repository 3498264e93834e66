"""Adversarial training against a network that learns to attack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks.advgan import Weights, centred, generated, generator
from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.objectives.minmax import MinMax, both


class AgainstGenerator(MinMax, nn.Module):
    """Be right on data, and on what a generator that learns along makes of it: `min_f max_G L(x)/2 + L(x + G(x))/2`.

    The generator is AdvGAN's (Xiao et al., 2018), bounded by `eps tanh`, which takes `turns` steps of Adam up the loss
    before every update (the alternation of Lee et al., 2017). No discriminator: the ball keeps the change small. What
    it learned stays with the objective. Costs `turns` forward and backward passes, and resists what a generator
    finds: less than what PGD finds.
    """

    def __init__(self, threat: Ball, rate: float = 0.005, turns: int = 1) -> None:
        super().__init__()
        if threat.norm.name != "linf":
            raise BadInput(f"a generator for {threat.norm.name}", "linf", "train with pgd, or in linf")
        self.threat, self.rate, self.turns = threat, rate, turns
        self.learned: Weights | None = None
        self.memory: dict[str, Any] | None = None

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """What the generator makes of the batch, once it has learned from it."""
        if self.learned is None:
            own = Streams(rng.keys.sum().view(1)).at("generator")
            self.learned = generator(x.shape[1], (x.shape[2], x.shape[3]), own)
        weights = tuple(weight.detach().to(x).requires_grad_() for weight in self.learned)
        optimiser = torch.optim.Adam(weights, lr=self.rate)
        if self.memory is not None:
            optimiser.load_state_dict(self.memory)
        threat = self.threat.at(strength * self.threat.eps)
        v = centred(x, threat)

        def made() -> Tensor:
            return threat.project(x + threat.eps * generated(weights, v), x)

        with inference(network), torch.enable_grad():
            for _ in range(self.turns):
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
    passes="1 + 2",
    paper="Lee et al., 2017",
)
def against_generator(threat: Ball, *, rate: float = 0.005, turns: int = 1) -> AgainstGenerator:
    """Train against a generator of perturbations that learns along (Lee et al., 2017; Xiao et al., 2018)."""
    return AgainstGenerator(threat, rate, turns)
