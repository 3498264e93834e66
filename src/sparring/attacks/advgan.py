"""AdvGAN: a network that turns an image into its adversarial example in one pass (Xiao et al., 2018)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.attacks.universal import Learned, batches, slopes
from sparring.losses import margin
from sparring.registry import register
from sparring.steps import adam
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model
from sparring.views import steady

Weights = tuple[Tensor, ...]

RESIDUALS = 4


def kernel(rng: Streams, to: int, of: int, gain: float = 2.0) -> Tensor:
    """A 3 by 3 convolution's weights, whose outputs keep the size of the inputs (He et al., 2015)."""
    return math.sqrt(gain / (9 * of)) * rng.normal(to, of, 3, 3)[0]


def _even(h: Tensor) -> Tensor:
    """Instance normalisation; torch's own name for it refuses images of one pixel."""
    return torch.group_norm(h, h.shape[1], eps=1e-5)


def convolved(h: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """A 3 by 3 convolution with a border of zeros."""
    return functional.conv2d(h, weight, stride=stride, padding=1)


def generator(channels: int, size: tuple[int, int], rng: Streams) -> Weights:
    """Fresh weights of a generator: 8, 16, 32 channels down, residual blocks, 16 and 8 up; last what all images get."""
    widths = [(8, channels), (16, 8), (32, 16), *[(32, 32)] * (2 * RESIDUALS), (16, 32), (8, 16)]
    kernels = [kernel(rng.at(i), *width) for i, width in enumerate(widths)]
    return *kernels, kernel(rng.at("last"), channels, 8, gain=0.01), torch.zeros(1, channels, *size)


def generated(weights: Weights, v: Tensor) -> Tensor:
    """A change for each image, `(B, C, H, W)` in [-1, 1]. Rows see each other nowhere."""
    first, down, further, *middle, up, out, last, same = weights
    h1 = _even(convolved(v, first)).relu()
    h2 = _even(convolved(h1, down, 2)).relu()
    h3 = _even(convolved(h2, further, 2)).relu()
    for one, other in zip(middle[::2], middle[1::2], strict=True):
        h3 = h3 + _even(convolved(_even(convolved(h3, one)).relu(), other))
    h = _even(convolved(functional.interpolate(h3, size=h2.shape[2:]), up)).relu()
    h = _even(convolved(functional.interpolate(h, size=h1.shape[2:]), out)).relu()
    return (convolved(h, last) + 4 * same).tanh()  # 4: the one weight of a pixel learns as fast as nine together


def critic(channels: int, rng: Streams) -> Weights:
    """Fresh weights of a discriminator: 8, 16, 32 channels, then one."""
    widths = [(8, channels), (16, 8), (32, 16), (1, 32)]
    return tuple(kernel(rng.at(i), *width) for i, width in enumerate(widths))


def criticised(weights: Weights, v: Tensor) -> Tensor:
    """How real an image looks, in log-odds, `(B,)`: the mean over its parts."""
    *kernels, last = weights
    for weight in kernels:
        v = functional.leaky_relu(convolved(v, weight, 2), 0.2)
    return convolved(v, last).flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class Generator:
    """Adds to every image what the network says, at most eps."""

    threat: Ball
    weights: Weights

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """One candidate for each image, inside the ball and the box."""
        weights = tuple(weight.to(x) for weight in self.weights)
        with torch.no_grad():
            change = steady(lambda v: generated(weights, v))(_centred(x, self.threat)) if len(x) else x
        return self.threat.project(x + self.threat.eps * change, x)


def _centred(x: Tensor, threat: Ball) -> Tensor:
    """The images in [-1, 1], or in units of one where the box has no bounds."""
    bounded = math.isfinite(threat.high - threat.low)
    middle = (threat.high + threat.low) / 2 if bounded else 0.0
    return (x - middle) / (threat.width / 2)


@dataclass(frozen=True, kw_only=True)
class AdvGAN:
    """Train a generator of changes against the model and against a discriminator (Xiao et al., 2018, equation 4).

    The generator climbs the loss, clipped at `most`, and is held to images that the discriminator takes for real, at a
    weight of `real`. It ends in `eps tanh`, which bounds the change: the paper's hinge on its size is not needed. One
    more weight a pixel lets it add what all images get. Learning costs a forward and a backward pass for each of
    `batch` images in each of `steps` steps.
    """

    threat: Ball
    loss: Loss = margin
    most: float = 10.0
    real: float = 0.01
    rate: float = 0.01
    steps: int = 200
    batch: int = 64

    def fit(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Learned:
        """The generator learned from these images."""
        own = Streams(rng.keys.sum().view(1))  # one stream for all rows, whatever their order
        weights = tuple(w.to(x) for w in generator(x.shape[1], (x.shape[2], x.shape[3]), own.at("generator")))
        judge = tuple(w.to(x) for w in critic(x.shape[1], own.at("critic")))
        learning, judging = _adam(weights, self.rate), _adam(judge, self.rate)
        for _, some in batches(rng, self.batch, self.steps):
            v = _centred(x[some], self.threat)
            with torch.enable_grad():
                change = self.threat.eps * generated(weights, v)
                z = self.threat.project(x[some] + change, x[some])
                fake = _centred(z, self.threat)
                judging((_doubt(-criticised(judge, fake.detach())) + _doubt(criticised(judge, v))).mean())
                gradient = slopes(model, z.detach(), goal[some], self.loss, self.most)
                gain = (gradient * change).flatten(1).sum(1) - self.real * _doubt(criticised(judge, fake))
                learning(-gain.mean())
        return Learned(self.threat, Generator(self.threat, tuple(weight.detach() for weight in weights)))

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """Learn from these images, and attack them, `(B, C, H, W)`."""
        return self.fit(model, x, goal, rng.at("learn"))(model, x, goal, rng.at("attack"))


def _doubt(odds: Tensor) -> Tensor:
    """`-log sigmoid`: what a critic loses who was to say that an image is real."""
    return functional.softplus(-odds)


def _adam(weights: Weights, rate: float) -> Callable[[Tensor], None]:
    """Adam's step down a loss (Kingma and Ba, 2015), on the gradients of these weights alone."""
    rule = adam(rate)
    states = [rule.init(weight) for weight in weights]
    for weight in weights:
        weight.requires_grad_()
    updates = itertools.count()

    def down(loss: Tensor) -> None:
        i = next(updates)
        for k, (weight, gradient) in enumerate(zip(weights, torch.autograd.grad(loss, weights), strict=True)):
            move, states[k] = rule.update(gradient, states[k], i)
            weight.detach().sub_(move)

    return down


@register(
    "attacks",
    "advgan",
    norms=("linf",),
    shape="image",
    amortised=True,
    family="generative",
    passes="1 + 0, once learned",
    paper="Xiao et al., 2018",
)
def advgan(threat: Ball, *, steps: int = 200) -> AdvGAN:
    """A network trained to turn any image into its adversarial example at once (Xiao et al., 2018)."""
    return AdvGAN(threat=threat, steps=steps)
