"""Adversarial training: be right on the worst inputs of a threat, or of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput
from sparring.goals import Never
from sparring.limits import fractions, not_negative
from sparring.losses import cross_entropy
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball, parse
from sparring.training.augmentations import Mixup
from sparring.training.contract import Objective, Searching, pinned
from sparring.training.objectives.inner import inner_pgd, noisy, random_start
from sparring.training.objectives.minmax import Maximiser, MinMax, classes, said, searched, width
from sparring.views import settled


@dataclass(frozen=True, kw_only=True)
class Adversarial(MinMax):
    """Be right on the worst input of the threat: `E max_(z in S(x)) L(f(z), y)` (Madry et al., 2018, equation 2.1).

    `attack` makes the attack for a threat of any size, so that eps can grow from zero. It sees the network in
    inference mode, as an attacker will; the loss is taken in training mode. `smoothing` shares that much of every
    label among all classes in the loss.
    """

    threat: Ball
    attack: Maximiser
    smoothing: float = 0.0

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy there."""
        return functional.cross_entropy(network(z), labels, label_smoothing=self.smoothing)


@register(
    "objectives", "adversarial", threats=("snr",), family="adversarial", passes="k + 1", paper="Madry et al., 2018"
)
def adversarial(threat: Ball, attack: Maximiser = inner_pgd, *, smoothing: float = 0.0) -> Adversarial:
    """Be right on the worst inputs of the threat that an attack finds (Madry et al., 2018).

    Any attack of the registry will do, `partial(pgd, steps=10)` say. Costs its passes on top of those of the update.
    """
    fractions(smoothing=smoothing)
    return Adversarial(threat=threat, attack=attack, smoothing=smoothing)


@register("objectives", "fgsm-rs", threats=("snr",), family="adversarial", passes="1 + 1", paper="Wong et al., 2020")
def fgsm_rs(threat: Ball, *, alpha: float = 1.25, smoothing: float = 0.0) -> Adversarial:
    """Adversarial training by one long step from a random start (Wong et al., 2020).

    Cheap, and prone to catastrophic overfitting: watch the accuracy under PGD.
    """
    fractions(smoothing=smoothing)
    not_negative(alpha=alpha)
    return Adversarial(threat=threat, attack=settled(random_start, alpha=alpha), smoothing=smoothing)


@register("objectives", "n-fgsm", threats=("snr",), family="adversarial", passes="1 + 1", paper="de Jorge et al., 2022")
def n_fgsm(threat: Ball, *, noise: float = 2.0, alpha: float = 1.0, smoothing: float = 0.0) -> Adversarial:
    """Adversarial training by one step from strong noise, left outside the ball (de Jorge et al., 2022).

    As cheap as FGSM-RS, and without its catastrophic overfitting at the usual sizes.
    """
    fractions(smoothing=smoothing)
    not_negative(noise=noise, alpha=alpha)
    return Adversarial(threat=threat, attack=settled(noisy, noise=noise, alpha=alpha), smoothing=smoothing)


@dataclass(frozen=True, kw_only=True)
class TowardsOthers(Adversarial):
    """Be right on the inputs nearest to a class drawn at random: `E L(f(z), y)`, `z = argmin L(f(z), t)`.

    Kurakin et al. (2017) and Xie et al. (2019), for tasks of many classes: the most harmful class is often one that
    nobody would mind, and a random target makes for examples of many kinds. `t` is any class but the label's.
    """

    def goal(self, network: nn.Module, x: Tensor, labels: Tensor, rng: Streams) -> Never:
        """On the way to the targets."""
        others = width(network, x) - 1
        targets = (classes(labels) + 1 + rng.at("target").integers(others, device=x.device)) % (others + 1)
        return Never(targets, -1)


@register("objectives", "targeted", family="adversarial", passes="k + 1", paper="Kurakin et al., 2017")
def targeted(threat: Ball, attack: Maximiser = inner_pgd) -> TowardsOthers:
    """Be right on inputs that were pulled towards another class, drawn at random (Kurakin et al., 2017)."""
    return TowardsOthers(threat=threat, attack=attack)


