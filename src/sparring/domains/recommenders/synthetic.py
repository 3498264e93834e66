"""Ratings that nobody gave, with what matters of real ones: few items are popular, tastes are shared, users differ."""

from __future__ import annotations

import torch

from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams

LEVELS = (1.0, 2.0, 3.0, 4.0, 5.0)


def synthetic(users: int = 300, items: int = 400, *, length: int = 40, factors: int = 8, seed: int = 0) -> Interactions:
    """Stars from 1 to 5 by users with latent tastes, for items with popularities after Zipf.

    A user rates about `length` items (the median; log-normal around it), popular ones and those to the own taste more
    often (a draw without replacement: Gumbel noise on the logarithm of the weights). Stars are a mean, biases of user
    and item, the product of their factors, and noise, rounded. No rating of MovieLens or anyone's is in it.
    """
    rng, who = Streams.of(seed, [0]), Streams.of(seed, range(users))
    taste = who.at("taste").normal(factors)
    kind = rng.at("kind").normal(items, factors)[0]
    match = taste @ kind.T / factors**0.5
    weight = -(torch.arange(items) + 10.0).log() + match
    gumbel = -(-(who.at("choice").uniform(items) + 1e-7).log()).log()
    order = (weight + gumbel).argsort(1, descending=True)
    counts = (length * (who.at("length").normal(1) * 0.7).exp()).long().clamp(5, items // 2)
    chosen = torch.zeros(users, items).scatter_(1, order, (torch.arange(items) < counts).float())
    noise = 0.8 * who.at("noise").normal(items)
    stars = 3.5 + 0.4 * who.at("bias").normal(1) + 0.5 * rng.at("quality").normal(items)[0] + 0.7 * match + noise
    rows, columns = chosen.nonzero(as_tuple=True)
    begun, pace = who.at("begun").integers(1_000_000), who.at("when").integers(100_000, items)
    return Interactions(
        users=rows,
        items=columns,
        ratings=stars.round().clamp(1, 5)[rows, columns],
        times=begun[rows] + pace[rows, columns],
        shape=(users, items),
        levels=LEVELS,
        names=tuple(str(i) for i in range(items)),
    )
