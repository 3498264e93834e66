"""Small networks trained on the embedded digits in a second or two: five that are honest, and ways to break them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.data import digits
from sparring.threats import linf

THREAT = linf(0.1)


@cache
def train_digits(count: int = 3000) -> tuple[Tensor, Tensor]:
    return digits("train").take(range(count))


@cache
def held_out(count: int = 200) -> tuple[Tensor, Tensor]:
    return digits("test").take(range(count))


def trained(model: nn.Module, *, eps: float = 0.0, epochs: int = 3) -> nn.Module:
    """Fitted by Adam; against one FGSM step where eps is given."""
    x, y = train_digits()
    generator, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), 2e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(100):
            z = x[rows]
            if eps:
                z = (z + eps * (2 * torch.rand(z.shape, generator=generator) - 1)).clamp(0, 1).requires_grad_()
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(z), y[rows]), z)
                step = (z.detach() + 1.25 * eps * gradient.sign() - x[rows]).clamp(-eps, eps)
                z = (x[rows] + step).clamp(0, 1)
            optimiser.zero_grad()
            functional.cross_entropy(model(z), y[rows]).backward()
            optimiser.step()
    return model.eval()


def _mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), activation(), nn.Linear(64, 10))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(392, 10),
    )


@cache
def honest(name: str) -> nn.Module:
    torch.manual_seed(0)
    match name:
        case "linear":
            return trained(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
        case "relu":
            return trained(_mlp())
        case "gelu":
            return trained(_mlp(nn.GELU))
        case "convolutional":
            return trained(_cnn())
        case _:
            return trained(_mlp(), eps=0.1, epochs=6)


HONEST = ("linear", "relu", "gelu", "convolutional", "adversarially trained")


class Rounding(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 7).round() / 7)


class Noisy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.1 * torch.randn_like(x))


class Detached(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach())
