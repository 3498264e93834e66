"""Random search on scores (Andriushchenko et al., 2024): a few tokens in a row are drawn anew, and kept where it helps.

Needs what an interface tells that gives log-probabilities: a text goes in, the score of what is wanted comes out.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from sparring.domains.chat.asking import Outright
from sparring.domains.chat.assistant import Assistant
from sparring.domains.chat.cases import Case
from sparring.domains.chat.goals import Says
from sparring.domains.chat.threats import Suffix
from sparring.streams import Streams

BLOCKS = ((0.1, 4), (0.25, 3), (0.5, 2), (1.0, 1))
"""Up to which share of the steps how many neighbouring tokens change together: from coarse to fine."""


@dataclass(frozen=True)
class RandomSearch:
    """Draw a few neighbouring tokens anew, and keep them where what is wanted becomes likelier (Andriushchenko, 2024).

    The score is the mean log-probability of all wanted tokens; the paper takes that of the first, and writes a long
    template around: here it begins with the plain request that fits, filled up with random tokens.

    Costs a forward pass a step.
    """

    threat: Suffix
    _: KW_ONLY
    steps: int = 1000

    @property
    def rounds(self) -> int:
        """One text a step."""
        return self.steps

    def __call__(self, model: Assistant, x: Case, goal: Says, rng: Streams) -> str:
        """The text with the best score."""
        slot, allowed = model.slot(x, goal.wanted), model.allowed(self.threat.printable).nonzero().flatten()
        text = Outright(threat=self.threat)(model, x, goal, rng)
        asked, noise = model.tokens(text) or [], rng.at("start").integers(len(allowed), self.threat.size)[0]
        ids, least = torch.tensor([*asked, *allowed[noise].tolist()][: self.threat.size]), torch.inf
        for step in range(self.steps):
            tried = ids if step == 0 else redrawn(ids, allowed, block(step / self.steps, len(ids)), rng.at(step))
            said = model.spelled(tried)
            if not self.threat.contains(said, model):
                continue
            losses, reached = slot.scores([said])
            if losses[0] <= least or reached[0]:
                text, ids, least = said, tried, float(losses[0])
            if reached[0]:
                break
        return text


def block(done: float, length: int) -> int:
    """How many neighbouring tokens change together once this share of the steps is done."""
    return min(length, next(size for share, size in BLOCKS if done <= share))


def redrawn(ids: Tensor, allowed: Tensor, size: int, rng: Streams) -> Tensor:
    """The tokens `(n,)` with `size` neighbouring ones drawn anew from those allowed."""
    begin = int(rng.at("place").integers(len(ids) - size + 1, 1))
    fresh = ids.clone()
    fresh[begin : begin + size] = allowed[rng.at("which").integers(len(allowed), size)[0]]
    return fresh
