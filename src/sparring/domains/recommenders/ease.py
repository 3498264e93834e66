"""EASE: a linear map from what a user has to what goes with it, in closed form (Steck, 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams


def weights(rated: Tensor, penalty: float) -> Tensor:
    """The map `B` `(items, items)` with a zero diagonal that minimises `|X - X B|^2 + penalty |B|^2` (eq. 8)."""
    gram = rated.T @ rated
    gram.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return (-inverse / inverse.diagonal()).fill_diagonal_(0)


@dataclass(frozen=True, kw_only=True)
class EASE:
    """Scores are `X B`, for implicit feedback. One inverse of `(items, items)`; nothing in it is random."""

    penalty: float = 250.0

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The scores of all users for all items, `(users, items)`."""
        return data.rated @ weights(data.rated, self.penalty)
