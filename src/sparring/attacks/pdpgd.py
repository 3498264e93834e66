"""Primal-dual proximal gradient descent: the smallest change by its Lagrangian (Matyasko and Chau, 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.attacks.nearest import Nearest
from sparring.losses import margin
from sparring.norms import NORMS, divisor
from sparring.registry import register
from sparring.steps import adam
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

Proximal = Callable[[Tensor, Tensor], Tensor]
"""A norm's proximal operator, `(v, weight) -> argmin_u weight |u| + |u - v|^2 / 2`, on rows `(B, n)` and `(B, 1)`."""


def soft(v: Tensor, weight: Tensor) -> Tensor:
    """L1: every coordinate comes nearer to zero by the same."""
    return v.sign() * (v.abs() - weight).clamp(min=0)


def shorter(v: Tensor, weight: Tensor) -> Tensor:
    """L2: the length comes nearer to zero."""
    length = NORMS["l2"].size(v).unsqueeze(1)
    return v * (1 - weight / divisor(length)).clamp(min=0)


def lower(v: Tensor, weight: Tensor) -> Tensor:
    """Linf: the largest coordinates are cut to a level, and lose `weight` together."""
    size = v.abs().sort(dim=1, descending=True).values
    count = torch.arange(1, v.shape[1] + 1, device=v.device)
    level = ((size.cumsum(1) - weight) / count).amax(1, keepdim=True).clamp(min=0)
    return v.clamp(-level, level)


def two_thirds(v: Tensor, weight: Tensor) -> Tensor:
    """`sum |u_i|^(2/3)`, which stands in for L0: zero up to a threshold, and more sparing than `soft` beyond it.

    In closed form (Cao et al., 2013).
    """
    double = 2 * weight.clamp(min=1e-20).double()
    size, root, fourth = v.abs().double(), double.sqrt(), double.sqrt().sqrt()
    # u = t^3 for the larger positive root of t^4 - |v| t + 2 weight / 3, by its resolvent cubic. Powers as logarithms
    # and roots: torch rounds the others differently from one batch to another.
    y = (27 / 16 * size.square() / (double * root)).clamp(min=1)
    third = ((y + (y.square() - 1).sqrt()).log() / 3).exp()
    a = 2 / math.sqrt(3) * fourth * ((third + 1 / third) / 2).sqrt()
    t = (a + (2 * size / a - a.square()).clamp(min=0).sqrt()) / 2
    return torch.where(size > 2 * 3**-0.75 * root * fourth, v.sign() * t * t * t, 0).to(v.dtype)


PROXIMAL: dict[str, Proximal] = {"linf": lower, "l2": shorter, "l1": soft, "l0": two_thirds}


def in_metric(proximal: Proximal, v: Tensor, weight: Tensor, metric: Tensor) -> Tensor:
    """The operator in a diagonal metric of at most one, by the plain one, repeated (Melchior et al., 2019).

    Five times, or until a row moves by less than a hundredth, as the paper has it. To the very end would be worse:
    coordinates that Adam divides by next to nothing would all go back to zero.
    """
    near, moving = v, torch.ones_like(weight, dtype=torch.bool)
    for _ in range(5):
        after = torch.where(moving, proximal(near - metric * (near - v), weight), near)
        moving = (after - near).square().sum(1, keepdim=True) > 1e-4 * after.square().sum(1, keepdim=True)
        near = after
    return near


def softplus_margin(outputs: Tensor, goal: Goal) -> Tensor:
    """`-log(1 + exp(-margin))`: the hinge, rounded off."""
    return functional.logsigmoid(margin(outputs, goal))


@dataclass(frozen=True, kw_only=True)
class PDPGD:
    """Descend on `weight |z - x| - loss`; the weight rises while the goal is reached, and falls while it is not.

    Matyasko and Chau (2021), algorithm 2: Adam on the loss, then the norm's proximal operator in Adam's
    metric; the weight is a ratio of two dual variables that sum to one, averaged over steps. Returns the nearest
    success, whatever its size: `threat.eps` is not looked at. Costs `steps` forward and backward passes.

    The paper's constants are for 500 steps. Runs of less than 200 walk as far as those on the dual side, in longer
    strides, or they would end before the weight matters.
    """

    threat: Ball
    proximal: Proximal
    steps: int = 500
    rate: float = 0.1
    dual_rate: float = 0.1
    memory: float = 0.9

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The nearest success, or `x` where there was none, `(B, *shape)`."""
        threat, width, optimiser = self.threat, self.threat.width, adam()
        stride = max(200 / self.steps, 1.0)
        search = Nearest(model, x, goal, threat, softplus_margin)
        x = z = x.detach()
        state = optimiser.init(x)
        odds = torch.full((len(x),), math.log(100.0), device=x.device, dtype=x.dtype)  # of the loss against the norm
        share = torch.sigmoid(odds)
        for i in search.steps(self.steps):
            gradient, _, reached, x, z, state, odds, share = search.climb(z, x, z, state, odds, share)
            rate = self.rate * 0.01 ** (i / self.steps)
            move, state = optimiser.update(gradient * width, state, i)
            metric = optimiser.metric(state, i)
            delta = (z + rate * width * move).clamp(threat.low, threat.high) - x
            most = metric.flatten(1).amax(1, keepdim=True)
            weight = (1 - share).unsqueeze(1) / share.unsqueeze(1) * rate / most
            near = in_metric(self.proximal, delta.flatten(1) / width, weight, metric.flatten(1) / most)
            z = x + near.view_as(x) * width
            z = z.clamp(threat.low, threat.high)
            dual_rate = stride * self.dual_rate * (1 - 0.9 * i / self.steps)
            odds = odds + torch.where(reached, -dual_rate, dual_rate).to(x.dtype)
            odds = odds.clamp(-math.log(1e6), math.log(1e6))
            memory = self.memory**stride
            share = memory * share + (1 - memory) * torch.sigmoid(odds)
        return search.best


@register(
    "attacks",
    "pdpgd",
    aims="smallest perturbation",
    family="minimum norm",
    passes="steps + steps",
    paper="Matyasko and Chau, 2021",
)
def pdpgd(threat: Ball, *, steps: int = 500) -> PDPGD:
    """The smallest change by its Lagrangian: gradient steps, proximal steps, and a weight that learns.

    Matyasko and Chau (2021); for L0 with the proximal operator of `sum |u_i|^(2/3)`, as they do.
    """
    return PDPGD(threat=threat, proximal=PROXIMAL[threat.norm.name], steps=steps)
