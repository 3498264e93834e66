"""A genetic search that sees answers alone: words of plain requests are recombined while answers come nearer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from difflib import SequenceMatcher
from itertools import chain

import torch

from sparring.domains.chat.asking import REQUESTS
from sparring.domains.chat.assistant import Assistant
from sparring.domains.chat.cases import Case
from sparring.domains.chat.goals import Says, plain
from sparring.domains.chat.threats import Suffix
from sparring.streams import Streams

Words = tuple[str, ...]

SIGNS = ("\n", "\n\n", ".", ":", '"', "-", "#", "=", "!", "1.", "2.")
"""What stands between words."""


@dataclass(frozen=True)
class Genetic:
    """Breed texts from plain requests by the answers that they get (after Alzantot et al., 2018, and Liu et al., 2024).

    A text is as fit as its answer is near to what is wanted: the longest stretch that both have, and where it begins.
    Parents are drawn by rank, a child has the beginning of one and the end of the other, and then a word is left out,
    said twice, moved, or taken from the case. The fittest stays. Only answers are asked for.

    Costs `population` answers a step.
    """

    threat: Suffix
    _: KW_ONLY
    steps: int = 20
    population: int = 16

    @property
    def rounds(self) -> int:
        """One generation a step."""
        return self.steps

    def __call__(self, model: Assistant, x: Case, goal: Says, rng: Streams) -> str:
        """The fittest text."""

        def within(words: Words) -> bool:
            return self.threat.contains(" ".join(words), model)

        pool = (*goal.wanted.split(), *SIGNS, *chain(*(request.split() for request in REQUESTS)))
        pool = tuple(word for word in pool if word != "{wanted}")
        first = [tuple(request.replace("{wanted}", goal.wanted).split()) for request in REQUESTS]
        crowd = [words for words in first if within(words)] or [()]
        crowd += [mutated(crowd[i % len(crowd)], pool, rng.at("first").at(i)) for i in range(self.population)]
        crowd = [words for words in crowd if within(words)][: self.population] or [()]
        best: Words = crowd[0]
        for step in range(self.steps):
            answers = model.answers(x, [" ".join(words) for words in crowd])
            fit = torch.tensor([nearness(answer, goal) for answer in answers])
            order = fit.argsort(descending=True, stable=True).tolist()
            best = crowd[order[0]]
            if fit[order[0]] >= 1:
                break
            ranked = [crowd[i] for i in order]
            crowd = [best, *children(ranked, pool, self.population - 1, rng.at(step), within)]
        return " ".join(best)


def nearness(answer: str, goal: Says) -> float:
    """1 where the goal is reached; below it the share of the wanted words' letters that come in one stretch.

    A stretch that begins later in the answer is worth up to a tenth less.
    """
    if goal.reached(answer):
        return 1.0
    said, wanted = plain(answer), plain(goal.wanted)
    same = SequenceMatcher(None, said, wanted, autojunk=False).find_longest_match()
    return 0.99 * (0.9 + 0.1 / (1 + same.a)) * same.size / max(len(wanted), 1)


def children(
    ranked: list[Words], pool: Words, count: int, rng: Streams, within: Callable[[Words], bool]
) -> list[Words]:
    """So many children of texts in order of fitness; one that is outside of the threat is its first parent again."""
    born = []
    for i in range(count):
        draws = rng.at(i)
        one, other = (
            ranked[int(len(ranked) * float(u) ** 2)] for u in draws.at("parents").uniform(2)[0]
        )  # the square prefers the fit
        cut = float(draws.at("cut").uniform(1))
        mixed = (*one[: round(cut * len(one))], *other[round(cut * len(other)) :])
        child = mutated(mixed, pool, draws.at("mutation"))
        born.append(child if within(child) else one)
    return born


def mutated(words: Words, pool: Words, rng: Streams) -> Words:
    """One word left out, said twice, moved, exchanged or put in."""
    kind = int(rng.at("kind").integers(5, 1))
    word = pool[int(rng.at("word").integers(len(pool), 1))]
    place, other = (int(rng.at(name).integers(len(words) + 1, 1)) for name in ("place", "other"))
    before, at, after = words[:place], words[place : place + 1], words[place + 1 :]
    if kind == 0:
        return (*before, *after)
    if kind == 1:
        return (*before, *at, *at, *after)
    if kind == 2:
        rest = (*before, *after)
        return (*rest[:other], *at, *rest[other:])
    if kind == 3:
        return (*before, word, *after)
    return (*before, word, *at, *after)
