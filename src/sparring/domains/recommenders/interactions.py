"""Who rated what, and when: the data set of a recommender, which is what an attacker of it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.spelling import hint

CELLS = 200_000_000
"""Users times items at most: scores of all users for all items are held at once, 4 bytes each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """`N` ratings of `shape = (users, items)`; no user rates an item twice.

    `users`, `items` and `times` are `(N,)` int64, `ratings` `(N,)` float32. `levels` are the legal ratings, rising; a
    single level says that the feedback is implicit: somebody looked at something, or did not. `names` are those of the
    items, as people write them.

    Raises:
        BadInput: positions outside of the shape, an item rated twice, a rating that is no level, too many cells.
    """

    users: Tensor
    items: Tensor
    ratings: Tensor
    times: Tensor
    shape: tuple[int, int]
    levels: tuple[float, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        cells, (users, items) = self.users * self.shape[1] + self.items, self.shape
        if users * items > CELLS:
            raise BadInput(f"{users:,} users times {items:,} items", f"{CELLS:,} at most", "take fewer of them")
        if len(cells) and not (int(self.users.min()) >= 0 and int(self.users.max()) < users):
            raise BadInput("users outside of the shape", f"numbers from 0 to {users - 1}", "count them from 0")
        if len(cells) and not (int(self.items.min()) >= 0 and int(self.items.max()) < items == len(self.names)):
            raise BadInput("items outside of the shape", f"{items} names, and numbers below", "count them from 0")
        if len(torch.unique(cells)) < len(cells):
            raise BadInput("an item that a user rates twice", "one rating of an item by a user", "keep the last")
        if not torch.isin(self.ratings, torch.tensor(self.levels)).all():
            raise BadInput("a rating that is no level", f"one of {self.levels}", "round them")

    @property
    def implicit(self) -> bool:
        """Whether that somebody rated says all: there is a single level."""
        return len(self.levels) == 1

    @cached_property
    def matrix(self) -> Tensor:
        """The ratings `(users, items)`, 0 where there is none."""
        return torch.zeros(self.shape).index_put_((self.users, self.items), self.ratings)

    @cached_property
    def rated(self) -> Tensor:
        """1 where there is a rating, 0 elsewhere, `(users, items)` float32."""
        return torch.zeros(self.shape).index_put_((self.users, self.items), torch.ones(()))

    @cached_property
    def popularity(self) -> Tensor:
        """How many users rated each item, `(items,)`."""
        return torch.bincount(self.items, minlength=self.shape[1])

    @cached_property
    def activity(self) -> Tensor:
        """How many items each user rated, `(users,)`."""
        return torch.bincount(self.users, minlength=self.shape[0])

    def item(self, name: str) -> int:
        """The position of the item of this name.

        Raises:
            BadInput: there is none.
        """
        if name not in self.names:
            do = hint(name, self.names, f"the first ones are {', '.join(self.names[:3])}")
            raise BadInput(f"item {name!r}", "an item of the data", do)
        return self.names.index(name)

    def kept(self, which: Tensor) -> Interactions:
        """Only some of the ratings, `which` `(N,)` bool; users and items stay, without ratings if need be."""
        parts = {name: getattr(self, name)[which] for name in ("users", "items", "ratings", "times")}
        return replace(self, **parts)

    def joined(self, profiles: Tensor) -> Interactions:
        """With further users, who rate `profiles` `(fakes, items)` after everyone else; NaN where they do not."""
        rows, items = (~profiles.isnan()).nonzero(as_tuple=True)
        now = int(self.times.max()) + 1 if len(self.times) else 0
        return replace(
            self,
            users=torch.cat([self.users, rows + self.shape[0]]),
            items=torch.cat([self.items, items]),
            ratings=torch.cat([self.ratings, profiles[rows, items].float()]),
            times=torch.cat([self.times, torch.full_like(rows, now)]),
            shape=(self.shape[0] + len(profiles), self.shape[1]),
        )


def as_implicit(data: Interactions, *, at_least: float | None = None) -> Interactions:
    """Ratings as implicit feedback: those of `at_least` so much, or all of them, as a 1."""
    some = data if at_least is None else data.kept(data.ratings >= at_least)
    return replace(some, ratings=torch.ones_like(some.ratings), levels=(1.0,))


def leave_last_out(data: Interactions) -> tuple[Interactions, Interactions]:
    """What to train on, and the last rating of every user who has two or more, to measure with.

    Of ratings at the same time the one that stands last is the last.
    """
    order = data.times.argsort(stable=True)
    order = order[data.users[order].argsort(stable=True)]
    users = data.users[order]
    last = torch.ones_like(users, dtype=torch.bool)
    last[:-1] = users[1:] != users[:-1]
    held = torch.zeros_like(last)
    held[order] = last & (data.activity[users] > 1)
    return data.kept(~held), data.kept(held)
