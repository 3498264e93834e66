"""Matrix factorisation by alternating least squares: of ratings with biases, and of implicit feedback.

With the factors of one side fixed, those of the other are a ridge regression each, so that the loss falls with every
half-step. All regressions of a side are one product of matrices and one batched solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams

START = 0.1
"""The standard deviation of the factors at the beginning."""


def ridge(features: Tensor, weight: Tensor, wanted: Tensor, penalty: float) -> Tensor:
    """For each row the `w` that minimises `sum_j weight_j (wanted_j - w . features_j)^2 + penalty |w|^2`, `(rows, d)`.

    `features` are `(n, d)`, `weight` and `wanted` `(rows, n)`.
    """
    d = features.shape[1]
    products = (features.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
    normal = (weight @ products).view(-1, d, d) + penalty * torch.eye(d)
    solved: Tensor = torch.linalg.solve(normal, (weight * wanted) @ features)
    return solved


@dataclass(frozen=True, kw_only=True)
class MF:
    """Factors and biases that explain the ratings (Koren, Bell and Volinsky, 2009, eq. 5), in stars.

    `min sum_ui (r_ui - mean - b_u - b_i - p_u . q_i)^2 + penalty (|p|^2 + |q|^2 + b_u^2 + b_i^2)`. Each half-step
    solves for the factors and the bias of a side together: a bias is a factor whose counterpart is 1.
    """

    factors: int = 10
    penalty: float = 10.0
    steps: int = 15

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The ratings that every user would give, `(users, items)`, unclipped."""
        mean = float(data.ratings.mean()) if len(data.ratings) else 0.0
        return predicted(mean, *self.fitted(data.rated, data.rated * (data.matrix - mean), rng))

    def fitted(self, rated: Tensor, wanted: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        """Factors of users and items, `(users, d + 1)` and `(items, d + 1)`, the bias last."""
        users = torch.zeros(len(rated), self.factors + 1)
        items = START * rng.at("items").normal(rated.shape[1], self.factors + 1)[0]
        items[:, -1] = 0
        for _ in range(self.steps):
            users = half_step(items, rated, wanted, self.penalty)
            items = half_step(users, rated.T, wanted.T, self.penalty)
        return users, items


def half_step(others: Tensor, rated: Tensor, wanted: Tensor, penalty: float) -> Tensor:
    """Factors and biases of one side, the best for those of the other side: a 1 there goes with the own bias."""
    features = torch.cat([others[:, :-1], torch.ones(len(others), 1)], 1)
    return ridge(features, rated, wanted - others[:, -1], penalty)


def predicted(mean: float, users: Tensor, items: Tensor) -> Tensor:
    """`mean + b_u + b_i + p_u . q_i`, `(users, items)`."""
    return mean + users[:, -1:] + items[:, -1] + users[:, :-1] @ items[:, :-1].T


@dataclass(frozen=True, kw_only=True)
class WRMF:
    """Factors that tell what users have from what they have not, which counts less (Hu, Koren and Volinsky, 2008).

    `min sum_ui c_ui (x_ui - p_u . q_i)^2 + penalty (|p|^2 + |q|^2)` with `c = 1 + alpha x` (eq. 3).
    """

    factors: int = 32
    penalty: float = 20.0
    alpha: float = 10.0
    steps: int = 10

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        """The scores of all users for all items, `(users, items)`."""
        confidence = 1 + self.alpha * data.rated
        items = START * rng.at("items").normal(data.shape[1], self.factors)[0]
        users = items.new_zeros(data.shape[0], self.factors)
        for _ in range(self.steps):
            users = ridge(items, confidence, data.rated, self.penalty)
            items = ridge(users, confidence.T, data.rated.T, self.penalty)
        return users @ items.T
