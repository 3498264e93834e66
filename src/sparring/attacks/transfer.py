"""Attacks whose finds hold for other models too: gradients averaged over changed copies of the point.

Made on a surrogate, for a model that hands out no gradients. What transfers best is not what just crosses the
surrogate's boundary: hand over a goal that is never reached (`sparring.goals.Never`), and they climb to the end.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from sparring.attacks.pgd import mi_fgsm
from sparring.attacks.through import Through
from sparring.losses import cross_entropy
from sparring.registry import register
from sparring.search import Search, finite, forward, slope
from sparring.steps import ascent, chain, momentum, nesterov, scale
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model, Step
from sparring.views import RandomTransform, blurred, settled, shrink_each


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Climb a gradient that looks around: the point's own, moved towards the mean of those of changed copies.

    With `d` the mean gradient of the loss over the copies less that at the point, climb along the gradient at the
    point, plus `now` times `d`, plus `before` times the `d` of the step before. `copies` are random transforms, drawn
    anew at every step for every row. The best of the points themselves is kept, judged without any transform.
    Costs `steps` times one forward and backward pass and one of each for every copy.
    """

    threat: Ball
    step: Step
    copies: tuple[RandomTransform, ...]
    now: float = 0.0
    before: float = 0.0
    loss: Loss = cross_entropy
    steps: int = 10

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search, near = Search(model, x, goal, self.loss), self.threat.around(x)
        z, state, last = x, self.step.init(x), torch.zeros_like(x)
        for i in search.steps(self.steps):
            gradient, _, z, near, state, last, rng = search.climb(z, z, near, state, last, rng)
            if not len(z):
                break
            around = torch.zeros_like(z)
            for j, copy in enumerate(self.copies):
                around += self._gradient(model, z, search.goal, copy, rng.at(i).at(j)) / len(self.copies)
            apart = around - gradient
            move, state = self.step.update(gradient + self.now * apart + self.before * last, state, i)
            last = apart
            z = near(z + move)
        search.judge(z)
        return search.best

    def _gradient(self, model: Model, z: Tensor, goal: Goal, copy: RandomTransform, rng: Streams) -> Tensor:
        """The gradient in `z` of the loss at a copy of it."""
        point, outputs = forward(lambda z: model(copy(z, rng)), z)
        with torch.enable_grad():
            gradient = slope(self.loss(outputs, goal).sum(), point)
        return finite(gradient)


def _black(threat: Ball) -> float:
    """The value of a black pixel: the lower bound, or zero where there is none."""
    return threat.low if math.isfinite(threat.low) else 0.0


def faded(z: Tensor, rng: Streams, *, by: float, black: float) -> Tensor:
    """The image `by` times darker."""
    return black + (z - black) / by


def nearby(z: Tensor, rng: Streams, *, threat: Ball) -> Tensor:
    """A random point of the threat around `z`."""
    return z + (threat.sample(z.detach(), rng) - z.detach())


def clouds(x: Tensor, rng: Streams, *, low: float, width: float) -> Tensor:
    """A picture of nothing for each row: blotches of light and dark, from a grid of four by four random values."""
    coarse = low + width * rng.uniform(x.shape[1], 4, 4, device=x.device).to(x.dtype)
    return functional.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)


