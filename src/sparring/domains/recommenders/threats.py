"""What an attacker of a recommender may do: open so many accounts, and rate so many items with each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparring.domains.recommenders.interactions import Interactions
from sparring.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class FakeUsers:
    """At most `users` further users with at most `ratings` ratings each, all legal; what real users said stays.

    `x` is a data set here, and `z` the same with the fake users after the real ones. Legal values are what
    `Interactions` checks by itself.
    """

    users: int
    ratings: int

    def __str__(self) -> str:
        return f"fake-users:{self.users}x{self.ratings}"

    def contains(self, z: Interactions, x: Interactions) -> bool:
        """Whether the attacker may hand over `z` for `x`."""
        fakes, real = z.shape[0] - x.shape[0], z.users < x.shape[0]
        return (
            0 <= fakes <= self.users
            and z.shape[1] == x.shape[1]
            and z.levels == x.levels
            and bool((z.activity[x.shape[0] :] <= self.ratings).all())
            and all(torch.equal(getattr(z, part)[real], getattr(x, part)) for part in ("users", "items", "ratings"))
        )

    def distance(self, z: Interactions, x: Interactions) -> float:
        """The number of fake users, as a share of the real ones."""
        return (z.shape[0] - x.shape[0]) / x.shape[0]


def fake_users(budget: str | float, data: Interactions, *, ratings: int | None = None) -> FakeUsers:
    """The threat of so many fake users: a number (`47`), or a share of the real ones (`5%`, 0.05).

    Each rates as many items as the median user, unless `ratings` says otherwise.

    Raises:
        BadInput: no such number or share, more fake users than real ones, no rating at all.
    """
    text = str(budget).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    share = number / 100 if text.endswith("%") else number if number < 1 else number / data.shape[0]
    if not 0 < share <= 1 or (number >= 1 and not text.endswith("%") and number != int(number)):
        raise BadInput(
            f"fake users {text!r}", "a number, or a share of the real users as 5%", "not more than there are"
        )
    held = max(1, int(data.activity.median())) if ratings is None else ratings
    if not 1 <= held <= data.shape[1]:
        raise BadInput(f"{held} ratings of a fake user", f"from 1 to {data.shape[1]}, the number of items", "choose")
    return FakeUsers(users=max(1, round(share * data.shape[0])), ratings=held)
