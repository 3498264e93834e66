"""A population of texts that mate and mutate (Alzantot et al., 2018): for models whose scores say little."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.word_beam import WORDS, worth
from sparring.domains.text.threats import Wording, together
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Goal, Model


@dataclass(frozen=True, kw_only=True)
class WordGenetic:
    """Children take each word from one of two parents, and get one more rewriting; the fittest half has children.

    A child with too many changes loses some at random. The paper tries all rewritings of the word that it mutates;
    here one is drawn, and more generations choose. The fittest always lives on. Costs `population` forward passes a
    generation.
    """

    threat: Wording
    population: int = 20
    generations: int = 50

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The fittest text of each row, or the first that reaches the goal, `(B, length)`."""
        with torch.no_grad():
            best, top = x.detach().clone(), worth(model, x, goal)
            open_ = (top < torch.inf).nonzero().flatten()
            draws = (self.threat.sample(x[open_], rng[open_].at(f"first {i}")) for i in range(self.population))
            people = torch.stack(list(draws), 1)
            for i in range(self.generations):
                if not len(open_):
                    break
                fitness = self._fitness(model, people, goal[open_])
                fittest = fitness.max(1)
                better = fittest.values > top[open_]
                rows = open_[better]
                best[rows], top[rows] = people[better, fittest.indices[better]], fittest.values[better]
                stay = (top[open_] < torch.inf).nonzero().flatten()
                open_ = open_[stay]
                people = self._children(people[stay], fitness[stay], x[open_], rng[open_].at(i))
        return best

    def _fitness(self, model: Model, people: Tensor, goal: Goal) -> Tensor:
        """What each is worth, `(B, population)`."""
        row = torch.arange(len(people), device=people.device).repeat_interleave(people.shape[1])
        return torch.cat([worth(model, z, goal[i]) for z, i in together(people.flatten(0, 1), row)]).view(
            people.shape[:2]
        )

    def _children(self, people: Tensor, fitness: Tensor, x: Tensor, rng: Streams) -> Tensor:
        """The fittest, and the children of the fitter half."""
        ranked = people.gather(1, fitness.argsort(dim=1, descending=True, stable=True).unsqueeze(2).expand_as(people))
        count, half = self.population - 1, max(self.population // 2, 1)
        parents = (rng.at(name).integers(half, count, device=x.device) for name in ("mother", "father"))
        mother, father = (ranked.gather(1, one.unsqueeze(2).expand(-1, -1, x.shape[1])) for one in parents)
        child = torch.where(rng.at("whose").uniform(count, x.shape[1], device=x.device) < 0.5, mother, father)
        return torch.cat([ranked[:, :1], self._mutated(child, x, rng.at("mutation"))], 1)

    def _mutated(self, child: Tensor, x: Tensor, rng: Streams) -> Tensor:
        """One more rewriting in each, at a random place, and no more changes than there may be."""
        count, length = child.shape[1:]
        choices = self.threat.norm.choices(x)
        fresh = choices != x.unsqueeze(2)
        place = (rng.at("place").uniform(count, length, device=x.device) - 2.0 * ~fresh.any(2).unsqueeze(1)).argmax(2)
        number = fresh.sum(2).gather(1, place)
        which = (rng.at("which").uniform(count, device=x.device) * number).long()
        word = choices.flatten(1).gather(1, place * choices.shape[2] + which).to(x.dtype)
        child = torch.where(number.unsqueeze(2) > 0, child.scatter(2, place.unsqueeze(2), word.unsqueeze(2)), child)
        base = x.unsqueeze(1)
        keys = rng.at("kept").uniform(count, length, device=x.device) + 2.0 * (child == base)
        keys = keys.scatter(2, place.unsqueeze(2), -1.0)  # what was just changed stays
        return torch.where(keys.argsort(2).argsort(2) < self.threat.eps, child, base)


@register(
    "attacks",
    "word-genetic",
    needs="scores",
    norms=(),
    threats=WORDS,
    family="words",
    passes="population * generations + 0",
    paper="Alzantot et al., 2018",
)
def word_genetic(threat: Wording, *, population: int = 20, generations: int = 50) -> WordGenetic:
    """A population of texts that mate and mutate: for scores that say little (Alzantot et al., 2018)."""
    return WordGenetic(threat=threat, population=population, generations=generations)
