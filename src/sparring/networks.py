"""The small networks of the field's first papers, on inputs `(B, 1, 28, 28)` in [0, 1], giving logits `(B, 10)`.

Fresh weights come from `seed` alone: torch's global random numbers are neither read nor moved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def mlp(seed: int = 0, *, hidden: int = 128) -> nn.Sequential:
    """784-128-10 with ReLU: the first network of every course."""
    return _fresh(seed, lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10)))


def wong_cnn(seed: int = 0) -> nn.Sequential:
    """Two strided convolutions and two linear layers (Wong and Kolter, 2018; Wong et al., 2020).

    Its state dict has the names of the published ones: `0`, `2`, `5`, `7`.
    """
    return _fresh(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        ),
    )


class SmallCNN(nn.Module):
    """Four convolutions and three linear layers, with dropout (Zhang et al., 2019, TRADES; Carlini and Wagner, 2017).

    The names of its parameters are those of the published state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(64 * 4 * 4, 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(0.5),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=nn.Linear(200, 10),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`."""
        return self.classifier(self.feature_extractor(x).flatten(1))  # type: ignore[no-any-return]


def small_cnn(seed: int = 0) -> SmallCNN:
    """TRADES' network for MNIST (Zhang et al., 2019)."""
    return _fresh(seed, SmallCNN)


def _fresh(seed: int, make: Callable[[], Network]) -> Network:
    """A network with torch's own initial weights, from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()
