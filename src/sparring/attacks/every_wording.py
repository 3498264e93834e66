"""Every text of a threat on words, where they are few enough: what then stands is proved to stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.word_beam import WORDS, changed, worth
from sparring.domains.text.threats import Wording, together
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Goal, Model


def members(x: Tensor, threat: Wording) -> Tensor:
    """How many texts differ from each row in 1, 2, ... up to eps words, `(B, eps)` float64.

    The elementary symmetric polynomials of the numbers of rewritings, place by place.
    """
    counts = (threat.norm.choices(x) != x.unsqueeze(2)).sum(2).double()
    size = min(int(threat.eps), x.shape[1])
    ways = counts.new_zeros(len(x), size + 1)
    ways[:, 0] = 1
    for count in counts.T:
        ways[:, 1:] += ways[:, :-1] * count.unsqueeze(1)
    return ways[:, 1:]


@dataclass(frozen=True, kw_only=True)
class EveryWording:
    """Try all texts with one word changed, then all with two, and so on, as long as they are `most` in all.

    Costs a forward pass for each; a row that falls leaves.
    """

    threat: Wording
    most: int = 20_000

    def tried(self, x: Tensor) -> Tensor:
        """Up to how many words all texts are tried, `(B,)`, where none of them reaches the goal."""
        return (members(x, self.threat).cumsum(1) <= self.most).sum(1).to(x.dtype)

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The worst text of each row, or the first that reaches the goal, `(B, length)`."""
        with torch.no_grad():
            best, top, sizes = x.detach().clone(), worth(model, x, goal), self.tried(x)
            for row in range(len(x)):
                threat, odd = replace(self.threat, eps=float(sizes[row])), None
                for z in _all(x[row : row + 1], threat):
                    if top[row] == torch.inf:
                        break
                    score = worth(model, z, goal[torch.full((len(z),), row, device=x.device)])
                    if score.max() > top[row]:
                        best[row], top[row] = z[score.argmax()], score.max()
                    if odd is None and score.min() == -torch.inf:
                        odd = z[score.argmin()]
                if odd is not None and top[row] < torch.inf:
                    best[row] = odd  # what is said of it is neither right nor wrong, and nothing is proved
        return best


def _all(x: Tensor, threat: Wording) -> Iterator[Tensor]:
    """All texts `(n, length)` that differ from `x`, one row, in 1 to eps words, in pieces: the fewest words first."""
    choices = threat.norm.choices(x)[0]
    place, which = (choices != x[0].unsqueeze(1)).nonzero(as_tuple=True)
    word = choices[place, which].to(x.dtype)
    begin = torch.searchsorted(place, torch.arange(x.shape[1], device=x.device), right=True)
    level = [(x, torch.zeros(1, dtype=torch.int64, device=x.device))]
    for _ in range(int(threat.eps)):
        grown = []
        for z, after in level:  # the changes that are left are those of later places
            left = len(place) - after
            for of, number in _pairs(left, after):
                made = changed(z[of], place[number], word[number])
                yield made
                grown.append((made, begin[place[number]]))
        level = grown


def _pairs(left: Tensor, after: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Texts, and the changes that are left for each: their numbers, in pieces."""
    of = torch.arange(len(left), device=left.device).repeat_interleave(left)
    first = left.cumsum(0) - left
    number = torch.arange(len(of), device=left.device) - first[of] + after[of]
    return together(of, number)


@register(
    "attacks",
    "every-wording",
    needs="labels",
    norms=(),
    threats=WORDS,
    family="words",
    passes="all, most at most, + 0",
    paper="Pruthi et al., 2019",
)
def every_wording(threat: Wording, *, most: int = 20_000) -> EveryWording:
    """Every text of the threat, where they are few enough: exact, and a proof of what stands (Pruthi et al., 2019)."""
    return EveryWording(threat=threat, most=most)
