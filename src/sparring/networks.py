"""The networks of the field's papers, on inputs in [0, 1], giving logits.

Small ones take digits `(B, 1, 28, 28)`, the residual ones pictures `(B, C, H, W)` of about 32 by 32, which they
normalise themselves: eps is in the unit of the inputs everywhere. Fresh weights come from `seed` alone: torch's global
random numbers are neither read nor moved.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput

Network = TypeVar("Network", bound=nn.Module)


def mlp(seed: int = 0, *, hidden: int = 128) -> nn.Sequential:
    """784-128-10 with ReLU: the first network of every course."""
    return fresh(seed, lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10)))


def wong_cnn(seed: int = 0) -> nn.Sequential:
    """Two strided convolutions and two linear layers (Wong and Kolter, 2018; Wong et al., 2020).

    Its state dict has the names of the published ones: `0`, `2`, `5`, `7`.
    """
    return fresh(
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
    return fresh(seed, SmallCNN)


def slim_cnn(seed: int = 0) -> nn.Sequential:
    """TRADES' network without its dropout and its second linear layer: as robust, and it trains faster."""
    return fresh(
        seed,
        lambda: nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 200),
            nn.ReLU(),
            nn.Linear(200, 10),
        ),
    )


BEND = 10.0
"""How sharply curves of `ink` bend: the beta of their Softplus."""


def ink(bend: nn.Module) -> list[nn.Module]:
    """Four curves of a pixel: how far it is above 1/3 and above 2/3, and below both, three steep, as `bend` bends them.

    Adversarial training against large changes of a pixel finds out first of all what is ink and what is paper: its
    first layers come to look at single pixels, and cut off at thresholds (Madry et al., 2018, in the appendix). A layer
    that begins there spares it the way. Its weights are trained like any others.

    Bent by a ReLU, a curve is flat on one side, and tells an attack in training nothing of what lies beyond: PGD then
    says more of the network than is true. A Softplus has a slope everywhere.
    """
    layer = nn.Conv2d(1, 4, 1)
    steep, start = torch.tensor([3.0, 3.0, -3.0, -3.0]), torch.tensor([-1.0, -2.0, 1.0, 2.0])
    layer.load_state_dict({"weight": steep.view(4, 1, 1, 1), "bias": start})
    return [layer, bend]


def _strided(width: int, hidden: int) -> list[nn.Module]:
    """Wong's network after a layer of ink."""
    return [
        nn.Conv2d(4, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    ]


def ink_cnn(seed: int = 0) -> nn.Sequential:
    """`wong_cnn` behind a layer of `ink`, its linear layer a little narrower: fewer weights in all, 160,866."""
    return fresh(seed, lambda: nn.Sequential(*ink(nn.Softplus(BEND)), *_strided(16, 96)))


def slim_ink_cnn(seed: int = 0) -> nn.Sequential:
    """`slim_cnn` behind a layer of `ink`: fewer weights than TRADES' network, 272,874 of its 312,202."""
    return fresh(seed, lambda: nn.Sequential(*ink(nn.Softplus(BEND)), nn.Conv2d(4, 32, 3), *list(slim_cnn())[1:]))


def certified_ink_cnn(seed: int = 0) -> nn.Sequential:
    """`ink_cnn` twice as wide, its ink bent by a ReLU: bounds know what is flat, and ask for more of a network."""
    return fresh(seed, lambda: nn.Sequential(*ink(nn.ReLU()), *_strided(32, 256)))


def certified_cnn(seed: int = 0, *, width: int = 24, hidden: int = 200) -> nn.Sequential:
    """Two strided convolutions and two linear layers with BatchNorm, started for certified training.

    The layers of Gowal et al.'s small network (2018), normalised and `settled_weights` as by Shi et al. (2021).
    """
    return fresh(
        seed,
        lambda: settled_weights(
            nn.Sequential(
                nn.Conv2d(1, width, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(2 * width),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(2 * width * 7 * 7, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, 10),
            )
        ),
    )


def settled_weights(network: Network) -> Network:
    """Draw weights anew, so that boxes grow as little from layer to layer as signals do: `W ~ N(0, 2 pi / n^2)`.

    n is what a unit sums over (Shi et al., 2021). Changes the network and returns it, biases zero; draws
    from torch's global random numbers.
    """
    for part in network.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=math.sqrt(2 * math.pi) / part.weight[0].numel())
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return network


class Normalise(nn.Module):
    """`(x - mean) / std` for each channel, with buffers that belong to the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images."""
        return (x - self.mean) / self.std


class PreActivation(nn.Module):
    """BatchNorm, ReLU and convolution, twice, and a way past them (He et al., 2016, figure 1b).

    Where the shape changes, the way past is a 1 by 1 convolution of what the first ReLU gives.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        same = stride == 1 and channels == out
        self.past = None if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both ways."""
        h = functional.relu(self.norm1(x))
        past = x if self.past is None else self.past(h)
        return past + self.conv2(functional.relu(self.norm2(self.conv1(h))))  # type: ignore[no-any-return]


def _residual(first: int, stages: Sequence[tuple[int, int]], blocks: int, channels: int, classes: int) -> nn.Sequential:
    """Stages of pre-activation blocks, each with a width, and a stride that its first block takes."""
    parts: list[nn.Module] = []
    before = first
    for width, stride in stages:
        for block in range(blocks):
            parts.append(PreActivation(before, width, 1 if block else stride))
            before = width
    return nn.Sequential(
        _normalise(channels),
        nn.Conv2d(channels, first, 3, 1, 1, bias=False),
        *parts,
        nn.BatchNorm2d(before),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, classes),
    )


def _normalise(channels: int) -> Normalise:
    """For colours the mean and deviation of CIFAR-10; [0, 1] becomes [-1, 1] elsewhere."""
    if channels == 3:
        return Normalise((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    return Normalise((0.5,) * channels, (0.5,) * channels)


def preact_resnet18(seed: int = 0, *, width: int = 64, classes: int = 10, channels: int = 3) -> nn.Sequential:
    """The ResNet-18 of adversarial training on CIFAR-10, `width` channels wide at first (He et al., 2016).

    With a last BatchNorm and ReLU, as Wong et al. (2020) and Rice et al. (2020) have it: 11,172,170 weights.
    """
    stages = [(width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)]
    return fresh(seed, lambda: _residual(width, stages, 2, channels, classes))


def slim_resnet18(seed: int = 0) -> nn.Sequential:
    """`preact_resnet18` at a quarter of its width: what a processor without an accelerator can train."""
    return preact_resnet18(seed, width=16)


def wide_resnet(
    seed: int = 0, *, depth: int = 28, width: int = 10, classes: int = 10, channels: int = 3
) -> nn.Sequential:
    """WideResNet-`depth`-`width` (Zagoruyko and Komodakis, 2016): 28-10 unless told otherwise, or 34-10, 70-16.

    Raises:
        BadInput: a depth that is not six times a number and four.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise BadInput(f"a WideResNet of depth {depth}", "6 n + 4", "take 10, 16, 28, 34 or 70")
    stages = [(16 * width, 1), (32 * width, 2), (64 * width, 2)]
    return fresh(seed, lambda: _residual(16, stages, blocks, channels, classes))


def fresh(seed: int, make: Callable[[], Network]) -> Network:
    """A network with torch's own initial weights, from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()
