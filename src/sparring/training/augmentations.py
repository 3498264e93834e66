"""Augmentations: a batch as it might have looked, `(x, rng) -> x`. `rng` holds a stream for each row.

All but `Mixup` are about images `(B, C, H, W)` alone. `Mixup` changes the labels as well, into shares, and so wraps
the objective.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput
from sparring.limits import below_one, fractions, not_negative, positive
from sparring.norms import rows
from sparring.registry import register
from sparring.streams import Streams
from sparring.training.contract import Objective, Searching, pinned

Augmentation = Callable[[Tensor, Streams], Tensor]


@register("augmentations", "shift", shape="image")
@dataclass(frozen=True)
class shifts:  # noqa: N801  (reads as the function it stands for)
    """Move every image by up to `pixels` in each direction; what comes in from outside is 0.

    With 4 pixels this is the padded crop of CIFAR-10 (He et al., 2016).
    """

    pixels: int = 1

    def __post_init__(self) -> None:
        not_negative(pixels=self.pixels)

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The moved images, `(B, C, H, W)`."""
        margin = functional.pad(_pictures(x), (self.pixels,) * 4)
        corner = rng.at("shift").integers(2 * self.pixels + 1, 2, device=x.device)
        row = corner[:, :1] + torch.arange(x.shape[2], device=x.device)
        column = corner[:, 1:] + torch.arange(x.shape[3], device=x.device)
        batch = torch.arange(len(x), device=x.device)
        return margin[batch[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2).contiguous()


@register("augmentations", "flip", shape="image")
@dataclass(frozen=True)
class flips:  # noqa: N801
    """Mirror every other image, left to right."""

    share: float = 0.5

    def __post_init__(self) -> None:
        fractions(share=self.share)

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The images, some of them mirrored."""
        chosen = rows(rng.at("flip").uniform(device=x.device) < self.share, x)
        return torch.where(chosen, _pictures(x).flip(3), x)


@register("augmentations", "turn", shape="image")
@dataclass(frozen=True)
class turns:  # noqa: N801
    """Turn every image by up to `degrees`, and resize it by a share of up to `scale`; what comes in from outside is 0.

    With interpolation between pixels, so that values stay in their range (Simard et al., 2003, section 2).
    """

    degrees: float = 10.0
    scale: float = 0.1

    def __post_init__(self) -> None:
        not_negative(degrees=self.degrees)
        below_one(scale=self.scale)  # what is made smaller by all of its size is nowhere

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The turned images, `(B, C, H, W)`."""
        angle, size = (2 * rng.at("turn").uniform(2, device=x.device) - 1).unbind(1)
        angle, size = angle * math.radians(self.degrees), 1 + size * self.scale
        cos, sin, none = angle.cos() / size, angle.sin() / size, torch.zeros_like(angle)
        shape = list(_pictures(x).shape)
        side = shape[2] / shape[3]  # affine_grid measures down and across in halves of the image
        maps = torch.stack([cos, -sin * side, none, sin / side, cos, none], 1).view(-1, 2, 3).to(x.dtype)
        grid = functional.affine_grid(maps, shape, align_corners=False)
        return functional.grid_sample(x, grid, align_corners=False)


@register("augmentations", "cutout", shape="image")
@dataclass(frozen=True)
class cutout:  # noqa: N801
    """Hide a square of `side` pixels at a random place, in part perhaps outside (DeVries and Taylor, 2017)."""

    side: int = 8
    fill: float = 0.0

    def __post_init__(self) -> None:
        not_negative(side=self.side)

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The images, each with a square of `fill`."""
        height, width = _pictures(x).shape[2:]

        def hidden(purpose: str, length: int) -> Tensor:
            """Which of the places on one axis lie in the square, `(B, length)`."""
            start = rng.at(purpose).integers(length, 1, device=x.device) - self.side // 2
            place = torch.arange(length, device=x.device)
            return (place >= start) & (place < start + self.side)

        square = hidden("row", height)[:, :, None] & hidden("column", width)[:, None, :]
        return x.masked_fill(square.unsqueeze(1), self.fill)


@dataclass(frozen=True)
class each:  # noqa: N801
    """One augmentation after the other."""

    augmentations: tuple[Augmentation, ...]

    def __init__(self, *augmentations: Augmentation) -> None:
        object.__setattr__(self, "augmentations", augmentations)

    def __call__(self, x: Tensor, rng: Streams) -> Tensor:
        """The images, as the last leaves them."""
        for i, augmentation in enumerate(self.augmentations):
            x = augmentation(x, rng.at(i))
        return x


@dataclass(frozen=True)
class Mixup(Searching):
    """Any objective, on mixtures of two examples: `t x + (1 - t) x'`, with labels of shares t and 1 - t.

    Zhang et al. (2018). `t` is drawn for each row from Beta(alpha, alpha); the other example is another row of the
    batch. The attack of the objective climbs the loss at the mixture of labels.
    """

    objective: Objective
    classes: int
    alpha: float = 0.2

    def __post_init__(self) -> None:
        positive(alpha=self.alpha)

    def pinned(
        self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams
    ) -> Callable[[], Tensor]:
        """The objective at the mixtures, at what it finds now."""
        return pinned(self.objective, network, *self.mixed(x, labels, rng.at("mixup")), strength, rng)

    def mixed(self, x: Tensor, labels: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
        """The mixtures, and their labels as shares `(B, classes)`."""
        order = rng.at("order").uniform(device=x.device).argsort(stable=True)
        other = torch.empty_like(order).scatter_(0, order, order.roll(1))  # each row's neighbour in a random circle
        share = _beta(self.alpha, rng.at("share").uniform(device=x.device))
        truth = shares(labels, self.classes)
        return tuple(rows(share, v) * v + rows(1 - share, v) * v[other] for v in (x, truth))  # type: ignore[return-value]


def _pictures(x: Tensor) -> Tensor:
    """The inputs, where they are images.

    Raises:
        BadInput: they are not.
    """
    if x.dim() != 4:
        raise BadInput(f"inputs {tuple(x.shape[1:])} to augment", "images (C, H, W)", "leave 'augment' out")
    return x


def shares(labels: Tensor, classes: int) -> Tensor:
    """Labels as probabilities `(B, K)`; those that are shares already stay as they are."""
    return functional.one_hot(labels, classes).float() if labels.dim() == 1 else labels


def _beta(alpha: float, u: Tensor) -> Tensor:
    """Draws from Beta(alpha, alpha) for uniform ones."""
    quantile: Any = betaincinv(alpha, alpha, u.double().cpu().numpy())
    return torch.as_tensor(quantile, dtype=u.dtype, device=u.device)
