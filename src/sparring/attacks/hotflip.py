"""HotFlip: words are replaced where the gradient of their embeddings says it costs most (Ebrahimi et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.word_beam import WORDS, changed, highest, worth
from sparring.domains.text.threats import Wording, together
from sparring.losses import margin
from sparring.registry import register
from sparring.search import finite, forward, slope
from sparring.streams import Streams
from sparring.types import Goal, Model

AT_ONCE = 64
"""Opened texts in a call of the model: each has a number for every word that may stand anywhere in it."""


def gains(model: Model, z: Tensor, choices: Tensor, goal: Goal) -> Tensor:
    """What every replacement adds to the margin by first order, `(e_w - e_i) . dL/de_i`, `(n, length, C)`.

    Equation 4 of the paper. A forward and a backward pass. Where there is no number, none.

    Raises:
        BadInput: a model that hands out no slopes of words.
    """
    point, outputs = forward(model, torch.cat([z.unsqueeze(2), choices.to(z.dtype)], 2))
    with torch.enable_grad():
        beside = finite(slope(margin(outputs, goal).sum(), point))
    return beside[..., 1:] - beside[..., :1]


@dataclass(frozen=True, kw_only=True)
class HotFlip:
    """Keep the `width` best texts, replace one more word in each as its slope says, and keep the best of what was made.

    Of all replacements those `tries` with the largest first-order gain, `each` at most of every place, are tried by a
    forward pass, and judged by the margin there; the paper keeps what the estimate itself puts first. A word that was
    changed may change again. Costs up to `width * (2 + tries)` passes for each word; a row that falls leaves. Nothing
    is random.
    """

    threat: Wording
    width: int = 2
    tries: int = 20
    each: int = 4

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The worst text found for each row, `(B, length)`."""
        with torch.no_grad():
            best, top = x.detach().clone(), worth(model, x, goal)
            open_ = (top < torch.inf).nonzero().flatten()
            beam, standing = x[open_].unsqueeze(1), torch.ones(len(open_), 1, dtype=torch.bool, device=x.device)
            for _ in range(min(int(self.threat.eps), x.shape[1])):
                if not len(open_):
                    break
                made, score = self._tried(model, beam, x[open_], goal[open_], standing)
                beam, score = self._best(made, score)
                better = score[:, 0] > top[open_]
                best[open_[better]], top[open_[better]] = beam[better, 0], score[better, 0]
                stay = ((score[:, 0] < torch.inf) & (score[:, 0] > -torch.inf)).nonzero().flatten()
                open_, beam, standing = open_[stay], beam[stay], score[stay] > -torch.inf
        return best

    def _tried(self, model: Model, beam: Tensor, x: Tensor, goal: Goal, standing: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest texts with one more word changed, `(B, width * tries, length)`, and what they are worth."""
        rows, width = beam.shape[:2]
        row = torch.arange(rows, device=x.device).repeat_interleave(width)
        gain = torch.full((rows * width, self.tries), -torch.inf, device=x.device)
        made = beam.flatten(0, 1).unsqueeze(1).repeat(1, self.tries, 1)
        for of in torch.split(standing.flatten().nonzero().flatten(), AT_ONCE):
            base, z = x[row[of]], beam.flatten(0, 1)[of]
            choices = self.threat.norm.choices(base)
            estimate = gains(model, z, choices, goal[row[of]]).masked_fill(~self._fresh(z, base, choices), -torch.inf)
            first = highest(estimate.flatten(0, 1), self.each).view(*estimate.shape[:2], -1)
            estimate, choices = estimate.gather(2, first), choices.gather(2, first)
            likely = highest(estimate.flatten(1), self.tries)
            place, word = likely // choices.shape[2], choices.flatten(1).gather(1, likely)
            count, each = likely.shape[1], z.unsqueeze(1).expand(-1, likely.shape[1], -1)
            flipped = changed(each.flatten(0, 1), place.flatten(), word.flatten())
            made[of, :count] = flipped.view(len(of), count, -1)
            gain[of, :count] = estimate.flatten(1).gather(1, likely).to(gain.dtype)
        made, fresh = made.view(rows, -1, x.shape[1]), (gain > -torch.inf).view(rows, -1)
        score = torch.full(fresh.shape, -torch.inf, device=x.device, dtype=x.dtype)
        for i, k in together(*(fresh & ~_repeated(made, fresh)).nonzero(as_tuple=True)):
            score[i, k] = worth(model, made[i, k], goal[i])
        return made, score

    def _fresh(self, z: Tensor, x: Tensor, choices: Tensor) -> Tensor:
        """Which replacements change a text, and leave it within the threat, `(n, length, C)` bool."""
        room = (z != x).sum(1) < self.threat.eps
        return (choices != z.unsqueeze(2)) & (choices != x.unsqueeze(2)) & (room.unsqueeze(1) | (z != x)).unsqueeze(2)

    def _best(self, made: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        choice = highest(score, self.width)
        return made.gather(1, choice.unsqueeze(2).expand(-1, -1, made.shape[2])), score.gather(1, choice)


def _repeated(made: Tensor, fresh: Tensor) -> Tensor:
    """Texts `(B, n, length)` that an earlier fresh one of the row is already, `(B, n)` bool."""
    found = torch.zeros_like(fresh)
    for row, (texts, good) in enumerate(zip(made, fresh, strict=True)):
        _, of = texts.unique(dim=0, return_inverse=True)
        number = torch.arange(len(of), device=of.device).masked_fill(~good, len(of))
        first = torch.full_like(of, len(of)).scatter_reduce(0, of, number, "amin")
        found[row] = number > first[of]
    return found


@register(
    "attacks",
    "hotflip",
    norms=(),
    threats=WORDS,
    family="words",
    passes="width * (1 + tries) for each word + width for each word",
    paper="Ebrahimi et al., 2018",
)
def hotflip(threat: Wording, *, width: int = 2, tries: int = 20, each: int = 4) -> HotFlip:
    """Words replaced where the gradient of their embeddings says so, kept in a beam (Ebrahimi et al., 2018)."""
    return HotFlip(threat=threat, width=width, tries=tries, each=each)
