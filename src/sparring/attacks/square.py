"""Square attack: random search with squares that shrink (Andriushchenko et al., 2020). Scores alone."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.images.windows import Window
from sparring.domains.speech.threats import LOUDNESS
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Propose a change, keep it unless the loss falls: what Square and Sparse-RS are made of.

    The papers keep it where the loss grows. Models that answer in steps, trees or quantised networks, have plateaus,
    which are crossed by changes that cost nothing; where no two scores are the same, there is no difference.

    `start(x, threat, rng)` draws the first point, `move(z, x, threat, share, rng)` the next, and `share(i, queries)`
    says how much of the image a move may touch. Images are `(B, C, H, W)`; any other input counts as an image of one
    row. Costs `queries` forward passes, `x` included, or as many as a row needs.
    """

    threat: Ball
    start: Callable[[Tensor, Ball, Streams], Tensor]
    move: Callable[[Tensor, Tensor, Ball, float, Streams], Tensor]
    share: Callable[[int, int], float]
    loss: Loss = margin
    queries: int = 5000

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        shape = x.shape[1:]
        image = x if x.dim() == 4 else x.reshape(len(x), 1, 1, -1)
        search = Search(lambda z: model(z.reshape(len(z), *shape)), image, goal, self.loss)
        _, image, rng = search.judge(image, image, rng)
        if self.queries < 2:
            return search.best.view_as(x)
        z = self.start(image, self.threat, rng.at("start"))
        score, z, image, rng = search.judge(z, z, image, rng)
        for i in search.steps(self.queries - 2):
            trial = self.move(z, image, self.threat, self.share(i, self.queries), rng.at(i))
            found, trial, z, score, image, rng = search.judge(trial, trial, z, score, image, rng)
            better = found >= score
            z, score = torch.where(rows(better, z), trial, z), torch.where(better, found, score)
        return search.best.view_as(x)


@dataclass(frozen=True)
class Stairs:
    """A share that comes down in steps, at fixed points of a budget of 10,000 queries, of others in proportion."""

    first: float
    at: tuple[int, ...] = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    over: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

    def __call__(self, i: int, queries: int) -> float:
        """The share at query `i` of `queries`."""
        return self.first / self.over[bisect_left(self.at, 10_000 * i / queries)]


def stripes(x: Tensor, threat: Ball, rng: Streams) -> Tensor:
    """Vertical stripes of plus or minus eps: the Linf start."""
    signs = rng.sign(x.shape[1], 1, x.shape[3], device=x.device).to(x.dtype)
    return threat.project(x + threat.eps * signs, x)


