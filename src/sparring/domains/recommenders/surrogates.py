"""What an attacker trains in place of the victim, such that its answer to fake users has a gradient.

A surrogate is made for some data `z`, `x` with the fake users of now, and says for other fake users how far above the
bar the target would be: the bar of a user is the score of the item at the last place that counts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.domains.recommenders.alternating import MF, half_step, predicted
from sparring.domains.recommenders.ease import EASE
from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions
from sparring.streams import Streams

Margin = Callable[[Tensor, Tensor], Tensor]
"""From what fakes rate, `(fakes, items)` of 0 and 1, and how, in stars, to the margin of each user in reach, `(n,)`."""

Surrogate = Callable[[Interactions, Interactions, Placement, Streams], Margin]
"""From the real data `x`, the data `z` of now, the goal and a stream to a margin."""

FIT, MAP = MF(), EASE()


def bars(scores: Tensor, x: Interactions, goal: Placement) -> Tensor:
    """The score at the last place that counts, for those who have not rated the target, `(n,)`."""
    some = x.rated[:, goal.item] == 0
    fresh = scores[: x.shape[0]][some].masked_fill(x.rated[some] > 0, -torch.inf)
    return fresh.topk(goal.top, 1).values[:, -1]


def through_ease(x: Interactions, z: Interactions, goal: Placement, rng: Streams) -> Margin:
    """The answer of EASE to fake users who all have the target: exact, but for the bars, which stay those of `z`.

    The column of the target in `B` is a ridge regression of who has it on what else they have, `w = K X'y`. Rows `F`
    with the target make it `w + K F' (I + F K F')^-1 (1 - F w)`: recursive least squares, a solve of `(fakes, fakes)`.
    """
    others = x.rated.index_fill(1, torch.tensor([goal.item]), 0)
    gram = others.T @ others
    gram.diagonal().add_(MAP.penalty)
    k = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    w = k @ (others.T @ x.rated[:, goal.item])
    users, bar = others[x.rated[:, goal.item] == 0], bars(MAP(z, rng), x, goal)

    def margin(rated: Tensor, stars: Tensor) -> Tensor:
        f = rated.index_fill(1, torch.tensor([goal.item]), 0)
        fk = f @ k
        then: Tensor = w + fk.T @ torch.linalg.solve(torch.eye(len(f)) + fk @ f.T, 1 - f @ w)
        return users @ then - bar

    return margin


def through_mf(x: Interactions, z: Interactions, goal: Placement, rng: Streams) -> Margin:
    """The answer of a matrix factorisation that was trained on `z`, through the three half-steps that follow.

    Users from the items of now, items from these users, the real users again from these items. What real users are
    after the first of them does not depend on the fakes. Trained to the end, no half-step changes anything any more;
    the margin is that of the model then.
    """
    mean, real = float(x.ratings.mean()), x.rated * (x.matrix - float(x.ratings.mean()))
    _, items = FIT.fitted(z.rated, z.rated * (z.matrix - mean), rng)
    users, some = half_step(items, x.rated, real, FIT.penalty), x.rated[:, goal.item] == 0

    def margin(rated: Tensor, stars: Tensor) -> Tensor:
        fake = rated * (stars - mean)
        everyone = torch.cat([users, half_step(items, rated, fake, FIT.penalty)])
        held, wanted = torch.cat([x.rated, rated]), torch.cat([real, fake])
        then = half_step(everyone, held.T, wanted.T, FIT.penalty)
        scores = predicted(mean, half_step(then, x.rated, real, FIT.penalty), then)
        return goal.sign * (scores[some, goal.item] - bars(scores, x, goal))

    return margin
