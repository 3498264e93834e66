"""Train a small detector on drawn streets, hide their cars and signs from it, and make it see what is not there.

python examples/hide_an_object.py [STEPS] [PICTURE.png]
"""

import sys

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from sparring.attacks import pgd
from sparring.domains.driving.figure import draw
from sparring.domains.driving.measures import measured
from sparring.domains.driving.predictions import Predictions, Rules
from sparring.domains.driving.streets import CLASSES, GRID, small_detector, streets
from sparring.domains.driving.tasks import Fabrication, Mislabelling, Vanishing
from sparring.losses import margin
from sparring.streams import Streams
from sparring.threats import linf

THREAT = linf(8 / 255)


def train(model, steps):
    """The cell in which the middle of an object lies is to find it, all others nothing."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        x, labels = streets(32, seed=1 + step)
        middle = ((labels[..., 1:3] + labels[..., 3:]) / 2 * GRID).long()
        cell, said = middle[..., 1] * GRID + middle[..., 0], Predictions(model(x))
        there = torch.zeros_like(said.objectness).scatter(1, cell, 1.0)
        classes, boxes = (part[torch.arange(32).unsqueeze(1), cell] for part in (said.classes, said.boxes))
        loss = 5 * binary_cross_entropy_with_logits(said.objectness, there)
        loss -= classes.gather(2, labels[..., :1].long()).mean()
        loss += 5 * (boxes - labels[..., 1:]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = small_detector()
    train(model, int(sys.argv[1]) if len(sys.argv) > 1 else 400)
    x, labels = streets(50)
    shown, titles = [x], ["clean"]
    for task in (Vanishing(1.0, match=0.1), Fabrication(3), Mislabelling(1.0)):
        shown.append(pgd(THREAT, steps=20, loss=margin)(model, x, task.goal(labels), Streams.of(0, range(50))))
        titles.append(str(task))
    for title, z in zip(titles, shown, strict=True):
        of = measured(model(z).detach(), labels)
        print(
            f"{title:22} {of.found:6.1%} found, {of.mislabelled:6.1%} as another, {of.false_boxes:.1f} boxes of nothing"
        )
    if len(sys.argv) > 2:
        found = [Rules().detect(model(z[:4])).detach() for z in shown]
        draw([z[:4] for z in shown], found, titles, CLASSES).savefig(sys.argv[2], dpi=100)
