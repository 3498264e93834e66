"""Square attack: random search with squares that shrink (Andriushchenko et al., 2020). Scores alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.errors import BadInput
from sparring.losses import margin
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


@dataclass(frozen=True)
class Window:
    """A rectangle in every image, each at its own place: `top`, `left` are `(B,)`. Images are `(B, C, H, W)`."""

    top: Tensor
    left: Tensor
    height: int
    width: int

    @classmethod
    def draw(cls, share: float, like: Tensor, rng: Streams, least: int = 1) -> Window:
        """A square that covers this share of the image, anywhere (a strip, where the image is lower than that)."""
        full_height, full_width = like.shape[2:]
        side = max(round(math.sqrt(share * full_height * full_width)), least)
        height = min(side, full_height)
        width = min(side if height == side else max(round(share * full_width), 1), full_width)
        top = rng.at("top").integers(full_height - height + 1, 1, device=like.device).flatten()
        left = rng.at("left").integers(full_width - width + 1, 1, device=like.device).flatten()
        return cls(top, left, height, width)

    def place(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column inside the window of every pixel `(B, H, 1)`, `(B, 1, W)`, and which pixels are inside."""
        i = torch.arange(like.shape[2], device=like.device)[:, None] - self.top[:, None, None]
        j = torch.arange(like.shape[3], device=like.device)[None, :] - self.left[:, None, None]
        inside = ((i >= 0) & (i < self.height)) & ((j >= 0) & (j < self.width))
        return i.clamp(0, self.height - 1), j.clamp(0, self.width - 1), inside.unsqueeze(1)


