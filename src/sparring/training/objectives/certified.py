"""Certified training: be right on all of a box of inputs, by bounds that are part of the loss.

    E  max_(z in S(x)) L(f(z), y)  <=  E L(u(x), y)  ->  min over theta

`u_k` bounds `z_k - z_y` from above, so `log sum_k exp u_k` bounds the cross-entropy of every input in the box. The
bounds grow in with the threat; while they do, Shi et al.'s regularisers (2021) keep them from exploding and ReLUs from
dying. Networks are best started from `sparring.networks.settled_weights`; `stretch` trains for more than is certified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput
from sparring.goals import Never
from sparring.limits import fractions, not_negative
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.contract import Searching
from sparring.training.objectives.boxes import Box, ranked, ranked_by_lines, unsettled
from sparring.training.objectives.inner import inner_pgd
from sparring.training.objectives.minmax import Maximiser, searched


@dataclass(frozen=True, kw_only=True)
class IBP:
    """Be right on the data, and on all of the box: `k L(f(x), y) + (1 - k) L(u(x), y)` (Gowal et al., 2018).

    `u` are bounds by intervals. k falls from 1 to `kappa` as the threat grows in; the paper's is 1/2, and 0 in later
    work. `warmup` weighs Shi et al.'s regularisers, less and less until the whole threat is in force. BatchNorm
    normalises by the statistics of `x`. Costs three passes.
    """

    threat: Ball
    kappa: float = 0.0
    warmup: float = 0.5

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        box = around(self.threat.times(strength), x)
        out: Box = network(box)
        loss = _mixed(1 - strength * (1 - self.kappa), out, labels, ranked(out, labels))
        return loss + _settling(self.warmup * (1 - strength), box, out)


@dataclass(frozen=True, kw_only=True)
class CROWNIBP:
    """IBP whose bounds are those of lines at first: `b u_CROWN + (1 - b) u_IBP` in the place of u (Zhang et al., 2020).

    Lines under and over every ReLU between the bounds of intervals, carried back from the logits. b falls from 1 to
    `beta` as the threat grows in; at 0 what is left is IBP, and costs no more. Until then a backward pass a class.
    """

    threat: Ball
    kappa: float = 0.0
    beta: float = 0.0
    warmup: float = 0.5

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        b, k = (1 - strength * (1 - last) for last in (self.beta, self.kappa))
        box = around(self.threat.times(strength), x, lines=b > 0)
        out: Box = network(box)
        bounds = ranked(out, labels)
        if b > 0:
            bounds = b * ranked_by_lines(out, box, labels) + (1 - b) * bounds
        loss = _mixed(k, out, labels, bounds)
        return loss + _settling(self.warmup * (1 - strength), box, out)


@dataclass(frozen=True, kw_only=True)
class SABR(Searching):
    """Be right on all of a small box around the worst input: `L(u(z, part eps), y)` (Müller et al., 2023).

    The attack looks within `(1 - part) eps`, so that the small box stays inside of the threat. Less regularisation
    than IBP, and bounds that only tighter certificates than intervals can use. Without the shrinking of ReLUs that the
    paper adds for the smallest threats.
    """

    threat: Ball
    attack: Maximiser
    part: float = 0.6
    warmup: float = 0.5

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The loss of the small box around what the attack finds now."""
        threat = self.threat.times(strength)
        z = searched(self.attack(threat.times(1 - self.part)), network, x, Never(labels), rng)

        def loss() -> Tensor:
            box = around(threat.times(self.part), z)
            out: Box = network(box)
            return worst(ranked(out, labels)) + _settling(self.warmup * (1 - strength), box, out)

        return loss