@dataclass(frozen=True, kw_only=True)
class LogitPairing(MinMax):
    """Say the same of `x` and of its worst neighbour: `L(x)/2 + L(z)/2 + weight mean (f(x) - f(z))^2`.

    Kannan et al. (2018), section 3. A loss surface that is bumpy at x may hide behind the pairing (Engstrom et al.,
    2018): evaluate with random starts.
    """

    threat: Ball
    attack: Maximiser
    weight: float = 0.5

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The mean of both cross-entropies, and the distance of the logits."""
        clean: Tensor = network(x)
        attacked: Tensor = network(z)
        right = (functional.cross_entropy(clean, labels) + functional.cross_entropy(attacked, labels)) / 2
        return right + self.weight * (clean - attacked).square().mean()


@register("objectives", "alp", threats=("snr",), family="adversarial", passes="k + 2", paper="Kannan et al., 2018")
def alp(threat: Ball, attack: Maximiser = inner_pgd, *, weight: float = 0.5) -> LogitPairing:
    """Be right, and say the same, on inputs and on their worst neighbours (Kannan et al., 2018)."""
    not_negative(weight=weight)
    return LogitPairing(threat=threat, attack=attack, weight=weight)


@dataclass(frozen=True, kw_only=True)
class WorstOf(MinMax):
    """Be right on the worst input of several threats: `E max_i max_(z in S_i(x)) L(f(z), y)`.

    Tramèr and Boneh (2019), section 4.1, "max". One more forward pass a threat says which was the worst for each row.
    """

    threats: tuple[Ball, ...]
    attack: Maximiser

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """For each row the worst that the attack finds in any of the threats."""
        goal = Never(labels)
        found = [
            searched(self.attack(threat.times(strength)), network, x, goal, rng.at(i))
            for i, threat in enumerate(self.threats)
        ]
        harm = torch.stack([cross_entropy(said(network, z), goal) for z in found])
        return torch.stack(found)[harm.argmax(0), torch.arange(len(x), device=x.device)]

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy there."""
        return functional.cross_entropy(network(z), labels)


@dataclass(frozen=True)
class Average(Searching):
    """The mean of several objectives. Costs what they cost."""

    objectives: tuple[Objective, ...]

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """Their mean, each at what it finds now."""
        losses = [pinned(one, network, x, labels, strength, rng.at(i)) for i, one in enumerate(self.objectives)]
        return lambda: torch.stack([loss() for loss in losses]).mean()


Threats = Sequence[Ball | str]


def _balls(threat: Ball, others: Threats) -> tuple[Ball, ...]:
    """The first threat, and the others, which names of `sparring.threats.parse` may stand for, in the same box."""
    balls = [parse(other, low=threat.low, high=threat.high) if isinstance(other, str) else other for other in others]
    for ball in balls:
        if not isinstance(ball, Ball):
            raise BadInput(f"a threat of {type(ball).__name__}", "balls of a norm", "write for example l2:2")
    return threat, *(ball for ball in balls if isinstance(ball, Ball))


@register("objectives", "multi-max", family="adversarial", passes="n (k + 1) + 1", paper="Tramèr and Boneh, 2019")
def multi_max(threat: Ball, attack: Maximiser = inner_pgd, *, others: Threats = ()) -> WorstOf:
    """Be right on the worst input of several threats, such as `others = ["l2:2"]` (Tramèr and Boneh, 2019, "max")."""
    return WorstOf(threats=_balls(threat, others), attack=attack)


@register("objectives", "multi-average", family="adversarial", passes="n (k + 1)", paper="Tramèr and Boneh, 2019")
def multi_average(threat: Ball, attack: Maximiser = inner_pgd, *, others: Threats = ()) -> Average:
    """Be right, on average, on the worst inputs of each of several threats (Tramèr and Boneh, 2019, "avg")."""
    return Average(tuple(Adversarial(threat=ball, attack=attack) for ball in _balls(threat, others)))


@register("objectives", "mixup", threats=("snr",), family="adversarial", passes="k + 1", paper="Zhang et al., 2018")
def mixup(threat: Ball, attack: Maximiser = inner_pgd, *, classes: int = 10, alpha: float = 0.2) -> Mixup:
    """Adversarial training on mixtures of two examples (Zhang et al., 2018); `Mixup` does it to any objective."""
    return Mixup(adversarial(threat, attack), classes, alpha)
