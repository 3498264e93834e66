"""Change one word after the other, each in the way that costs the model most: greedy, or with a beam. Scores alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.text.threats import Wording, singles, together
from sparring.losses import margin
from sparring.registry import members, register
from sparring.streams import Streams
from sparring.types import Goal, Model

WORDS = tuple(members("rewritings"))
"""The threats that replace words."""


def worth(model: Model, z: Tensor, goal: Goal) -> Tensor:
    """The margin of every text `(n, length)`, infinite where the goal is reached, least where there is no number."""
    outputs = model(z)
    most = torch.finfo(z.dtype).max
    score = margin(outputs, goal).to(z.dtype).clamp(-most, most).nan_to_num(-torch.inf)
    return score.masked_fill(goal.reached(outputs), torch.inf)


Tried = tuple[Tensor, Tensor, Tensor, Tensor]
"""Single changes of all rows: the row, the place, the word and the worth of each, `(n,)`."""


def every_single(model: Model, x: Tensor, goal: Goal, threat: Wording) -> Tried:
    """All single changes, tried."""
    row, place, word = singles(x, threat)
    tried = (worth(model, changed(x[i], j, w), goal[i]) for i, j, w in together(row, place, word))
    return row, place, word, torch.cat([x.new_zeros(0), *tried])


@dataclass(frozen=True)
class Pool:
    """Single changes of every row, the best first: places, words and what they are worth, each `(B, n)`.

    Rows with fewer of them are padded by what is worth least.
    """

    places: Tensor
    words: Tensor
    worth: Tensor

    @classmethod
    def of(cls, x: Tensor, tried: Tried, *, each: int, most: int) -> Pool:
        """Kept are the best `each` of every place, and of these the best `most`."""
        row, place, word, score = tried
        order = score.argsort(descending=True, stable=True)
        order = order[_rank(row[order] * x.shape[1] + place[order]) < each]
        order = order[row[order].argsort(stable=True)]
        rank = _rank(row[order])
        order, rank = order[rank < most], rank[rank < most]
        shape = len(x), int(rank.max()) + 1 if len(rank) else 0
        pool = cls(x.new_zeros(shape).long(), x.new_zeros(shape), x.new_full(shape, -torch.inf))
        for part, value in ((pool.places, place), (pool.words, word.to(x.dtype)), (pool.worth, score)):
            part[row[order], rank] = value[order]
        return pool

    def __getitem__(self, rows: Tensor) -> Pool:
        """Those of some of the rows."""
        return Pool(self.places[rows], self.words[rows], self.worth[rows])


def changed(z: Tensor, place: Tensor, word: Tensor) -> Tensor:
    """Texts `(n, length)` with another word at a place of each."""
    return z.scatter(1, place.unsqueeze(1), word.unsqueeze(1).to(z.dtype))


def _rank(groups: Tensor) -> Tensor:
    """How many before it are of the same group, for each."""
    order = groups.argsort(stable=True)
    ordered = groups[order]
    first = torch.cat([ordered.new_ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])[: len(ordered)]
    number = torch.arange(len(ordered), device=groups.device)
    begun = torch.where(first, number, 0).cummax(0).values
    return torch.empty_like(number).scatter(0, order, number - begun)


def highest(score: Tensor, most: int) -> Tensor:
    """The places of the highest scores of every row, the first of equals first: `topk` has an order of its own."""
    return score.argsort(dim=1, descending=True, stable=True)[:, :most]


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Keep the `width` best texts, change one more word in each, in all ways of a pool, and keep the best of those.

    The first round tries every single change; where one word may change, there is nothing else. Later rounds draw on
    the `most` best of these, the best `each` of every place. Costs a forward pass for every single change, then up to
    `width * most` for each further word; a row that falls leaves. Nothing is random.
    """

    threat: Wording
    width: int = 1
    each: int = 4
    most: int = 50

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The worst text found for each row, with as few words changed as led to it, `(B, length)`."""
        with torch.no_grad():
            best, top = x.detach().clone(), worth(model, x, goal)
            open_ = (top < torch.inf).nonzero().flatten()
            tried = every_single(model, x[open_], goal[open_], self.threat)
            pool, first = Pool.of(x[open_], tried, each=self.each, most=self.most), open_
            beam, standing = x[open_].unsqueeze(1), torch.ones(len(open_), 1, dtype=torch.bool, device=x.device)
            for i in range(min(int(self.threat.eps), x.shape[1])):
                if not len(open_) or not pool.worth.shape[1]:
                    break
                fresh = self._fresh(beam, pool, x[open_], standing)
                score = self._scores(model, beam, pool, goal[open_], fresh) if i else pool.worth
                beam, score = self._best(beam, pool, score)
                better = score[:, 0] > top[open_]
                best[open_[better]], top[open_[better]] = beam[better, 0], score[better, 0]
                stay = ((score[:, 0] < torch.inf) & (score[:, 0] > -torch.inf)).nonzero().flatten()
                open_, beam, pool, standing = open_[stay], beam[stay], pool[stay], score[stay] > -torch.inf
            if self.threat.eps == 1:  # all texts were tried: one that gets no number is neither right nor wrong
                odd = (tried[3] == -torch.inf) & (top[first[tried[0]]] < torch.inf)
                row = first[tried[0][odd]]
                best[row] = changed(x[row], tried[1][odd], tried[2][odd])
        return best

    def tried(self, x: Tensor) -> Tensor:
        """Up to how many words all texts are tried, `(B,)`, where none of them reaches the goal: one, where one may.

        Where more may change, nothing is said of those with one: what it returns is the worst of all.
        """
        return torch.full((len(x),), float(self.threat.eps == 1), device=x.device)

    def _scores(self, model: Model, beam: Tensor, pool: Pool, goal: Goal, fresh: Tensor) -> Tensor:
        """What the beam's texts are worth with each of the pool's changes, `(B, width * n)`; least where none is."""
        score = torch.full(fresh.shape, -torch.inf, device=beam.device)
        for row, choice in together(*fresh.nonzero(as_tuple=True)):
            score[row, choice] = worth(model, self._made(beam, pool, row, choice), goal[row])
        return score

    def _best(self, beam: Tensor, pool: Pool, score: Tensor) -> tuple[Tensor, Tensor]:
        """The best texts with one more change, `(B, width, length)`, and what they are worth."""
        score = score.masked_fill(self._repeated(beam, pool, score), -torch.inf)
        choice = highest(score, self.width)
        return self._all_made(beam, pool, choice), score.gather(1, choice)

    def _made(self, beam: Tensor, pool: Pool, row: Tensor, choice: Tensor) -> Tensor:
        """The texts that some choices of a text of the beam and of a change make, `(n, length)`."""
        of, change = choice // pool.places.shape[1], choice % pool.places.shape[1]
        return changed(beam[row, of], pool.places[row, change], pool.words[row, change])

    def _all_made(self, beam: Tensor, pool: Pool, choice: Tensor) -> Tensor:
        """The texts that as many choices of every row make, `(B, n, length)`."""
        row = torch.arange(len(choice), device=choice.device).unsqueeze(1).expand_as(choice)
        return self._made(beam, pool, row.flatten(), choice.flatten()).view(*choice.shape, -1)

    def _fresh(self, beam: Tensor, pool: Pool, x: Tensor, standing: Tensor) -> Tensor:
        """Which changes of the pool a text of the beam has not, and may have, `(B, width * n)` bool.

        A word that was changed may change again, whatever number of them is changed.
        """
        place = pool.places.unsqueeze(1).expand(-1, beam.shape[1], -1)
        now, before = beam.gather(2, place), x.unsqueeze(1).expand_as(beam).gather(2, place)
        room = (beam != x.unsqueeze(1)).sum(2, keepdim=True) < self.threat.eps
        other = (now != pool.words.unsqueeze(1)) & (room | (now != before))
        return (other & (pool.worth > -torch.inf).unsqueeze(1) & standing.unsqueeze(2)).flatten(1)

    def _repeated(self, beam: Tensor, pool: Pool, score: Tensor) -> Tensor:
        """Choices that make a text which a better one, or an earlier of equals, makes already, `(B, n)` bool."""
        if self.width == 1 or beam.shape[1] == 1:
            return torch.zeros_like(score, dtype=torch.bool)
        likely = highest(score, self.width * self.width)
        made = self._all_made(beam, pool, likely)
        same = (made.unsqueeze(1) == made.unsqueeze(2)).all(3).tril(-1).any(2)
        return torch.zeros_like(score, dtype=torch.bool).scatter(1, likely, same)


@register(
    "attacks",
    "word-beam",
    needs="scores",
    norms=(),
    threats=WORDS,
    family="words",
    passes="all single changes, width * most for each further word + 0",
    paper="Ebrahimi et al., 2018",
)
def word_beam(threat: Wording, *, width: int = 5, each: int = 4, most: int = 50) -> Beam:
    """Change one word after the other, and keep the best few texts (the beam of Ebrahimi et al., 2018, by scores)."""
    return Beam(threat=threat, width=width, each=each, most=most)


@register(
    "attacks",
    "word-greedy",
    needs="scores",
    norms=(),
    threats=WORDS,
    family="words",
    passes="all single changes, most for each further word + 0",
    paper="Kuleshov et al., 2018",
)
def word_greedy(threat: Wording, *, each: int = 4, most: int = 50) -> Beam:
    """The single change that costs most, again and again (Kuleshov et al., 2018): exact where one word may change."""
    return Beam(threat=threat, each=each, most=most)
