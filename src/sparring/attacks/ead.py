"""EAD: Carlini and Wagner's objective with an elastic net in place of the length (Chen et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparring.attacks.carlini_wagner import CarliniWagner, Length, State
from sparring.errors import BadInput
from sparring.norms import NORMS, rows
from sparring.registry import register
from sparring.threats import Ball

Rule = Callable[[Tensor, float], Tensor]
"""Which of two successes is nearer: `(delta, beta) -> (B,)`, less is nearer."""


def elastic_net(delta: Tensor, beta: float) -> Tensor:
    """`|delta|_2^2 + beta |delta|_1`: the EN rule."""
    return delta.flatten(1).square().sum(1) + beta * NORMS["l1"].size(delta)


def l1_rule(delta: Tensor, beta: float) -> Tensor:
    """`|delta|_1` alone: the L1 rule."""
    return NORMS["l1"].size(delta)


@dataclass(frozen=True, kw_only=True)
class Elastic(Length):
    """`|delta|_2^2 + beta |delta|_1`, of which the descent takes the second part by shrinkage."""

    beta: float
    rule: Rule

    def distance(self, delta: Tensor) -> Tensor:
        """By the decision rule."""
        return self.rule(delta, self.beta)

    def value(self, delta: Tensor, limits: State) -> Tensor:
        """The elastic net."""
        return elastic_net(delta, self.beta)


@dataclass(frozen=True, kw_only=True)
class Shrinkage:
    """FISTA (Beck and Teboulle, 2009): a gradient step, every change shrunk by beta, then a step of momentum.

    Chen et al. (2018), equations 5 and 6 and their code: `x_(k+1) = S_beta(y_k - rate g)`,
    `y_(k+1) = x_(k+1) + k / (k + 3) (x_(k+1) - x_k)`. Here `y` is kept in the box and is the point that is judged:
    the code's second forward pass, at `x_k`, is saved.
    """

    blind: ClassVar[bool] = False
    beta: float
    rate: float

    def first(self, farthest: Tensor) -> Tensor:
        """The same in every run."""
        return torch.full_like(farthest, self.rate)

    def init(self, z: Tensor, x: Tensor, threat: Ball) -> State:
        """`y`, `x_k`, and `k`."""
        return z, z, x.new_zeros(len(x))

    def move(self, gradient: Tensor, x: Tensor, threat: Ball, rate: Tensor, state: State) -> tuple[Tensor, State]:
        """From one `y` to the next; a change of less than beta is none, to the last bit."""
        y, before, k = state
        step = (y - x) / threat.width - rows(rate, x) * gradient
        shrunk = step.sign() * (step.abs() - self.beta).clamp(min=0)
        now = (x + threat.width * shrunk).clamp(threat.low, threat.high)
        y = (now + rows(k / (k + 3), x) * (now - before)).clamp(threat.low, threat.high)
        return y, (y, now, k + 1)


@register(
    "attacks",
    "ead",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("l1",),
    passes="runs x steps + runs x steps",
    paper="Chen et al., 2018",
)
def ead(threat: Ball, *, steps: int = 100, runs: int = 9, beta: float = 0.01, rule: Rule = l1_rule) -> CarliniWagner:
    """The smallest L1 change by Carlini and Wagner's objective with an elastic net (Chen et al., 2018).

    `beta` is in units of the width of the box; `rule` compares successes, by `l1_rule` or by `elastic_net`.
    """
    if threat.norm.name != "l1":
        raise BadInput(f"EAD on {threat}", "l1", "choose carlini-wagner for linf, l2 and l0")
    penalty, descent = Elastic(beta=beta, rule=rule), Shrinkage(beta=beta, rate=0.3 * beta)
    return CarliniWagner(threat=threat, penalty=penalty, descent=descent, steps=steps, runs=runs, constant=0.1)
