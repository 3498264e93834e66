"""What a detector is worth on some images: the figures that a report gives, before an attack and under it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.domains.driving.goals import Fabricated, Mislabelled, Vanished
from sparring.domains.driving.photos import COCO
from sparring.domains.driving.precision import COCO as OVERLAPS
from sparring.domains.driving.precision import average_precision
from sparring.domains.driving.predictions import Rules

ROAD = {
    COCO.index(name): 1.0
    for name in ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "stop sign")
}
"""What a driver must not miss, by its class in COCO, and how much each counts."""

LEAST = 0.001
"""The least confidence of what average precision looks at."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Figures over some images: shares are of labelled objects, false boxes are an image."""

    images: int
    objects: int
    ap50: float
    ap: float
    found: float
    mislabelled: float
    false_boxes: float
    road: float


def measured(
    outputs: Tensor, labels: Tensor, rules: Rules | None = None, road: Mapping[int, float] | None = None
) -> Measures:
    """The figures of predictions `(N, A, 5 + K)` for labels `(N, M, 5)`.

    `ap50` and `ap` are COCO's average precisions; `found` is the share of the objects that a detection matches, `road`
    the same over objects of some classes alone, each counted by its weight (`ROAD` unless given; 1 where there are
    none of them).
    """
    rules = rules or Rules()
    vanished = Vanished(labels, 1.0, rules)
    found, objects = vanished.found(outputs), vanished.counts
    weight = torch.zeros_like(labels[..., 0])
    for kind, counts in (ROAD if road is None else road).items():
        weight[labels[..., 0] == kind] = counts
    ranked = Rules(LEAST, rules.match, rules.overlap, rules.most).detect(outputs)
    count, all_weight = max(int(objects.sum()), 1), float(weight.sum())
    return Measures(
        images=len(labels),
        objects=int(objects.sum()),
        ap50=average_precision(ranked, labels),
        ap=average_precision(ranked, labels, OVERLAPS),
        found=int(found.sum()) / count,
        mislabelled=int(Mislabelled(labels, 1.0, rules).fallen(outputs).sum()) / count,
        false_boxes=int(Fabricated(labels, 1, rules).false(outputs).sum()) / max(len(labels), 1),
        road=float((weight * found).sum()) / all_weight if all_weight else 1.0,
    )
