"""Bandits: gradients estimated from scores with priors over time and space (Ilyas et al., 2019)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.norms import L2, rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


def spread(tiles: Tensor, like: Tensor) -> Tensor:
    """Every tile `(B, C, h, w)` over its part of an image `(B, C, H, W)`."""
    down, across = (
        torch.arange(full, device=like.device) * few // full
        for few, full in zip(tiles.shape[2:], like.shape[2:], strict=True)
    )
    return tiles[:, :, down][:, :, :, across]


def free(latent: Tensor) -> Tensor:
    """The prior is the sum of the estimates: gradient ascent, for L2."""
    return latent


@dataclass(frozen=True, kw_only=True)
class Bandits:
    """Step along a prior, a running guess of the gradient that two scores a step improve (Ilyas et al., 2019).

    The prior `v` (time) is one value a tile (space), `tiles` to a side. Ask for the loss at `z` plus `reach` times the
    directions `v + explore u` and `v - explore u`, add what the difference says of `v` along the random `u`, then move
    `z` by `size` along `v` (algorithms 2 and 3). `prior` maps the running sum to `v`: the identity for L2, tanh for
    Linf (the paper's exponentiated gradients). Both looks are inside the threat, and are judged: a step costs two
    forward passes, not three. Images are `(B, C, H, W)`; any other input counts as an image of one row.
    """

    threat: Ball
    prior: Callable[[Tensor], Tensor]
    size: float
    rate: float
    explore: float
    reach: float
    tiles: int = 50
    loss: Loss = cross_entropy
    queries: int = 5000

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape, project, climb = x.shape[1:], self.threat.project, self.threat.norm.ascent
        x = x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)
        search = Search(lambda z: model(z.reshape(len(z), *shape)), x, goal, self.loss)
        latent = x.new_zeros(len(x), x.shape[1], *(min(self.tiles, side) for side in x.shape[2:]))
        n = latent.shape[1:].numel()
        _, z, x, latent, rng = search.judge(x, x, x, latent, rng)
        for i in search.steps((self.queries - 2) // 2):
            u = rng.at(i).normal(*latent.shape[1:], device=x.device).to(x.dtype) / n**0.5
            ahead, behind = (
                project(z + self.reach * self.threat.width * L2().steepest(spread(guess, x)), x)
                for guess in (self.prior(latent) + side * self.explore * u for side in (1, -1))
            )
            up, behind, u, z, x, latent, rng = search.judge(ahead, behind, u, z, x, latent, rng)
            down, up, u, z, x, latent, rng = search.judge(behind, up, u, z, x, latent, rng)
            latent = latent + self.rate * n / 7500 * rows((up - down) / self.reach, u) * u
            z = project(z + self.size * self.threat.unit * climb(spread(self.prior(latent), x)), x)
        search.judge(z)
        return search.best.view(-1, *shape)


_KINDS: dict[str, Callable[..., Bandits]] = {
    "linf": partial(Bandits, prior=torch.tanh, size=0.2, rate=100.0, explore=1.0, reach=0.1),
    "l2": partial(Bandits, prior=free, size=0.1, rate=0.1, explore=0.01, reach=0.01),
}
"""The paper's settings for each norm, the size of a step as a share of eps."""


@register(
    "attacks",
    "bandits",
    needs="scores",
    norms=("linf", "l2"),
    family="scores",
    passes="queries + 0",
    paper="Ilyas et al., 2019",
)
def bandits(threat: Ball, *, queries: int = 5000, tiles: int = 50) -> Bandits:
    """Ascent along a guess of the gradient that every pair of scores improves (Ilyas et al., 2019)."""
    if threat.norm.name not in _KINDS:
        raise BadInput(f"the bandits attack on {threat}", "linf or l2", "choose another attack: sparring list attacks")
    return _KINDS[threat.norm.name](threat=threat, tiles=tiles, queries=queries)
