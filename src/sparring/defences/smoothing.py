"""Smoothing: the median, the Gaussian, the bilateral filter and non-local means, all differentiable as they are."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from sparring.defences.cleaning import Cleaning, images
from sparring.errors import BadInput
from sparring.limits import positive
from sparring.registry import register
from sparring.views import settled


def windows(x: Tensor, size: int) -> Tensor:
    """The window of `size` by `size` around every pixel, `(B, C, size^2, H, W)`; images go on mirrored."""
    if size < 1 or size % 2 == 0:
        raise BadInput(f"a window of {size} pixels", "an odd number", "give size=3, say")
    edge = size // 2
    if min(images(x).shape[2:]) <= edge:
        raise BadInput(f"images of {x.shape[2]} by {x.shape[3]}", f"more than {edge} pixels", "make the window smaller")
    height, width = x.shape[2:]
    wide = functional.pad(x, (edge, edge, edge, edge), mode="reflect")
    shifts = itertools.product(range(size), range(size))
    return torch.stack([wide[:, :, down : down + height, right : right + width] for down, right in shifts], 2)


def medians(x: Tensor, *, size: int) -> Tensor:
    """The median of the window around every pixel."""
    return windows(x, size).median(2).values


def near_medians(x: Tensor, *, size: int, reach: float = 0.02) -> Tensor:
    """The mean of the window, of pixels by how near they are to its median: `exp(-|pixel - median| / reach)`.

    A stand-in for the median's gradient, which goes to a single pixel: the others that small changes make the median
    have their share. The weights themselves have no gradient.
    """
    near = windows(x, size)
    with torch.no_grad():
        weight = (-(near - near.median(2, keepdim=True).values).abs() / reach).softmax(2)
    return (weight * near).sum(2)


def bell(x: Tensor, *, sigma: float) -> Tensor:
    """A Gaussian blur of `sigma` pixels, three of them to its edge."""
    edge = max(1, math.ceil(3 * sigma))
    shape = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-edge, edge + 1)]
    height, width = images(x).shape[2:]
    for padding, axis, length in (((0, 0, edge, edge), 2, height), ((edge, edge, 0, 0), 3, width)):
        wide = functional.pad(x, padding, mode="replicate")
        x = sum((share / sum(shape) * wide.narrow(axis, k, length) for k, share in enumerate(shape)), 0 * x)
    return x


def bilateral_mean(x: Tensor, *, size: int, space: float, tone: float) -> Tensor:
    """The mean of the window, weighted by how near a pixel is, and how much alike in all channels."""
    near = windows(x, size)
    place = torch.arange(size, device=x.device) - size // 2
    apart = (place[:, None].square() + place.square()).flatten().view(-1, 1, 1).to(x) / space**2
    unlike = (near - x.unsqueeze(2)).square().sum(1) / tone**2
    weight = torch.exp(-0.5 * (apart + unlike)).unsqueeze(1)
    return (weight * near).sum(2) / weight.sum(2)


def alike_mean(x: Tensor, *, patch: int, search: int, h: float) -> Tensor:
    """The mean of the pixels in a window of `search`, weighted by how much the patches around them are alike."""
    near = windows(x, search)
    unlike = (near - x.unsqueeze(2)).square().mean(1)
    unlike = functional.avg_pool2d(unlike, patch, 1, patch // 2, count_include_pad=False)
    weight = torch.exp(-unlike / h**2).unsqueeze(1)
    return (weight * near).sum(2) / weight.sum(2)


@register("defences", "median", shape="image", paper="Xu et al., 2018")
def median(*, size: int = 3) -> Cleaning:
    """Replace every pixel by the median of its window (Xu et al., 2018).

    The gradient is shared by the pixels near the median: its own goes to a single pixel of each window.
    """
    return Cleaning(clean=settled(medians, size=size), surrogate=settled(near_medians, size=size))


@register("defences", "gaussian", shape="image", paper="Xu et al., 2018")
def gaussian(*, sigma: float = 1.0) -> Cleaning:
    """Blur the image by a Gaussian of `sigma` pixels: the baseline of smoothing."""
    positive(sigma=sigma)
    return Cleaning(clean=settled(bell, sigma=sigma))


@register("defences", "bilateral", shape="image", paper="Tomasi and Manduchi, 1998")
def bilateral(*, size: int = 5, space: float = 2.0, tone: float = 0.2) -> Cleaning:
    """Blur the image, but not across edges (Tomasi and Manduchi, 1998)."""
    positive(space=space, tone=tone)
    return Cleaning(clean=settled(bilateral_mean, size=size, space=space, tone=tone))


@register("defences", "non-local-means", shape="image", paper="Buades et al., 2005")
def non_local_means(*, patch: int = 3, search: int = 9, h: float = 0.1) -> Cleaning:
    """Average pixels whose surroundings look alike (Buades et al., 2005; as a defence Xu et al., 2018)."""
    positive(h=h)
    if patch < 1 or patch % 2 == 0:
        raise BadInput(f"patches of {patch} pixels", "an odd number", "give patch=3, say")
    return Cleaning(clean=settled(alike_mean, patch=patch, search=search, h=h))
