"""`.npz` files: mapped, read, refused."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from sparring.data import load
from sparring.errors import BadInput


def refusal(spec):
    with pytest.raises(BadInput) as error:
        load(str(spec))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_was_saved_is_what_is_taken(tmp_path, save, order):
    x = np.asarray(np.random.default_rng(0).normal(size=(7, 2, 3)), order=order)
    save(tmp_path / "a.npz", x=x, y=np.arange(7), another=np.ones(3))
    data = load(str(tmp_path / "a.npz"))
    got, y = data.take([5, 0, 5])
    assert torch.equal(got, torch.from_numpy(x[[5, 0, 5]].astype(np.float32)))
    assert y.tolist() == [5, 0, 5]
    assert data.name == "a.npz"


def test_an_uncompressed_file_is_not_read_into_memory(tmp_path):
    np.savez(tmp_path / "big.npz", x=np.zeros((400, 100, 100)), y=np.zeros(400))
    tracemalloc.start()
    data = load(str(tmp_path / "big.npz"))
    data.take([0, 399])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(data.x, np.memmap)
    assert peak < 2_000_000  # the inputs alone are 32 MB


def test_splits_in_one_file_are_found_by_name(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, x_train=np.ones((3, 2)), y_train=np.arange(3), x_test=np.zeros((2, 2)), y_test=np.eye(2))
    assert len(load(str(file))) == 2
    assert len(load(str(file), split="train")) == 3
    assert load(f"{file}:train").name == "a.npz:train"
    assert "x_val and y_val" in refusal(f"{file}:val")


def test_a_split_is_not_invented(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.arange(3))
    assert "x_train and y_train" in refusal(f"{tmp_path / 'a.npz'}:train")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_npz_is_refused_in_one_line(tmp_path, save, kept):
    file = tmp_path / "a.npz"
    save(file, x=np.random.default_rng(0).normal(size=(50, 9)), y=np.arange(50))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    assert "truncated or not an .npz" in refusal(file)


@pytest.mark.parametrize("at", [120, 2000])
def test_damage_inside_a_compressed_npz_is_noticed(tmp_path, at):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x=np.random.default_rng(0).normal(size=(50, 9)), y=np.arange(50))
    content = bytearray(file.read_bytes())
    content[at : at + 20] = bytes(20)
    file.write_bytes(content)
    assert "truncated or not an .npz" in refusal(file)


def test_a_missing_file_is_refused(tmp_path):
    assert "no file" in refusal(tmp_path / "nothing.npz")


def test_an_npz_without_x_and_y_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.ones((2, 2)), y=np.arange(2))
    assert "holds images, y; need arrays x and y" in refusal(tmp_path / "a.npz")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_objects_in_an_npz_are_refused_and_never_unpickled(tmp_path, save):
    x = np.empty((2, 1), object)
    x[:] = Bomb()
    save(tmp_path / "a.npz", x=x, y=np.arange(2), allow_pickle=True)
    assert "pickle" in refusal(tmp_path / "a.npz")


def test_a_pickle_with_the_ending_npz_is_refused_and_never_unpickled(tmp_path):
    (tmp_path / "a.npz").write_bytes(pickle.dumps(Bomb()))
    assert "not an .npz" in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_empty_npz_is_refused(tmp_path, save):
    save(tmp_path / "a.npz", x=np.ones((0, 2)), y=np.ones(0))
    assert "empty" in refusal(tmp_path / "a.npz")


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def headed(text, data=b""):
    """An `.npy` with a header of one's own."""
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def zipped(file, kind=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_npy", ".npy"), content)
    return file


def test_members_without_the_ending_npy_are_read_as_numpy_reads_them(tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 2))
    file = zipped(tmp_path / "a.npz", x=npy(x), y=npy(np.arange(3)))
    assert np.array_equal(np.load(file)["x"], x)
    assert torch.equal(load(str(file)).take([2, 0])[0], torch.from_numpy(x[[2, 0]].astype(np.float32)))


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "x",
    [
        npy(np.ones((5, 3)))[:-8],
        npy(np.ones((5, 3))) + b"more",
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3), }"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 3), }", bytes(60)),
        headed("{'descr': ("),
        headed("{'descr': '<f4', 1: 2}"),
        b"hello",
        b"",
    ],
)
def test_a_member_that_is_not_what_its_header_says_is_refused_in_one_line(tmp_path, kind, x):
    file = zipped(tmp_path / "a.npz", kind, x_npy=x, y_npy=npy(np.arange(5)))
    assert "truncated or not an .npz" in refusal(file)


def test_a_flipped_byte_in_a_stored_member_is_noticed(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 100))  # more than one piece of the file that is read
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(400))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    for at in (content.index(x[200].tobytes()), content.index(x[-1].tobytes()) + 799):
        content[at] ^= 1
        (tmp_path / "a.npz").write_bytes(content)
        assert "Bad CRC-32" in refusal(tmp_path / "a.npz")
        content[at] ^= 1
