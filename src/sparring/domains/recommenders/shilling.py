"""Attacks that need statistics alone: how popular items are, and how they are rated (Mobasher et al., 2007).

A fake profile is the target, some chosen items, and fillers (their fig. 2). What is chosen, where fillers are drawn
from and how they are rated makes the attack. For implicit feedback a profile says only what was looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions
from sparring.domains.recommenders.recommender import Recommender
from sparring.domains.recommenders.threats import FakeUsers
from sparring.streams import Streams

CHOSEN = 5
"""Items that are chosen, where some are: bandwagons of one to ten differ little (Mobasher et al., 2007)."""
POPULAR = 0.2
"""The share of the items, by popularity, that "average over popular" draws from (Hurley et al., 2009)."""
SOLID = 5
"""Ratings from which on the mean of an item says something."""

Choice = Callable[[Interactions, Placement], Tensor]
"""Positions `(n,)` of the items that every profile has."""
Pool = Callable[[Interactions], Tensor]
"""What fillers are drawn from, `(items,)` bool."""
Taste = Callable[[Interactions, Placement, Tensor], Tensor]
"""How fillers are rated, `(fakes, items)`, given standard normal noise of that shape."""


def extreme(data: Interactions, goal: Placement) -> float:
    """What the target is rated: the best where it is to rise, the worst where it is to fall."""
    return data.levels[-1 if goal.sign > 0 else 0]


def legal(wanted: Tensor, levels: tuple[float, ...]) -> Tensor:
    """The nearest legal ratings."""
    steps = torch.tensor(levels)
    return steps[torch.bucketize(wanted, (steps[1:] + steps[:-1]) / 2)]


def item_means(data: Interactions) -> Tensor:
    """The mean rating of every item, `(items,)`; that of all ratings where nobody rates it."""
    sums, counts = data.matrix.sum(0), data.popularity
    return torch.where(counts > 0, sums / counts.clamp(min=1), data.ratings.mean())


def accounts(rng: Streams, count: int) -> Streams:
    """A stream for every fake user; the first ones are the same, however many there are."""
    return Streams(rng.at("fake users").bits(count)[0])


@dataclass(frozen=True, kw_only=True)
class Shilling:
    """Fake users with the target, the chosen items, and random fillers up to what the threat allows."""

    threat: FakeUsers
    chosen: Choice
    pool: Pool
    taste: Taste

    def __call__(self, model: Recommender, x: Interactions, goal: Placement, rng: Streams) -> Interactions:
        """The data with the fake users; the model is not asked."""
        fakes, items = accounts(rng, self.threat.users), x.shape[1]
        rated = self.taste(x, goal, fakes.at("taste").normal(items))
        order = fakes.at("fillers").uniform(items) + self.pool(x).float()
        chosen = self.chosen(x, goal)
        order[:, chosen] = 2 + order[:, chosen]
        order[:, goal.item] = torch.inf
        if len(chosen):
            rated[:, chosen] = extreme(x, goal)
        rated[:, goal.item] = extreme(x, goal)
        some = order.topk(self.threat.ratings, 1).indices
        profiles = torch.full_like(rated, torch.nan)
        return x.joined(profiles.scatter_(1, some, legal(rated, x.levels).gather(1, some)))


def nothing(data: Interactions, goal: Placement) -> Tensor:
    """No item is chosen."""
    return torch.empty(0, dtype=torch.int64)


def bestsellers(data: Interactions, goal: Placement) -> Tensor:
    """The most popular items."""
    return _others(data.popularity.float(), goal)


def flops(data: Interactions, goal: Placement) -> Tensor:
    """The items that are rated worst, among those with a few ratings."""
    return _others(torch.where(data.popularity >= SOLID, -item_means(data), -torch.inf), goal)


def favourites(data: Interactions, goal: Placement) -> Tensor:
    """What those like who like the target: rated above their own mean by most of them, the more popular ones first.

    A segment of users who may want it. Where nobody rates it, the most popular items.
    """
    own = data.matrix.sum(1) / data.activity.clamp(min=1)
    liked = data.rated * (data.matrix >= own.unsqueeze(1))
    raters = data.rated[:, goal.item]
    return _others(raters @ liked + data.popularity / (1 + data.popularity.max()), goal)


def _others(worth: Tensor, goal: Placement) -> Tensor:
    """The items of most worth, without the target."""
    worth = worth.clone()
    worth[goal.item] = -torch.inf
    return worth.topk(min(CHOSEN, len(worth) - 1)).indices


def anything(data: Interactions) -> Tensor:
    """All items."""
    return torch.ones(data.shape[1], dtype=torch.bool)


def popular_ones(data: Interactions) -> Tensor:
    """The items that are rated most."""
    many = data.popularity.topk(max(1, round(POPULAR * data.shape[1]))).indices
    return torch.zeros(data.shape[1], dtype=torch.bool).index_fill_(0, many, True)


def like_all(data: Interactions, goal: Placement, noise: Tensor) -> Tensor:
    """As ratings are on the whole."""
    return data.ratings.mean() + data.ratings.std() * noise


def like_others(data: Interactions, goal: Placement, noise: Tensor) -> Tensor:
    """As others rate that item, with their spread."""
    means = item_means(data)
    squares = (data.rated * (data.matrix - means).square()).sum(0)
    spread = (squares / (data.popularity - 1).clamp(min=1)).sqrt()
    return means + spread.where(data.popularity > 1, data.ratings.std()) * noise


def against(data: Interactions, goal: Placement, noise: Tensor) -> Tensor:
    """The other extreme, against which the target stands out."""
    return torch.full_like(noise, data.levels[0 if goal.sign > 0 else -1])


def random(threat: FakeUsers) -> Shilling:
    """Rate random items as ratings are on the whole: needs next to no knowledge (Lam and Riedl, 2004)."""
    return Shilling(threat=threat, chosen=nothing, pool=anything, taste=like_all)


def average(threat: FakeUsers) -> Shilling:
    """Rate random items as others rate them, so that the fake users are like many (Lam and Riedl, 2004)."""
    return Shilling(threat=threat, chosen=nothing, pool=anything, taste=like_others)


def bandwagon(threat: FakeUsers) -> Shilling:
    """Praise what everybody knows, beside random items (Burke et al., 2005)."""
    return Shilling(threat=threat, chosen=bestsellers, pool=anything, taste=like_all)


def popular(threat: FakeUsers) -> Shilling:
    """Rate popular items as others rate them, which detectors take for a real user (AoP; Hurley et al., 2009)."""
    return Shilling(threat=threat, chosen=nothing, pool=popular_ones, taste=like_others)


def segment(threat: FakeUsers) -> Shilling:
    """Praise what likely customers like, and nothing else (Mobasher et al., 2005)."""
    return Shilling(threat=threat, chosen=favourites, pool=anything, taste=against)


def love_hate(threat: FakeUsers) -> Shilling:
    """Rate random items at the other extreme: best where an item is to fall (Mobasher et al., 2007)."""
    return Shilling(threat=threat, chosen=nothing, pool=anything, taste=against)


def reverse_bandwagon(threat: FakeUsers) -> Shilling:
    """Put the item among those that everybody dislikes (Mobasher et al., 2007)."""
    return Shilling(threat=threat, chosen=flops, pool=anything, taste=like_all)


@dataclass(frozen=True, kw_only=True)
class PowerUsers:
    """Copy the users whom most others are like, and add the target (Wilson and Seminario, 2013).

    Power is the sum of the cosines to the other users over what both rate. Where a copy is longer than the threat
    allows, a random part of it is kept; the most powerful users come first, and again if there are too few.
    """

    threat: FakeUsers

    def __call__(self, model: Recommender, x: Interactions, goal: Placement, rng: Streams) -> Interactions:
        """The data with the fake users; the model is not asked."""
        fakes = accounts(rng, self.threat.users)
        direction = x.rated / x.rated.norm(dim=1, keepdim=True).clamp(min=1e-9)
        power = direction @ direction.sum(0)
        who = power.argsort(descending=True)[torch.arange(len(fakes)) % x.shape[0]]
        order = fakes.at("kept").uniform(x.shape[1]).masked_fill(x.rated[who] == 0, -1)
        order[:, goal.item] = torch.inf
        held, some = order.topk(self.threat.ratings, 1)
        rated = x.matrix[who].masked_fill(x.rated[who] == 0, torch.nan)
        rated[:, goal.item] = extreme(x, goal)
        kept = rated.gather(1, some).masked_fill(held < 0, torch.nan)
        return x.joined(torch.full_like(rated, torch.nan).scatter_(1, some, kept))


def power_users(threat: FakeUsers) -> PowerUsers:
    """Copy the users whom most others are like, and add the target (Wilson and Seminario, 2013)."""
    return PowerUsers(threat=threat)
