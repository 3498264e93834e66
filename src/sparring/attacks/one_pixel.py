"""The one-pixel attack: differential evolution of a few pixels' places and colours (Su et al., 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparring.attacks.population import Population, image
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


def three(count: int, size: int, rng: Streams, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `count` children of every row, three different members of `size`, `(B, count)`."""
    a, b, c = (rng.at(name).integers(size - k, count, device=device) for k, name in enumerate("abc"))
    b = b + (b >= a)
    lesser, greater = torch.minimum(a, b), torch.maximum(a, b)
    c = c + (c >= lesser)
    return a, b, c + (c >= greater)


@dataclass(frozen=True, kw_only=True)
class OnePixel:
    """Differential evolution, `child = a + F (b - c)`; a child that is better than its parent takes its place.

    Su et al. (2019), section III.C: F is 0.5, a member is a place and a colour for every pixel, colours begin as
    `N(0.5, 0.5)` of the box. Places wrap around, colours stop at the box. As many pixels as `threat.eps` has room for
    with all their channels. Images `(B, C, H, W)`; any other input counts as an image of one row.

    Departures: the score is the margin, where the paper's is the probability of the label, which saturates; a child
    has one new pixel and its parent's others (for one pixel that is the paper's way), where differences between pixels
    that never met mean nothing; the members of a population have `pixels` pixels together, where the paper has as
    many members for five pixels as for one.

    Costs at most `queries` forward passes; rows stop as they reach the goal.
    """

    threat: Ball
    loss: Loss = margin
    queries: int = 10_000
    pixels: int = 200
    scale: float = 0.5

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape, x = x.shape, image(x)
        search = Population(lambda z: model(z.reshape(len(z), *shape[1:])), x, goal, self.loss)
        _, x, rng = search.judge(x, x, rng)
        channels, places = x.shape[1], x.shape[2] * x.shape[3]
        pixels = min(math.ceil(math.floor(self.threat.eps) / channels), places)
        size = max(self.pixels // max(pixels, 1), 8)
        genes = torch.cat(
            [
                rng.at("place").uniform(size, pixels, 2, device=x.device),
                0.5 + 0.5 * rng.at("colour").normal(size, pixels, channels, device=x.device),
            ],
            3,
        )
        genes = _kept(genes.to(x.dtype))
        generations = (self.queries - 1) // size - 1 if pixels else -1
        if generations >= 0:
            scores, genes, x, rng = search.judge_all(self._painted(genes, x), genes, x, rng)
        for i in search.steps(generations):
            a, b, c = three(size, size, rng.at(i), x.device)
            each = torch.arange(len(x), device=x.device).unsqueeze(1)
            mutants = _kept(genes[each, a] + self.scale * (genes[each, b] - genes[each, c]))
            changed = rng.at(i).at("pixel").integers(pixels, size, device=x.device)
            one = functional.one_hot(changed, pixels).bool().unsqueeze(3)
            children = torch.where(one, mutants, genes)
            found, children, scores, genes, x, rng = search.judge_all(
                self._painted(children, x), children, scores, genes, x, rng
            )
            better = found > scores
            scores = torch.where(better, found, scores)
            genes = torch.where(better[:, :, None, None], children, genes)
        return search.best.view(shape)

    def _painted(self, genes: Tensor, x: Tensor) -> Tensor:
        """The images that the members stand for, `(B, P, C, H, W)`."""
        height, width = x.shape[2:]
        down, across = ((genes[..., k] * size).long().clamp(max=size - 1) for k, size in enumerate((height, width)))
        place = (down * width + across).unsqueeze(2).expand(-1, -1, x.shape[1], -1)
        least, most = (
            bound.flatten(2).unsqueeze(1).expand(-1, genes.shape[1], -1, -1).gather(3, place)
            for bound in _bounds(x, self.threat)
        )
        colour = least + (most - least) * genes[..., 2:].transpose(2, 3)
        painted = x.flatten(2).unsqueeze(1).repeat(1, genes.shape[1], 1, 1)
        for k in range(place.shape[3]):  # one after the other: two may share a place
            painted.scatter_(3, place[..., k : k + 1], colour[..., k : k + 1])
        members = painted.view(*genes.shape[:2], *x.shape[1:])
        given = x.unsqueeze(1).expand_as(members)
        return self.threat.project(members.flatten(0, 1), given.flatten(0, 1)).view_as(members)


def _bounds(x: Tensor, threat: Ball) -> tuple[Tensor, Tensor]:
    """Between what every value may be: the box, or one unit around `x` on a side where there is none."""
    low = torch.full_like(x, threat.low) if math.isfinite(threat.low) else x - threat.width
    high = torch.full_like(x, threat.high) if math.isfinite(threat.high) else x + threat.width
    return low, high


def _kept(genes: Tensor) -> Tensor:
    """Places wrap around, colours stop at the edge."""
    return torch.cat([genes[..., :2] - genes[..., :2].floor(), genes[..., 2:].clamp(0, 1)], -1)


@register(
    "attacks",
    "one-pixel",
    needs="scores",
    norms=("l0",),
    family="evolutionary",
    passes="queries + 0",
    paper="Su et al., 2019",
)
def one_pixel(threat: Ball, *, queries: int = 10_000) -> OnePixel:
    """A few pixels, their places and colours bred by differential evolution, from scores alone (Su et al., 2019).

    With 40,000 queries and one pixel, the paper's population of 400 and 100 generations.
    """
    if threat.norm.name != "l0":
        raise BadInput(f"the one-pixel attack on {threat}", "l0", "choose another attack: sparring list attacks")
    return OnePixel(threat=threat, queries=queries, pixels=round(2 * math.sqrt(queries)))
