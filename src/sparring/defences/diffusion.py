"""Purification by diffusion: drown the input in noise, and let a denoiser bring it back."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from sparring.defences.cleaning import Learning, RandomCleaning, images
from sparring.defences.learning import afresh, taught
from sparring.errors import BadInput
from sparring.limits import one_or_more
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Defence, Model
from sparring.views import stand

FREQUENCIES = 16


def signal(t: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of image and noise at time `t` in [0, 1], `cos(pi t / 2)` and `sin`, `(B, 1, 1, 1)` each.

    The cosine schedule of Nichol and Dhariwal (2021) without its offset: the squares add up to one.
    """
    angle = (math.pi / 2 * t).view(-1, 1, 1, 1)
    return angle.cos(), angle.sin()


class Block(nn.Module):
    """Two convolutions around a way past them, told the time."""

    def __init__(self, of: int, to: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(of, to, 3, 1, 1), nn.Conv2d(to, to, 3, 1, 1)
        self.past, self.time = nn.Conv2d(of, to, 1), nn.Linear(2 * FREQUENCIES, to)
        self.even = nn.GroupNorm(4, to)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """The block's features, `(B, to, H, W)`."""
        inner = nn.functional.silu(self.even(self.first(h) + self.time(time)[:, :, None, None]))
        out: Tensor = self.past(h) + self.second(inner)
        return out


class Denoiser(nn.Module):
    """A small U-Net that says which noise is in `z` at time `t` (after Ho et al., 2020).

    It works at half and at a quarter of the size, `width` and twice as many channels.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.enter = Block(4 * channels, width)
        self.shrink = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle, self.deep = Block(2 * width, 2 * width), Block(2 * width, 2 * width)
        self.leave = Block(3 * width, width)
        self.last = nn.Conv2d(width, 4 * channels, 3, 1, 1)
        self.register_buffer("frequencies", torch.logspace(0, 2, FREQUENCIES))

    def forward(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """The noise, in the shape of `z` `(B, C, H, W)`; `t` `(B,)`, 0 unless given.

        Sides that do not halve twice go on as the last rows do.
        """
        if not len(z):
            return z  # torch shuffles no pixels of no images, and the layers would meet another number of channels
        height, width = z.shape[2:]
        z = nn.functional.pad(z, (0, -width % 4, 0, -height % 4), "replicate")
        t = torch.zeros(len(z), device=z.device) if t is None else t
        angle = t.view(-1, 1) * self.get_buffer("frequencies")
        time = torch.cat([angle.sin(), angle.cos()], 1)
        fine = self.enter(nn.functional.pixel_unshuffle(z, 2), time)
        coarse = self.deep(self.middle(nn.functional.silu(self.shrink(nn.functional.silu(fine))), time), time)
        wide = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
        both = self.leave(torch.cat([fine, wide], 1), time)
        return nn.functional.pixel_shuffle(self.last(nn.functional.silu(both)), 2)[:, :, :height, :width]


def denoiser(x: Tensor, *, epochs: int) -> nn.Module:
    """A denoiser that has learned from these images: `E |e(c x + s u, t) - u|^2`, u the noise (Ho et al., 2020)."""

    def denoising(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        t = rng.at("time").uniform(device=x.device)
        kept, added = signal(t)
        u = rng.at("noise").normal(*x.shape[1:], device=x.device)
        said: Tensor = network(kept * (2 * x - 1) + added * u, t)
        return (said - u.flatten(1)).square().mean()

    return taught(afresh(Denoiser(images(x).shape[1]), 0), x, denoising, epochs=epochs, average=0.98)


class Purified(nn.Module):
    """An image, noised up to time `until`, and led back in equal steps by what the denoiser says (DDIM)."""

    def __init__(self, network: nn.Module, until: float, steps: int) -> None:
        super().__init__()
        self.network, self.until, self.steps = network, until, steps
        self.eval()

    def forward(self, x: Tensor, rng: Streams) -> Tensor:
        """`x` in [0, 1], purified."""
        times = torch.linspace(self.until, 0, self.steps + 1, device=x.device).unsqueeze(1).expand(-1, len(x))
        kept, added = signal(times[0])
        z = kept * (2 * x - 1) + added * rng.normal(*x.shape[1:], device=x.device)
        clean = z
        for now, then in itertools.pairwise(times):
            u = self.network(z, now)
            kept, added = signal(now)
            free = (z - added * u) / kept
            clean = stand(free.clamp(-1, 1), free)
            kept, added = signal(then)
            z = kept * clean + added * u
        return ((clean + 1) / 2).to(x)


@register("defences", "diffusion", shape="image", paper="Nie et al., 2022")
def diffusion(*, until: float = 0.25, steps: int = 2, epochs: int = 6, draws: int = 4) -> Learning:
    """Drown the input in noise, and denoise it by a diffusion model (DiffPure; Nie et al., 2022).

    A small model, trained on the examples at hand; `until` is how far the noise goes, below 1. Denoising is
    deterministic (DDIM; Song et al., 2021), in few steps, and the gradient goes through all of them, exactly but for
    the clipping of what is denoised, which it passes; the paper's adjoint only approximates it.
    """
    if not 0 < until < 1:
        raise BadInput(f"noise up to time {until:g}", "a time above 0 and below 1", "give until=0.25, say")
    one_or_more(steps=steps)

    def fit(model: Model, x: Tensor, labels: Tensor) -> Defence:
        with torch.enable_grad():
            network = denoiser(x, epochs=epochs)
        return RandomCleaning(clean=Purified(network, until, steps), draws=draws)

    return Learning(fit)
