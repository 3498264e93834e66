"""Average precision, as COCO measures it (Lin et al., 2014): how well the surest detections are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sparring.domains.driving.boxes import overlaps
from sparring.domains.driving.predictions import NONE

COCO = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""The overlaps over which COCO's AP is a mean."""

RECALLS = np.linspace(0, 1, 101)
Array = NDArray[Any]


def average_precisions(found: Tensor, labels: Tensor, match: float = 0.5, most: int = 100) -> dict[int, float]:
    """The average precision of every class that has labelled objects.

    `found` are detections `(N, D, 6)` of `Rules.detect`, with a confidence so low that it leaves out next to none;
    `labels` are `(N, M, 5)`. Of each class the `most` surest of an image count. From the surest down, a detection is
    right if it overlaps an object of its class by `match` that none before it took: the one it overlaps most. Precision
    is the best at any greater recall, averaged over 101 recalls. Of equally sure detections the first counts for more.
    """
    found, labels = found.detach().cpu(), labels.cpu()
    shared = overlaps(found[..., 1:5].double(), labels[..., 1:].double()).numpy()
    kinds, sure, wanted = found[..., 0].numpy(), found[..., 5].double().numpy(), labels[..., 0].numpy()
    return {
        int(kind): _average(
            _ranked(kinds == kind, wanted == kind, sure, shared, match=match, most=most), int((wanted == kind).sum())
        )
        for kind in np.unique(wanted[wanted != NONE])
    }


def average_precision(found: Tensor, labels: Tensor, matches: Sequence[float] = (0.5,), most: int = 100) -> float:
    """The mean over classes that have labelled objects, and over overlaps: AP50 as it is, COCO's own AP with `COCO`.

    Without any labelled object it is 0.
    """
    each = [list(average_precisions(found, labels, match, most).values()) for match in matches]
    return float(np.mean(each)) if each and each[0] else 0.0


def _ranked(mine: Array, wanted: Array, sure: Array, shared: Array, *, match: float, most: int) -> Array:
    """Which detections of a class are right, those of all images together, the surest first."""
    scores, rights = [], []
    for image in range(len(mine)):
        rows, free = np.flatnonzero(mine[image])[:most], np.flatnonzero(wanted[image]).tolist()
        scores.append(sure[image, rows])
        for row in rows:
            best = max(free, key=lambda one: shared[image, row, one], default=-1)
            rights.append(bool(free) and shared[image, row, best] >= match)
            if rights[-1]:
                free.remove(best)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return np.array(rights, dtype=np.float64)[order]


def _average(right: Array, count: int) -> float:
    """The mean of the best precision at or beyond each of the recalls."""
    if not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision = np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
    place = np.searchsorted(hits / count, RECALLS, side="left")
    return float(np.where(place < len(right), precision[np.minimum(place, len(right) - 1)], 0).mean())
