import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import boxes, predictions
from torch.testing import assert_close

from sparring.domains.driving.boxes import cornered, iou, overlaps, rivals, room
from sparring.domains.driving.precision import COCO, average_precision, average_precisions
from sparring.domains.driving.predictions import NONE, Predictions, Rules
from sparring.errors import BadInput
from sparring.streams import Streams


def test_overlaps_are_those_of_rectangles():
    a = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    b = torch.tensor([[0.25, 0.0, 0.75, 0.5], [0.6, 0.6, 0.9, 0.9], [0.0, 0.0, 0.5, 0.5]])
    expected = torch.tensor([[1 / 3, 0.0, 1.0], [0.0, 0.0, 0.0]])
    assert_close(overlaps(a[None], b[None])[0], expected)
    assert_close(cornered(torch.tensor([0.5, 0.5, 0.2, 0.4])), torch.tensor([0.4, 0.3, 0.6, 0.7]))


def test_an_overlap_stays_what_it_is_when_the_image_is_stretched():
    a, b = boxes(Streams.of(0, range(50)), 2).unbind(1)
    stretch = torch.tensor([3.0, 0.5, 3.0, 0.5])
    assert_close(iou(a * stretch, b * stretch), iou(a, b))


def greedy(boxes, scores, classes, overlap):
    """Non-maximum suppression as it is told: take the surest, drop what it overlaps, and again."""
    left, kept = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i)), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if classes[i] != classes[best] or float(iou(boxes[i], boxes[best])) <= overlap]
    return sorted(kept)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**16), overlap=st.sampled_from([0.1, 0.3, 0.45, 0.7, 1.0]))
def test_suppression_keeps_what_one_box_after_another_would(seed, overlap):
    rng = Streams.of(seed, range(4))
    place = boxes(rng, 25)
    scores, classes = (10 * rng.at("score").uniform(25)).round(), rng.at("class").integers(2, 25)  # with ties
    kept = room(place, rivals(place, scores, classes, overlap), overlap) >= 0
    for row in range(4):
        assert kept[row].nonzero().flatten().tolist() == greedy(place[row], scores[row], classes[row], overlap)


def test_detections_come_the_surest_first_whatever_company_an_image_has():
    outputs, _ = predictions(9, 0)
    found = Rules().detect(outputs)
    assert ((found[..., 0] == NONE) == (found[..., 5] == 0)).all()
    assert (found[..., 5].diff(dim=1) <= 0).all()
    for row in range(9):
        alone = Rules().detect(outputs[row : row + 1])
        assert torch.equal(alone, found[row : row + 1, : alone.shape[1]])
        assert (found[row, alone.shape[1] :, 0] == NONE).all()
    assert Rules().detect(outputs[:0]).shape[::2] == (0, 6)
    assert Rules(confidence=1.0).detect(outputs).shape == (9, 0, 6)


def test_a_confidence_is_that_there_is_something_times_what_it_is():
    outputs = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 0.0, math.log(0.2), math.log(0.8)]]])
    assert_close(Rules().detect(outputs)[0, 0], torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.4]))
    assert len(Predictions(outputs).surest(1).outputs[0]) == 1


@pytest.mark.parametrize("wrong", [{"confidence": 0.0}, {"match": 1.5}, {"overlap": -1.0}, {"most": 0}])
def test_rules_that_are_none_are_refused(wrong):
    with pytest.raises(BadInput, match="need"):
        Rules(**wrong)


def detections(rows):
    return torch.tensor([rows], dtype=torch.float32)


def test_average_precision_by_hand():
    object_a, object_b, empty = [0.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.7, 0.7], [0.8, 0.0, 0.9, 0.1]
    labels = torch.tensor([[[0, *object_a], [0, *object_b]]])
    found = detections([[0, *object_a, 0.9], [0, *empty, 0.8], [0, *object_b, 0.7]])
    # precision 1 up to a recall of a half (51 of the 101 recalls), 2/3 up to one
    assert average_precision(found, labels) == pytest.approx((51 + 50 * 2 / 3) / 101)
    again = detections([[0, *object_a, 0.9], [0, *object_a, 0.8]])
    assert average_precision(again, labels) == pytest.approx(51 / 101)
    assert average_precision(found[:, :0], labels) == 0
    assert average_precision(found, torch.full((1, 1, 5), -1.0)) == 0
    other = torch.tensor([[[0, *object_a], [2, *object_b]]])
    assert average_precisions(found, other) == {0: pytest.approx(1.0), 2: 0.0}


def test_average_precision_is_that_of_pycocotools(capsys):
    pytest.importorskip("pycocotools")
    from pycocotools import coco
    from pycocotools.cocoeval import COCOeval

    outputs, labels = predictions(40, 5, places=30)
    found = Rules(confidence=0.02).detect(outputs)
    truth, mine = coco.COCO(), []
    rows = [(i, *row) for i, some in enumerate(labels.tolist()) for row in some if row[0] != NONE]
    truth.dataset = {
        "images": [{"id": i} for i in range(40)],
        "categories": [{"id": k} for k in range(3)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": int(kind), "bbox": wide(box), "area": 1.0, "iscrowd": 0}
            for n, (i, kind, *box) in enumerate(rows, 1)
        ],
    }
    truth.createIndex()
    for i, some in enumerate(found.tolist()):
        mine += [
            {"image_id": i, "category_id": int(kind), "bbox": wide(box), "score": score}
            for kind, *box, score in some
            if kind != NONE
        ]
    judge = COCOeval(truth, truth.loadRes(mine), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    capsys.readouterr()
    assert average_precision(found, labels, COCO) == pytest.approx(judge.stats[0], abs=1e-9)
    assert average_precision(found, labels) == pytest.approx(judge.stats[1], abs=1e-9)
    assert 0.1 < judge.stats[0] < judge.stats[1] < 0.95
    assert np.mean(list(average_precisions(found, labels).values())) == pytest.approx(judge.stats[1], abs=1e-9)


def wide(box):
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
