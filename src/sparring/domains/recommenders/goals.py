"""What an attacker of a recommender wants: an item among the first ones of many users, or gone from there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """The item is among the `top` ones of a user (`sign` +1), or is not (`sign` -1), judged on the scores alone."""

    item: int
    top: int = 10
    sign: int = 1

    def rank(self, scores: Tensor) -> Tensor:
        """The place of the item for every user, `(users,)`, from 1, of scores `(users, items)`.

        Of items with the same score it is taken to be in the middle.
        """
        own = scores[:, self.item : self.item + 1]
        return 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2

    def reached(self, scores: Tensor) -> Tensor:
        """For which users the attacker has what is wanted, `(users,)` bool."""
        return (self.rank(scores) <= self.top) == (self.sign > 0)


def promote(item: int, *, top: int = 10) -> Placement:
    """The item is to be among the `top` ones."""
    return Placement(item, top)


def demote(item: int, *, top: int = 10) -> Placement:
    """The item is to be no more among the `top` ones."""
    return Placement(item, top, -1)
