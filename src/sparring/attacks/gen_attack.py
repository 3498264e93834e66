"""GenAttack: a genetic algorithm whose mutations shrink where it stalls (Alzantot et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring import goals
from sparring.attacks.population import Population, grid, image, spread
from sparring.errors import BadInput
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


def log_odds(outputs: Tensor, goal: Goal) -> Tensor:
    """`log sum_{i != y} p_i - log p_y`, for a target the other way round (section 4.1)."""
    return goal.sign * goals.log_odds(outputs, goal.labels)


@dataclass(frozen=True, kw_only=True)
class GenAttack:
    """Breed changes: parents drawn by fitness, genes from either, some mutated; the fittest lives on.

    Alzantot et al. (2019), algorithm 1, with its adaptive parameters: the rate and the range of mutations fall by a
    tenth each time the fittest has not changed for `patience` generations. Parents are drawn by the softmax of their
    fitness over `temperature`, as in its code; the fittest is not asked about again. A change is made of `tiles` a side
    of one colour each, where the paper enlarges small noise for large pictures alone, and smoothly: a few thousand
    queries are too few for every pixel of a digit, too. Give more tiles than there are pixels to have one for each.

    Costs at most `queries` forward passes; rows stop as they reach the goal.
    """

    threat: Ball
    loss: Loss = log_odds
    queries: int = 10_000
    population: int = 6
    tiles: int = 8
    temperature: float = 0.3
    patience: int = 100
    least_rate: float = 0.05
    least_range: float = 0.15

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape, x = x.shape, image(x)
        search = Population(lambda z: model(z.reshape(len(z), *shape[1:])), x, goal, self.loss)
        _, x, rng = search.judge(x, x, rng)
        size = (x.shape[1], *grid(x, self.tiles))
        members = min(self.population, self.queries - 1)
        if members < 2:
            return search.best.view(shape)
        count = members - 1
        genes = 2 * rng.at("first").uniform(members, *size, device=x.device).to(x.dtype) - 1
        scores, genes, x, rng = search.judge_all(self._changed(genes, x), genes, x, rng)
        stalled = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        shrinks = torch.ones(len(x), dtype=x.dtype, device=x.device)
        for i in search.steps((self.queries - 1 - members) // count):
            now, each = rng.at(i), torch.arange(len(x), device=x.device).unsqueeze(1)
            chance = (scores / self.temperature).softmax(1)
            drawn = now.at("parents").uniform(2 * count, device=x.device).to(x.dtype)
            parents = (drawn.unsqueeze(2) > chance.cumsum(1).unsqueeze(1)).sum(2).clamp(max=count)
            one, two = parents[:, :count], parents[:, count:]
            share = chance.gather(1, one) / (chance.gather(1, one) + chance.gather(1, two))
            coin, luck, change = (
                now.at(name).uniform(count, *size, device=x.device).to(x.dtype)
                for name in ("crossover", "mutates", "mutation")
            )
            children = torch.where(coin < share[:, :, None, None, None], genes[each, one], genes[each, two])
            rate = rows((0.5 * shrinks).clamp(min=self.least_rate), children)  # section 4.6
            reach = rows((0.4 * shrinks).clamp(min=self.least_range), children)
            children = (children + (luck < rate) * reach * (2 * change - 1)).clamp(-1, 1)
            fittest = scores.argmax(1, keepdim=True)
            elite, top = genes[each, fittest], scores.gather(1, fittest)
            found, children, elite, top, stalled, shrinks, x, rng = search.judge_all(
                self._changed(children, x), children, elite, top, stalled, shrinks, x, rng
            )
            genes, scores = torch.cat([elite, children], 1), torch.cat([top, found], 1)
            stalled = torch.where(found.amax(1) > top.squeeze(1), 0, stalled + 1)
            plateau = stalled == self.patience
            shrinks, stalled = torch.where(plateau, 0.9 * shrinks, shrinks), stalled.masked_fill(plateau, 0)
        return search.best.view(shape)

    def _changed(self, genes: Tensor, x: Tensor) -> Tensor:
        """The inputs that the members stand for, `(B, P, C, H, W)`."""
        z = x.unsqueeze(1) + self.threat.eps * spread(genes, x)
        given = x.unsqueeze(1).expand_as(z)
        return self.threat.project(z.flatten(0, 1), given.flatten(0, 1)).view_as(z)


@register(
    "attacks",
    "gen-attack",
    needs="scores",
    norms=("linf",),
    family="evolutionary",
    passes="queries + 0",
    paper="Alzantot et al., 2019",
)
def gen_attack(threat: Ball, *, queries: int = 10_000, tiles: int = 8) -> GenAttack:
    """A genetic algorithm whose mutations shrink where it stalls, from scores alone (Alzantot et al., 2019)."""
    if threat.norm.name != "linf":
        raise BadInput(f"GenAttack on {threat}", "linf", "choose another attack: sparring list attacks")
    return GenAttack(threat=threat, queries=queries, tiles=tiles)
