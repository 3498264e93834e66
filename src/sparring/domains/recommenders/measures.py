"""What a recommender does for its users, and what fake users did to it: pure functions of scores.

Rankings are of all items; what a user has rated in training is not recommended again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions
from sparring.domains.recommenders.result import Change, Service
from sparring.evaluate.result import Interval
from sparring.evaluate.statistics import clopper_pearson
from sparring.streams import Streams

RESAMPLES = 2000


def fresh(scores: Tensor, data: Interactions) -> Tensor:
    """The scores of what can be recommended: what is rated already gets none."""
    return scores.masked_fill(data.rated > 0, -torch.inf)


def eligible(data: Interactions, held: Interactions, item: int) -> Tensor:
    """The users whom the item may be pushed at, `(users,)` bool: those who never rated it, not even later."""
    return (data.rated[:, item] == 0) & (held.rated[:, item] == 0)


def discounted(rank: Tensor, top: int) -> Tensor:
    """NDCG of a single item: `1 / log2(1 + rank)` where it is among the `top` ones (Järvelin and Kekäläinen, 2002)."""
    return (rank <= top) / (1 + rank).log2()


def utility(scores: Tensor, data: Interactions, held: Interactions, top: int) -> Service:
    """HR and NDCG of the held out ratings among the `top` items, and how far predictions are from them."""
    rank = 1 + (fresh(scores, data)[held.users] > scores[held.users, held.items].unsqueeze(1)).sum(1)
    wrong = (clipped(scores, data)[held.users, held.items] - held.ratings).square().mean().sqrt()
    hits = (rank <= top).double().mean()
    ndcg = discounted(rank, top).double().mean()
    return Service(hit_rate=float(hits), ndcg=float(ndcg), rmse=None if data.implicit else float(wrong))


def clipped(scores: Tensor, data: Interactions) -> Tensor:
    """Predicted ratings as a page would show them, within the scale; other scores as they are."""
    return scores if data.implicit else scores.clamp(data.levels[0], data.levels[-1])


def percentile(scores: Tensor, goal: Placement) -> Tensor:
    """The share of the items that stand above the target, `(users,)`: 0 at the top."""
    return (goal.rank(scores) - 1) / scores.isfinite().sum(1).clamp(min=1)


def share(values: Tensor) -> Interval:
    """The mean of shares from 0 to 1 `(n,)`, one a user, with an interval that holds with 95 % at least.

    Exact (Clopper and Pearson, 1934) for hits and misses, and no narrower for what is averaged over trainings, which
    varies less. A bootstrap says nothing where next to no user is reached.
    """
    total, count = float(values.double().sum()), len(values)
    low, high = (clopper_pearson(whole, count) for whole in (math.floor(total), math.ceil(total)))
    return Interval(estimate=total / max(count, 1), low=low.low, high=high.high)


def change(values: Tensor, rng: Streams) -> Change:
    """The mean of `(n,)` values, one a user, with the 95 % percentile interval of a bootstrap over users."""
    if not len(values):
        return Change(estimate=0.0, low=-1.0, high=1.0)
    values = values.double()
    drawn = rng.at("bootstrap").integers(len(values), RESAMPLES, len(values))[0]
    means = values[drawn].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return Change(estimate=float(values.mean()), low=low, high=high)
