"""What patches do to networks, and what double masking is worth against them.

Two small networks on each data set, one trained as usual and one with holes cut into its images. For every size of a
patch: right as they are, and left standing by an audit of the network alone; then behind double masking: right, left
standing by images that were made without it, left standing by `sparring.attacks.patch` through the adaptive view (what
those images break is broken here too), and certified. The truth lies between the last two. Six windows a side.

Of 2 % and the first images, the audit stands beside a search without shortcuts: climbs at every place of the image,
from the image and from noise. Images from the 4,000th of the test set on: attacks were developed on earlier ones.

    python benchmarks/patches.py [--data mnist] [--examples 100] [--everywhere 50] [--train 20000]
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import torch
from record import begin, last, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import sparring
from defences import striding
from sparring.attacks import patch
from sparring.certify import patch_cleanser
from sparring.data import Arrays, load
from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of
from sparring.domains.images.windows import Window
from sparring.evaluate.defended import face
from sparring.evaluate.proofs import prove
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.models.loading import adopt
from sparring.networks import wong_cnn
from sparring.search import forward, slope
from sparring.threats import Ball
from sparring.training import fit, standard
from sparring.training.augmentations import cutout, each
from sparring.types import Data

SHARES = (0.01, 0.02, 0.05)
SEARCHED = 0.02
"""The share for which every place is searched too."""

FIRST = 4000
"""The first image of the test set that is looked at here."""

HOLES = 2
"""Cut into every image, as double masking does."""

EPOCHS, STEPS, PLACES = 10, 5, 20
NETWORKS = {"mnist": wong_cnn, "cifar10-jpeg": striding}


def trained(name: str, data: Data) -> dict[str, nn.Module]:
    """The two networks: a hole is as long as a third of the image."""
    hole = cutout(side=data.take([0])[0].shape[2] // 3)
    ways: dict[str, Any] = {"as usual": None, "with holes": each(*(hole,) * HOLES)}
    return {
        way: fit(NETWORKS[name](), data, standard, epochs=EPOCHS, lr=3e-3, augment=augment, average=0.95)
        for way, augment in ways.items()
    }


def falls_somewhere(network: nn.Module, x: Tensor, label: Tensor, threat: Ball) -> bool:
    """Whether one of the climbs at all places of an image `(1, C, H, W)` breaks it: 20 steps of the margin's sign."""
    side, (height, width) = side_of(threat.eps, x), x.shape[2:]
    first = torch.tensor([i * width + j for i in range(height - side + 1) for j in range(width - side + 1)])
    every = x.expand(len(first), -1, -1, -1)
    inside, goal = Window.of(first, side, every).place(every)[2], Untargeted(label.expand(len(first)))
    noise = torch.rand(every.shape, generator=torch.Generator().manual_seed(0))
    for start in (every, noise.where(inside, every)):
        z = start
        for step in range(20):
            point, outputs = forward(network, z)
            if bool(goal.reached(outputs).any()):
                return True
            uphill = slope(margin(outputs, goal).sum(), point).sign()
            z = (z + (1 + math.cos(math.pi * step / 21)) / 4 * uphill).clamp(0, 1).where(inside, every)
    return False


def searched(network: nn.Module, data: Data, threat: Ball, examples: int) -> dict[str, Any]:
    """What an audit leaves of the first examples, and what a search of all places does."""
    began, some = time.perf_counter(), Arrays("some", *data.take(range(examples)))
    found = sparring.audit(network, some, threat)
    audited, standing = time.perf_counter(), 0
    for x, label in zip(*some.take(range(examples)), strict=True):
        right = bool(network(x.unsqueeze(0)).argmax(1) == label)
        standing += right and not falls_somewhere(network, x.unsqueeze(0), label, threat)
    return {
        "examples": examples,
        "audit": found.robust_accuracy.estimate,
        "verdict": found.verdict,
        "everywhere": standing / examples,
        "seconds": {"audit": round(audited - began, 1), "everywhere": round(time.perf_counter() - audited, 1)},
    }


def measure(network: nn.Module, data: Data, share: float) -> dict[str, Any]:
    """A row: shares of the examples, and seconds."""
    threat, began = square(share), time.perf_counter()
    alone = sparring.audit(network, data, threat)
    audited, masking = time.perf_counter(), patch_cleanser(threat)
    proofs = prove(adopt(network, example=data.take([0])[0]), data, threat, masking)
    proved = time.perf_counter()
    found = face(network, masking, data, threat, attack=patch(threat, steps=STEPS, places=PLACES))
    assert proofs.certified_accuracy.estimate <= found.adaptive.estimate
    seconds = {
        "audit": round(audited - began, 1),
        "proofs": round(proved - audited, 1),
        "attacks": round(time.perf_counter() - proved, 1),
    }
    return {
        "clean": found.clean.estimate,
        "audit": alone.robust_accuracy.estimate,
        "masked": found.defended.estimate,
        "masked, unaware": found.unaware.estimate,
        "masked, attacked": found.adaptive.estimate,
        "certified": proofs.certified_accuracy.estimate,
        "verdict": alone.verdict,
        "seconds": seconds,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--data", choices=NETWORKS, default="mnist")
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--everywhere", type=int, default=50)
    options.add_argument("--train", type=int, default=20_000)
    given = options.parse_args()
    begin()
    lessons = Arrays("lessons", *load(given.data, split="train").take(range(given.train)))
    data = Arrays("later", *load(given.data).take(range(FIRST, FIRST + given.examples)))
    x = data.take([0])[0]
    table = Table(title=f"{given.data}, {given.examples} images, patches and double masking")
    for column in ("trained", "patch", "clean", "audit", "masked", "unaware", "attacked", "certified", "verdict"):
        table.add_column(column, justify="left" if column in ("trained", "verdict") else "right")
    cases, beside = [], []
    for way, network in trained(given.data, lessons).items():
        beside.append({"trained": way} | searched(network.eval(), data, square(SEARCHED), given.everywhere))
        print(beside[-1], flush=True)
        for share in SHARES:
            row = measure(network, data, share)
            cases.append({"trained": way, "share": share, "pixels": side_of(share, x), **row})
            shares = [f"{row[key]:.1%}" for key in tuple(row)[:-2]]
            table.add_row(way, f"{side_of(share, x)}^2, {share:.0%}", *shares, row["verdict"])
            print(way, share, *shares, row["verdict"], row["seconds"], flush=True)
    Console(width=130).print(table)
    whole = {key: value for key, value in last("patches").items() if key in NETWORKS}
    settings = {"first": FIRST, "examples": given.examples, "train": given.train, "epochs": EPOCHS}
    settings |= {"steps": STEPS, "places": PLACES}
    save("patches", whole | {given.data: {"settings": settings, "cases": cases, "everywhere": beside}})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
