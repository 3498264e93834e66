"""The data sets that go by a name: `DATASETS`, read by `load` and by `sparring list datasets`."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparring.data.arrays import Array, Arrays, Lazy, labels
from sparring.data.downloads import fetch
from sparring.data.npz import read_npz
from sparring.data.pictures import Packed
from sparring.data.sounds import Joined, sixteen_bits
from sparring.data.texts import Texts, load_tsv
from sparring.errors import BadInput
from sparring.types import Data

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Loader:
    """How to get a data set, and what it is in one line."""

    description: str
    load: Callable[[str], Data]

    def __call__(self, split: str = "test") -> Data:
        """The `train` or `test` split."""
        return self.load(split)


def digits(split: str = "test") -> Arrays:
    """The embedded digits: 10,000 real MNIST images, 8,000 to train on and 2,000 to test on.

    Inputs are `(B, 1, 28, 28)` in [0, 1]. They are MNIST *training* images in a split of Sparring's own: a network
    trained on full MNIST has seen them.

    Raises:
        BadInput: a split other than train and test.

    """
    _known("digits", split)
    return _grey("digits", split, Path(__file__).with_name("digits.npz"))


def mnist(split: str = "test") -> Arrays:
    """MNIST (LeCun, Cortes, Burges), 60,000 / 10,000, `(B, 1, 28, 28)` in [0, 1].

    From `SPARRING_DATA/mnist/mnist.npz`, the cache folder, or a download of 11 MB.

    Raises:
        BadInput: a split other than train and test, no connection, a damaged file.

    """
    _known("mnist", split)
    place = given("mnist/mnist.npz")
    return _grey("mnist", split, place or fetch(*MNIST_FILE, "put mnist.npz into the folder mnist of SPARRING_DATA"))


def fashion_mnist(split: str = "test") -> Arrays:
    """Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017), 60,000 / 10,000, `(B, 1, 28, 28)` in [0, 1].

    From `SPARRING_DATA/fashion-mnist`, the Debian package `dataset-fashion-mnist`, the cache folder, or a download of
    31 MB.

    Raises:
        BadInput: a split other than train and test, no connection, a damaged file.

    """
    _known("fashion-mnist", split)
    prefix = {"train": "train", "test": "t10k"}[split]
    x, y = (_idx(_fashion(f"{prefix}-{part}-ubyte.gz")) for part in ("images-idx3", "labels-idx1"))
    return Arrays(f"fashion-mnist:{split}", x[:, None], y, FASHION)


def cifar10(split: str = "test") -> Arrays:
    """CIFAR-10 (Krizhevsky, 2009), 50,000 / 10,000, `(B, 3, 32, 32)` in [0, 1].

    From `SPARRING_DATA/cifar10/cifar-10-binary.tar.gz`, the cache folder, or a download of 170 MB: the binary version,
    because the Python version is pickles.

    Raises:
        BadInput: a split other than train and test, no connection, a damaged file.

    """
    _known("cifar10", split)
    file = given("cifar10/cifar-10-binary.tar.gz") or fetch(
        *CIFAR10_FILE, "put cifar-10-binary.tar.gz into the folder cifar10 of SPARRING_DATA"
    )
    members = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r|gz") as archive:  # a stream: nothing is unpacked to disk
            for member in archive:
                content = archive.extractfile(member) if Path(member.name).name in members else None
                if content is not None:
                    parts[Path(member.name).name] = content.read()
        rows = np.concatenate([np.frombuffer(parts[name], np.uint8).reshape(-1, 3073) for name in members])
    except (OSError, EOFError, KeyError, ValueError, tarfile.TarError, zlib.error) as error:
        raise BadInput(
            f"'{file}' is damaged ({error})", "the published cifar-10-binary.tar.gz", "delete it and run again"
        ) from error
    return Arrays(f"cifar10:{split}", rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], CIFAR10)


def cifar10_jpeg(split: str = "test") -> Lazy:
    """CIFAR-10 after lossy JPEG compression (quality about 75), `(B, 3, 32, 32)` in [0, 1], decoded when asked for.

    Models may be trained on it; a number measured on it is no CIFAR-10 number. From `SPARRING_DATA` only.

    Raises:
        BadInput: a split other than train and test, no such file in SPARRING_DATA.

    """
    _known("cifar10-jpeg", split)
    place = given("cifar10/cifar10_jpegs.npz")
    if place is None:
        raise BadInput("cifar10-jpeg", "the file cifar10/cifar10_jpegs.npz in SPARRING_DATA", "or use cifar10")
    encoded, offsets, y = read_npz(place, [(f"jpeg_{split}", f"offsets_{split}", f"y_{split}")])
    name = f"cifar10-jpeg:{split}"
    return Lazy(
        name, Packed(encoded, offsets), labels(y, name)[0], CIFAR10, ("lossy JPEG copies: not CIFAR-10 itself",)
    )


def sst2(split: str = "test") -> Texts:
    """SST-2 (Socher et al., 2013): sentences of film reviews, 6,920 / 1,821, negative or positive. Texts.

    From `SPARRING_DATA` only, as `text/sst2_train.tsv` and `text/sst2_test.tsv`.

    Raises:
        BadInput: a split other than train and test, no such file in SPARRING_DATA.

    """
    _known("sst2", split)
    place = given(f"text/sst2_{split}.tsv")
    if place is None:
        raise BadInput("sst2", f"the file text/sst2_{split}.tsv in SPARRING_DATA", "or give a .tsv of texts and labels")
    return replace(load_tsv(place), name=f"sst2:{split}", classes=("negative", "positive"))


FSDD_SECONDS = 1
"""The length that recordings of `fsdd` are filled up or cut to; one in a hundred is longer."""


def fsdd(split: str = "test") -> Lazy:
    """Free Spoken Digit Dataset (Jackson et al.): 2,700 / 300 recordings of six speakers, `(B, 8000)` in [-1, 1].

    One second at 8 kHz: recordings are filled with silence at their end, or cut. The test split is the official one,
    takes 0 to 4 of every speaker and digit; both splits go from take to take, so that any first part of them has all
    digits and speakers. From `SPARRING_DATA/speech/fsdd.npz` only.

    Raises:
        BadInput: a split other than train and test, no such file in SPARRING_DATA.

    """
    _known("fsdd", split)
    place = given("speech/fsdd.npz")
    if place is None:
        raise BadInput("fsdd", "the file speech/fsdd.npz in SPARRING_DATA", "set SPARRING_DATA to the folder of data")
    parts = read_npz(place, [("audio", "offsets", "digit", "speaker", "take", "sr")])
    audio, offsets, digit, speaker, take, rate = parts
    order = np.lexsort((speaker, digit, take))
    order = order[(take[order] < 5) == (split == "test")]
    read = Joined(audio, offsets, order, FSDD_SECONDS * int(rate))
    return Lazy(f"fsdd:{split}", read, digit[order].astype(np.int64), DIGITS, stored=sixteen_bits)


DATASETS: Mapping[str, Loader] = {
    "digits": Loader("10,000 MNIST digits inside the package, 8,000 train and 2,000 test", digits),
    "mnist": Loader("MNIST handwritten digits, 60,000 train and 10,000 test", mnist),
    "fashion-mnist": Loader("Fashion-MNIST articles of clothing, 60,000 train and 10,000 test", fashion_mnist),
    "cifar10": Loader("CIFAR-10 photos of 10 classes, 50,000 train and 10,000 test", cifar10),
    "cifar10-jpeg": Loader("CIFAR-10 after lossy JPEG compression, from SPARRING_DATA only", cifar10_jpeg),
    "sst2": Loader("SST-2, sentences of film reviews, 6,920 train and 1,821 test, from SPARRING_DATA only", sst2),
    "fsdd": Loader("Spoken digits at 8 kHz, 2,700 train and 300 test, from SPARRING_DATA only", fsdd),
}

MNIST_FILE = (
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
CIFAR10_FILE = (
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
FASHION_FOLDER = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
FASHION_FILES = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def given(path: str) -> Path | None:
    """A file of the folder SPARRING_DATA, where there is one. What a user puts there is not compared to a checksum."""
    folder = os.environ.get("SPARRING_DATA")
    place = Path(folder, path) if folder else None
    return place if place is not None and place.is_file() else None


def _fashion(name: str) -> Path:
    """One of the four files of Fashion-MNIST."""
    if place := given(f"fashion-mnist/{name}"):
        return place
    if (DEBIAN / name).is_file():
        return DEBIAN / name
    return fetch(f"{FASHION_FOLDER}/{name}", FASHION_FILES[name], "apt install dataset-fashion-mnist (Debian, Ubuntu)")


def _known(name: str, split: str) -> None:
    """Refuse a split that there is not."""
    if split not in ("train", "test"):
        raise BadInput(f"'{name}:{split}'", "a split, train or test", f"say {name}:test")


def _grey(name: str, split: str, file: Path) -> Arrays:
    """Digits from an `.npz` with `x_train, y_train, x_test, y_test`, with a channel axis."""
    x, y = read_npz(file, [(f"x_{split}", f"y_{split}")])
    return Arrays(f"{name}:{split}", x[:, None], y, DIGITS)


def _idx(file: Path) -> Array:
    """An array of bytes in the IDX format of MNIST, compressed by gzip."""
    try:
        with gzip.open(file) as stream:
            content = stream.read()
        dims = content[3]
        if content[:3] != b"\0\0\x08":
            raise ValueError("not IDX bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(np.frombuffer(content, ">u4", dims, 4))
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise BadInput(f"'{file}' is damaged ({error})", "the published IDX file", "replace it") from error
