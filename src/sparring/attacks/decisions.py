"""What attacks on the decision alone share: counted questions, a first success, bisection, a vote on where to lean.

A row is asked about at most `queries` times. Rows share a batch, but each asks in its own turn, about its own points,
and the nearest success that any of its questions found is kept for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparring.attacks.simba import cosines
from sparring.norms import NORMS, divisor, rows
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

TRIES, DRAWS = 1000, 50
"""At how many points a first success is looked for, and how many of these are draws from the box."""

length = NORMS["l2"].size
"""The Euclidean length of every row, `(B,)`."""

unit = NORMS["l2"].steepest
"""Every row at length one."""


class Decisions:
    """What was asked of a model that shows its decision alone, and the nearest success of each row so far.

    `left` is how many questions each row may still ask, `(B,)`; a row that has none left is told "no", unasked.
    """

    def __init__(self, model: Model, x: Tensor, goal: Goal, threat: Ball, queries: int) -> None:
        self.model, self.x, self.goal, self.threat = model, x.detach(), goal, threat
        self.best = self.x.clone()
        self.nearest = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)
        self.left = torch.full((len(x),), queries, device=x.device)

    @property
    def open(self) -> Tensor:
        """The rows that may still ask, `(B,)` bool."""
        return self.left > 0

    def close(self, done: Tensor) -> None:
        """Let these rows, `(B,)` bool, ask no more."""
        self.left[done] = 0

    def rounds(self) -> Iterator[int]:
        """0, 1, ... while there are open rows."""
        i = 0
        while bool(self.open.any()):
            yield i
            i += 1

    def ask(self, z: Tensor, wanted: Tensor) -> Tensor:
        """Whether `z`, `(B, *shape)`, reaches the goal, `(B,)` bool: one question for each row that is wanted."""
        return self.poll(z.unsqueeze(1), wanted.long())[:, 0] > 0

    def poll(self, z: Tensor, counts: Tensor) -> Tensor:
        """Ask about the first `counts`, `(B,)`, of the points of each row, `(B, k, *shape)`, cut off at the box.

        +1 where the goal is reached, -1 where it is not, 0 where nothing was asked, `(B, k)`.
        """
        asked = torch.arange(z.shape[1], device=z.device) < torch.minimum(counts, self.left).unsqueeze(1)
        answers = torch.zeros_like(asked, dtype=z.dtype)
        row, place = asked.nonzero(as_tuple=True)
        if not len(row):
            return answers
        self.left -= asked.sum(1)
        points = z[row, place].clamp(self.threat.low, self.threat.high)
        with torch.no_grad():
            reached = self.goal[row].reached(self.model(points))
        answers[row, place] = torch.where(reached, 1.0, -1.0).to(z.dtype)
        self._keep(points[reached], row[reached], place[reached], z.shape[1])
        return answers

    def _keep(self, points: Tensor, row: Tensor, place: Tensor, most: int) -> None:
        """Remember the nearest of these successes of each row, where it is nearer than what was known."""
        distance = self.nearest.new_full((len(self.x), most), torch.inf)
        distance[row, place] = self.threat.distance(points, self.x[row])
        closest, which = distance.min(1)
        chosen = (closest < self.nearest)[row] & (which[row] == place)
        self.best[row[chosen]] = points[chosen]
        self.nearest = torch.minimum(self.nearest, closest)

    def start(self, rng: Streams) -> Tensor:
        """A success for every row, `(B, *shape)`: a uniform draw from the box, else a step from `x`, ever longer.

        Where `x` itself is one, or none is found in a thousand tries, it is `x`, and the row is closed.
        """
        low, high, width, shape = self.threat.low, self.threat.high, self.threat.width, self.x.shape[1:]
        least = low if math.isfinite(low) else self.x - width
        most = high if math.isfinite(high) else self.x + width
        self.close(self.ask(self.x, self.open))
        for i in range(TRIES):
            looking = self.open & self.nearest.isinf()
            if not bool(looking.any()):
                break
            if i < DRAWS:
                z = least + (most - least) * rng.at(i).uniform(*shape, device=self.x.device).to(self.x.dtype)
            else:
                stride = width * 2.0 ** min((i - DRAWS) // 10 - 4, 4)  # in the end so long that it leads to a corner
                z = self.x + stride * rng.at(i).normal(*shape, device=self.x.device).to(self.x.dtype)
            self.ask(z, looking)
        self.close(self.nearest.isinf())
        return self.best.clone()


def bisect(
    decisions: Decisions,
    point: Callable[[Tensor], Tensor],
    *,
    low: Tensor,
    high: Tensor,
    wanted: Tensor,
    tolerance: Tensor,
    stride: float = math.inf,
) -> Tensor:
    """Where success begins between parameters `low`, where it is not, and `high`, where it is; all are `(B,)`.

    Returns a success that is at most `tolerance` above a failure, as long as there are questions left. With a finite
    `stride`, counted in tolerances, it is expected near `high`: the search strides down from there, twice as far each
    time, and halves what remains from the first failure on.
    """
    leap = stride * tolerance
    while True:
        going = wanted & (high - low > tolerance) & decisions.open
        if not bool(going.any()):
            return high
        probe = torch.maximum((low + high) / 2, high - leap)
        reached = decisions.ask(point(probe), going)
        leap = torch.where(reached, 2 * leap, torch.inf)
        high, low = torch.where(going & reached, probe, high), torch.where(going & ~reached, probe, low)


def approach(decisions: Decisions, z: Tensor, share: float) -> Tensor:
    """The success nearest to `x`, within a share of the distance, on the way there from the success `z`.

    The way is the projection of `z` on ever smaller balls: a line for L2, a box that closes in for Linf.
    """
    threat, x = decisions.threat, decisions.x

    def point(size: Tensor) -> Tensor:
        return threat.norm.project(z, x, size, threat.low, threat.high)

    far = threat.distance(z, x)
    none = torch.zeros_like(far)
    size = bisect(decisions, point, low=none, high=far, wanted=decisions.open, tolerance=share * far)
    return torch.where(rows(size < far, z), point(size), z)


def lean(
    decisions: Decisions, z: Tensor, *, radius: Tensor, count: int, rng: Streams, frequencies: float = 1.0
) -> Tensor:
    """Which way success lies from `z`: a vote of `count` random points that are `radius`, `(B,)`, away, `(B, *shape)`.

    The sum of their directions, each with the sign of its answer, less the mean answer, which takes most of the noise
    away where answers are one-sided (Chen et al., 2020, equation 16). Directions are smooth, if not all frequencies
    are to be used.
    """
    shape, threat = z.shape[1:], decisions.threat
    chunk = min(max(2**18 // max(shape.numel(), 1), 1), 64)  # what is drawn at once, for any number of rows
    signed, plain = torch.zeros_like(z), torch.zeros_like(z)
    said, asked = torch.zeros_like(decisions.nearest), torch.zeros_like(decisions.nearest)
    for first in range(0, count, chunk):
        noise = rng.at(first).normal(min(chunk, count - first), *shape, device=z.device).to(z.dtype)
        steps = unit(smooth(noise.flatten(0, 1), frequencies)).view_as(noise) * rows(radius, noise)
        points = (z.unsqueeze(1) + steps).clamp(threat.low, threat.high)
        answers = decisions.poll(points, torch.full_like(decisions.left, points.shape[1]))
        way = (points - z.unsqueeze(1)) / divisor(rows(radius, noise))
        sign = answers.view(*answers.shape, *[1] * len(shape))
        signed, plain = signed + (sign * way).sum(1), plain + (sign.abs() * way).sum(1)
        said, asked = said + answers.sum(1), asked + answers.abs().sum(1)
    mean = said / asked.clamp(min=1)
    return signed - rows(torch.where(mean.abs() < 1, mean, 0.0), z) * plain


def smooth(noise: Tensor, frequencies: float) -> Tensor:
    """Gaussian noise with the lowest share of its frequencies alone, in each axis of images `(B, C, H, W)`.

    Anything else than an image is one row of numbers.
    """
    if frequencies >= 1:
        return noise  # the cosines would turn it, which is all the same to Gaussian noise
    if noise.dim() == 4:
        return _waves(_waves(noise, frequencies).mT, frequencies).mT
    return _waves(noise.flatten(1), frequencies).view_as(noise)


def _waves(weights: Tensor, share: float) -> Tensor:
    """Waves along the last axis, weighted. One by one: a matrix product rounds a row as its batch would have it."""
    size = weights.shape[-1]
    total = torch.zeros_like(weights)
    for k, wave in enumerate(cosines(size)[: max(round(share * size), 1)].to(weights)):
        total = total + weights[..., k : k + 1] * wave
    return total
