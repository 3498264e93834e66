"""CMA-ES: evolution that learns how far each coordinate should vary, of changes made of tiles (Hansen, 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.population import Population, grid, image, spread
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.norms import NORMS, rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model

Reading = Callable[[Tensor, Tensor, Ball], Tensor]
"""The inputs that points of the search stand for: from full-sized changes, `x` and the threat, all `(N, C, H, W)`."""


def squashed(change: Tensor, x: Tensor, threat: Ball) -> Tensor:
    """The tanh of the change, in units of eps: for Linf.

    Cut off at the ball instead, a coordinate that went too far would see nothing that calls it back.
    """
    return threat.project(x + threat.eps * torch.tanh(change), x)


def stretched(change: Tensor, x: Tensor, threat: Ball) -> Tensor:
    """The direction of the change, as far as the ball and the box allow: for L2."""
    return threat.project(x + 10 * threat.eps * threat.norm.steepest(change), x)


@dataclass(frozen=True)
class Rates:
    """The constants of CMA-ES for `d` coordinates (Hansen, 2016, table 1), the covariance's for a diagonal one.

    A diagonal has fewer entries to learn, so it learns them `(d + 2) / 3` times as fast (Ros and Hansen, 2008).
    """

    weights: tuple[float, ...]
    mass: float
    path: float
    damping: float
    covariance_path: float
    rank_one: float
    rank_mu: float
    length: float

    @classmethod
    def of(cls, d: int, population: int) -> Rates:
        """For this many coordinates and members."""
        half = population // 2
        raw = [math.log((population + 1) / 2) - math.log(i + 1) for i in range(half)]
        weights = tuple(w / sum(raw) for w in raw)
        mass = 1 / sum(w * w for w in weights)
        path = (mass + 2) / (d + mass + 5)
        rank_one = 2 / ((d + 1.3) ** 2 + mass) * (d + 2) / 3
        rank_mu = 2 * (mass - 2 + 1 / mass) / ((d + 2) ** 2 + mass) * (d + 2) / 3
        return cls(
            weights=weights,
            mass=mass,
            path=path,
            damping=1 + 2 * max(0.0, math.sqrt((mass - 1) / (d + 1)) - 1) + path,
            covariance_path=(4 + mass / d) / (d + 4 + 2 * mass / d),
            rank_one=min(1.0, rank_one),
            rank_mu=min(1 - min(1.0, rank_one), rank_mu),
            length=math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d)),
        )


@dataclass(frozen=True, kw_only=True)
class CMAES:
    """Sample around a mean, move it to the better half, and learn the scale of each coordinate and of all.

    Hansen (2016) with the diagonal covariance of Ros and Hansen (2008), so that rows need no factorisation. The search
    is over `tiles` a side of one colour each, in units of eps; `read` turns its points into inputs. Images
    `(B, C, H, W)`; any other input is cut into `tiles^2` pieces. Costs at most `queries` forward passes; rows stop as
    they reach the goal.
    """

    threat: Ball
    read: Reading
    loss: Loss = margin
    queries: int = 5000
    tiles: int = 8
    sigma: float = 0.5

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape, x = x.shape, image(x)
        size = (x.shape[1], *grid(x, self.tiles))
        d = math.prod(size)
        population = 4 + int(3 * math.log(d))
        use = Rates.of(d, population)
        weights = x.new_tensor(use.weights)[:, None, None, None]
        search = Population(lambda z: model(z.reshape(len(z), *shape[1:])), x, goal, self.loss)
        _, x, rng = search.judge(x, x, rng)
        mean, spreads = x.new_zeros(len(x), *size), x.new_ones(len(x), *size)
        path, long_path, sigma = mean, mean, x.new_full((len(x),), self.sigma)
        for i in search.steps((self.queries - 1) // population):
            draws = rng.at(i).normal(population, *size, device=x.device).to(x.dtype)
            steps = draws * spreads.sqrt().unsqueeze(1)
            members = self._read(mean.unsqueeze(1) + rows(sigma, steps) * steps, x)
            state = (draws, steps, mean, spreads, path, long_path, sigma, x, rng)
            scores, draws, steps, mean, spreads, path, long_path, sigma, x, rng = search.judge_all(members, *state)
            better = scores.argsort(dim=1, descending=True, stable=True)[:, : len(use.weights)]
            each = torch.arange(len(x), device=x.device).unsqueeze(1)
            draws, steps = draws[each, better], steps[each, better]
            move, white = (weights * steps).sum(1), (weights * draws).sum(1)
            mean = mean + rows(sigma, mean) * move
            path = (1 - use.path) * path + math.sqrt(use.path * (2 - use.path) * use.mass) * white
            length = NORMS["l2"].size(path)
            normal = length / math.sqrt(1 - (1 - use.path) ** (2 * (i + 1))) < (1.4 + 2 / (d + 1)) * use.length
            keeps = rows(normal.to(x.dtype), mean)  # the step grows too fast, otherwise
            rate = use.covariance_path
            long_path = (1 - rate) * long_path + keeps * math.sqrt(rate * (2 - rate) * use.mass) * move
            spreads = (
                (1 - use.rank_one - use.rank_mu + (1 - keeps) * use.rank_one * rate * (2 - rate)) * spreads
                + use.rank_one * long_path.square()
                + use.rank_mu * (weights * steps.square()).sum(1)
            )
            sigma = sigma * torch.exp(use.path / use.damping * (length / use.length - 1))
        return search.best.view(shape)

    def _read(self, points: Tensor, x: Tensor) -> Tensor:
        """The inputs that points of the search stand for, `(B, P, C, H, W)`."""
        change = spread(points, x)
        given = x.unsqueeze(1).expand_as(change)
        return self.read(change.flatten(0, 1), given.flatten(0, 1), self.threat).view_as(change)


_READINGS: dict[str, Reading] = {"linf": squashed, "l2": stretched}


@register(
    "attacks",
    "cma-es",
    needs="scores",
    norms=("linf", "l2"),
    family="evolutionary",
    passes="queries + 0",
    paper="Hansen, 2016",
)
def cma_es(threat: Ball, *, queries: int = 5000, tiles: int = 8) -> CMAES:
    """Changes made of tiles, by evolution that learns how far each should vary; from scores alone (Hansen, 2016)."""
    if threat.norm.name not in _READINGS:
        raise BadInput(f"CMA-ES on {threat}", "linf or l2", "choose another attack: sparring list attacks")
    return CMAES(threat=threat, read=_READINGS[threat.norm.name], queries=queries, tiles=tiles)
