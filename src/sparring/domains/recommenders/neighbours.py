"""Neighbours: predict from users who rate alike, or from items that are rated alike.

Both are one formula, since items are to users what users are to items: what is predicted is a mean of one's own, plus
the weighted deviations of the nearest neighbours that have a rating.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams

AT_ONCE = 20_000_000
"""Similarities that are looked through at once: 80 MB."""


def centred(matrix: Tensor, rated: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of every row over what is rated, `(rows, 1)`, and how far each rating is from it, 0 where none is."""
    mean = matrix.sum(1, keepdim=True) / rated.sum(1, keepdim=True).clamp(min=1)
    return mean, rated * (matrix - mean)


def cosine(apart: Tensor) -> Tensor:
    """The cosine of every two rows, `(rows, rows)`; 0 on the diagonal, so that no one is the own neighbour.

    Of deviations from the mean of the row this is the correlation of Pearson, shrunk where two rate little in common.
    """
    direction = apart / apart.norm(dim=1, keepdim=True).clamp(min=1e-9)
    similarity: Tensor = direction @ direction.T
    return similarity.fill_diagonal_(0)


def nearest(similarity: Tensor, apart: Tensor, rated: Tensor, count: int) -> Tensor:
    """`sum_v s_uv apart_vi / sum_v s_uv` over the `count` rows `v` most like `u` that rate `i`, `(rows, columns)`.

    Rows with a similarity of 0 or less are no neighbours; those as similar as the last one count as well. Columns of
    about as many ratings are worked out together.
    """
    held = rated.sum(0).long()
    found, order = torch.zeros(rated.shape), held.argsort()[int((held == 0).sum()) :]
    first = rated.argsort(dim=0, descending=True, stable=True)  # in each column those who rate it come first
    while len(order):
        fitting = (torch.arange(1, len(order) + 1) * held[order] * len(rated) <= AT_ONCE).sum()
        some, order = order.tensor_split([max(1, int(fitting))])
        raters = first[: int(held[some].max()), some].T  # (some, most)
        columns = some.unsqueeze(1)
        near = (similarity[:, raters] * rated[raters, columns]).clamp(min=0)  # (rows, some, most)
        if near.shape[2] > count:
            least = np.partition(near.numpy(), -count, axis=2)[..., -count]
            near *= near >= torch.from_numpy(least).unsqueeze(2)
        found[:, some] = (near * apart[raters, columns]).sum(2) / near.sum(2).clamp(min=1e-9)
    return found


@dataclass(frozen=True, kw_only=True)
class UserKNN:
    """What users who rate alike say of an item (Resnick et al., 1994), in stars; for ratings.

    `mean_u + sum_v s_uv (r_vi - mean_v) / sum_v s_uv` over the `neighbours` most alike of those who rated it.
    """

    neighbours: int = 20

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The ratings that every user would give, `(users, items)`, unclipped; the own mean where nobody near rates."""
        mean, apart = centred(data.matrix, data.rated)
        return mean + nearest(cosine(apart), apart, data.rated, self.neighbours)


@dataclass(frozen=True, kw_only=True)
class ItemKNN:
    """What a user says of items that are rated alike (Sarwar et al., 2001), in stars; for ratings.

    `mean_i + sum_j s_ij (r_uj - mean_j) / sum_j s_ij` over the `neighbours` most alike of those that the user rated.
    """

    neighbours: int = 20

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The ratings that every user would give, `(users, items)`, unclipped."""
        mean, apart = centred(data.matrix.T, data.rated.T)
        return (mean + nearest(cosine(apart), apart, data.rated.T, self.neighbours)).T


@dataclass(frozen=True, kw_only=True)
class ItemCosine:
    """What goes with what a user has (Deshpande and Karypis, 2004); for implicit feedback.

    The score is the sum of the cosines to the items that the user has, where those are among the `neighbours` nearest.
    """

    neighbours: int = 50

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The scores of all users for all items, `(users, items)`."""
        similarity = cosine(data.rated.T)
        least = similarity.topk(min(self.neighbours, len(similarity)), 0).values[-1]
        return data.rated @ (similarity * (similarity >= least))
