import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from sparring.attacks import pgd
from sparring.domains.driving.boxes import overlaps
from sparring.domains.driving.detectors import letterboxed, load_fastest_det, stretched
from sparring.domains.driving.photos import COCO, coco_val, load_yolo
from sparring.domains.driving.precision import average_precision
from sparring.domains.driving.predictions import Rules
from sparring.domains.driving.tasks import Fabrication, Vanishing
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.streams import Streams
from sparring.threats import linf


def folder(place, layout="images"):
    """Two photos, one of them with two objects, the other with none."""
    photos, texts = (place / "images", place / "labels") if layout == "images" else (place, place)
    photos.mkdir(exist_ok=True)
    texts.mkdir(exist_ok=True)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[5:15, 10:20] = 255
    Image.fromarray(pixels).save(photos / "a.png")
    Image.new("RGB", (30, 30)).save(photos / "b.png")
    (texts / "a.txt").write_text("2 0.375 0.5 0.25 0.5\n0 0.5 0.5 1 1\n")
    return place


@pytest.mark.parametrize("layout", ["images", "beside"])
def test_a_folder_of_photos_and_texts_is_read(tmp_path, layout):
    data = load_yolo(folder(tmp_path, layout), (32, 32), stretched)
    x, labels = data.take([0, 1])
    assert x.shape == (2, 3, 32, 32)
    assert labels.shape == (2, 2, 5)
    assert labels[0].tolist() == [[2, 0.25, 0.25, 0.5, 0.75], [0, 0, 0, 1, 1]]
    assert (labels[1, :, 0] == -1).all()
    assert x[0, :, 10:22, 10:14].min() == 1
    assert Vanishing(0.5).labels(labels, "folder")[0].shape == (2, 2, 5)


def test_boxes_follow_a_photo_into_its_letterbox(tmp_path):
    data = load_yolo(folder(tmp_path), (32, 32), letterboxed)
    x, labels = data.take([0])
    assert_close(labels[0, 0, 1:], torch.tensor([0.25, 0.375, 0.5, 0.625]))
    lit = (x[0, 0] > 0.9).nonzero()
    assert (lit.amin(0) / 32).tolist() == pytest.approx([0.375, 0.25], abs=0.04)


def test_names_of_classes_are_read(tmp_path):
    (folder(tmp_path) / "classes.txt").write_text("car\nbus\nsign\n")
    assert load_yolo(tmp_path).classes == ("car", "bus", "sign")
    assert len(COCO) == 80
    assert (COCO[9], COCO[11], COCO[79]) == ("traffic light", "stop sign", "toothbrush")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0.5 0.5 1", "line 1 of"),
        ("0 0.5 0.5 1 1\n1 0.5 0.5 0 1", "line 2 of"),
        ("0 200 100 50 50", "in shares of the photo"),
        ("car 0.5 0.5 1 1", "cannot be read"),
    ],
)
def test_a_text_that_holds_no_boxes_is_refused_in_one_line(tmp_path, text, said):
    (folder(tmp_path) / "labels" / "a.txt").write_text(text)
    with pytest.raises(BadInput) as error:
        load_yolo(tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_photos_or_without_texts_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no images"):
        load_yolo(tmp_path)
    folder(tmp_path)
    (tmp_path / "labels" / "a.txt").unlink()
    with pytest.raises(BadInput, match="holds no labels"):
        load_yolo(tmp_path)


def test_photos_of_coco_say_where_they_should_be(monkeypatch):
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    with pytest.raises(BadInput, match="set SPARRING_DATA"):
        coco_val()


def test_the_photos_of_coco_are_what_they_should_be(sparring_data):
    data = coco_val()
    x, labels = data.take(range(4))
    assert x.shape == (4, 3, 352, 352)
    assert (len(data), int((data.y[..., 0] >= 0).sum())) == (96, 658)
    kinds = [sorted({data.classes[int(one)] for one in row[:, 0] if one >= 0}) for row in labels]
    assert "person" in kinds[0]
    assert kinds[1] == ["bear"]


@pytest.mark.frameworks
def test_fastest_det_finds_objects_in_photos_until_it_is_attacked(sparring_data):
    pytest.importorskip("onnx")
    detector = load_fastest_det(sparring_data / "models" / "FastestDet.onnx")
    x, labels = coco_val().take(range(12))
    rng, shares = Streams.of(0, range(12)), []
    for task in (None, Vanishing(1.0), Fabrication(10)):
        z = x if task is None else pgd(linf(8 / 255), steps=5, loss=cross_entropy)(detector, x, task.never(labels), rng)
        with torch.no_grad():
            outputs = detector(z)
        found = Rules(confidence=0.001).detect(outputs)
        shares.append((average_precision(found, labels), Fabrication(1).measure(outputs, labels).sum().item()))
    (clean, few), (vanished, fewer), (_, many) = shares
    assert clean > 0.35
    assert vanished < clean / 2
    assert fewer <= few < many / 3
    # the surest detection of the bear is the bear
    sure = Rules(confidence=0.5).detect(detector(x[1:2]))[0, 0]
    assert COCO[int(sure[0])] == "bear"
    assert overlaps(sure[None, None, 1:5], labels[1:2, :1, 1:]).item() > 0.8


@pytest.mark.frameworks
def test_another_network_than_fastest_det_is_refused(sparring_data, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(BadInput, match="not a file"):
        load_fastest_det(tmp_path / "none.onnx")
