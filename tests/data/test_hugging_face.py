"""Data sets of the library `datasets`, written to disk by the tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data import load, load_split
from sparring.errors import BadInput

pytestmark = pytest.mark.frameworks
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def saved(path, columns, features=None):
    datasets.Dataset.from_dict(columns, features=features and datasets.Features(features)).save_to_disk(path)
    return f"hf:{path}"


def pictures(path, images):
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    return saved(path, {"image": images, "label": [i % 2 for i in range(len(images))]}, kinds)


def refusal(spec):
    with pytest.raises(BadInput) as error:
        load(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("mode", "value", "channels"), [("L", 51, 1), ("RGB", (51, 51, 51), 3)])
def test_images_are_decoded_when_they_are_asked_for(tmp_path, mode, value, channels):
    data = load(pictures(tmp_path / "set", [Image.new(mode, (6, 4), value)] * 3))
    x, y = data.take([2, 1])
    assert x.shape == (2, channels, 4, 6)
    assert torch.equal(x, torch.full_like(x, 51 / 255))
    assert y.tolist() == [0, 1]
    assert data.classes == ("a", "b")


def test_images_of_unequal_size_are_refused(tmp_path):
    data = load(pictures(tmp_path / "set", [Image.new("L", (6, 4)), Image.new("L", (5, 4))]))
    with pytest.raises(BadInput, match="image 1 is"):
        data.take([0, 1])


def test_sixteen_bit_images_are_refused_as_in_a_folder(tmp_path):
    deep = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000)
    data = load(pictures(tmp_path / "set", [Image.new("L", (6, 4)), deep]))
    assert len(data.take([0])[0]) == 1
    with pytest.raises(BadInput, match="image 1 has more than 8 bits a channel"):
        data.take([0, 1])


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_image_is_refused(tmp_path, missing):
    images = [Image.new("L", (6, 4))] * 3
    images[missing] = None
    with pytest.raises(BadInput, match=f"image {missing} is missing"):
        load(pictures(tmp_path / "set", images)).take([2, 1])


def test_a_damaged_image_is_refused(tmp_path):
    spec = pictures(tmp_path / "set", [{"bytes": b"no image", "path": None}])
    with pytest.raises(BadInput, match="an image cannot be read"):
        load(spec).take([0])


def test_numeric_columns_become_features(tmp_path):
    x, y = load(saved(tmp_path / "set", {"a": [1.5, 2.5], "y": [0, 1], "b": [3, 4]})).take([1, 0])
    assert torch.equal(x, torch.tensor([[2.5, 4.0], [1.5, 3.0]]))
    assert y.tolist() == [1, 0]


def test_a_column_of_arrays_is_the_input(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 2, 4), np.uint8)
    kinds = {
        "pixels": datasets.Array2D((2, 4), "uint8"),
        "id": datasets.Value("string"),
        "label": datasets.Value("int64"),
    }
    spec = saved(tmp_path / "set", {"pixels": pixels.tolist(), "id": ["a", "b", "c"], "label": [0, 1, 2]}, kinds)
    x, _ = load(spec).take([2, 0])
    assert torch.equal(x, torch.from_numpy(pixels[[2, 0]]).float() / 255)


def test_a_split_of_several_is_asked_for_by_name(tmp_path):
    part = datasets.Dataset.from_dict({"a": [1.0], "label": [0]})
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(tmp_path / "set")
    assert load(f"hf:{tmp_path / 'set'}", split="train").name.endswith("/train")
    (tmp_path / "files").mkdir()
    part.to_parquet(tmp_path / "files" / "train.parquet")
    assert len(load(f"hf:{tmp_path / 'files'}/train")) == 1
    assert "no test" in refusal(f"hf:{tmp_path / 'set'}")
    assert "split test" in refusal(f"hf:{tmp_path / 'files'}")


def test_one_split_saved_alone_keeps_its_name_whatever_is_asked_for(tmp_path):
    path = tmp_path / "set"
    datasets.Dataset.from_dict({"a": [1.0], "label": [0]}, split="train").save_to_disk(path)
    assert load(f"hf:{path}", split="test").name == f"hf:{path}/train"
    assert load(f"hf:{path}/train").name == f"hf:{path}/train"
    assert load_split(f"hf:{path}/train", "train").name == f"hf:{path}/train"
    with pytest.raises(BadInput, match="data with splits"):
        load_split(f"hf:{path}", "train")
    assert f"is only the split train; need the split test; say hf:{path}" in refusal(f"hf:{path}/test")


def test_a_split_is_not_invented_for_a_set_without_splits(tmp_path):
    spec = saved(tmp_path / "set", {"a": [1.0], "label": [0]})
    assert load(spec, split="validation").name == spec
    assert "is without splits" in refusal(f"{spec}/validation")


def test_numbers_that_float32_cannot_hold_are_refused_when_they_are_taken(tmp_path):
    data = load(saved(tmp_path / "set", {"a": [1.0, 1e39], "label": [0, 1]}))
    with pytest.raises(BadInput, match="float32"):
        data.take([0, 1])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": [1.0], "b": [2.0]}, "one label column"),
        ({"a": [1.0], "label": [0], "y": [0]}, "one label column"),
        ({"a": ["text"], "label": [0]}, "a (Value)"),
        ({"a": [1.0], "label": ["cat"]}, "text"),
        ({"label": [0]}, "nothing"),
        ({"a": [1.0], "label": [-1]}, "-1"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(tmp_path, columns, said):
    assert said in refusal(saved(tmp_path / "set", columns))


def test_ragged_arrays_are_refused_when_they_are_taken(tmp_path):
    data = load(saved(tmp_path / "set", {"a": [[1.0], [1.0, 2.0]], "label": [0, 1]}))
    with pytest.raises(BadInput, match="differ in shape"):
        data.take([0, 1])


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "hf:" in refusal(f"hf:{tmp_path / 'nothing'}")
