"""What evolutionary attacks share: a population of candidates for every row, judged in one pass, and coarse images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.search import Search


class Population(Search):
    """The bookkeeping of a search that asks about many points of a row at once, by their scores alone."""

    def judge_all(self, members: Tensor, *carry: Any) -> tuple[Any, ...]:
        """Score all members `(B, P, *shape)` in one forward pass, and let rows that reach the goal leave.

        Returns the scores `(B, P)`, minus infinity for no number, then `carry`, for the rows that stay.
        """
        count, size = members.shape[:2]
        every = torch.arange(count, device=members.device)
        if not count:
            return members.new_empty(0, size), *carry
        goal = self.goal[every.repeat_interleave(size)]
        with torch.no_grad():
            outputs = self.model(members.flatten(0, 1))
            scores = self.loss(outputs, goal).to(members.dtype).view(count, size)
            scores = scores.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        reached = goal.reached(outputs).view(count, size)
        best = scores.masked_fill(reached, torch.inf).argmax(1)
        return self._record(members[every, best], reached.any(1), scores[every, best], (scores, *carry))


def image(x: Tensor) -> Tensor:
    """The rows as images `(B, C, H, W)`; any other input counts as an image of one row."""
    return x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)


def grid(x: Tensor, tiles: int) -> tuple[int, int]:
    """How many tiles an image `(B, C, H, W)` has down and across: `tiles` each way, `tiles^2` in a single row."""
    height, width = x.shape[2:]
    return (1, min(tiles * tiles, width)) if height == 1 else (min(tiles, height), min(tiles, width))


def spread(coarse: Tensor, like: Tensor) -> Tensor:
    """Coarse images `(..., C, h, w)` at the size of `like`, `(B, C, H, W)`: each value fills a tile."""
    (h, w), (height, width) = coarse.shape[-2:], like.shape[2:]
    down = torch.arange(height, device=coarse.device) * h // height
    across = torch.arange(width, device=coarse.device) * w // width
    return coarse.index_select(-2, down).index_select(-1, across)
