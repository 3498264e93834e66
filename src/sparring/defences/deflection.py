"""Pixel deflection: pixels replaced by neighbours, and what that adds taken out of the wavelets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparring.defences.cleaning import RandomCleaning, images
from sparring.errors import BadInput
from sparring.limits import not_negative
from sparring.registry import register
from sparring.streams import Streams
from sparring.views import settled

LEVELS = 2


def moved(x: Tensor, rng: Streams, *, share: float, reach: int) -> Tensor:
    """A share of the pixels, replaced by others at most `reach` away, all channels together."""
    height, width = images(x).shape[2:]
    count = max(round(share * height * width), int(share > 0))
    place = rng.at("places").uniform(height * width, device=x.device).argsort(dim=1)[:, :count]
    away = (rng.at("ways").uniform(2, count, device=x.device) * (2 * reach + 1)).long() - reach
    down = (place // width + away[:, 0]).clamp(0, height - 1)
    right = (place % width + away[:, 1]).clamp(0, width - 1)
    channels = x.shape[1]
    flat, to = x.flatten(2), place.unsqueeze(1).expand(-1, channels, -1)
    source = (down * width + right).unsqueeze(1).expand(-1, channels, -1)
    return flat.scatter(2, to, flat.gather(2, source)).view_as(x)


def shrunk(x: Tensor, sigma: float, levels: int = LEVELS) -> Tensor:
    """Haar wavelets with BayesShrink (Chang et al., 2000), for noise of `sigma`; height and width in 2^levels."""
    a, b, c, d = x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2]
    low = (a + b + c + d) / 2
    details = torch.stack([a + b - c - d, a - b + c - d, a - b - c + d], 2) / 2
    signal = (details.square().mean((3, 4), keepdim=True) - sigma**2).clamp(min=1e-12).sqrt()
    details = functional.relu(details.abs() - sigma**2 / signal) * details.sign()
    if levels > 1:
        low = shrunk(low, sigma, levels - 1)
    h, v, g = details.unbind(2)
    rows = [
        torch.stack([low + h + v + g, low + h - v - g], 4).flatten(3),
        torch.stack([low - h + v - g, low - h - v + g], 4).flatten(3),
    ]
    return torch.stack(rows, 3).flatten(2, 3) / 2


def deflected(x: Tensor, rng: Streams, *, share: float, reach: int, sigma: float) -> Tensor:
    """Pixels replaced, then wavelets shrunk; images that halve too few times go on as their last rows do."""
    height, width = images(x).shape[2:]
    block = 2**LEVELS
    wide = functional.pad(moved(x, rng, share=share, reach=reach), (0, -width % block, 0, -height % block), "replicate")
    return shrunk(wide, sigma)[:, :, :height, :width].clamp(0, 1)


@register("defences", "pixel-deflection", shape="image", paper="Prakash et al., 2018")
def pixel_deflection(*, share: float = 0.02, reach: int = 5, sigma: float = 0.04, draws: int = 8) -> RandomCleaning:
    """Replace pixels by random neighbours, and denoise the wavelets (Prakash et al., 2018).

    Pixels are chosen evenly, not by an activation map, and wavelets are of each channel. The gradient goes through the
    pixels that were taken and through the wavelets, which leads further than that of the identity (Athalye and Carlini,
    2018).
    """
    if not 0 <= share <= 1:
        raise BadInput(f"a share of {share:g} of the pixels", "0 to 1", "give share=0.02, say")
    not_negative(reach=reach, sigma=sigma)
    clean = settled(deflected, share=share, reach=reach, sigma=sigma)
    return RandomCleaning(clean=clean, draws=draws)
