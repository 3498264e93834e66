"""What the heads of detectors give, as predictions: FastestDet, YOLO with and without objectness, DETR.

A head is a function `(raw, height, width) -> predictions`: what a network made of images of that size becomes
`(B, A, 5 + K)`, boxes as shares of that image. Slopes lead through every one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparring.domains.driving.boxes import cornered
from sparring.errors import BadInput

Head = Callable[[Any, int, int], Tensor]


def logit(share: Tensor) -> Tensor:
    """The logit of a sigmoid's output, cut off where that rounds to 0 or 1."""
    return torch.logit(share, torch.finfo(share.dtype).eps)


def log(share: Tensor) -> Tensor:
    """The logarithm of a share, cut off at the least number that has all its digits."""
    return share.clamp(min=torch.finfo(share.dtype).tiny).log()


def fastest_det(raw: Tensor, height: int, width: int) -> Tensor:
    """FastestDet's one grid `(B, 5 + K, h, w)`: objectness after its sigmoid, four numbers of a box, a softmax.

    The centre is `(cell + tanh) / grid`, the size a sigmoid, as `handle_preds` of its repository has them.
    """
    _shaped(raw, 4, "FastestDet: (B, 5 + K, h, w)")
    rows, columns = raw.shape[2:]
    cell = torch.stack(
        torch.meshgrid(torch.arange(columns).to(raw), torch.arange(rows).to(raw), indexing="xy")
    )  # x, y; (2, h, w)
    centre = (raw[:, 1:3].tanh() + cell) / raw.new_tensor([columns, rows]).view(2, 1, 1)
    box = cornered(torch.cat([centre, raw[:, 3:5].sigmoid()], 1).flatten(2).transpose(1, 2))
    return torch.cat([box, torch.cat([logit(raw[:, :1]), log(raw[:, 5:])], 1).flatten(2).transpose(1, 2)], 2)


def yolo(raw: Any, height: int, width: int) -> Tensor:
    """Rows `(B, A, 5 + K)` of centre, size in pixels, objectness and classes after their sigmoids: YOLOv5, v6, v7, X.

    Of a tuple, as such networks give in evaluation, the first part counts.
    """
    raw = _first(raw)
    _shaped(raw, 3, "YOLO: (B, A, 5 + K)")
    return torch.cat([_pixels(raw[..., :4], height, width), logit(raw[..., 4:5]), log(raw[..., 5:])], 2)


def yolo_v8(raw: Any, height: int, width: int) -> Tensor:
    """Columns `(B, 4 + K, A)` of centre, size in pixels and classes after their sigmoids: YOLOv8 and later.

    It has no objectness. What stands in its place is the largest of the classes, and their shares are shares of that:
    the confidences stay what they are.
    """
    raw = _first(raw)
    _shaped(raw, 3, "YOLOv8: (B, 4 + K, A)")
    box, classes = raw[:, :4].transpose(1, 2), raw[:, 4:].transpose(1, 2)
    return torch.cat([_pixels(box, height, width), *_without_objectness(classes)], 2)


def detr(said: Any, height: int, width: int) -> Tensor:
    """`logits` `(B, Q, K + 1)`, the last class nothing, and `pred_boxes` `(B, Q, 4)`, centre and size as shares.

    DETR, Conditional and Table DETR, YOLOS, of transformers or in a dictionary (`pred_logits`). Judge them with
    `overlap=1`: they need no suppression.
    """
    if isinstance(said, dict) and "pred_logits" in said:
        logits, box = said["pred_logits"], said["pred_boxes"]
    else:
        logits, box = getattr(said, "logits", None), getattr(said, "pred_boxes", None)
    if not isinstance(logits, Tensor) or not isinstance(box, Tensor):
        raise BadInput(f"outputs of type {type(said).__name__}", "logits and pred_boxes, as DETR's", "use another head")
    some, nothing = logits[..., :-1], logits[..., -1:]
    return torch.cat([cornered(box), some.logsumexp(2, keepdim=True) - nothing, some.log_softmax(2)], 2)


def detr_sigmoid(said: Any, height: int, width: int) -> Tensor:
    """As `detr`, of networks whose K classes are independent, with none for nothing: Deformable DETR, RT-DETR."""
    logits, box = getattr(said, "logits", None), getattr(said, "pred_boxes", None)
    if not isinstance(logits, Tensor) or not isinstance(box, Tensor):
        raise BadInput(f"outputs of type {type(said).__name__}", "logits and pred_boxes, as DETR's", "use another head")
    return torch.cat([cornered(box), *_without_objectness(logits.sigmoid())], 2)


def chosen(head: Head, classes: Sequence[int]) -> Head:
    """A head of which only some of the classes count, in this order: DETR's 91 of COCO to the 80 of its labels.

    The shares of the others are lost, so that confidences stay what they are.
    """

    def some(raw: Any, height: int, width: int) -> Tensor:
        said = head(raw, height, width)
        return said[..., [*range(5), *(5 + number for number in classes)]]

    return some


def _without_objectness(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Objectness and shares of confidences `(B, A, K)`."""
    most = classes.amax(2, keepdim=True)
    return logit(most), log(classes) - log(most)


def _pixels(box: Tensor, height: int, width: int) -> Tensor:
    """Corners as shares, of centres and sizes in pixels."""
    return cornered(box) / box.new_tensor([width, height, width, height])


def _first(raw: Any) -> Any:
    return raw[0] if isinstance(raw, tuple | list) and raw else raw


def _shaped(raw: Any, dims: int, need: str) -> None:
    if not isinstance(raw, Tensor) or raw.dim() != dims:
        given = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
        raise BadInput(f"outputs of {given}", need, "use another head")