class Gallery:
    """Images to mix in, `(N, C, H, W)`: each row gets one by its own stream. Equal to another with the same images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.detach().cpu().clone()
        self.mark = hashlib.sha256(repr(images.shape).encode() + self.images.numpy().tobytes()).hexdigest()[:16]

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """One image for each row of `x`."""
        return self.images[rng.integers(len(self.images), 1).flatten().cpu()].to(x)

    def __eq__(self, other: object) -> bool:
        """The same images."""
        return isinstance(other, Gallery) and self.mark == other.mark

    def __hash__(self) -> int:
        return hash(self.mark)

    def __repr__(self) -> str:
        return f"Gallery({len(self.images)} images, {self.mark})"


def mixed(z: Tensor, rng: Streams, *, pool: RandomTransform, portion: float, by: float, black: float) -> Tensor:
    """The image with a portion of another on top, `by` times darker."""
    return faded(z + portion * (pool(z.detach(), rng) - black), rng, by=by, black=black)


def _momentum(threat: Ball, steps: int, decay: float) -> Step:
    """The step of MI-FGSM."""
    return chain(momentum(decay), ascent(threat.norm), scale(4 * threat.unit / steps))


_FACTS = {"norms": ("linf", "l2"), "family": "transfer"}


@register("attacks", "ti-fgsm", **_FACTS, shape="image", passes="steps + steps", paper="Dong et al., 2019")
def ti_fgsm(threat: Ball, *, steps: int = 10, decay: float = 1.0, size: int = 7) -> Through:
    """MI-FGSM on blurred gradients, as if the image were shifted every way (Dong et al., 2019).

    The paper's window of 15 is for images of 299 pixels.
    """
    return Through(view=settled(blurred, size=size), attack=mi_fgsm(threat, steps=steps, decay=decay))


@register("attacks", "di-fgsm", **_FACTS, shape="image", passes="2 steps + 2 steps", paper="Xie et al., 2019")
def di_fgsm(
    threat: Ball, *, steps: int = 10, decay: float = 1.0, share: float = 0.5, smallest: float = 0.9
) -> Transfer:
    """MI-FGSM on images of random size and place (Xie et al., 2019, M-DI2-FGSM).

    The paper throws a coin for each step, whether the image is changed; here both gradients count, with the coin's
    chances: the same on average, with less noise.
    """
    copies = (settled(shrink_each, smallest=smallest, black=_black(threat)),)
    return Transfer(threat=threat, step=_momentum(threat, steps, decay), copies=copies, now=share, steps=steps)


@register("attacks", "si-ni-fgsm", **_FACTS, passes="scales steps + scales steps", paper="Lin et al., 2020")
def si_ni_fgsm(threat: Ball, *, steps: int = 10, decay: float = 1.0, scales: int = 5) -> Transfer:
    """NI-FGSM on the mean loss of the image and ever darker ones, halved at each scale (Lin et al., 2020)."""
    copies = tuple(settled(faded, by=2.0**i, black=_black(threat)) for i in range(1, scales))
    step = nesterov(threat.norm, 4 * threat.unit / steps, decay)
    return Transfer(threat=threat, step=step, copies=copies, now=1 - 1 / scales, steps=steps)


@register("attacks", "vmi-fgsm", **_FACTS, passes="(1 + neighbours) (steps + steps)", paper="Wang and He, 2021")
def vmi_fgsm(threat: Ball, *, steps: int = 10, decay: float = 1.0, neighbours: int = 5, reach: float = 1.5) -> Transfer:
    """MI-FGSM corrected by how the gradients around the last point differed from its own (Wang and He, 2021).

    Neighbours are drawn within `reach` eps of the point, in the threat's norm, and may lie outside the box, as in the
    paper, whose code draws 20.
    """
    around = replace(threat, eps=reach * threat.eps, low=-math.inf, high=math.inf)
    copies = (settled(nearby, threat=around),) * neighbours
    return Transfer(threat=threat, step=_momentum(threat, steps, decay), copies=copies, before=1.0, steps=steps)


@register("attacks", "admix", **_FACTS, shape="image", passes="16 (steps + steps)", paper="Wang et al., 2021")
def admix(
    threat: Ball,
    *,
    steps: int = 10,
    decay: float = 1.0,
    scales: int = 5,
    mixes: int = 3,
    portion: float = 0.2,
    pool: RandomTransform | None = None,
) -> Transfer:
    """MI-FGSM on the image with a little of another on top, at several scales (Wang et al., 2021).

    `pool(x, rng)` gives each row an image to mix in: `Gallery(images)` draws from images of other classes, as the
    paper does. Without it they are clouds, random blotches drawn from the row's own stream, so that no row sees
    another: they show the model what it has not learnt from, where the paper's show it other classes. The image
    itself is one more copy, and every copy has its own mix. Costs `scales mixes + 1` passes a step.
    """
    black, count = _black(threat), scales * mixes
    pool = pool or settled(clouds, low=black, width=threat.width)
    copies = tuple(
        settled(mixed, pool=pool, portion=portion, by=2.0**i, black=black) for i in range(scales) for _ in range(mixes)
    )
    step = _momentum(threat, steps, decay)
    return Transfer(threat=threat, step=step, copies=copies, now=count / (count + 1), steps=steps)
