import io

import pytest
import torch
from scenes import predictions

from sparring.domains.driving.figure import draw
from sparring.domains.driving.measures import ROAD, measured
from sparring.domains.driving.photos import COCO
from sparring.domains.driving.predictions import Rules
from sparring.domains.driving.streets import CLASSES, small_detector, streets
from sparring.domains.driving.tasks import Fabrication, Mislabelling, Vanishing

HERE, THERE = [0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]


def certain(*rows):
    """Predictions of two classes that are all but certain."""
    return torch.tensor([[[*box, 9.0, *((0.0, -20.0) if kind == 0 else (-20.0, 0.0))] for kind, box in rows]])


def test_figures_are_those_that_one_would_count():
    outputs = certain((0, HERE), (0, THERE), (1, [0.0, 0.8, 0.2, 1.0]))
    labels = torch.tensor([[[0.0, *HERE], [1.0, *THERE], [-1.0, 0, 0, 0, 0]]])
    of = measured(outputs, labels, road={1: 1.0})
    assert (of.images, of.objects) == (1, 2)
    assert (of.found, of.mislabelled, of.false_boxes, of.road) == (0.5, 0.5, 2.0, 0.0)
    assert of.ap50 == pytest.approx(0.5)
    assert measured(outputs, labels, road={0: 3.0, 1: 1.0}).road == 0.75
    assert measured(outputs, labels, road={}).road == 1.0


def test_figures_over_images_are_what_the_tasks_measure():
    outputs, labels = predictions(30, 0)
    of, objects = measured(outputs, labels), (labels[..., 0] >= 0).sum(1)
    assert of.objects == objects.sum()
    for task, share in ((Vanishing(0.5), of.found), (Mislabelling(0.5), of.mislabelled)):
        assert float((task.measure(outputs, labels) * objects).sum() / objects.sum()) == pytest.approx(share, abs=1e-6)
    assert float(Fabrication(1).measure(outputs, labels).float().mean()) == pytest.approx(of.false_boxes)
    assert 0 < of.ap < of.ap50 < 1


def test_a_driver_must_not_miss_persons_and_signs():
    assert [COCO[kind] for kind in ROAD][:2] == ["person", "bicycle"]
    assert COCO.index("stop sign") in ROAD
    assert COCO.index("teddy bear") not in ROAD


def test_a_picture_shows_every_detection_by_its_name():
    x, labels = torch.rand(2, 3, 20, 30), torch.tensor([[[1.0, *HERE, 0.9]], [[-1.0, 0, 0, 0, 0, 0]]])
    figure = draw([x, x], [labels, labels[:, :0]], ["before", "after"], CLASSES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["before", "", "after", ""]
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["sign 0.90"]
    figure.savefig(page := io.BytesIO())
    assert page.getvalue().startswith(b"\x89PNG")


def test_streets_are_the_same_wherever_they_are_drawn():
    x, labels = streets(8, seed=3)
    some, theirs = streets(4, seed=3)
    assert torch.equal(x[:4], some)
    assert torch.equal(labels[:4], theirs)
    assert Vanishing(0.5).labels(labels, "streets")[0].shape == (8, 2, 5)
    outputs = small_detector()(x)
    assert outputs.shape == (8, 36, 7)
    assert Vanishing(0.5).misfit(outputs, labels) == ""
    assert Rules(confidence=0.001).detect(outputs).shape[0] == 8
