"""Objectives: what training minimises over the weights, `(network, x, labels, strength, rng) -> loss`, a scalar.

`strength` grows from 0 to 1 while training warms up: the share of the threat that is already in force. `rng` holds a
stream for each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import PGD
from sparring.goals import Never
from sparring.models.victim import inference
from sparring.steps import ascent, chain, scale
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack


class Objective(Protocol):
    """The loss of a batch, a scalar with a gradient in the weights."""

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        ...


def standard(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
    """Be right on the data as it is: `E L(f(x), y)`, L the cross-entropy."""
    return functional.cross_entropy(network(x), labels)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Be right on the worst input of the threat: `E max_(z in S(x)) L(f(z), y)` (Madry et al., 2018, equation 2.1).

    `attack` makes the attack for a threat of any size, so that eps can grow from zero. It sees the network in
    inference mode, as an attacker will; the loss is taken in training mode.
    """

    threat: Ball
    attack: Callable[[Ball], Attack]

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The cross-entropy at the worst inputs found."""
        attack = self.attack(self.threat.at(strength * self.threat.eps))
        with inference(network):
            z = attack(network, x, Never(labels), rng)
        return functional.cross_entropy(network(z), labels)


def inner_pgd(threat: Ball, *, steps: int = 7) -> PGD:
    """Few steps of `2.5 eps / steps` from a random start (Madry et al., 2018): cheap enough for every batch."""
    step = chain(ascent(threat.norm), scale(2.5 * threat.eps / steps))
    return PGD(threat=threat, step=step, steps=steps)


def adversarial(threat: Ball, attack: Callable[[Ball], Attack] = inner_pgd) -> Adversarial:
    """Be right on the worst inputs of `threat` that `attack` finds (Madry et al., 2018).

    Any attack of the registry will do, `partial(pgd, steps=10)` say. Costs its passes on top of those of the update.
    """
    return Adversarial(threat=threat, attack=attack)
