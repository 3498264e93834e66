"""Honest networks, trained on the embedded digits in seconds: nothing is hidden, and an audit must say so.

Each is trained from fixed seeds when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from sparring.data import digits, first
from sparring.networks import mlp, wong_cnn
from sparring.threats import linf
from sparring.training import Objective, adversarial, fit, inner_pgd, standard
from sparring.zoo.specimens import specimen

EXAMPLES = 3000


def trained(network: nn.Module, objective: Objective = standard, *, epochs: int = 4, lr: float = 5e-3) -> nn.Module:
    """A trained copy of a network: 3000 of the embedded digits, at a fixed seed."""
    data = first(digits("train"), EXAMPLES)
    return fit(network, data, objective, epochs=epochs, batch_size=100, lr=lr, average=0.9)


def fresh(make: Callable[[], nn.Module]) -> nn.Module:
    """New weights from a fixed seed; torch's global random numbers are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


def _dense(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), activation(), nn.Linear(64, 10))


def untrained_convolutional() -> nn.Module:
    """A convolution with batch normalisation, max-pooling and dropout, as it begins."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(392, 10),
    )


class Patches(nn.Module):
    """Sixteen patches of 7 by 7 that attend to each other once, with layer normalisation."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 7, 7)
        self.place = nn.Parameter(torch.zeros(16, width))
        self.attend = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`."""
        seen: Tensor = self.attend(self.embed(x).flatten(2).transpose(1, 2) + self.place)
        logits: Tensor = self.head(seen.flatten(1))
        return logits


@specimen("linear", "honest")
def linear() -> nn.Module:
    """Multinomial logistic regression."""
    return trained(fresh(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))))


@specimen("relu", "honest")
def relu() -> nn.Module:
    """A hidden layer of 64 with ReLU."""
    return trained(mlp(hidden=64))


@specimen("gelu", "honest")
def gelu() -> nn.Module:
    """A hidden layer of 64 with GELU."""
    return trained(fresh(lambda: _dense(nn.GELU)))


@specimen("tanh", "honest")
def tanh() -> nn.Module:
    """A hidden layer of 64 with tanh."""
    return trained(fresh(lambda: _dense(nn.Tanh)))


@specimen("convolutional", "honest")
def convolutional() -> nn.Module:
    """A convolution with batch normalisation, max-pooling and dropout."""
    return trained(fresh(untrained_convolutional))


@specimen("attention", "honest")
def attention() -> nn.Module:
    """A transformer layer over sixteen patches."""
    return trained(fresh(Patches), epochs=6)


_worst = partial(adversarial, attack=partial(inner_pgd, steps=3))


@specimen("adversarially trained", "robust")
def adversarially_trained() -> nn.Module:
    """A hidden layer of 64, trained against PGD within Linf 0.1 (Madry et al., 2018)."""
    return trained(mlp(hidden=64), _worst(linf(0.1)), epochs=8)


@specimen("adversarially trained, convolutional", "robust")
def adversarially_trained_cnn() -> nn.Module:
    """Two convolutions and two linear layers, trained against PGD within Linf 0.1 (Madry et al., 2018)."""
    return trained(wong_cnn(), _worst(linf(0.1)), epochs=4, lr=3e-3)
