"""Streets that are drawn, and a small network that learns to find what stands in them in seconds: to try things out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.domains.driving.boxes import cornered
from sparring.domains.driving.detectors import Detector
from sparring.domains.driving.heads import fastest_det
from sparring.streams import Streams

CLASSES = ("car", "sign")
SIDE, GRID = 48, 6
COLOURS = ((0.7, 0.3, 0.3), (0.3, 0.4, 0.7))
ROOM = ((0.27, 0.5), (0.73, 0.5))
"""The middles of where the two objects may stand."""


def streets(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A car or a sign on either side of noisy images `(B, 3, 48, 48)`, and their labels `(B, 2, 5)`."""
    rng, at = Streams.of(seed, range(count)), (torch.arange(SIDE) + 0.5) / SIDE
    middle = torch.tensor(ROOM) + (rng.at("place").uniform(2, 2) - 0.5) * torch.tensor([0.1, 0.5])
    box = cornered(torch.cat([middle, 0.2 + 0.2 * rng.at("size").uniform(2, 2)], 2))
    kind, x = rng.at("kind").integers(2, 2), 0.3 + 0.4 * rng.at("noise").uniform(3, SIDE, SIDE)
    for j in range(2):
        x1, y1, x2, y2 = box[:, j].view(-1, 4, 1, 1).unbind(1)
        inside = (at > x1) & (at < x2) & (at.view(-1, 1) > y1) & (at.view(-1, 1) < y2)
        colour = torch.tensor(COLOURS)[kind[:, j]].view(-1, 3, 1, 1)
        x = torch.where(inside.unsqueeze(1), 0.7 * colour + 0.3 * x, x)
    return x, torch.cat([kind.unsqueeze(2), box], 2)


class Grid(nn.Module):
    """Convolutions down to a grid, each cell of which says whether an object has its middle there, where, and what."""

    def __init__(self, width: int = 24, classes: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 5 + classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shares of objectness, numbers of a box, shares of classes, `(B, 5 + K, h, w)`, as FastestDet gives them."""
        said = self.layers(x)
        return torch.cat([said[:, :1].sigmoid(), said[:, 1:5], said[:, 5:].softmax(1)], 1)


def small_detector(width: int = 24) -> Detector:
    """The network for streets, untrained: 36 places, two classes."""
    return Detector(Grid(width), fastest_det)
