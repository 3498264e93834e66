"""A filter of documents that no language model would have written (Alon and Kamfonas, 2023; Jain et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sparring.domains.chat.assistant import Around, AroundSlot
from sparring.domains.chat.cases import ATTACK, Case
from sparring.domains.chat.language_model import LanguageModel
from sparring.errors import BadInput

WINDOW = 10
"""Tokens of a window (Jain et al., 2023)."""

REFUSED = "This document was refused."

WEIGHT = 1.0
"""What a nat of surprise above the threshold counts for beside a nat of the loss (after Jain et al., 2023)."""


@dataclass
class Watched(Around):
    """An assistant that refuses documents in which some window of tokens is too surprising for a language model.

    What is read is the document, what comes from outside, by the `reader`; a window's surprise is the mean of `-log p`
    over its tokens, of which the exponential is the perplexity. Its slot is the view of an attacker who knows the
    filter: the loss has the surprise above the threshold in it, and nothing counts as reached that would be refused.
    """

    reader: LanguageModel = field(kw_only=True)
    threshold: float = field(kw_only=True)
    window: int = field(kw_only=True, default=WINDOW)

    @property
    def name(self) -> str:
        """The assistant, and how it is defended."""
        return f"{self.model.name} behind perplexity"

    def answers(self, x: Case, texts: Sequence[str]) -> list[str]:
        """The answers where the document is let through, and a refusal where not."""
        excess = self.excess(x, texts).tolist()
        return [
            REFUSED if above > 0 else self.model.answers(x, [text])[0]
            for text, above in zip(texts, excess, strict=True)
        ]

    def excess(self, x: Case, texts: Sequence[str]) -> Tensor:
        """By how much the most surprising window of each document is above the threshold, `(B,)`, in nats."""
        return torch.tensor([worst(surprise(self.reader, x.outside(text)), self.window) for text in texts]) - (
            self.threshold
        )

    def slot(self, x: Case, wanted: str) -> WatchedSlot:
        """The place, with the filter in the loss."""
        return WatchedSlot(self.model.slot(x, wanted), self, x)


@dataclass
class WatchedSlot(AroundSlot):
    """A place in a document that is read by a filter."""

    by: Watched
    x: Case

    def loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The inner loss, and what the filter would say against it."""
        return self._with(self.inner.loss(ids), [self.text(row) for row in ids])

    def scores(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As `loss`, of texts."""
        return self._with(self.inner.scores(texts), texts)

    def _with(self, found: tuple[Tensor, Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        (loss, reached), excess = found, self.by.excess(self.x, texts)
        return loss + WEIGHT * excess.clamp(min=0), reached & (excess <= 0)

    def slope(self, ids: Tensor) -> Tensor:
        """The slope of both parts; that of the filter for the document's tokens, each part of it tokenised alone."""
        reader = self.by.reader
        before, _, after = (self.x.document or ATTACK).partition(ATTACK)
        table = reader.embedding.detach()
        with torch.enable_grad():
            hot = one_hot(ids.to(table.device), len(table)).to(table.dtype).requires_grad_()
            first, last = (
                one_hot(torch.tensor(reader.ids(part)).long(), len(table)).to(hot) for part in (before, after)
            )
            surprises = surprised(reader, torch.cat([first, hot, last]))
            if not len(surprises):
                return self.inner.slope(ids)
            above = (windows(surprises, self.by.window).max() - self.by.threshold).clamp(min=0)
            (slope,) = torch.autograd.grad(WEIGHT * above, hot)
        return self.inner.slope(ids) + slope.cpu()


def surprised(reader: LanguageModel, hot: Tensor) -> Tensor:
    """`-log p` of each token but the first, told those before, of one-hot rows `(T, V)`; `(T - 1,)`."""
    table = reader.embedding.detach()
    said = reader.gap([], []).logits((hot @ table).unsqueeze(0), len(hot))[0, :-1].log_softmax(1)
    return -(hot[1:] * said).sum(1)


@torch.no_grad()
def surprise(reader: LanguageModel, text: str) -> Tensor:
    """`-log p` of each token of a text but the first."""
    ids = torch.tensor(reader.ids(text), device=reader.device).long()
    if len(ids) < 2:
        return torch.zeros(0)
    said = reader.gap([], []).logits(reader.embedding[ids].unsqueeze(0), len(ids))[0, :-1].log_softmax(1)
    return -said.gather(1, ids[1:].unsqueeze(1)).squeeze(1).cpu()


def windows(surprises: Tensor, size: int) -> Tensor:
    """The mean over each window of `size` neighbours; of fewer than that, over all."""
    return surprises.unfold(0, min(size, len(surprises)), 1).mean(1)


def worst(surprises: Tensor, size: int) -> float:
    """The mean over the most surprising window; 0 of nothing."""
    return float(windows(surprises, size).max()) if len(surprises) else 0.0


def calibrated(reader: LanguageModel, texts: Sequence[str], *, alarms: float = 0.05, window: int = WINDOW) -> float:
    """The threshold above which a text like these comes with a chance of at most `alarms`, in nats.

    The `ceil((n + 1) (1 - alarms))`-th smallest of n texts, which holds for the next one drawn as these were, whatever
    texts are like (Vovk et al., 2005).

    Raises:
        BadInput: too few texts for such a chance.
    """
    rank = math.ceil((len(texts) + 1) * (1 - alarms))
    if rank > len(texts):
        need = f"{math.ceil(1 / alarms) - 1} at least for false alarms in {alarms:.0%}"
        raise BadInput(f"{len(texts)} clean texts", need, "hand over more of them")
    return sorted(worst(surprise(reader, text), window) for text in texts)[rank - 1]
