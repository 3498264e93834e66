from __future__ import annotations

import zipfile
from pathlib import Path

import example
import numpy as np
import pytest

from sparring.errors import BadInput
from sparring.report.gallery import Picture, confidence, load, pixels, save, top


def test_a_gallery_survives_the_disk(tmp_path: Path) -> None:
    mixed = (*example.gallery(count=2), *example.gallery(count=1, shape=(50,)))
    save(mixed, tmp_path / "gallery.npz")
    back = load(tmp_path / "gallery.npz")
    for before, after in zip(mixed, back, strict=True):
        assert (after.index, after.label) == (before.index, before.label)
        assert np.array_equal(after.x, before.x)
        assert np.array_equal(after.z, before.z)
        assert np.allclose(after.clean, before.clean, atol=1e-6)
        assert np.allclose(after.attacked, before.attacked, atol=1e-6)
    save(back, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "gallery.npz").read_bytes()


def test_an_empty_gallery_survives_too(tmp_path: Path) -> None:
    save((), tmp_path / "gallery.npz")
    assert load(tmp_path / "gallery.npz") == ()


@pytest.mark.parametrize("fault", ["missing", "truncated", "other arrays", "no zip", "pickle"])
def test_what_is_not_a_gallery_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "gallery.npz"
    if fault == "truncated":
        save(example.gallery(), path)
        path.write_bytes(path.read_bytes()[:500])
    elif fault == "other arrays":
        np.savez(path, a=np.zeros(3))
    elif fault == "no zip":
        path.write_bytes(b"not a zip at all")
    elif fault == "pickle":
        np.savez(path, index=np.array([{"a": 1}], dtype=object), label=np.zeros(1))
        assert zipfile.is_zipfile(path)
    with pytest.raises(BadInput) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_confidence_is_the_softmax_unless_the_outputs_are_probabilities() -> None:
    assert confidence([0.0, np.log(3.0)]) == pytest.approx((0.25, 0.75))
    assert confidence([0.2, 0.8], probabilities=True) == pytest.approx((0.2, 0.8))
    assert confidence([1000.0, -1000.0]) == pytest.approx((1.0, 0.0))


def test_confidence_of_one_output_is_the_sigmoid_and_its_complement() -> None:
    assert confidence([np.log(3.0)]) == pytest.approx((0.25, 0.75))
    assert confidence([0.9], probabilities=True) == pytest.approx((0.1, 0.9))


def test_top_always_holds_the_true_class_and_puts_nan_last() -> None:
    assert top((0.5, 0.3, 0.15, 0.05), label=3) == ((0, 0.5), (1, 0.3), (3, 0.05))
    assert [k for k, _ in top((float("nan"), 0.3, 0.7), label=1)] == [2, 1, 0]


def test_the_difference_is_amplified_by_the_factor_that_is_said() -> None:
    x = np.full((1, 2, 2), 0.5, dtype=np.float32)
    z = x + np.array([[[0.04, -0.04], [0.0, 0.02]]], dtype=np.float32)
    clean, attacked, difference, factor = pixels(Picture(0, 0, (1.0,), (1.0,), x, z))
    assert factor == 20
    assert clean.shape == attacked.shape == difference.shape == (2, 2, 3)
    assert tuple(difference[1, 0]) == (255, 255, 255)
    above, below = difference[0, 0].astype(int), difference[0, 1].astype(int)
    assert above[0] > above[2]
    assert below[2] > below[0]


def test_an_unchanged_example_has_a_blank_difference() -> None:
    x = np.full((3, 2, 2), 0.5, dtype=np.float32)
    assert np.unique(pixels(Picture(0, 0, (1.0,), (1.0,), x, x))[2]).size == 1


def test_ranges_of_0_to_255_are_shown_as_they_are_and_others_stretched() -> None:
    x = np.array([[[0.0, 51.0], [102.0, 255.0]]], dtype=np.float32)
    assert pixels(Picture(0, 0, (1.0,), (1.0,), x, x))[0][..., 0].tolist() == [[0, 51], [102, 255]]
    x = np.array([[[-2.0, 0.0], [1.0, 2.0]]], dtype=np.float32)
    assert pixels(Picture(0, 0, (1.0,), (1.0,), x, x))[0][..., 0].tolist() == [[0, 128], [191, 255]]


def test_x_and_z_of_different_shapes_are_refused() -> None:
    with pytest.raises(BadInput, match="one shape"):
        Picture(0, 0, (1.0,), (1.0,), np.zeros((1, 2, 2), np.float32), np.zeros((1, 3, 3), np.float32))


def test_inputs_that_go_a_little_past_one_are_no_grey_levels() -> None:
    x = np.linspace(0, 1.2, 16).reshape(1, 4, 4)
    clean, *_ = pixels(Picture(index=0, label=0, clean=(1.0,), attacked=(1.0,), x=x, z=x))
    assert clean.max() == 255
