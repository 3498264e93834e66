"""Published robust networks, where `SPARRING_DATA` has their weights and MNIST."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from sparring.data import mnist
from sparring.models.torch import load_weights
from sparring.networks import small_cnn, wong_cnn
from sparring.threats import linf
from sparring.zoo.specimens import specimen


def some_mnist(count: int) -> tuple[Tensor, Tensor]:
    """The first MNIST test images: inputs `(count, 1, 28, 28)` in [0, 1] and labels."""
    return mnist("test").take(range(count))


@cache
def enter() -> None:
    """Enter those whose files are here, once."""
    folder = Path(os.environ.get("SPARRING_DATA", ""))
    if not (folder / "mnist" / "mnist.npz").is_file():
        return
    published: dict[str, tuple[str, Callable[[], nn.Module], str, float]] = {
        "Wong": ("FGSM with a random start (Wong et al., 2020)", wong_cnn, "wong_fgsm_mnist_linf0.3.pth", 0.3),
        "TRADES": ("TRADES (Zhang et al., 2019)", small_cnn, "trades_smallcnn_mnist_linf0.3.pt", 0.3),
        "certified": ("certified training (Wong and Kolter, 2018)", wong_cnn, "wong_kolter_mnist_linf0.1.pth", 0.1),
    }
    for name, (what, network, file, eps) in published.items():
        weights = folder / "models" / file
        if weights.is_file():
            specimen(name, "robust", threat=linf(eps), data=some_mnist)(_loader(network, weights, what))


def _loader(network: Callable[[], nn.Module], weights: Path, what: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = network()
        load_weights(model, weights)
        return model

    make.__doc__ = f"Published weights: {what}."
    return make