def _share(first: float, i: int, queries: int) -> float:
    """The share of the image that a square covers: it halves at fixed points of the budget (section 3, p-schedule)."""
    halvings = sum(10_000 * i / queries > at for at in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    return first * 0.5**halvings


def stripes(x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """Vertical stripes of plus or minus eps: the Linf start."""
    signs = rng.sign(x.shape[1], 1, x.shape[3], device=x.device).to(x.dtype)
    return threat.project(x + threat.eps * signs, x)


def recolour(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """Set a square to plus or minus eps, channel by channel: the Linf move."""
    _, _, inside = Window.draw(share, x, rng).place(x)
    signs = rng.at("signs").sign(x.shape[1], 1, 1, device=x.device).to(x.dtype)
    return threat.project(torch.where(inside, x + threat.eps * signs, z), x)


def _peak(height: int, width: int) -> Tensor:
    """A rectangle that falls off from its centre as `sum 1 / k^2` (section 3.4)."""
    i = (torch.arange(height) - height // 2).abs()
    j = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(i[:, None], j[None, :])
    falls = torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float32).square().reciprocal()
    peak: Tensor = falls.flip(0).cumsum(0).flip(0)[ring.clamp(max=len(falls) - 1)]
    return peak


def _pattern(height: int, width: int) -> Tensor:
    """Two peaks of opposite sign, one above the other, at length one."""
    half = height // 2
    pattern = torch.cat([_peak(half, width), -_peak(height - half, width)])
    return pattern / pattern.square().sum().sqrt()


def tiles(x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """A grid of patterns with random signs, five to a side: the L2 start."""
    (height, down), (width, across) = ((max(size // 5, 1), min(size, 5)) for size in x.shape[2:])
    signs = rng.sign(x.shape[1], down, across, device=x.device).to(x.dtype)
    grid = signs.repeat_interleave(height, 2).repeat_interleave(width, 3)
    grid = grid * _pattern(height, width).to(x).repeat(down, across)
    delta = torch.zeros_like(x)
    top, left = (x.shape[2] - height * down) // 2, (x.shape[3] - width * across) // 2
    delta[:, :, top : top + height * down, left : left + width * across] = grid
    return _stretch(delta, x, threat)


def move_mass(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """Take the change out of one square, and add it to another, in a new pattern (algorithm 3)."""
    window = Window.draw(share, x, rng.at("to"), least=3)
    i, j, target = window.place(x)
    _, _, source = Window.draw(share, x, rng.at("from"), least=3).place(x)
    delta, pattern = z - x, _pattern(window.height, window.width).to(x)
    upright, turned = pattern[i, j], pattern.flip(0)[i, j]
    pick = rng.at("turn").sign(1, 1, 1, device=x.device) > 0
    drawn = torch.where(pick, upright.unsqueeze(1), turned.unsqueeze(1))
    signs = rng.at("signs").sign(x.shape[1], 1, 1, device=x.device).to(x.dtype)
    old = delta * target
    new = target * (drawn * signs + old / _length(old))
    free = (threat.eps**2 - rows(threat.norm.size(delta), x).square()).clamp(min=0) / x.shape[1]
    new = new / _length(new) * (free + _length(delta * (target | source)).square()).sqrt()
    return _stretch(torch.where(target, new, delta.masked_fill(source, 0)), x, threat)


def tilt(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """Add a patch of one colour, and keep the length: a small turn of the change."""
    _, _, inside = Window.draw(share, x, rng).place(x)
    # Between 1 and 0.01; exp, not a power: torch rounds powers differently from one batch to another.
    size = rows(rng.at("size").uniform(1, device=x.device).flatten().mul(math.log(0.01)).exp(), x)
    signs = rng.at("signs").sign(x.shape[1], 1, 1, device=x.device).to(x.dtype)
    return _stretch(z - x + inside * signs * size * threat.eps / inside.sum((2, 3), keepdim=True).sqrt(), x, threat)


def move_or_tilt(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """Move mass while squares cover more than nine pixels, then turn: the L2 move.

    The paper never goes below three by three, and so stays short of the optimum (0.6 to 0.8 of it on linear models).
    """
    fine = share * x.shape[2] * x.shape[3] < 9
    return (tilt if fine else move_mass)(z, x, threat, share, rng)


def _length(delta: Tensor) -> Tensor:
    """The Euclidean length of every channel, `(B, C, 1, 1)`."""
    return delta.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-12)


def _stretch(delta: Tensor, x: Tensor, threat: Ball) -> Tensor:
    """The change at length eps, cut off at the box."""
    length = threat.norm.size(delta).clamp(min=1e-12)
    return (x + delta * rows(threat.eps / length, x)).clamp(threat.low, threat.high)


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random search: change a square, keep the change if the margin grows (Andriushchenko et al., 2020, algorithm 1).

    `start(x, threat, rng)` draws the first point, `move(z, x, threat, share, rng)` the next. Images `(B, C, H, W)`;
    any other input counts as an image of one row. Costs `queries` forward passes, or as many as a row needs.
    """

    threat: Ball
    start: Callable[[Tensor, Ball, Streams], Tensor]
    move: Callable[[Tensor, Tensor, Ball, float, Streams], Tensor]
    loss: Loss = margin
    queries: int = 5000
    first: float = 0.8

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape = x.shape[1:]
        image = x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)
        search = Search(lambda z: model(z.reshape(len(z), *shape)), image, goal, self.loss)
        z = self.start(image, self.threat, rng.at("start"))
        score, z, image, rng = search.judge(z, z, image, rng)
        for i in search.steps(self.queries - 1):
            share = _share(self.first, i, self.queries)
            trial = self.move(z, image, self.threat, share, rng.at(i))
            found, trial, z, score, image, rng = search.judge(trial, trial, z, score, image, rng)
            better = found > score
            z, score = torch.where(rows(better, z), trial, z), torch.where(better, found, score)
        return search.best.view_as(x)


_MOVES = {"linf": (stripes, recolour), "l2": (tiles, move_or_tilt)}


@register(
    "attacks",
    "square",
    needs="scores",
    norms=("linf", "l2"),
    family="scores",
    passes="queries + 0",
    paper="Andriushchenko et al., 2020",
)
def square(threat: Ball, *, queries: int = 5000) -> Square:
    """Random search with squares that shrink; needs the scores alone (Andriushchenko et al., 2020)."""
    if threat.norm.name not in _MOVES:
        raise BadInput(f"the square attack on {threat}", "linf or l2", "choose another attack: sparring list attacks")
    start, move = _MOVES[threat.norm.name]
    return Square(threat=threat, start=start, move=move, queries=queries)
