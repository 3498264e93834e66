"""Detectors of fake users: a suspicion for every user, from the data alone; nobody tells them who is fake."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.domains.recommenders.interactions import Interactions
from sparring.domains.recommenders.result import Suspicion
from sparring.domains.recommenders.shilling import item_means

Detector = Callable[[Interactions], Tensor]
"""From the data to a suspicion `(users,)`; more is worse."""

COMPONENTS = 3
"""Main components (Mehta and Nejdl, 2009, section 5.2)."""
ALIKE = 25
"""Neighbours whose similarity is averaged (Chirita et al., 2005, use 25)."""
ALARMS = 0.01
"""The share of real users that may be taken for fake."""


def pca(data: Interactions) -> Tensor:
    """PCA-VarSelect: fake users are alike, and hardly covary with the real ones (Mehta and Nejdl, 2009).

    Less the squared weight of a user in the first three main components of the users, whose ratings are standardised,
    0 where there is none.
    """
    apart = data.matrix - data.matrix.mean(1, keepdim=True)
    standard = apart / apart.std(1, keepdim=True).clamp(min=1e-9)
    main: Tensor = torch.linalg.eigh(standard @ standard.T).eigenvectors[:, -COMPONENTS:]
    return -main.square().sum(1)


def rdma(data: Interactions) -> Tensor:
    """How far a user rates from what others do, above all where few rate (RDMA; Chirita et al., 2005)."""
    rarely = data.popularity.clamp(min=1)
    return (data.rated * (data.matrix - item_means(data)).abs() / rarely).sum(1) / data.activity.clamp(min=1)


def wdma(data: Interactions) -> Tensor:
    """The same, with more weight on what few rate (WDMA; Burke et al., 2006)."""
    rarely = data.popularity.clamp(min=1).square()
    return (data.rated * (data.matrix - item_means(data)).abs() / rarely).sum(1) / data.activity.clamp(min=1)


def likeness(data: Interactions) -> Tensor:
    """How alike the 25 users are who are most like a user (DegSim; Chirita et al., 2005)."""
    own = data.matrix.sum(1, keepdim=True) / data.rated.sum(1, keepdim=True).clamp(min=1)
    apart = data.rated if data.implicit else data.rated * (data.matrix - own)
    direction = apart / apart.norm(dim=1, keepdim=True).clamp(min=1e-9)
    similarity: Tensor = direction @ direction.T
    return similarity.fill_diagonal_(-1).topk(min(ALIKE, len(similarity) - 1), 1).values.mean(1)


def attributes(data: Interactions) -> Tensor:
    """How unusual a user is in RDMA, WDMA, DegSim and the number of ratings together (Mahalanobis distance)."""
    columns = [likeness(data), data.activity.float().clamp(min=1).log()]
    if not data.implicit:
        columns += [(1e-6 + rdma(data)).log(), (1e-9 + wdma(data)).log()]
    points = torch.stack(columns, 1).double()
    apart = points - points.median(0).values
    spread = torch.cov(apart.T) + 1e-9 * torch.eye(len(columns), dtype=apart.dtype)
    distance: Tensor = (apart @ torch.linalg.inv(spread) * apart).sum(1)
    return distance.float()


DETECTORS: dict[str, Detector] = {"pca": pca, "rdma": rdma, "degsim": likeness, "attributes": attributes}


def threshold(name: str, x: Interactions) -> float:
    """The suspicion that `ALARMS` of the users reach: set on data that nobody has attacked."""
    return float(DETECTORS[name](x).quantile(1 - ALARMS))


def noticed(name: str, z: Interactions, real: int, above: float) -> Suspicion:
    """What a detector finds among the users of `z`, of whom the first `real` ones are, beyond a threshold."""
    suspicion = DETECTORS[name](z)
    honest, fake = suspicion[:real].sort().values, suspicion[real:].contiguous()
    below = torch.searchsorted(honest, fake) + torch.searchsorted(honest, fake, right=True)
    return Suspicion(
        detector=name,
        auc=float(below.double().mean()) / (2 * real),
        caught=float((fake > above).double().mean()),
        alarms=float((honest > above).double().mean()),
    )
