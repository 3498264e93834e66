"""The 15 common corruptions at 5 severities (Hendrycks and Dietterich, 2019): what cameras, weather and storage do.

The constants are the published ones: those of CIFAR-10-C (32 by 32 pixels) for small images, those of ImageNet-C (224
by 224) for large ones, whichever is nearer; lengths scale with the image. What differs from the published code: frost
is drawn and not cut out of photographs, nothing but JPEG rounds to 8 bits on the way, and grey stays grey.

A corruption is a function `(v, c, unit, rng) -> v`: images `(B, C, H, W)` in [0, 1], its constants, the pixels here to
a pixel there, and a stream for each row. Nothing in it depends on what else is in the batch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparring.domains.images.warps import folded, lattice, read
from sparring.norms import rows
from sparring.streams import Streams

SEVERITIES = 5

Constants = tuple[Any, ...]


@dataclass(frozen=True)
class Corrupt:
    """A corruption and its constants, for severities 1 to 5: `small` for 32 by 32 pixels, `large` for 224 by 224."""

    apply: Callable[[Tensor, Any, float, Streams], Tensor]
    small: Constants
    large: Constants


def corrupted(v: Tensor, kind: str, severity: int, rng: Streams) -> Tensor:
    """Images in [0, 1] under a corruption of severity 1 to 5, `(B, C, H, W)`."""
    side, corruption = math.sqrt(v.shape[2] * v.shape[3]), KINDS[kind]
    constants, published = (corruption.small, 32) if side < math.sqrt(32 * 224) else (corruption.large, 224)
    return corruption.apply(v, constants[severity - 1], side / published, rng).clamp(0, 1)


# Noise


def gaussian_noise(v: Tensor, deviation: float, unit: float, rng: Streams) -> Tensor:
    """Of a dark room."""
    return v + deviation * rng.normal(*v.shape[1:], device=v.device).to(v.dtype)


def shot_noise(v: Tensor, photons: float, unit: float, rng: Streams) -> Tensor:
    """Poisson: light comes in photons. By the inverse of its distribution function."""
    from scipy import special

    mean = (v * photons).double().cpu().numpy()
    chance = rng.uniform(*v.shape[1:], device=v.device).double().cpu().numpy()
    count = np.ceil(np.nan_to_num(special.pdtrik(chance, mean)))
    fewer = np.maximum(count - 1, 0)
    count = np.where((special.pdtr(fewer, mean) >= chance) | (mean == 0), np.where(mean == 0, 0, fewer), count)
    return torch.from_numpy(count).to(v) / photons


def impulse_noise(v: Tensor, share: float, unit: float, rng: Streams) -> Tensor:
    """Salt and pepper: values that are lost."""
    lost = rng.at("lost").uniform(*v.shape[1:], device=v.device) < share
    salt = rng.at("salt").uniform(*v.shape[1:], device=v.device) < 0.5
    return torch.where(lost, salt.to(v.dtype), v)


# Blur


def blurred(v: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Gaussian blur, reflected at the border."""
    radius = int(truncate * sigma + 0.5)
    weight = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)] if radius else [1.0]
    for axis in (2, 3):
        place, total = torch.arange(v.shape[axis], device=v.device), torch.zeros_like(v)
        for k, share in zip(range(-radius, radius + 1), weight, strict=True):
            total = total + share / sum(weight) * v.index_select(axis, folded(place + k, v.shape[axis]))
        v = total
    return v


