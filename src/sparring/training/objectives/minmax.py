"""The form that most objectives have: an inner maximum, and a loss at what it found."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput
from sparring.goals import Measured, Never
from sparring.models import load
from sparring.models.victim import frozen, inference
from sparring.search import forward
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.contract import Searching
from sparring.types import Attack, Goal, Model

Maximiser = Callable[[Ball], Attack]
"""An attack for a threat of any size, so that eps can grow from zero."""


class MinMax(Searching):
    """An objective of two parts: the worst inputs at these weights, and a loss at fixed inputs.

    The worst are those that `attack` finds within `threat` for the `goal`; an objective that finds them otherwise says
    how in its own `worst`.
    """

    threat: Ball
    attack: Maximiser

    def goal(self, network: nn.Module, x: Tensor, labels: Tensor, rng: Streams) -> Goal:
        """What is maximised: by default the loss on the labels, without an end."""
        return Never(labels)

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The inner maximum: an input for every row, `(B, *shape)`."""
        attack = self.attack(self.threat.times(strength))
        return searched(attack, network, x, self.goal(network, x, labels, rng), rng)

    @abstractmethod
    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """What the weights minimise, once the worst inputs `z` are known."""

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The loss at what is the worst now."""
        return partial(self.loss, network, x, self.worst(network, x, labels, strength, rng), labels)


def searched(
    attack: Attack, network: nn.Module, x: Tensor, goal: Goal, rng: Streams, *, view: Model | None = None
) -> Tensor:
    """What an attack finds on the network as users meet it: in inference mode, its running statistics left alone.

    The weights ask for no gradient meanwhile: nothing need be kept of the passes for their sake. `view` is what the
    attack is to see of the network, where that is not the network itself.
    """
    with inference(network), frozen(network):
        return attack(network if view is None else view, x, goal, rng).detach()


def slope(network: nn.Module, z: Tensor, loss: Callable[[Tensor], Tensor], *, graph: bool = False) -> Tensor:
    """The gradient in the inputs of a sum of losses of the outputs; with `graph`, to be differentiated once more."""
    with inference(network):
        point, outputs = forward(network, z)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(outputs).sum(), point, create_graph=graph)
    return gradient


def width(network: nn.Module, x: Tensor) -> int:
    """The number of classes. Costs a forward pass of one row."""
    with inference(network), torch.no_grad():
        return int(network(x[:1]).shape[1])


def classes(labels: Tensor) -> Tensor:
    """The class of each row, `(B,)`: the largest, where labels are shares."""
    return labels if labels.dim() == 1 else labels.argmax(1)


def divergence(outputs: Tensor, others: Tensor) -> Tensor:
    """`KL(p || q)` of the distributions that two sets of logits stand for, `(B,)`."""
    log_p, log_q = outputs.log_softmax(1), others.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def squares(outputs: Tensor, others: Tensor) -> Tensor:
    """`|p - q|^2` of the distributions that two sets of logits stand for, `(B,)`."""
    return (outputs.softmax(1) - others.softmax(1)).square().sum(1)


@dataclass(frozen=True)
class Apart(Measured):
    """Leave what the network said before, whatever the label: climb a distance from the reference logits `(B, K)`.

    It is never reached. At the reference itself it has no slope: climb from a random start.
    """

    reference: Tensor
    distance: Callable[[Tensor, Tensor], Tensor] = divergence
    sign: int = 1

    def measure(self, outputs: Tensor) -> Tensor:
        """The distance."""
        return self.distance(self.reference, outputs)

    def reached(self, outputs: Tensor) -> Tensor:
        """No row."""
        return torch.zeros(len(outputs), dtype=torch.bool, device=outputs.device)

    def margin(self, outputs: Tensor) -> Tensor:
        """The distance."""
        return self.measure(outputs)

    def loss(self, outputs: Tensor) -> Tensor:
        """The distance."""
        return self.measure(outputs)


def said(network: nn.Module, x: Tensor) -> Tensor:
    """The logits of `x` in inference mode, without a graph: the reference of `Apart`."""
    with inference(network), torch.no_grad():
        outputs: Tensor = network(x)
    return outputs


def loaded(model: nn.Module | str) -> nn.Module:
    """A frozen copy of a network trained before, or of what `sparring.models.load` makes of a name; in inference mode.

    Raises:
        BadInput: no torch network.
    """
    module = load(model).module if isinstance(model, str) else model
    if module is None:
        raise BadInput(f"'{model}'", "a torch network", "name one, as in package.module:factory or a .pt2 file")
    return copy.deepcopy(module).eval().requires_grad_(False)


def both(network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
    """`L(f(x), y) / 2 + L(f(z), y) / 2` (Goodfellow et al., 2015, section 6, alpha 0.5)."""
    return (functional.cross_entropy(network(x), labels) + functional.cross_entropy(network(z), labels)) / 2
