"""Labelled examples: the embedded digits, named data sets, and files of every common kind, read by index."""

from sparring.data.arrays import Arrays, Lazy, Subset, first
from sparring.data.loading import agreed, load, load_split
from sparring.data.named import DATASETS, Loader, cifar10, cifar10_jpeg, digits, fashion_mnist, fsdd, mnist, sst2
from sparring.data.sounds import load_sounds

__all__ = [
    "DATASETS",
    "Arrays",
    "Lazy",
    "Loader",
    "Subset",
    "agreed",
    "cifar10",
    "cifar10_jpeg",
    "digits",
    "fashion_mnist",
    "first",
    "fsdd",
    "load",
    "load_sounds",
    "load_split",
    "mnist",
    "sst2",
]
