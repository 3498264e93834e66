"""Folders of images."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data import load
from sparring.errors import BadInput


def picture(file, value=0, size=(6, 4), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(file)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    picture(root / "dog" / "a.png", (255, 0, 51))
    picture(root / "cat" / "b.PNG", (0, 0, 0))
    picture(root / "cat" / "deeper" / "c.bmp", (10, 20, 30))
    (root / ".hidden").mkdir()
    (root / "cat" / "notes.txt").write_text("not an image")
    return root


def refusal(spec):
    with pytest.raises(BadInput) as error:
        load(str(spec))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_subfolders_are_classes_in_sorted_order(folder):
    data = load(str(folder))
    x, y = data.take([0, 1, 2])
    assert data.classes == ("cat", "dog")
    assert data.name == "photos"
    assert x.shape == (3, 3, 4, 6)
    assert y.tolist() == [0, 0, 1]
    assert torch.equal(x[2, :, 0, 0], torch.tensor([255.0, 0, 51]) / 255)


def test_grey_and_transparent_images_become_three_channels(tmp_path):
    picture(tmp_path / "a" / "1.png", 100, mode="L")
    picture(tmp_path / "b" / "2.png", (1, 2, 3, 4), mode="RGBA")
    x, _ = load(str(tmp_path)).take([0, 1])
    assert x.shape == (2, 3, 4, 6)
    assert torch.equal(x[1, :, 0, 0], torch.tensor([1.0, 2, 3]) / 255)


def test_a_folder_of_splits_gives_the_split_asked_for(tmp_path, folder):
    picture(tmp_path / "set" / "train" / "a" / "1.png")
    picture(tmp_path / "set" / "val" / "a" / "2.png")
    picture(tmp_path / "set" / "val" / "b" / "3.png")
    assert len(load(str(tmp_path / "set"), split="train")) == 1
    data = load(f"{tmp_path / 'set'}:val")
    assert (len(data), data.classes, data.name) == (2, ("a", "b"), "set:val")
    assert "has train, val, no test" in refusal(tmp_path / "set")
    assert "no folder 'train'" in refusal(f"{folder}:train")


def test_a_list_of_labels_stands_beside_the_images(tmp_path):
    picture(tmp_path / "1.png", (1, 1, 1))
    picture(tmp_path / "2.png", (2, 2, 2))
    (tmp_path / "labels.csv").write_text("file,label\n2.png,7\n1.png,0\n")
    data = load(str(tmp_path))
    x, y = data.take([0, 1])
    assert y.tolist() == [7, 0]
    assert (x[0] * 255).unique().tolist() == [2.0]
    (tmp_path / "labels.csv").write_text("file,label\n2.png,zebra\n1.png,ant\n")
    data = load(str(tmp_path))
    assert data.classes == ("ant", "zebra")
    assert data.take([0, 1])[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty or incomplete"),
        ("file,label\n", "empty or incomplete"),
        ("name,label\n1.png,0\n", "need columns file,label"),
        ("file,label\n1.png\n", "empty or incomplete"),
        ("file,label\nelsewhere.png,0\n", "not there"),
        ("file,label\n1.png,-1\n", "-1"),
        ("file,label\n1.png,0.5\n", "0.5"),
        ("file,label\n1.png,nan\n", "NaN"),
        ("file,label\n1.png,99999999999999999999\n", "1e+20"),
        ("file,label\n1.png, \n", "empty or incomplete"),
        ("file,label\n1.png,cat, tabby\n", "too many cells for '1.png'"),
    ],
)
def test_a_list_of_labels_that_does_not_match_is_refused(tmp_path, content, said):
    picture(tmp_path / "1.png")
    (tmp_path / "labels.csv").write_text(content)
    assert said in refusal(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    assert "no images" in refusal(tmp_path)
    picture(tmp_path / "flat.png")
    assert "a subfolder of images for each class" in refusal(tmp_path)


@pytest.mark.parametrize("spec", ["{}", "{}:test"])
def test_a_split_that_lacks_a_class_counts_as_the_others_do(tmp_path, spec):
    for place in ("train/ant", "train/bee", "train/cat", "test/bee", "test/cat"):
        (tmp_path / place).mkdir(parents=True)
        picture(tmp_path / place / "1.png")
    data = load(spec.format(tmp_path))
    assert data.classes == ("ant", "bee", "cat")
    assert data.take([0, 1])[1].tolist() == [1, 2]


def test_an_empty_class_is_refused(folder):
    (folder / "emu").mkdir()
    assert "emu' holds no images" in refusal(folder)


def test_images_of_another_size_are_named(folder):
    picture(folder / "dog" / "wide.png", size=(9, 4))
    assert "wide.png' is 9x4, 'b.PNG' is 6x4" in refusal(folder)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "dog" / "fake.png").write_text("hello")
    assert "fake.png' cannot be read" in refusal(folder)


def test_sixteen_bit_images_are_refused(folder):
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(folder / "dog" / "deep.png")
    assert "8 bits" in refusal(folder)


def png(file, size, bits):
    """A PNG of three channels; its pixels are left out where there are many."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = (b"\0" + bytes(size[0] * 3 * bits // 8)) * size[1] if size[0] < 100 else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, 2, 0, 0, 0))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))


def test_sixteen_bit_colours_are_refused_although_pillow_calls_them_rgb(folder):
    png(folder / "dog" / "deep.png", (6, 4), 8)
    assert len(load(str(folder))) == 4
    png(folder / "dog" / "deep.png", (6, 4), 16)
    assert "deep.png' has more than 8 bits a channel" in refusal(folder)
    (folder / "dog" / "deep.png").unlink()
    (folder / "dog" / "deep.ppm").write_bytes(b"P6 6 4 65535\n" + bytes(6 * 4 * 6))
    assert "deep.ppm' has more than 8 bits a channel" in refusal(folder)


def test_an_image_of_too_many_pixels_is_refused_in_one_line(folder):
    png(folder / "dog" / "vast.png", (30_000, 30_000), 8)
    assert "vast.png' cannot be read (Image size (900000000 pixels)" in refusal(folder)


def listed(folder, labels):
    for i in range(len(labels)):
        picture(folder / f"{i}.png")
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{i}.png,{y}\n" for i, y in enumerate(labels)))
    data = load(str(folder))
    return data.take(range(len(labels)))[1].tolist(), data.classes


def test_labels_that_are_numbers_are_counted_and_not_sorted_as_words(tmp_path):
    assert listed(tmp_path, [f"{i}.0" for i in range(12)]) == (list(range(12)), ())
    assert listed(tmp_path, ["11", "3.0", " 2 "]) == ([11, 3, 2], ())


@pytest.mark.parametrize("labels", [["--1", "2"], ["1_2", "3_4"], ["1", "cat"], ["nan", "sheep"]])
def test_labels_that_are_not_all_numbers_are_words(tmp_path, labels):
    assert listed(tmp_path, labels) == ([0, 1], tuple(labels))


def test_a_truncated_image_is_refused_when_it_is_taken(folder):
    file = folder / "dog" / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-60])
    data = load(str(folder))
    with pytest.raises(BadInput, match=r"a\.png' cannot be read"):
        data.take([2])