def _disk(radius: float, soft: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A disk of sum one, its edge softened by a gaussian of 3 by 3 (5 by 5, if it is larger than 8)."""
    reach = 8 if radius <= 8 else math.ceil(radius)
    line = np.arange(-reach, reach + 1)
    disk = ((line[:, None] ** 2 + line**2) <= radius**2).astype(np.float64)
    edge = np.exp(-0.5 * (np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)) ** 2 / soft**2)
    for axis in (0, 1):
        disk = np.apply_along_axis(np.convolve, axis, disk, edge / edge.sum(), "same")
    softened: np.ndarray[Any, np.dtype[np.float64]] = disk / disk.sum()
    return softened


def defocus_blur(v: Tensor, c: tuple[float, float], unit: float, rng: Streams) -> Tensor:
    """A lens out of focus: every point becomes a disk."""
    kernel, total = _disk(c[0] * unit, c[1]), torch.zeros_like(v)
    down, across = (torch.arange(size, device=v.device) for size in v.shape[2:])
    for i, j in np.argwhere(kernel > 0).tolist():
        above = v.index_select(2, folded(down + i - len(kernel) // 2, v.shape[2]))
        total = total + kernel[i, j] * above.index_select(3, folded(across + j - len(kernel) // 2, v.shape[3]))
    return total


def glass_blur(v: Tensor, c: tuple[float, int, int], unit: float, rng: Streams) -> Tensor:
    """Frosted glass: pixels take the values of near ones, one after the other, between two slight blurs.

    The published code was to swap them, but on colour images, and so in the published data sets, it copies.
    """
    sigma, reach, times = c[0] * unit, max(round(c[1] * unit), 1), c[2]
    height, width = v.shape[2:]
    place = np.tile(np.arange(height * width).reshape(height, width), (len(v), 1, 1))
    each = np.arange(len(v))
    for time in range(times):
        moves = (rng.at(time).integers(2 * reach, height, width, 2) - reach).cpu().numpy()
        for i in range(height - reach, reach, -1):
            for j in range(width - reach, reach, -1):
                if i < height and j < width:
                    place[:, i, j] = place[each, i + moves[:, i, j, 0], j + moves[:, i, j, 1]]
    order = torch.from_numpy(place).to(v.device).flatten(1).unsqueeze(1).expand(-1, v.shape[1], -1)
    return blurred(blurred(v, sigma).flatten(2).gather(2, order).view_as(v), sigma)


def _trailed(v: Tensor, radius: float, sigma: float, degrees: Tensor) -> Tensor:
    """Motion blur towards an angle, `(B,)`: half a gaussian, 2 radius + 1 pixels along it (as in ImageMagick)."""
    width = 2 * math.ceil(radius) + 1
    weight = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(width)]
    down, across = lattice(v)
    turn, total = degrees.double().deg2rad(), torch.zeros_like(v)
    for k, share in enumerate(weight):
        i, j = (rows(-(k * way - 0.5).ceil(), v[:, 0]) for way in (turn.sin(), turn.cos()))
        shifted = read(v, (down - i).clamp(0, v.shape[2] - 1), (across - j).clamp(0, v.shape[3] - 1))
        total = total + share / sum(weight) * shifted
    return total


def motion_blur(v: Tensor, c: tuple[float, float], unit: float, rng: Streams) -> Tensor:
    """A camera that moves."""
    angle = 90 * rng.uniform(1, device=v.device).flatten() - 45
    return _trailed(v, c[0] * unit, c[1] * unit, angle)


def _zoomed(v: Tensor, factor: float) -> Tensor:
    """The centre of the image, larger by a factor."""

    def places(size: int) -> Tensor:
        part = math.ceil(size / factor)
        large = max(round(part * factor), size)
        step = (part - 1) / max(large - 1, 1)
        return (size - part) // 2 + (torch.arange(size, device=v.device) + (large - size) // 2).to(v.dtype) * step

    return read(v, places(v.shape[2]).view(1, -1, 1), places(v.shape[3]).view(1, 1, -1))


def zoom_blur(v: Tensor, c: tuple[float, float], unit: float, rng: Streams) -> Tensor:
    """A camera that comes nearer: the mean of the image and of those zoomed by 1, 1 + step, ... below the end."""
    factors = np.arange(1, *c).tolist()
    total = v
    for factor in factors:
        total = total + _zoomed(v, factor)
    return total / (len(factors) + 1)


# Weather


def plasma(like: Tensor, decay: float, rng: Streams) -> Tensor:
    """A cloudy height map in [0, 1], `(B, 1, H, W)`, by diamonds and squares (Fournier et al., 1982)."""
    side = 1 << max(max(like.shape[2:]) - 1, 1).bit_length()
    heights, step, wobble = like.new_zeros(len(like), side, side), side, 100.0

    def mean(total: Tensor, purpose: str) -> Tensor:
        noise = 2 * rng.at(step).at(purpose).uniform(*total.shape[1:], device=like.device).to(like.dtype) - 1
        return total / 4 + wobble**2 * noise

    def after(grid: Tensor, axis: int) -> Tensor:
        return grid + grid.roll(-1, axis)

    def before(grid: Tensor, axis: int) -> Tensor:
        return grid + grid.roll(1, axis)

    while step >= 2:
        half = step // 2
        corner = heights[:, ::step, ::step]
        heights[:, half::step, half::step] = mean(after(after(corner, 1), 2), "squares")
        centre = heights[:, half::step, half::step]
        heights[:, ::step, half::step] = mean(before(centre, 1) + after(corner, 2), "above")
        heights[:, half::step, ::step] = mean(before(centre, 2) + after(corner, 1), "beside")
        step, wobble = half, wobble / decay
    least, most = (side(heights.flatten(1), 1).view(-1, 1, 1) for side in (torch.amin, torch.amax))
    return ((heights - least) / (most - least).clamp(min=1e-12))[:, None, : like.shape[2], : like.shape[3]]


def snow(v: Tensor, c: tuple[float, ...], unit: float, rng: Streams) -> Tensor:
    """Flakes that fall in streaks, both ways, over a scene that is whiter."""
    mean, deviation, zoom, least, radius, sigma, kept = c
    flakes = mean + deviation * rng.at("flakes").normal(1, *v.shape[2:], device=v.device).to(v.dtype)
    flakes = _zoomed(flakes, max(zoom, 1.0))
    flakes = flakes.where(flakes >= least, 0).clamp(0, 1)
    angle = -135 + 90 * rng.at("angle").uniform(1, device=v.device).flatten()
    flakes = _trailed(flakes, radius * unit, sigma * unit, angle)
    whiter = torch.maximum(v, 1.5 * grey(v) + 0.5)
    return kept * v + (1 - kept) * whiter + flakes + flakes.flip(2, 3)


def grey(v: Tensor) -> Tensor:
    """The brightness of every pixel, `(B, 1, H, W)`: of red, green and blue, else the mean of the channels."""
    if v.shape[1] != 3:
        return v.mean(1, keepdim=True)
    return 0.299 * v[:, :1] + 0.587 * v[:, 1:2] + 0.114 * v[:, 2:]


def frost(v: Tensor, c: tuple[float, float], unit: float, rng: Streams) -> Tensor:
    """Ice on the lens. Drawn, not photographed as in the original: ferns along the ridges of two height maps."""
    ferns = [1 - (2 * plasma(v, 2.0, rng.at(name)) - 1).abs() for name in ("one", "other")]
    ice = 0.3 + 0.7 * torch.maximum(*ferns).square()
    tint = v.new_tensor([0.85, 0.95, 1.0] if v.shape[1] == 3 else [0.93] * v.shape[1]).view(1, -1, 1, 1)
    return c[0] * v + c[1] * ice * tint


def fog(v: Tensor, c: tuple[float, float], unit: float, rng: Streams) -> Tensor:
    """Clouds before the scene, as bright as together they would be too bright."""
    most = v.flatten(1).amax(1).view(-1, 1, 1, 1)
    return (v + c[0] * plasma(v, c[1], rng)) * most / (most + c[0])


def brightness(v: Tensor, c: float, unit: float, rng: Streams) -> Tensor:
    """More light: the value of hue, saturation and value grows, the other two stay."""
    value = v.amax(1, keepdim=True)
    brighter = (value + c).clamp(max=1)
    return torch.where(value > 0, v * (brighter / value.clamp(min=1e-12)), brighter)


# Digital


def contrast(v: Tensor, c: float, unit: float, rng: Streams) -> Tensor:
    """Nearer to the mean of every channel."""
    mean = v.double().flatten(2).mean(2).to(v.dtype)[:, :, None, None]
    return (v - mean) * c + mean


def elastic(v: Tensor, c: tuple[float, float, float], unit: float, rng: Streams) -> Tensor:
    """Stretched: three points move at random, then every pixel does, smoothly. Constants are shares of the side."""
    height, width = v.shape[2:]
    side = math.sqrt(height * width)
    third = max(min(height, width) // 3, 1)
    moved = (2 * rng.at("points").uniform(3, 2, device=v.device).double() - 1) * c[2] * side
    points = torch.tensor([[third, third], [third, -third], [-third, -third]], device=v.device) + moved
    # the map that takes the corners (t, t), (t, -t), (-t, -t) to the points, and where it takes a pixel back from
    first, second = (points[:, 1] - points[:, 2]) / (2 * third), (points[:, 0] - points[:, 1]) / (2 * third)
    origin = (points[:, 0] + points[:, 2]) / 2
    scale = first[:, 0] * second[:, 1] - second[:, 0] * first[:, 1]
    down, across = lattice(v)

    def wide(value: Tensor) -> Tensor:
        return rows(value.to(v.dtype), v[:, 0])

    j, i = across - width // 2 - wide(origin[:, 0]), down - height // 2 - wide(origin[:, 1])
    back_j = wide(second[:, 1] / scale) * j - wide(second[:, 0] / scale) * i + width // 2
    back_i = wide(first[:, 0] / scale) * i - wide(first[:, 1] / scale) * j + height // 2
    v = read(v, folded(back_i, height), folded(back_j, width))
    wander = [2 * rng.at(way).uniform(1, height, width, device=v.device).to(v.dtype) - 1 for way in ("down", "across")]
    up, sideways = (blurred(each, c[1] * side, 3.0)[:, 0] * c[0] * side if c[0] else each[:, 0] * 0 for each in wander)
    return read(v, folded(down + up, height), folded(across + sideways, width))


def _boxed(v: Tensor, axis: int, count: int) -> Tensor:
    """`count` pixels along an axis, each the mean of those whose centres it covers (Pillow's box filter)."""
    size = v.shape[axis]
    ratio = max(size / count, 1.0)
    centre = (np.arange(count) + 0.5) * size / count
    covered = [[k for k in range(size) if -0.5 < (k + 0.5 - m) / ratio <= 0.5] or [int(m)] for m in centre]
    total = torch.zeros_like(v.narrow(axis, 0, 1))
    for k in range(max(map(len, covered))):
        place = torch.tensor([each[min(k, len(each) - 1)] for each in covered], device=v.device)
        share = v.new_tensor([(k < len(each)) / len(each) for each in covered])
        total = total + v.index_select(axis, place) * share.view(-1, *[1] * (3 - axis))
    return total


def pixelate(v: Tensor, c: float, unit: float, rng: Streams) -> Tensor:
    """Smaller, and large again."""
    for axis, size in ((2, v.shape[2]), (3, v.shape[3])):
        v = _boxed(_boxed(v, axis, max(int(size * c), 1)), axis, size)
    return v


def jpeg(v: Tensor, quality: int, unit: float, rng: Streams) -> Tensor:
    """Stored as JPEG: in colour if there are three channels, else every channel as a grey image of its own."""
    pictures = (v.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, 3).cpu().numpy()

    def through(picture: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    stored = [
        through(picture)
        if picture.shape[2] == 3
        else np.stack([through(np.ascontiguousarray(channel)) for channel in np.moveaxis(picture, 2, 0)], 2)
        for picture in pictures
    ]
    kept = np.stack(stored) if stored else pictures
    return torch.from_numpy(kept.copy()).to(v).movedim(3, 1).contiguous() / 255


def _of_side(side: float, *constants: tuple[float, float, float]) -> Constants:
    return tuple(tuple(value / side for value in each) for each in constants)


KINDS: dict[str, Corrupt] = {
    "gaussian-noise": Corrupt(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot-noise": Corrupt(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse-noise": Corrupt(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus-blur": Corrupt(
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass-blur": Corrupt(
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion-blur": Corrupt(
        motion_blur,
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom-blur": Corrupt(
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": Corrupt(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corrupt(
        frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Corrupt(
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Corrupt(brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corrupt(contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic": Corrupt(
        elastic,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        # the published lengths are shares of 244, a slip for 224
        _of_side(224 / 244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": Corrupt(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": Corrupt(jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
"""All corruptions by name, in the order of the paper."""
