"""Fake users that are optimised: exchange what they rate, as long as a recommender that learns from it yields more.

Poisoning is a problem in two levels, `max_F gain(fit(X + F))`. Here the inner one is a surrogate with a closed form,
through which the gradient is exact (Li et al., 2016; Tang, Wen and Wang, 2020). The outer one stays discrete: the
gradient says which ratings to take out, which to put in and which to change, and an exchange is kept only where the
gain rises. Relaxed profiles that are rounded in the end lose most of what they had won.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparring.domains.recommenders.goals import Placement
from sparring.domains.recommenders.interactions import Interactions
from sparring.domains.recommenders.recommender import Attack, Recommender
from sparring.domains.recommenders.shilling import accounts, average, bandwagon, popular, power_users, segment
from sparring.domains.recommenders.surrogates import Margin, Surrogate, through_ease, through_mf
from sparring.domains.recommenders.threats import FakeUsers
from sparring.streams import Streams

Profiles = tuple[Tensor, Tensor]
"""What fakes rate, `(fakes, items)` of 0 and 1, and how, in stars: 0 where they do not."""

WIDTHS = (0.5, 0.1)
"""The gain is the mean of `sigmoid(margin / width)`. The width, in spreads of the margin at the starts, falls from the
first of these to the last: all users matter at first, and in the end those who are near the bar."""
HALVINGS = 4
"""So often a refused exchange is tried again, with half as many ratings, by half of the fakes."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Climb a surrogate by exchanges of up to `exchanged` ratings of each fake user; uphill only.

    Begins with the best of the `starts`, by the surrogate as it is when it is trained on them. It is trained anew in
    each of the `rounds` and after the last one, and what did most whenever it was is returned: steps in between see
    what a few half-steps do, and may be wrong. A step costs a gradient and up to five evaluations.
    """

    threat: FakeUsers
    surrogate: Surrogate
    starts: tuple[Callable[[FakeUsers], Attack], ...]
    rounds: int
    steps: int
    exchanged: int = 16

    def __call__(self, model: Recommender, x: Interactions, goal: Placement, rng: Streams) -> Interactions:
        """The data with the fake users; the model is not asked."""

        def trained(z: Interactions) -> tuple[Margin, Tensor]:
            margin = self.surrogate(x, z, goal, rng.at("surrogate"))
            return margin, margin(*_profiles(z, x))

        begun = [make(self.threat)(model, x, goal, rng.at("start")) for make in self.starts]
        first = [trained(z)[1] for z in begun]
        width = torch.stack(first).std().clamp(min=1e-6)
        values = [_share(margins, width * WIDTHS[1]) for margins in first]
        best, value = max(zip(begun, values, strict=True), key=lambda one: one[1])
        z = best
        for i in range(self.rounds):
            margin, (rated, stars) = trained(z)[0], _profiles(z, x)
            for step in range(i * self.steps, (i + 1) * self.steps):
                narrow = width * WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** (step / (self.rounds * self.steps))
                gain, fakes = partial(_gain, margin, narrow), accounts(rng.at(step), len(rated))
                rated, stars = self.step(gain, (rated, stars), x.levels, goal, fakes)
            z = x.joined(stars.masked_fill(rated == 0, torch.nan))
            reached = _share(trained(z)[1], width * WIDTHS[1])
            best, value = (z, reached) if reached > value else (best, value)
        return best

    def step(self, gain: Margin, z: Profiles, levels: tuple[float, ...], goal: Placement, fakes: Streams) -> Profiles:
        """The profiles after the first exchange that raises the gain; as they were, where none does."""
        rated, stars = leaves = z[0].clone().requires_grad_(), z[1].clone().requires_grad_()
        with torch.enable_grad():
            now = gain(*leaves)
            to_rate, to_star = torch.autograd.grad(now, leaves, allow_unused=True, materialize_grads=True)
        best = torch.tensor([levels[0], levels[-1]])[(to_star > 0).long()]  # of what is linear, one end is best
        held, new = to_rate + to_star * stars.detach(), to_rate + to_star * best
        held[:, goal.item], new[:, goal.item] = torch.inf, -torch.inf  # the target stays as it is
        for halving in range(HALVINGS + 1):
            some = fakes.at(halving).uniform(1) < 0.5**halving
            then = exchanged(z, held, new, best, max(1, self.exchanged >> halving))
            rated, stars = (after.where(some, before) for after, before in zip(then, z, strict=True))
            if gain(rated, stars) > now:
                return rated, stars
        return z


def _share(margins: Tensor, width: Tensor) -> Tensor:
    """The share of the users who are reached, smoothed."""
    return torch.sigmoid(margins / width).mean()


def _gain(margin: Margin, width: Tensor, rated: Tensor, stars: Tensor) -> Tensor:
    """The same, of profiles."""
    return _share(margin(rated, stars), width)


def _profiles(z: Interactions, x: Interactions) -> Profiles:
    """What the fake users of `z` rate, and how."""
    return z.rated[x.shape[0] :], z.matrix[x.shape[0] :]


def exchanged(z: Profiles, held: Tensor, new: Tensor, best: Tensor, count: int) -> Profiles:
    """Every profile after up to `count` changes of ratings and as many swaps, those that promise most.

    `held` is what a rating is worth that a profile has, `new` what one would be worth, with `best` stars.
    """
    rated, stars = z
    inside = rated > 0
    gained, changed = (new - held).masked_fill(~inside, -torch.inf).topk(count, 1)
    stars = stars.scatter(1, changed, best.gather(1, changed).where(gained > 0, stars.gather(1, changed)))
    least, out = held.maximum(new).masked_fill(~inside, torch.inf).topk(count, 1, largest=False)
    most, put = new.masked_fill(inside, -torch.inf).topk(count, 1)
    swap = most > least  # never where a profile has fewer ratings than count: infinite is what it has not
    rated = rated.scatter(1, out, rated.gather(1, out) * ~swap).scatter(1, put, swap.float())
    return rated, stars.scatter(1, put, best.gather(1, put)) * rated


def optimised(threat: FakeUsers, *, rounds: int = 4, steps: int = 25) -> Exchange:
    """Implicit feedback: exchange what fakes have, along the exact gradient through EASE."""
    starts = (popular, segment, bandwagon, power_users)
    return Exchange(threat=threat, surrogate=through_ease, starts=starts, rounds=rounds, steps=steps)


def optimised_stars(threat: FakeUsers, *, rounds: int = 3, steps: int = 10) -> Exchange:
    """Ratings: exchange what fakes rate and how, along the gradient through half-steps of a matrix factorisation."""
    starts = (average, popular, segment, power_users)
    return Exchange(threat=threat, surrogate=through_mf, starts=starts, rounds=rounds, steps=steps)