@dataclass(frozen=True, kw_only=True)
class MTLIBP(Searching):
    """Adversarial training and IBP side by side: `(1 - a) L(f(z), y) + a L(u(x), y)` (De Palma et al., 2024).

    z is the attack's; `alpha` trades clean accuracy against certificates. BatchNorm normalises by the statistics of z.
    """

    threat: Ball
    attack: Maximiser
    alpha: float = 0.1
    warmup: float = 0.5

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The loss at what the attack finds now, and of the box."""
        threat = self.threat.times(strength)
        z = searched(self.attack(threat), network, x, Never(labels), rng)

        def loss() -> Tensor:
            box = around(threat, x, point=z)
            out: Box = network(box)
            attacked, certified = functional.cross_entropy(out.point, labels), worst(ranked(out, labels))
            mixed = (1 - self.alpha) * attacked + self.alpha * certified
            return mixed + _settling(self.warmup * (1 - strength), box, out)

        return loss


def around(threat: Ball, x: Tensor, *, point: Tensor | None = None, lines: bool = False) -> Box:
    """The box of all inputs within the threat; `point` goes through the network with it, `x` itself unless given."""
    low, high = (x - threat.eps).clamp(min=threat.low), (x + threat.eps).clamp(max=threat.high)
    box = Box.of(x if point is None else point, low, high)
    if lines:
        box.line = x.detach().clone().requires_grad_()
        box.walk.slack = x.new_zeros(len(x)).requires_grad_()
    return box


def worst(bounds: Tensor) -> Tensor:
    """The cross-entropy of logits that reach all bounds of `z_k - z_y` at once."""
    return bounds.logsumexp(1).mean()


def _mixed(k: float, out: Box, labels: Tensor, bounds: Tensor) -> Tensor:
    """`k L(f(x), y) + (1 - k) L(u(x), y)`, without a backward pass for what does not count."""
    if not k:
        return worst(bounds)
    return k * functional.cross_entropy(out.point, labels) + (1 - k) * worst(bounds)


def _settling(weight: float, box: Box, out: Box) -> Tensor | float:
    return weight * unsettled(box, out) if weight else 0.0


def _boxed(threat: Ball) -> Ball:
    """The threat, where it is a box.

    Raises:
        BadInput: it is not.
    """
    if threat.norm.name != "linf":
        raise BadInput(f"certified training within {threat.norm.name}", "an linf threat", "write for example linf:0.1")
    return threat


@register("objectives", "ibp", family="certified", norms=("linf",), passes="3", paper="Gowal et al., 2018")
def ibp(threat: Ball, *, kappa: float = 0.0, warmup: float = 0.5) -> IBP:
    """Be right on the whole box, by bounds of intervals (Gowal et al., 2018; Shi et al., 2021).

    The paper trains for a larger threat than it certifies, 0.4 for 0.3 on MNIST: `stretch` in a recipe.
    """
    fractions(kappa=kappa)
    not_negative(warmup=warmup)
    return IBP(threat=_boxed(threat), kappa=kappa, warmup=warmup)


@register("objectives", "crown-ibp", family="certified", norms=("linf",), passes="3 + K", paper="Zhang et al., 2020")
def crown_ibp(threat: Ball, *, kappa: float = 0.0, beta: float = 0.0, warmup: float = 0.5) -> CROWNIBP:
    """Be right on the whole box, by bounds of lines that give way to intervals (Zhang et al., 2020)."""
    fractions(kappa=kappa, beta=beta)
    not_negative(warmup=warmup)
    return CROWNIBP(threat=_boxed(threat), kappa=kappa, beta=beta, warmup=warmup)


@register("objectives", "sabr", family="certified", norms=("linf",), passes="k + 3", paper="Müller et al., 2023")
def sabr(threat: Ball, attack: Maximiser = inner_pgd, *, part: float = 0.6, warmup: float = 0.5) -> SABR:
    """Be right on a small box around the worst inputs that an attack finds (Müller et al., 2023)."""
    fractions(part=part)
    not_negative(warmup=warmup)
    return SABR(threat=_boxed(threat), attack=attack, part=part, warmup=warmup)


@register("objectives", "mtl-ibp", family="certified", norms=("linf",), passes="k + 3", paper="De Palma et al., 2024")
def mtl_ibp(threat: Ball, attack: Maximiser = inner_pgd, *, alpha: float = 0.1, warmup: float = 0.5) -> MTLIBP:
    """Be right on the worst inputs that an attack finds, and a little on the whole box (De Palma et al., 2024)."""
    fractions(alpha=alpha)
    not_negative(warmup=warmup)
    return MTLIBP(threat=_boxed(threat), attack=attack, alpha=alpha, warmup=warmup)
