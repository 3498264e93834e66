"""Training under Gaussian noise, for models that are smoothed afterwards (`sparring.certify.smoothing`).

Noise belongs to the row, and is not clipped to the box: the smoothed model will see it so. `sigma` is the one that the
model is to be certified with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.goals import Never
from sparring.limits import not_negative, one_or_more, positive
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.contract import Searching
from sparring.training.objectives.inner import inner_pgd
from sparring.training.objectives.minmax import Maximiser, searched
from sparring.views import log_mean


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """Be right under noise: `E L(f(x + sigma n), y)` (Cohen et al., 2019, section 3.3)."""

    sigma: float = 0.25

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The cross-entropy there."""
        (z,) = noisy(x, self.sigma, 1, rng)
        return functional.cross_entropy(network(z), labels)


@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Searching):
    """Be right under noise at the worst input: `E L(f(z + sigma n_i), y)`, z the worst for the mean over the noise.

    Salman et al. (2019): the attack climbs `-log 1/m sum_i p_y(z + sigma n_i)`, on the `draws` samples of noise that
    the loss takes. It ends inside the threat that training names, in L2 for what smoothing certifies.
    """

    threat: Ball
    attack: Maximiser
    sigma: float = 0.25
    draws: int = 2

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The mean of the cross-entropies at what the attack finds now."""

        def soft(z: Tensor) -> Tensor:
            return log_mean([network(one).log_softmax(1) for one in noisy(z, self.sigma, self.draws, rng)])

        attack = self.attack(self.threat.times(strength))
        z = searched(attack, network, x, Never(labels), rng, view=soft)
        parts = noisy(z, self.sigma, self.draws, rng)
        return lambda: torch.stack([functional.cross_entropy(network(one), labels) for one in parts]).mean()


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """Be right under noise, and say the same whatever the noise: `+ weight E KL(p || p_i) + doubt H(p)`.

    Jeong and Shin (2020), lambda and eta: `p` is the mean of the probabilities `p_i` under `draws` samples of noise,
    `H(p) = -<p, log p>` its entropy.
    """

    sigma: float = 0.25
    draws: int = 2
    weight: float = 10.0
    doubt: float = 0.5

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The mean of the cross-entropies, and the disagreement."""
        outputs = [network(z) for z in noisy(x, self.sigma, self.draws, rng)]
        right = torch.stack([functional.cross_entropy(one, labels) for one in outputs]).mean()
        logs = [one.log_softmax(1) for one in outputs]
        middle = log_mean(logs)
        mean = middle.exp()
        apart = (mean * (middle - torch.stack(logs))).sum(2).mean()
        entropy = -(mean * middle).sum(1).mean()
        return right + self.weight * apart + self.doubt * entropy


def noisy(x: Tensor, sigma: float, draws: int, rng: Streams) -> list[Tensor]:
    """`x + sigma n_i`, for each of the draws."""
    return [x + sigma * rng.at("noise").at(i).normal(*x.shape[1:], device=x.device).to(x.dtype) for i in range(draws)]


@register("objectives", "gaussian", family="smoothing", passes="1", paper="Cohen et al., 2019")
def gaussian(threat: Ball, *, sigma: float = 0.25) -> Gaussian:
    """Be right under Gaussian noise, to be smoothed afterwards (Cohen et al., 2019)."""
    positive(sigma=sigma)
    return Gaussian(sigma=sigma)


@register("objectives", "smooth-adv", family="smoothing", passes="m (k + 1)", paper="Salman et al., 2019")
def smooth_adv(threat: Ball, attack: Maximiser = inner_pgd, *, sigma: float = 0.25, draws: int = 2) -> SmoothAdv:
    """Be right under noise on the worst inputs of the smoothed model (Salman et al., 2019)."""
    positive(sigma=sigma)
    one_or_more(draws=draws)
    return SmoothAdv(threat=threat, attack=attack, sigma=sigma, draws=draws)


@register("objectives", "consistency", family="smoothing", passes="m", paper="Jeong and Shin, 2020")
def consistency(
    threat: Ball, *, sigma: float = 0.25, draws: int = 2, weight: float = 10.0, doubt: float = 0.5
) -> Consistency:
    """Be right under noise, and say the same whatever the noise (Jeong and Shin, 2020)."""
    not_negative(weight=weight, doubt=doubt)
    positive(sigma=sigma)
    one_or_more(draws=draws)
    return Consistency(sigma=sigma, draws=draws, weight=weight, doubt=doubt)
