"""Boxes: how far they overlap, and which of many that overlap are kept.

A box is `x1, y1, x2, y2` in the last dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes `(..., 4)`, that broadcast to each other; 0 where both are empty."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    both = width * height
    return both / (_area(a) + _area(b) - both).clamp(min=1e-12)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """The intersection over union of every box of `a` `(B, P, 4)` and every one of `b` `(B, Q, 4)`, `(B, P, Q)`."""
    return iou(a.unsqueeze(2), b.unsqueeze(1))


def _area(box: Tensor) -> Tensor:
    width, height = (box[..., 2:] - box[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def cornered(box: Tensor) -> Tensor:
    """Boxes given by centre, width and height, as corners."""
    centre, size = box[..., :2], box[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def rivals(boxes: Tensor, scores: Tensor, classes: Tensor, overlap: float) -> Tensor:
    """The box that stands in the way of each, `(B, P)`: of those of its class that are kept and score more, the one
    that overlaps it most; its own number where none overlaps it.

    Greedy non-maximum suppression keeps a box unless it overlaps its rival by more than `overlap`. `boxes` are
    `(B, P, 4)`, `scores` and `classes` `(B, P)`; of equal scores the first counts for more. Memory: `P^2` a row.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes, classes = boxes.gather(1, order.unsqueeze(2).expand_as(boxes)), classes.gather(1, order)
    shared = overlaps(boxes, boxes).triu(1) * (classes.unsqueeze(2) == classes.unsqueeze(1))  # [first, second]
    ousts = shared > overlap
    kept = torch.ones_like(classes, dtype=torch.bool)
    while True:  # each round settles at least the best box that was not: what stays the same is the greedy choice
        still = ~(ousts & kept.unsqueeze(2)).any(1)
        if torch.equal(still, kept):
            break
        kept = still
    most, rival = (shared * kept.unsqueeze(2)).max(1)
    own = torch.arange(boxes.shape[1], device=boxes.device)
    return torch.empty_like(order).scatter_(1, order, order.gather(1, torch.where(most > 0, rival, own)))


def room(boxes: Tensor, rival: Tensor, overlap: float) -> Tensor:
    """What lies between each box and its suppression, `(B, P)`: `1 - IoU / overlap`, 1 without a rival."""
    shared = iou(boxes, boxes.gather(1, rival.unsqueeze(2).expand_as(boxes)))
    alone = rival == torch.arange(boxes.shape[1], device=boxes.device)
    return 1 - shared.masked_fill(alone, 0) / overlap
