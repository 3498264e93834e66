"""MagNet: an autoencoder that pulls inputs back to what it has seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.defences.cleaning import Cleaning, Learning, images
from sparring.defences.learning import afresh, taught
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Defence, Model


class Autoencoder(nn.Module):
    """Convolutions down to half the size and up again, `width` channels wide, giving images in [0, 1]."""

    def __init__(self, channels: int, width: int = 12) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(width, width, 3, 1, 1),
        )
        self.up = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, channels, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """`x`, as it would be among what was learned."""
        code = self.down(x).relu().repeat_interleave(2, 2).repeat_interleave(2, 3)
        rebuilt: Tensor = self.up(code[:, :, : x.shape[2], : x.shape[3]])
        return rebuilt.sigmoid()


def rebuilder(x: Tensor, *, sigma: float, epochs: int) -> nn.Module:
    """An autoencoder that has learned to take Gaussian noise out of these images."""

    def rebuilding(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        noisy = (x + sigma * rng.normal(*x.shape[1:], device=x.device)).clamp(0, 1)
        rebuilt: Tensor = network(noisy)
        return (rebuilt - x.flatten(1)).square().mean()

    return taught(afresh(Autoencoder(images(x).shape[1]), 0), x, rebuilding, epochs=epochs, lr=0.01)


@register("defences", "magnet", shape="image", paper="Meng and Chen, 2017")
def magnet(*, sigma: float = 0.1, epochs: int = 5) -> Learning:
    """Send the input through an autoencoder of clean images (MagNet's reformer; Meng and Chen, 2017).

    Its detector is the detector `reconstruction`. The gradient through the autoencoder is exact (Carlini and Wagner,
    2017, "MagNet and efficient defenses").
    """

    def fit(model: Model, x: Tensor, labels: Tensor) -> Defence:
        with torch.enable_grad():
            return Cleaning(clean=rebuilder(x, sigma=sigma, epochs=epochs))

    return Learning(fit)
