"""The Mahalanobis detector: how far the features are from every class."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.defences.detectors.detector import Learned, Score
from sparring.defences.detectors.layers import features_of, quietly, standardised
from sparring.registry import register
from sparring.types import Model


def nearest_class(f: Tensor, means: Tensor, root: Tensor) -> Tensor:
    """`min over c of |root (f - mean_c)|^2`, `(B,)`."""
    apart = (f.unsqueeze(1) - means) @ root
    return apart.square().sum(2).amin(1)


def whitening(f: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """A root of the inverse of the covariance within classes, a little of the identity added to it."""
    within = (f - means[labels]).double()
    covariance = within.T @ within / len(f)
    ridge = 1e-3 * covariance.diagonal().mean().clamp(min=1e-9) * torch.eye(f.shape[1]).to(covariance)
    values, vectors = torch.linalg.eigh(covariance + ridge)
    root: Tensor = vectors / values.clamp(min=1e-12).sqrt()
    return root.to(f)


@register("detectors", "mahalanobis", paper="Lee et al., 2018")
def mahalanobis() -> Learned:
    """How far the features of every layer are from the nearest class, in units of the classes' own spread.

    Lee et al. (2018), without the small change of the input, and with a plain mean over layers, each in units of its
    deviation on clean examples, in place of weights that are learned from attacked ones.
    """

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        features = features_of(model)
        classes, own = torch.unique(labels, return_inverse=True)  # a class without examples is near to nothing
        fitted = []
        for f in quietly(features, x):
            means = torch.stack([f[labels == c].mean(0) for c in classes])
            fitted.append((means, whitening(f, own, means)))
        return standardised(
            lambda z: [nearest_class(f, *layer) for f, layer in zip(features(z), fitted, strict=True)], x
        )

    return Learned(scoring)
