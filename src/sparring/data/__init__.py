"""Labelled examples: the embedded digits, named data sets, and files of every common kind, read by index."""

from sparring.data.arrays import Arrays, Lazy, Subset, first
from sparring.data.loading import agreed, load, load_split
from sparring.data.named import DATASETS, Loader, cifar10, cifar10_jpeg, digits, fashion_mnist, mnist, sst2

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
    "load",
    "load_split",
    "mnist",
    "sst2",
]
