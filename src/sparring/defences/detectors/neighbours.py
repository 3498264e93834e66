"""Detectors that ask how an input lies among clean ones: its local dimension, and how dense they are around it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.defences.detectors.detector import Learned, Score
from sparring.defences.detectors.layers import features_of, quietly, standardised
from sparring.errors import BadInput
from sparring.limits import positive
from sparring.registry import register
from sparring.types import Model


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Between all rows of two sets, `(A, B)`; not by a matrix product, in which what is near would cancel."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def local_dimension(f: Tensor, among: Tensor, k: int) -> Tensor:
    """The maximum-likelihood estimate from the `k` nearest others: `-1 / mean log(r_i / r_k)`, `(B,)`."""
    squares = squared_distances(f, among).topk(k + 1, largest=False).values
    itself = squares[:, :1] <= 1e-9 * squares[:, -1:]
    squares = torch.where(itself, squares[:, 1:], squares[:, :-1]).clamp(min=1e-12)
    return -1 / (0.5 * (squares / squares[:, -1:]).log()).mean(1).clamp(max=-1e-6)


@register("detectors", "lid", paper="Ma et al., 2018")
def lid(*, k: int = 20, among: int = 500) -> Learned:
    """The local intrinsic dimension of the features of every layer (Ma et al., 2018).

    Among a fixed set of clean examples, with a plain mean over layers in place of weights learned from attacked ones.
    Units are the deviations within that set, each example among the others.
    """
    if k < 2:
        raise BadInput(f"{k} neighbours", "2 or more", "20 is usual")

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        some = x[:among]
        if len(some) < k + 2:
            given = f"{len(some)} examples for {k} neighbours"
            raise BadInput(given, f"{k + 2} or more", "learn from more, or lower k")
        features = features_of(model)
        banks = quietly(features, some)
        return standardised(
            lambda z: [local_dimension(f, bank, k) for f, bank in zip(features(z), banks, strict=True)], some
        )

    return Learned(scoring)


@register("detectors", "kernel-density", paper="Feinman et al., 2017")
def kernel_density(*, width: float = 0.5) -> Learned:
    """How sparse clean examples of the same decision are around the last features (Feinman et al., 2017).

    `-log mean exp(-d^2 / w^2)`, where w is `width` times the root of the median squared distance within classes.
    """
    positive(width=width)

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        features = features_of(model)
        bank = quietly(features, x)[-1]
        same = (labels.unsqueeze(0) == labels.unsqueeze(1)).fill_diagonal_(False)
        w2 = width**2 * squared_distances(bank, bank)[same].median()
        if not w2 > 0:  # NaN, where no two are of the same class
            given = f"{len(x)} examples without a median distance above 0 within classes"
            raise BadInput(given, "several different examples of each class", "learn from more")

        def score(z: Tensor) -> Tensor:
            decided = model(z).argmax(1)
            closeness = -squared_distances(features(z)[-1], bank) / w2
            others = decided.unsqueeze(1) != labels
            count = (~others).sum(1).clamp(min=1)
            return count.log() - closeness.masked_fill(others, -1e4).logsumexp(1)

        return score

    return Learned(scoring)
