"""Adversarial patches: a square that may look like anything (Brown et al., 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.universal import Learned, batches, slopes
from sparring.domains.images.patches import likely_places, side_of
from sparring.domains.images.warps import lattice, read
from sparring.domains.images.windows import Window
from sparring.losses import cross_entropy, margin
from sparring.norms import NORMS, rows
from sparring.registry import register
from sparring.search import Search
from sparring.steps import ascent, chain, cosine
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Goal, Loss, Model, Step

Put = Callable[[Tensor, Tensor, Streams], Tensor]
"""A patch, the numbers of some rows and their streams, to the images of these with it: differentiable in the patch."""


def promise(x: Tensor, gradient: Tensor, threat: Ball) -> Tensor:
    """What each coordinate can do for the linearised loss, `(B, *shape)`."""
    return gradient.abs() * torch.where(gradient > 0, threat.high - x, x - threat.low)


@dataclass(frozen=True, kw_only=True)
class BestPatch:
    """A patch of its own for every image, at the most promising of its places.

    The place that the gradient at the image likes best, and up to `looked_at` others all over the image, half a side
    apart or closer, are tried with the patch that it asks for; the best `places` are climbed at. Costs a forward and a
    backward pass, a forward pass for every place that is looked at, then `steps` of each and one forward pass for every
    place that is climbed at, on the rows that still stand.
    """

    threat: Ball
    step: Step
    loss: Loss = margin
    steps: int = 5
    places: int = 20
    looked_at: int = 400

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best image seen, `(B, C, H, W)`."""
        side, search = side_of(self.threat.eps, x), Search(model, x, goal, self.loss)
        if not side:
            return search.best
        slope, _, x = search.climb(x, x)
        places = likely_places(promise(x, slope, self.threat), side, self.looked_at)
        scores = x.new_empty(len(x), 0)
        for t in search.steps(places.shape[1]):
            z = self._painted(x, x, self._inside(x, places[:, t], side), torch.inf * slope.sign())
            score, x, slope, places, scores = search.judge(z, x, slope, places, scores)
            scores = torch.cat([scores, score.unsqueeze(1)], 1)
        places = places.gather(1, scores.topk(min(self.places, scores.shape[1]), 1).indices)
        for t in search.steps(places.shape[1]):
            inside = self._inside(x, places[:, t], side)
            z, state = self._painted(x, x, inside, torch.inf * slope.sign()), self.step.init(x)
            for i in search.steps(self.steps):
                gradient, _, x, slope, places, inside, z, state = search.climb(z, x, slope, places, inside, z, state)
                move, state = self.step.update(gradient, state, i)
                z = self._painted(x, z, inside, move)
            _, x, slope, places = search.judge(z, x, slope, places)
        return search.best

    def _inside(self, x: Tensor, place: Tensor, side: int) -> Tensor:
        """The pixels of the patch, `(B, 1, H, W)` bool."""
        return Window.of(place, side, x).place(x)[2]

    def _painted(self, x: Tensor, z: Tensor, inside: Tensor, move: Tensor) -> Tensor:
        """The patch after a move; `x` around it."""
        moved = (z + move).clamp(self.threat.low, self.threat.high)
        return moved.where(inside & (move != 0), z.where(inside, x))


