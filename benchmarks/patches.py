"""What double masking is worth against patches: how many images it certifies, and what attacks leave standing.

Two small networks on each data set, one trained as usual and one with holes cut into its images. For every size of a
patch: right as they are, and left standing by an attack (`sparring.attacks.patch`) on the network alone; then behind
double masking: right, left standing by those same images, left standing by the attack through the adaptive view (what
those images break is broken here too), and certified. The truth lies between the last two. Six windows a side.

    python benchmarks/patches.py [--data mnist] [--examples 200] [--train 20000]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from record import begin, last, save
from rich.console import Console
from rich.table import Table
from torch import nn

from defences import striding
from sparring.attacks import patch
from sparring.certify import patch_cleanser
from sparring.data import Arrays, first, load
from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of
from sparring.evaluate.defended import face
from sparring.evaluate.proofs import prove
from sparring.models.loading import adopt
from sparring.networks import wong_cnn
from sparring.training import fit, standard
from sparring.training.augmentations import cutout, each
from sparring.types import Data

SHARES = (0.01, 0.02, 0.05)
HOLES = 2
"""Cut into every image, as double masking does."""

EPOCHS, STEPS, PLACES = 10, 20, 5
NETWORKS = {"mnist": wong_cnn, "cifar10-jpeg": striding}


def trained(name: str, data: Data) -> dict[str, nn.Module]:
    """The two networks: a hole is as long as a third of the image."""
    hole = cutout(side=data.take([0])[0].shape[2] // 3)
    ways: dict[str, Any] = {"as usual": None, "with holes": each(*(hole,) * HOLES)}
    return {
        way: fit(NETWORKS[name](), data, standard, epochs=EPOCHS, lr=3e-3, augment=augment, average=0.95)
        for way, augment in ways.items()
    }


def measure(network: nn.Module, data: Data, share: float) -> dict[str, Any]:
    """A row: shares of the examples, and seconds."""
    threat, began = square(share), time.perf_counter()
    masking = patch_cleanser(threat)
    proofs = prove(adopt(network, example=data.take([0])[0]), data, threat, masking)
    proved = time.perf_counter()
    found = face(network, masking, data, threat, attack=patch(threat, steps=STEPS, places=PLACES))
    assert proofs.certified_accuracy.estimate <= found.adaptive.estimate
    return {
        "clean": found.clean.estimate,
        "attacked": found.bare.estimate,
        "masked": found.defended.estimate,
        "masked, unaware": found.unaware.estimate,
        "masked, attacked": found.adaptive.estimate,
        "certified": proofs.certified_accuracy.estimate,
        "seconds": {"proofs": round(proved - began, 1), "attacks": round(time.perf_counter() - proved, 1)},
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--data", choices=NETWORKS, default="mnist")
    options.add_argument("--examples", type=int, default=200)
    options.add_argument("--train", type=int, default=20_000)
    given = options.parse_args()
    begin()
    lessons = Arrays("lessons", *load(given.data, split="train").take(range(given.train)))
    data = first(load(given.data), given.examples)
    x = data.take([0])[0]
    table = Table(title=f"{given.data}, {given.examples} images, patches and double masking")
    for column in ("trained", "patch", "clean", "attacked", "masked", "unaware", "attacked", "certified", "seconds"):
        table.add_column(column, justify="left" if column == "trained" else "right")
    cases = []
    for way, network in trained(given.data, lessons).items():
        for share in SHARES:
            row = measure(network, data, share)
            cases.append({"trained": way, "share": share, "pixels": side_of(share, x), **row})
            shares = [f"{row[key]:.1%}" for key in tuple(row)[:-1]]
            took = "{proofs:.0f} + {attacks:.0f}".format(**row["seconds"])
            table.add_row(way, f"{side_of(share, x)}^2, {share:.0%}", *shares, took)
            print(way, share, *shares, flush=True)
    Console(width=130).print(table)
    whole = {key: value for key, value in last("patches").items() if key in NETWORKS}
    settings = {"examples": given.examples, "train": given.train, "epochs": EPOCHS, "steps": STEPS, "places": PLACES}
    save("patches", whole | {given.data: {"settings": settings, "cases": cases}})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
