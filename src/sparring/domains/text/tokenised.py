"""A network of transformers behind its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokenised:
    """Texts to logits `(n, K)`, by way of the network's own tokens."""

    model: Any
    tokenizer: Any

    def tokens(self, texts: Sequence[str], **more: Any) -> Any:
        """The tokens of some texts together, as the network takes them, and what `more` asks of the tokenizer."""
        return self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, **more)

    def said(self, tokens: Any) -> Tensor:
        """The logits, with slopes where these are asked for."""
        said = self.model(**tokens.to(next(self.model.parameters()).device))
        logits: Tensor = said.logits if hasattr(said, "logits") else said
        return logits

    def __call__(self, texts: list[str]) -> Tensor:
        """The logits, without."""
        with torch.inference_mode():
            logits = self.said(self.tokens(texts))
        return logits.clone().cpu()