def recolour(z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
    """Set a square to plus or minus eps, channel by channel: the Linf move.

    Where the square has that colour already, it gets the opposite one: the paper would spend a query on no change, in
    grey images every other one once squares are small.
    """
    _, _, inside = Window.draw(share, x, rng).place(x)
    signs = rng.at("signs").sign(x.shape[1], 1, 1, device=x.device).to(x.dtype)
    trial, other = (threat.project(torch.where(inside, x + side * threat.eps * signs, z), x) for side in (1, -1))
    same = (trial == z).flatten(1).all(1)
    return torch.where(rows(same, z), other, trial)


@dataclass(frozen=True)
class Mass:
    """Starts and moves where `sum |delta|^power` is bounded: `power` 2 for L2, 1 for L1 (Croce and Hein, 2021).

    Patterns fall off from their centre as `sum 1 / k^falls`. `fine` is the move once squares are small.
    """

    power: int
    falls: int
    fine: Callable[[Tensor, Tensor, Ball, Tensor, Streams], Tensor]

    def tiles(self, x: Tensor, threat: Ball, rng: Streams) -> Tensor:
        """A grid of patterns with random signs, five to a side, as long as eps in whatever unit: the start."""
        (height, down), (width, across) = ((max(size // 5, 1), min(size, 5)) for size in x.shape[2:])
        signs = rng.sign(x.shape[1], down, across, device=x.device).to(x.dtype)
        grid = signs.repeat_interleave(height, 2).repeat_interleave(width, 3)
        grid = grid * self.pattern(height, width).to(x).repeat(down, across)
        delta = torch.zeros_like(x)
        top, left = (x.shape[2] - height * down) // 2, (x.shape[3] - width * across) // 2
        delta[:, :, top : top + height * down, left : left + width * across] = grid
        return _stretch(delta * rows(threat.reach(x) / threat.norm.size(delta).clamp(min=1e-12), x), x, threat)

    def move(self, z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
        """Carry mass from square to square while squares cover more than nine pixels, then change a patch.

        The papers never go below three by three, and so stay short of the optimum (0.6 to 0.8 of it on linear models).
        """
        if share * x.shape[2] * x.shape[3] >= 9:
            return self.carry(z, x, threat, share, rng)
        _, _, inside = Window.draw(share, x, rng).place(x)
        # Between 1 and 0.01 of eps; exp, not a power: torch rounds powers differently from one batch to another.
        size = rng.at("size").uniform(1, device=x.device).flatten().mul(math.log(0.01)).exp()
        size = rows(size * threat.reach(x), x)
        signs = rng.at("signs").sign(x.shape[1], 1, 1, device=x.device).to(x.dtype)
        patch = inside * signs * size / inside.sum((2, 3), keepdim=True, dtype=x.dtype).pow(1 / self.power)
        return self.fine(z, x, threat, patch, rng)

    def carry(self, z: Tensor, x: Tensor, threat: Ball, share: float, rng: Streams) -> Tensor:
        """Take the change out of one square, and add it to another, in a new pattern (2020, algorithm 3).

        The square gets eps more than both had, before all is brought back to eps: a third to a half of the change. The
        papers keep the mass as it is, and need up to twice the queries (see benchmarks/square.py).
        """
        window = Window.draw(share, x, rng.at("to"), least=3)
        i, j, target = window.place(x)
        _, _, source = Window.draw(share, x, rng.at("from"), least=3).place(x)
        upright, turned = (self.pattern(window.height, window.width), self.pattern(window.width, window.height).T)
        upright, turned = (pattern.to(x)[i, j].unsqueeze(1) for pattern in (upright, turned))
        drawn = torch.where(rng.at("turn").sign(1, 1, 1, device=x.device) > 0, upright, turned)
        signs = rng.at("signs").sign(x.shape[1], 1, 1, device=x.device).to(x.dtype)
        delta = z - x
        old = delta * target
        new = target * (drawn * signs + old / self.length(old))
        mass = rows(threat.reach(x) ** self.power, x) / x.shape[1] + self.length(delta * (target | source)).pow(
            self.power
        )
        new = new / self.length(new) * mass.pow(1 / self.power)
        return _stretch(torch.where(target, new, delta.masked_fill(source, 0)), x, threat, least=2)

    def length(self, delta: Tensor) -> Tensor:
        """The size of every channel, `(B, C, 1, 1)`."""
        return delta.abs().pow(self.power).sum((2, 3), keepdim=True).pow(1 / self.power).clamp(min=1e-12)

    def peak(self, height: int, width: int) -> Tensor:
        """A rectangle that falls off from its centre as `sum 1 / k^falls` (2020, section 3.4)."""
        i = (torch.arange(height) - height // 2).abs()
        j = (torch.arange(width) - width // 2).abs()
        ring = torch.maximum(i[:, None], j[None, :])
        falls = torch.tensor([k**-self.falls for k in range(1, max(height, width) // 2 + 2)])
        peak: Tensor = falls.flip(0).cumsum(0).flip(0)[ring.clamp(max=len(falls) - 1)]
        return peak

    def pattern(self, height: int, width: int) -> Tensor:
        """Two peaks of opposite sign, one above the other, at size one."""
        half = height // 2
        pattern = torch.cat([self.peak(half, width), -self.peak(height - half, width)])
        return pattern / pattern.abs().pow(self.power).sum().pow(1 / self.power)


def tilt(z: Tensor, x: Tensor, threat: Ball, patch: Tensor, rng: Streams) -> Tensor:
    """Add a patch, and keep the length: a small turn of the change."""
    return _stretch(z - x + patch, x, threat)


def shift(z: Tensor, x: Tensor, threat: Ball, patch: Tensor, rng: Streams) -> Tensor:
    """Add a patch at the cost of one of the coordinates that are changed, and of the others if it has too little."""
    delta = (z - x).flatten(1)
    draw = rng.at("donor").uniform(delta.shape[1], device=x.device)
    donor = torch.zeros_like(delta, dtype=torch.bool).scatter(1, (draw + (delta != 0)).argmax(1, keepdim=True), True)
    shrunk = delta.sign() * (delta.abs() - threat.norm.size(patch)[:, None]).clamp(min=0)
    return _stretch(torch.where(donor, shrunk, delta).view_as(x) + patch, x, threat)


def _stretch(delta: Tensor, x: Tensor, threat: Ball, least: float = 1) -> Tensor:
    """The point of the threat nearest to the change, made `least` times eps long first where it is shorter."""
    short = least * threat.reach(x) / threat.norm.size(delta).clamp(min=1e-12)
    return threat.project(x + delta * rows(short.clamp(min=1), x), x)


_L2, _L1 = Mass(power=2, falls=2, fine=tilt), Mass(power=1, falls=4, fine=shift)
_MOVES = {"linf": (stripes, recolour), "l2": (_L2.tiles, _L2.move), "l1": (_L1.tiles, _L1.move)}
_MOVES[LOUDNESS.name] = _MOVES["l2"]


@register(
    "attacks",
    "square",
    needs="scores",
    norms=("linf", "l2", "l1"),
    threats=("snr",),
    family="scores",
    passes="queries + 0",
    paper="Andriushchenko et al., 2020",
)
def square(threat: Ball, *, queries: int = 5000) -> RandomSearch:
    """Random search with squares that shrink; needs the scores alone (Andriushchenko et al., 2020)."""
    if threat.norm.name not in _MOVES:
        raise BadInput(
            f"the square attack on {threat}", "linf, l2, l1 or snr", "choose another attack: sparring list attacks"
        )
    start, move = _MOVES[threat.norm.name]
    return RandomSearch(threat=threat, start=start, move=move, share=Stairs(0.8), queries=queries)
