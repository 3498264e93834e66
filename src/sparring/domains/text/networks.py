"""Small networks of whole words: ids `(B, length)` int64 to logits `(B, K)`, however much padding stands behind.

What each word meets has no bias, and the embedding of padding, the id 0, is zero: so a text means the same in data of
any length. Their operations are those that certificates and certified training know. Fresh weights come from `seed`
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.networks import Network, fresh

SCALE = 0.1
"""The standard deviation of fresh embeddings: torch's own, of one, drown what little is learned of rare words."""


class Normalised(nn.Embedding):
    """Embeddings of mean 0 and variance 1 over the words as they occur (Miyato et al., 2017, equation 1).

    A perturbation of a fixed length then cannot be escaped by embeddings that grow. `counts` `(words,)` says how often
    each occurs; padding, the id 0, stays zero.
    """

    counts: Tensor

    def __init__(self, counts: Tensor, width: int) -> None:
        super().__init__(len(counts), width, padding_idx=0)
        self.register_buffer("counts", counts / counts.sum())

    def forward(self, ids: Tensor) -> Tensor:
        """The embeddings `(*ids, width)`."""
        share = self.counts.unsqueeze(1)
        mean = (share * self.weight).sum(0)
        variance = (share * (self.weight - mean).square()).sum(0)
        found = (super().forward(ids) - mean) / (variance + torch.finfo(variance.dtype).eps).sqrt()
        return found * (ids != 0).unsqueeze(-1)


def normalised(network: Network, counts: Tensor) -> Network:
    """The network with its embedding normalised by how often each word occurs: `vocabulary.counted(texts)`."""
    before = network.get_submodule("embedding")
    assert isinstance(before, nn.Embedding)
    after = Normalised(counts, before.embedding_dim)
    with torch.no_grad():
        after.weight.copy_(before.weight)
    network.set_submodule("embedding", after)
    return network


class Bag(nn.Module):
    """The sum of the embeddings, and a hidden layer on it (Iyyer et al., 2015, who take the mean)."""

    def __init__(self, words: int, classes: int, width: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.drop = nn.Dropout(drop)
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """The logits."""
        rows = self.embedding(ids).unsqueeze(1)
        total = functional.avg_pool2d(rows, (rows.shape[2], 1), divisor_override=1).flatten(1)
        return self.last(functional.relu(self.first(self.drop(total))))  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """Filters over neighbouring words, each where it answers most (Kim, 2014)."""

    def __init__(  # noqa: PLR0917  (its sizes)
        self, words: int, classes: int, width: int, filters: int, reach: int, drop: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=0)
        self.filters = nn.Conv2d(1, filters, (reach, width), padding=(reach - 1, 0), bias=False)
        self.drop, self.last = nn.Dropout(drop), nn.Linear(filters, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """The logits."""
        found = functional.relu(self.filters(self.embedding(ids).unsqueeze(1)))
        most = functional.max_pool2d(found, (found.shape[2], 1)).flatten(1)
        return self.last(self.drop(most))  # type: ignore[no-any-return]


def small(network: Network) -> Network:
    """The network with embeddings of `SCALE`."""
    with torch.no_grad():
        network.get_submodule("embedding").weight.mul_(SCALE)  # type: ignore[operator]
    return network


def bag(words: int, classes: int = 2, *, seed: int = 0, width: int = 64, hidden: int = 64, drop: float = 0.5) -> Bag:
    """A bag of words with a hidden layer, for a vocabulary of so many. Bounds are better trained without `drop`."""
    return small(fresh(seed, lambda: Bag(words, classes, width, hidden, drop)))


def convolution(
    words: int,
    classes: int = 2,
    *,
    seed: int = 0,
    width: int = 64,
    filters: int = 64,
    reach: int = 3,
    drop: float = 0.5,
) -> Convolution:
    """Filters over `reach` words, for a vocabulary of so many."""
    return small(fresh(seed, lambda: Convolution(words, classes, width, filters, reach, drop)))
