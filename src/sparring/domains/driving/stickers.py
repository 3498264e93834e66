"""A patch that is worn: put onto every object of a kind, as large as the object allows, learned over many of them.

After Thys et al. (2019), who hide persons behind a printed square; as there, where it lies is known, and how it is
turned, lit and printed is not (expectation over transformation). What is climbed is any goal of a detector.

    sticker = worn(learner, detector, x, labels, goal=task.never(labels), rng=rng, kinds=(0,))
    z = sticker(x, labels, rng)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from sparring.attacks.patch import UniversalPatch
from sparring.domains.driving.predictions import NONE
from sparring.domains.images.warps import lattice
from sparring.errors import BadInput
from sparring.streams import Streams
from sparring.types import Goal, Model

NOISE, CONTRAST, BRIGHTNESS = 0.1, 0.2, 0.1
"""By how much every pixel of a print is off, its contrast and its brightness, as Thys et al. draw them."""


@dataclass(frozen=True, eq=False)
class Sticker:
    """Puts a square `patch` `(1, 3, side, side)` onto the middle of every object.

    It covers a `share` of the object's box (less where that is narrow), and is turned by up to `degrees`. `kinds` are
    the classes that wear it; none means all.
    """

    patch: Tensor
    share: float = 0.1
    kinds: tuple[int, ...] = ()
    degrees: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BadInput(f"a patch on a share of {self.share:g}", "a share above 0 and up to 1", "give say 0.1")

    def wearing(self, labels: Tensor) -> Tensor:
        """Which objects wear it, `(B, N)`."""
        if not self.kinds:
            return labels[..., 0] != NONE
        return torch.isin(labels[..., 0], labels.new_tensor(self.kinds))

    def __call__(self, x: Tensor, labels: Tensor, rng: Streams) -> Tensor:
        """The images `(B, 3, H, W)` with it on the objects of `labels` `(B, N, 5)`; differentiable in the patch."""
        (height, width), wearing = x.shape[2:], self.wearing(labels)
        corners = labels[..., 1:] * labels.new_tensor([width, height, width, height])
        size = corners[..., 2:] - corners[..., :2]
        side = (self.share * size.prod(2)).clamp(min=0).sqrt().minimum(size.amin(2)).clamp(min=1e-3)
        middle = (corners[..., :2] + corners[..., 2:]) / 2 - 0.5  # of pixels, whose centres are whole numbers here
        down, across = lattice(x)
        for j in range(labels.shape[1]):
            some = wearing[:, j].nonzero().flatten()
            if not len(some):
                continue
            draw = rng[some].at(j)
            turn = (self.degrees * (2 * draw.at("turn").uniform(1, device=x.device).view(-1, 1, 1) - 1)).deg2rad()
            i, k = (each - middle[some, j, axis].view(-1, 1, 1) for each, axis in ((down, 1), (across, 0)))
            place = torch.stack([turn.cos() * k + turn.sin() * i, turn.cos() * i - turn.sin() * k], 3)
            place = (2 * place / side[some, j].view(-1, 1, 1, 1)).to(x.dtype)  # -1 to 1 over the patch
            shown = functional.grid_sample(self._printed(x, draw), place, padding_mode="border", align_corners=False)
            inside = (place.abs() <= 1).all(3).unsqueeze(1)
            x = x.index_copy(0, some, torch.where(inside, shown, x[some]))
        return x

    def _printed(self, x: Tensor, rng: Streams) -> Tensor:
        """The patch as it comes out of a printer and into the light, one for each row."""
        contrast, brightness = (2 * rng.at("light").uniform(2, 1, 1, 1, device=x.device) - 1).unbind(1)
        noise = 2 * rng.at("noise").uniform(*self.patch.shape[1:], device=x.device) - 1
        shown = (1 + CONTRAST * contrast) * self.patch + BRIGHTNESS * brightness + NOISE * noise
        return shown.clamp(0, 1).to(x.dtype)


def worn(
    learner: UniversalPatch,
    model: Model,
    x: Tensor,
    labels: Tensor,
    *,
    goal: Goal,
    rng: Streams,
    side: int = 32,
    share: float = 0.1,
    kinds: tuple[int, ...] = (),
) -> Sticker:
    """The sticker learned from images `(B, 3, H, W)` with the objects `labels`; it begins grey, `side` by `side`.

    `learner` says how it climbs: `replace(universal_patch(patch(1.0), steps=200), batch=8)`, say. Costs a forward and a
    backward pass for each of its `batch` images in each of its `steps`.

    Raises:
        BadInput: no image has an object that would wear it.
    """
    start = Sticker(x.new_full((1, x.shape[1], side, side), 0.5), share, kinds, learner.degrees)
    bearing = start.wearing(labels).any(1).nonzero().flatten()
    if not len(bearing):
        raise BadInput("images without objects that wear the patch", "at least 1", "choose other kinds, or images")
    x, labels, goal = x[bearing], labels[bearing], goal[bearing]

    def put(leaf: Tensor, some: Tensor, rng: Streams) -> Tensor:
        return replace(start, patch=leaf)(x[some], labels[some], rng)

    return replace(start, patch=learner.learn(start.patch, put, model, goal, rng[bearing]))
