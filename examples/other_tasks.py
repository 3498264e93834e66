"""Models that do not classify: one tells how far a digit is turned, one tells ink from paper; the same attack on both.

python examples/other_tasks.py [EPOCHS]
"""

import sys

import torch
from torch import nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from sparring.attacks import pgd
from sparring.data import digits
from sparring.losses import cross_entropy, margin
from sparring.streams import Streams
from sparring.tasks import Regression, Segmentation
from sparring.threats import linf

THREAT = linf(0.1)  # every pixel may change by 0.1


def turned(x, rng):
    """Digits turned by up to a radian, and by how many degrees each was."""
    angle = 2 * rng.uniform(1).flatten() - 1
    c, s = angle.cos(), angle.sin()
    turn = torch.stack([c, s, 0 * c, -s, c, 0 * c], 1).view(-1, 2, 3)
    return grid_sample(x, affine_grid(turn, x.shape, align_corners=False), align_corners=False), angle.rad2deg()


def stained(x, rng):
    """Digits on stained paper, and for every pixel whether it is ink."""
    stains = interpolate(rng.uniform(1, 7, 7), size=x.shape[2:], mode="bilinear")
    return 0.5 * x + 0.5 * stains, (x[:, 0] > 0.5).long()


def train(network, task, x, labels, epochs):
    """Down what an attack on this task climbs."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            cross_entropy(task.view(network)(x[rows]), task.goal(labels[rows])).mean().backward()
            optimizer.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 1))
    conv = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 5, padding=2))
    tasks = (turned, dense, Regression(tolerance=30)), (stained, conv, Segmentation(accuracy=0.92))
    for make, network, task in tasks:
        x, labels = make(digits("train").take(range(2000))[0], Streams.of(0, range(2000)))
        train(network, task, x, labels, int(sys.argv[1]) if len(sys.argv) > 1 else 10)
        x, labels = make(digits("test").take(range(200))[0], Streams.of(1, range(200)))
        model, goal = task.view(network), task.goal(labels)
        for z in (x, pgd(THREAT, loss=margin)(model, x, goal, Streams.of(2, range(200)))):
            right = (~goal.reached(model(z))).float().mean()
            print(f"{task}: {right:6.1%} right, {task.measures} {task.measure(model(z), labels).median():.3g} (median)")
