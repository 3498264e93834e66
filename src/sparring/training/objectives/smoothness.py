"""Objectives that ask for smoothness beside accuracy: say of the neighbours what is said of the input itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.limits import fractions, not_negative
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.augmentations import shares
from sparring.training.contract import Objective, Searching, pinned
from sparring.training.objectives.inner import inner_pgd
from sparring.training.objectives.minmax import (
    Apart,
    Maximiser,
    MinMax,
    classes,
    divergence,
    said,
    slope,
    squares,
)


@dataclass(frozen=True, kw_only=True)
class TRADES(MinMax):
    """Be right on the data, and constant around it: `E L(f(x), y) + beta max_(z in S(x)) KL(f(x) || f(z))`.

    Zhang et al. (2019), equation 5, with `beta` for their 1 / lambda. The maximum is climbed from a random point of
    the ball, where the authors' code starts at a distance of 0.001.
    """

    threat: Ball
    attack: Maximiser
    beta: float = 6.0

    def goal(self, network: nn.Module, x: Tensor, labels: Tensor, rng: Streams) -> Apart:
        """To be told apart from `x`, by the divergence."""
        return Apart(said(network, x))

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """Accuracy on `x`, and `beta` times the divergence at `z`."""
        logits: Tensor = network(x)
        return functional.cross_entropy(logits, labels) + self.beta * divergence(logits, network(z)).mean()


@register(
    "objectives", "trades", threats=("snr",), family="smoothness", passes="k + 2, 1 forward", paper="Zhang et al., 2019"
)
def trades(threat: Ball, attack: Maximiser = inner_pgd, *, beta: float = 6.0) -> TRADES:
    """Trade accuracy on the data against constancy around it (Zhang et al., 2019)."""
    not_negative(beta=beta)
    return TRADES(threat=threat, attack=attack, beta=beta)


@dataclass(frozen=True, kw_only=True)
class SCORE(MinMax):
    """TRADES by squared distances: `E |p(x) - y|^2 + beta max_(z in S(x)) |p(z) - p(x)|^2` (Pang et al., 2022).

    A distance obeys the triangle inequality, so that the sum bounds the robust error against the data's own
    distribution, and accuracy need not pay for robustness. Labels are smoothed by `smoothing`, and what is below
    `least` of the second term is not asked for (the authors' code).
    """

    threat: Ball
    attack: Maximiser
    beta: float = 4.0
    smoothing: float = 0.1
    least: float = 0.0

    def goal(self, network: nn.Module, x: Tensor, labels: Tensor, rng: Streams) -> Apart:
        """To be told apart from `x`, by the squared distance."""
        return Apart(said(network, x), squares)

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The squared distance from the label at `x`, and `beta` times that between `x` and `z`."""
        logits: Tensor = network(x)
        truth = shares(labels, logits.shape[1])
        smooth = (1 - self.smoothing) * truth + self.smoothing * (1 - truth) / (logits.shape[1] - 1)
        right = (logits.softmax(1) - smooth).square().sum(1)
        return (right + self.beta * (squares(logits, network(z)) - self.least).relu()).mean()


@register(
    "objectives", "score", threats=("snr",), family="smoothness", passes="k + 2, 1 forward", paper="Pang et al., 2022"
)
def score(
    threat: Ball, attack: Maximiser = inner_pgd, *, beta: float = 4.0, smoothing: float = 0.1, least: float = 0.0
) -> SCORE:
    """TRADES by squared distances between probabilities (Pang et al., 2022)."""
    not_negative(beta=beta, least=least)
    fractions(smoothing=smoothing)
    return SCORE(threat=threat, attack=attack, beta=beta, smoothing=smoothing, least=least)


@dataclass(frozen=True, kw_only=True)
class MART(MinMax):
    """Be right on the worst inputs, and constant where the input itself is not understood yet (Wang et al., 2020).

    `E BCE(p(z), y) + weight KL(p(x) || p(z)) (1 - p_y(x))` with `BCE = -log p_y(z) - log (1 - max_(k != y) p_k(z))`
    (equations 9 and 11).
    """

    threat: Ball
    attack: Maximiser
    weight: float = 5.0

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The boosted cross-entropy at `z`, and the divergence where `x` is wrong."""
        clean: Tensor = network(x)
        attacked: Tensor = network(z)
        label = classes(labels).unsqueeze(1)
        others = attacked.softmax(1).scatter(1, label, 0.0).amax(1)
        unsure = 1 - clean.softmax(1).gather(1, label).squeeze(1)
        # 1e-4, as in the authors' code: a network that is sure of the wrong class has no logarithm
        boosted = functional.cross_entropy(attacked, labels) - (1.0001 - others).log().mean()
        return boosted + self.weight * (divergence(clean, attacked) * unsure).mean()


@register("objectives", "mart", threats=("snr",), family="smoothness", passes="k + 2", paper="Wang et al., 2020")
def mart(threat: Ball, attack: Maximiser = inner_pgd, *, weight: float = 5.0) -> MART:
    """Adversarial training that looks at which inputs are misclassified already (Wang et al., 2020)."""
    not_negative(weight=weight)
    return MART(threat=threat, attack=attack, weight=weight)


@dataclass(frozen=True, kw_only=True)
class VAT(MinMax):
    """Be right where there is a label, and constant everywhere: `E L(f(x), y) + weight E KL(p(x) || p(x + r))`.

    Virtual adversarial training (Miyato et al., 2019, equations 5 to 12): `r` points where the divergence is most
    curved, found by `turns` power iterations, `d <- steepest(grad KL(p(x) || p(x + probe eps d)))`: for L2 the paper's.
    Rows with labels below 0 are unlabelled. `p(x)` is taken as it is: only the neighbour is asked to follow.
    The paper's probe, 1e-6, is lost in the rounding of float32.
    """

    threat: Ball
    weight: float = 1.0
    turns: int = 1
    probe: float = 0.01

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The neighbour in the direction of the largest curvature."""
        threat, goal = self.threat.times(strength), Apart(said(network, x))
        direction = threat.norm.steepest(rng.normal(*x.shape[1:], device=x.device).to(x.dtype))
        for _ in range(self.turns):
            z = x + self.probe * threat.unit * direction
            direction = threat.norm.steepest(slope(network, z, goal.loss))
        return threat.project(x + threat.unit * direction, x)

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """Accuracy where there is a label, and the divergence at `z` everywhere."""
        logits = network(x)
        constant = self.weight * divergence(logits.detach(), network(z)).mean()
        known = labels >= 0 if labels.dim() == 1 else torch.ones(len(x), dtype=torch.bool, device=x.device)
        if not bool(known.any()):
            return constant
        return functional.cross_entropy(logits[known], labels[known]) + constant


@register("objectives", "vat", family="smoothness", norms=("linf", "l2"), passes="2 + 2", paper="Miyato et al., 2019")
def vat(threat: Ball, *, weight: float = 1.0, turns: int = 1) -> VAT:
    """Be constant around every input, with a label or without (Miyato et al., 2019); labels below 0 are none."""
    not_negative(weight=weight, turns=turns)
    return VAT(threat=threat, weight=weight, turns=turns)


@dataclass(frozen=True)
class Labelled(Searching):
    """Any objective, on the rows that have a label alone: those below 0 are none."""

    objective: Objective

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The objective there, at what it finds now; nothing to learn where there is no such row."""
        known = labels >= 0
        if not bool(known.any()):
            return lambda: 0 * network(x).sum()
        return pinned(self.objective, network, x[known], labels[known], strength, rng[known])