@dataclass(frozen=True, eq=False)
class Sticker:
    """Puts the same round patch onto every image, `(1, C, side, side)`: anywhere, turned by up to `degrees`."""

    threat: Ball
    patch: Tensor
    degrees: float

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The images with the patch; differentiable in the patch."""
        side = self.patch.shape[2]
        turn = self.degrees * (2 * rng.at("turn").uniform(1, device=x.device).flatten().double() - 1)
        cosine, sine = (rows(part, x[:, 0]) for part in (turn.deg2rad().cos(), turn.deg2rad().sin()))
        free = [max(size - side, 0) + 1 for size in x.shape[2:]]
        first = [rng.at(axis).integers(count, 1, device=x.device).flatten() for axis, count in enumerate(free)]
        middle = (side - 1) / 2
        i, j = (each - rows(start, x[:, 0]) - middle for each, start in zip(lattice(x), first, strict=True))
        down, across = cosine * i - sine * j, sine * i + cosine * j
        patch = self.patch.to(x).expand(len(x), -1, -1, -1)
        shown = read(patch, (down + middle).clamp(0, side - 1), (across + middle).clamp(0, side - 1))
        disc = (i.square() + j.square() <= (side / 2) ** 2).unsqueeze(1)
        return torch.where(disc, shown, x).clamp(self.threat.low, self.threat.high)


@dataclass(frozen=True, kw_only=True)
class UniversalPatch:
    """One round patch for all images, learned over random places and turns (Brown et al., 2017, with EOT).

    Learning costs a forward and a backward pass for each of `batch` examples in each of `steps` steps; an attack puts
    the patch onto `draws` places.
    """

    threat: Ball
    step: Step
    loss: Loss = cross_entropy
    most: float = 9.0
    steps: int = 200
    batch: int = 100
    degrees: float = 20.0
    draws: int = 10

    def fit(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Attack:
        """The patch learned from these examples."""
        side = side_of(self.threat.eps, x)
        patch = x.new_full((1, x.shape[1], side, side), (self.threat.low + self.threat.high) / 2)
        if not side:
            return Learned(self.threat, _unchanged, 0)

        def put(leaf: Tensor, some: Tensor, rng: Streams) -> Tensor:
            return Sticker(self.threat, leaf, self.degrees)(x[some], rng)

        patch = self.learn(patch, put, model, goal, rng)
        return Learned(self.threat, Sticker(self.threat, patch, self.degrees), self.draws)

    def learn(self, patch: Tensor, put: Put, model: Model, goal: Goal, rng: Streams) -> Tensor:
        """What becomes of a patch `(1, C, height, width)` that climbs wherever `put` puts it."""
        state = self.step.init(patch)
        for i, some in batches(rng, self.batch, self.steps):
            with torch.enable_grad():
                leaf = patch.detach().requires_grad_()
                z = put(leaf, some, rng[some].at(i))
            gradient = slopes(model, z.detach(), goal[some], self.loss, self.most)
            (uphill,) = torch.autograd.grad(z, leaf, gradient)
            move, state = self.step.update(uphill, state, i)
            patch = (patch + move).clamp(self.threat.low, self.threat.high)
        return patch

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """Learn from these images, and attack them, `(B, C, H, W)`."""
        return self.fit(model, x, goal, rng.at("learn"))(model, x, goal, rng.at("attack"))


def _unchanged(x: Tensor, rng: Streams) -> Tensor:
    return x


@register(
    "attacks",
    "patch",
    norms=(),
    threats=("patch",),
    shape="image",
    family="spatial",
    passes="looked_at + places (steps + steps)",
    paper="Brown et al., 2017",
)
def patch(threat: Ball, *, steps: int = 5, places: int = 20, looked_at: int = 400) -> BestPatch:
    """A patch for each image, climbed at the best of all places (after Brown et al., 2017)."""
    step = chain(ascent(NORMS["linf"]), cosine((threat.high - threat.low) / 4, steps))
    return BestPatch(threat=threat, step=step, steps=steps, places=places, looked_at=looked_at)


@register(
    "attacks",
    "universal-patch",
    norms=(),
    threats=("patch",),
    shape="image",
    amortised=True,
    family="generative",
    passes="draws + 0, once learned",
    paper="Brown et al., 2017",
)
def universal_patch(threat: Ball, *, steps: int = 200, draws: int = 10) -> UniversalPatch:
    """One patch for all images, that works anywhere and turned: what can be printed (Brown et al., 2017)."""
    step = chain(ascent(NORMS["linf"]), cosine((threat.high - threat.low) / 10, steps))
    return UniversalPatch(threat=threat, step=step, steps=steps, draws=draws)
