"""What FastestDet still finds in photos of COCO under attack: average precision, objects, boxes of nothing, stickers.

The first photos of COCO's validation set of 2017 that `SPARRING_DATA` holds. TOG's losses, that of Daedalus and the
margins climb to the end, PGD of 10 steps; beside them uniform noise of the same size. One change for all photos and one
sticker that persons wear are learned from the 32 photos after these.

    SPARRING_DATA=... python benchmarks/detectors.py [--examples N] [--picture FILE]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import begin, save
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparring.attacks import pgd, universal, universal_patch
from sparring.domains.driving.detectors import Detector, load_fastest_det
from sparring.domains.driving.figure import draw
from sparring.domains.driving.losses import daedalus
from sparring.domains.driving.measures import measured
from sparring.domains.driving.photos import COCO, coco_val
from sparring.domains.driving.predictions import NONE, Rules
from sparring.domains.driving.stickers import worn
from sparring.domains.driving.tasks import Detection, Fabrication, Mislabelling, Vanishing
from sparring.domains.driving.viewpoints import seen_from
from sparring.domains.images.patches import patch
from sparring.losses import cross_entropy, margin
from sparring.streams import Streams
from sparring.threats import Ball, linf
from sparring.types import Loss

STEPS, STRONG = 10, linf(8 / 255)
VANISHING, FABRICATION, MISLABELLING = Vanishing(1.0), Fabrication(10), Mislabelling(1.0)
HIDING = Vanishing(1.0, match=0.1)
CASES: list[tuple[Detection, Loss, Ball]] = [
    (VANISHING, cross_entropy, STRONG),
    (VANISHING, cross_entropy, linf(4 / 255)),
    (VANISHING, cross_entropy, linf(2 / 255)),
    (VANISHING, margin, STRONG),
    (VANISHING, margin, linf(2 / 255)),
    (HIDING, margin, STRONG),
    (FABRICATION, cross_entropy, STRONG),
    (FABRICATION, daedalus, STRONG),
    (FABRICATION, margin, STRONG),
    (MISLABELLING, cross_entropy, STRONG),
    (MISLABELLING, margin, STRONG),
]
LEARN, BATCH, LESSONS = 32, 8, 100
PERSON = COCO.index("person")
VIEWS = [(distance, degrees) for distance in (1.0, 1.5, 2.0) for degrees in (0.0, 30.0, 60.0)]
SHOWN = ("none", f"{HIDING} margin 8/255", f"{FABRICATION} TOG 8/255", f"{MISLABELLING} margin 8/255")


def eight_bits(z: Tensor) -> Tensor:
    """As a PNG keeps it."""
    return (255 * z).round() / 255


def seen(detector: Detector, x: Tensor) -> Tensor:
    """The predictions, a few images at a time."""
    with torch.no_grad():
        return torch.cat([detector(some) for some in x.split(16)])


def struck(detector: Detector, x: Tensor, make: Callable[[Any], Tensor]) -> tuple[Tensor, dict[str, Any]]:
    """What an attack makes of the photos, and what that costs."""
    rows, began = 0, time.perf_counter()

    def counted(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return detector(z)

    z = eight_bits(make(counted))
    return z, {"passes": round(rows / len(x), 1), "seconds": round(time.perf_counter() - began, 1)}


def attacks(
    detector: Detector, x: Tensor, labels: Tensor, learn: tuple[Tensor, Tensor]
) -> dict[str, Callable[..., Tensor]]:
    """Every attack by its name: a function of the model."""
    rng = Streams.of(0, range(len(x)))

    def noise(_: Any) -> Tensor:
        return (x + STRONG.eps * (2 * rng.at("noise").uniform(*x.shape[1:]) - 1)).clamp(0, 1)

    def climb(task: Detection, loss: Loss, threat: Ball, model: Any) -> Tensor:
        return pgd(threat, steps=STEPS, loss=loss)(model, x, task.never(labels), rng)

    def one_for_all(_: Any) -> Tensor:
        lesson = replace(universal(STRONG, steps=LESSONS), batch=BATCH, loss=margin)
        learned = lesson.fit(detector, learn[0], VANISHING.never(learn[1]), Streams.of(1, range(len(learn[0]))))
        return learned.make(x, rng)

    said = {cross_entropy: "TOG", margin: "margin", daedalus: "Daedalus"}
    made: dict[str, Callable[..., Tensor]] = {"none": lambda _: x, "uniform noise 8/255": noise}
    for task, loss, threat in CASES:
        made[f"{task} {said[loss]} {threat.eps * 255:.0f}/255"] = partial(climb, task, loss, threat)
    return made | {f"one change for all, {VANISHING} margin 8/255": one_for_all}


def persons(labels: Tensor) -> Tensor:
    """The labels of persons alone."""
    return torch.where((labels[..., :1] == PERSON), labels, labels.new_tensor([NONE, 0, 0, 0, 0]))


def sticker(detector: Detector, x: Tensor, labels: Tensor, learn: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """How many persons are found who wear nothing, a grey square, and the sticker, from each view."""
    task, (others, theirs) = HIDING, (learn[0], persons(learn[1]))
    bearing = (persons(labels)[..., 0] != NONE).any(1)
    x, labels, began = x[bearing], persons(labels[bearing]), time.perf_counter()
    lesson = replace(universal_patch(patch(1.0), steps=LESSONS), batch=BATCH, loss=margin)
    rng = Streams.of(1, range(len(others)))
    learned = worn(lesson, detector, others, theirs, goal=task.never(theirs), rng=rng, share=0.2)
    seconds = round(time.perf_counter() - began, 1)
    grey = replace(learned, patch=torch.full_like(learned.patch, 0.5))
    rows = []
    for distance, degrees in VIEWS:
        row = {"distance": distance, "degrees": degrees}
        for name, worn_one in (("bare", None), ("grey", grey), ("learned", learned)):
            z = x if worn_one is None else worn_one(x, labels, Streams.of(2, range(len(x))))
            picture, boxes = seen_from(eight_bits(z), labels, distance, degrees)
            found = measured(seen(detector, picture), boxes)
            row |= {name: found.found, "persons": found.objects}
        rows.append(row)
        print(row, flush=True)
    return {"share": learned.share, "photos": len(x), "seconds": seconds, "views": rows}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--examples", type=int, default=64)
    options.add_argument(
        "--picture", type=Path, help="where the first photos are drawn, with the boxes that are found in them"
    )
    given = options.parse_args()
    begin()
    detector = load_fastest_det(Path(os.environ["SPARRING_DATA"]) / "models" / "FastestDet.onnx")
    data = coco_val()
    x, labels = data.take(range(given.examples))
    learn = data.take(range(given.examples, min(given.examples + LEARN, len(data))))
    table = Table(title=f"FastestDet, {len(x)} photos of COCO, PGD of {STEPS} steps")
    for column in ("attack", "AP50", "AP", "found", "road", "as others", "false boxes", "passes", "seconds"):
        table.add_column(column, justify="left" if column == "attack" else "right")
    cases, shown = [], {}
    for name, make in attacks(detector, x, labels, learn).items():
        z, cost = struck(detector, x, make)
        outputs = seen(detector, z)
        case: dict[str, Any] = {"attack": name, **asdict(measured(outputs, labels)), **cost}
        cases.append(case)
        if name in SHOWN:
            shown[name] = z[:4], Rules().detect(outputs[:4])
        shares = [f"{case[key]:.1%}" for key in ("found", "road", "mislabelled")]
        row = (name, f"{case['ap50']:.3f}", f"{case['ap']:.3f}", *shares, f"{case['false_boxes']:.1f}")
        table.add_row(*row, f"{cost['passes']:.0f}", f"{cost['seconds']:.0f}")
        print(*row, cost, flush=True)
    Console(width=140).print(table)
    save("detectors", {"steps": STEPS, "cases": cases, "sticker": sticker(detector, x, labels, learn)}, "onnx")
    if given.picture is not None:
        images, found = zip(*shown.values(), strict=True)
        draw(images, found, list(shown), COCO).savefig(given.picture, dpi=100)


if __name__ == "__main__":
    main()
