"""Greedy coordinate gradient (Zou et al., 2023): one token is exchanged at a time, where the gradient says."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from sparring.domains.chat.asking import Outright
from sparring.domains.chat.assistant import Assistant, Slot
from sparring.domains.chat.cases import Case
from sparring.domains.chat.goals import Says
from sparring.domains.chat.threats import Suffix
from sparring.streams import Streams


@dataclass(frozen=True)
class GCG:
    """Exchange one token at a time, by the gradient in one-hot tokens (Zou et al., 2023, Algorithm 1).

    The settings are the paper's: `candidates` is its B, `top` its k, `steps` its T. Departures: it begins with the
    plain request that fits, filled up with the paper's exclamation marks, which is much nearer; candidates that the
    deployed assistant would read as other tokens are left out (as nanoGCG does, but for the whole conversation); the
    best text of all steps is returned, and the search ends where every wanted token is the likeliest one.

    Costs `steps * (1 + candidates)` forward and `steps` backward passes at most.
    """

    threat: Suffix
    _: KW_ONLY
    steps: int = 500
    candidates: int = 512
    top: int = 256

    @property
    def rounds(self) -> int:
        """One step, one batch of candidates."""
        return self.steps

    def __call__(self, model: Assistant, x: Case, goal: Says, rng: Streams) -> str:
        """The text with the least loss."""
        slot, allowed = model.slot(x, goal.wanted), model.allowed(self.threat.printable)
        ids = self.begun(model, slot, x, goal, rng)
        best, least = ids, torch.inf
        for step in range(self.steps):
            downhill = (-slot.slope(ids)).masked_fill(~allowed, -torch.inf)
            promising = downhill.topk(min(self.top, int(allowed.sum())), 1).indices
            tried = exchanged(ids, promising, self.candidates, rng.at(step))
            tried = tried[admissible(tried, slot, model, self.threat)]
            if not len(tried):
                continue
            losses, reached = slot.loss(tried)
            first = int(losses.where(reached | ~reached.any(), torch.inf).argmin())  # of successes, where there are any
            ids = tried[first]
            if losses[first] < least or reached[first]:
                best, least = ids, float(losses[first])
            if reached[first]:
                break
        return slot.text(best)

    def begun(self, model: Assistant, slot: Slot, x: Case, goal: Says, rng: Streams) -> Tensor:
        """The plain request and exclamation marks behind it, or these alone where that is not read as written."""
        request = Outright(threat=self.threat)(model, x, goal, rng)
        ids = slot.tokens(request + " !" * (self.threat.size - len(model.tokens(request) or [])))
        allowed = model.allowed(self.threat.printable)
        if len(ids) and bool(allowed[ids].all()) and bool(admissible(ids.unsqueeze(0), slot, model, self.threat)):
            return ids
        return slot.start(self.threat.size, allowed, rng)


def exchanged(ids: Tensor, promising: Tensor, count: int, rng: Streams) -> Tensor:
    """So many copies of the tokens `(n,)`, in each of which one is another: a promising one `(n, k)` for its place."""
    place = rng.at("place").integers(len(ids), count)[0]
    which = rng.at("which").integers(promising.shape[1], count)[0]
    return ids.repeat(count, 1).scatter_(1, place.unsqueeze(1), promising[place, which].unsqueeze(1))


def admissible(ids: Tensor, slot: Slot, model: Assistant, threat: Suffix) -> Tensor:
    """Which rows the attacker may write, and are read as they were written, `(B,)` bool."""
    within = torch.tensor([threat.contains(slot.text(row), model) for row in ids], dtype=torch.bool)
    within[within.clone()] = slot.fits(ids[within])
    return within
