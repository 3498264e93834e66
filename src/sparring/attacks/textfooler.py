"""TextFooler's search: the most important words first, each replaced by what costs most (Jin et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.word_beam import WORDS, changed, worth
from sparring.domains.text.threats import Wording, together
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Goal, Model

NOTHING = 0.0
"""The number of the word that is none: what is left where a word is deleted."""


@dataclass(frozen=True, kw_only=True)
class TextFooler:
    """Rank words by what deleting them does; go down the ranks, and replace each by its worst rewriting.

    Of rewritings that reach the goal the first one is taken: tables have the nearest in meaning first. How alike the
    sentences are, which the paper asks of an encoder, is for the threat to say. Costs a forward pass for every word
    that can be rewritten, and one for each rewriting of those it comes to. Nothing is random.
    """

    threat: Wording

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The worst text found for each row, `(B, length)`."""
        with torch.no_grad():
            z, now = x.detach().clone(), worth(model, x, goal)
            ranks, count = self._ranks(model, x, goal)
            spent = torch.zeros_like(count)
            for i in range(ranks.shape[1]):
                open_ = ((now < torch.inf) & (i < count) & (spent < self.threat.eps)).nonzero().flatten()
                if not len(open_):
                    break
                place = ranks[open_, i]
                found, score = self._worst(model, z[open_], x[open_], place, goal[open_])
                better = score > now[open_]
                rows = open_[better]
                z[rows, place[better]], now[rows] = found[better], score[better]
                spent[rows] += 1
        return z

    def _ranks(self, model: Model, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Places that can be rewritten, the most important first, `(B, length)`, and how many they are, `(B,)`."""
        loss, most = torch.full_like(x, -torch.inf), torch.finfo(x.dtype).max
        row, place = (self.threat.norm.choices(x) != x.unsqueeze(2)).any(2).nonzero(as_tuple=True)
        for i, j in together(row, place):
            without = x[i].scatter(1, j.unsqueeze(1), NOTHING)
            loss[i, j] = worth(model, without, goal[i]).clamp(min=-most, max=most)
        return loss.argsort(dim=1, descending=True, stable=True), (loss > -torch.inf).sum(1)

    def _worst(self, model: Model, z: Tensor, x: Tensor, place: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """The rewriting of the word at a place of each row that costs most, and what it is worth, `(B,)`."""
        choices = self.threat.norm.choices(x.gather(1, place.unsqueeze(1))).squeeze(1).to(z.dtype)
        row, which = (choices != x.gather(1, place.unsqueeze(1))).nonzero(as_tuple=True)
        score = torch.full(choices.shape, -torch.inf, device=z.device)
        for i, k in together(row, which):
            score[i, k] = worth(model, changed(z[i], place[i], choices[i, k]), goal[i])
        worst = score.argmax(1, keepdim=True)
        return choices.gather(1, worst).squeeze(1), score.gather(1, worst).squeeze(1)


@register(
    "attacks",
    "textfooler",
    needs="scores",
    norms=(),
    threats=WORDS,
    family="words",
    passes="words + rewritings of those it comes to, + 0",
    paper="Jin et al., 2020",
)
def textfooler(threat: Wording) -> TextFooler:
    """The most important words first, each replaced by what costs most: few queries (Jin et al., 2020)."""
    return TextFooler(threat=threat)
