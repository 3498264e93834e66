"""Certificates for words: bounds of a network over all texts in which up to eps words are replaced.

A network of whole words is one of their embeddings, and all wordings are finitely many points of that space. A line
under the margin has its least value over them in closed form, because each place adds to it by itself: that of the
text, and the `eps` places that take most off, each by its worst replacement. So every certificate that walks lines back
to the input holds for words as it does for balls (Xu et al., 2020, section 3.2, by dynamic programming), and the first
linear layer is bounded exactly. Intervals are over the box of all replacements at once (Jia et al., 2019): they hold
for any number of words.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparring.certify.answers import Answer, rounded_down
from sparring.certify.crown import Walk, margins, matched
from sparring.certify.graph import Graph
from sparring.certify.reading import graph
from sparring.certify.region import Region, dot
from sparring.domains.text.opened import Words
from sparring.domains.text.threats import Wording
from sparring.errors import BadInput
from sparring.models.victim import Victim, inference
from sparring.threats import Ball
from sparring.types import Model


@dataclass(frozen=True)
class Wordings(Region):
    """The embeddings `(B, length, d)` of all wordings: those of the text `x`, and at up to `eps` places others.

    `shifts` `(B, length, C, d)` leads from the word at each place to what may stand there, zero where there is no more.
    `low` and `high` are the box around all of them.
    """

    shifts: Tensor

    @classmethod
    def around(cls, threat: Wording, x: Tensor, vectors: Tensor) -> Wordings:
        """Of rows of numbered words `(B, length)`; `vectors` `(V, d)` are the embeddings by number."""
        own = vectors[x.long()].double()
        shifts = vectors[_different(threat, x, vectors)].double() - own.unsqueeze(2)
        low, high = (own + part for part in (shifts.amin(2).clamp(max=0), shifts.amax(2).clamp(min=0)))
        eps = torch.full((len(x),), float(min(threat.eps, x.shape[1])), dtype=torch.float64)
        return cls(own, low, high, eps, "words", shifts)

    def __getitem__(self, rows: Tensor) -> Wordings:
        """The regions of some of the rows."""
        x, low, high, eps = (part[rows] for part in (self.x, self.low, self.high, self.eps))
        return Wordings(x, low, high, eps, self.norm, self.shifts[rows])

    def each(self, part: Callable[[Tensor], Tensor]) -> Region:
        """Places of a map: words have none, because an input of two axes is no map."""
        raise AssertionError

    def least(self, a: Tensor) -> Tensor:
        """The least `<a, z>` over all wordings, `(B, S)`, of `a` `(B or 1, S, length, d)`: exact."""
        wide = a.expand(len(self.x), *a.shape[1:])
        gain = torch.zeros(wide.shape[:3], dtype=wide.dtype)
        for shift in self.shifts.unbind(2):
            gain = torch.minimum(gain, torch.einsum("bsld,bld->bsl", wide, shift))
        count = int(self.eps.max()) if len(self.eps) else 0
        return dot(a, self.x) + gain.topk(count, 2, largest=False).values.sum(2)


def _different(threat: Wording, x: Tensor, vectors: Tensor) -> Tensor:
    """What may stand at every place, `(B, length, C)`, words of the same embedding once: all errors may be one."""
    _, same = vectors.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    one_of = torch.empty_like(same).scatter_(0, same, torch.arange(len(same)))[same]
    choices = one_of[threat.norm.choices(x)].sort(2).values
    own = one_of[x.long()].unsqueeze(2)
    again = torch.cat([torch.zeros_like(own, dtype=torch.bool), choices[..., 1:] == choices[..., :-1]], 2)
    fresh = ~again & (choices != own)
    order = fresh.to(torch.uint8).argsort(dim=2, descending=True, stable=True)
    most = max(1, int(fresh.sum(2).max())) if len(x) else 1
    return torch.where(fresh, choices, own).gather(2, order)[..., :most]


@dataclass(frozen=True)
class OfWords:
    """A certificate by lines, for texts: of the margin over all wordings."""

    walk: Walk
    vectors: Tensor = field(repr=False, compare=False)
    searches: ClassVar[bool] = False

    def at_once(self, net: Graph) -> int:
        """As many as of other inputs."""
        return self.walk.at_once(net)

    def __call__(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> Tensor:
        """Lower bounds of the margin of rows of numbered words, `(B,)` float32 rounded down."""
        assert isinstance(model, Graph)
        assert isinstance(threat, Wording)
        matched(x, labels)
        with torch.no_grad():
            parts = zip(*(torch.split(part, self.at_once(model)) for part in (x, labels)), strict=True)
            regions = ((Wordings.around(threat, some, self.vectors), margins(model, y)) for some, y in parts if len(y))
            found = [self.walk.bound(model, region, rows).amin(1) for region, rows in regions]
        return rounded_down(torch.cat(found) if found else x.new_zeros(0))

    def answers(self, model: Model | Graph, x: Tensor, labels: Tensor, threat: Ball) -> list[Answer]:
        """The same, as answers: certified, or unknown."""
        return [
            Answer("certified" if bound > 0 else "unknown", bound) for bound in self(model, x, labels, threat).tolist()
        ]

    def __str__(self) -> str:
        return str(self.walk)


def of_words(victim: Victim, x: Tensor) -> tuple[Graph, Tensor]:
    """The graph of a network of whole words from its embeddings on, for texts `x` `(B, length)`, and all embeddings.

    Its `source` is the network on numbered words.

    Raises:
        BadInput: a model that is no network of whole words, one that looks at its ids other than by their embeddings,
            or what `sparring.certify.reading.graph` refuses.
    """
    words = victim.module
    if not isinstance(words, Words):
        need = "a pair (network, Vocabulary) of torch"
        raise BadInput(f"bounds of {victim.name} within words replaced", need, "leave --certify out, or smooth it")
    tail = copy.deepcopy(words)
    embedding, network = tail.embedding[0], tail.network
    name = next(name for name, part in network.named_modules() if part is embedding)
    if embedding.weight.dtype != torch.float32:
        raise BadInput(f"an embedding of {embedding.weight.dtype}", "float32", "call network.float()")
    network.set_submodule(name, nn.Identity())
    with torch.no_grad():
        vectors = embedding(words.ids).cpu()
    network = network.cpu()
    net = graph(network, vectors[x.long()])
    with torch.no_grad(), inference(victim), inference(network):
        if not torch.allclose(network(vectors[x.long()]), victim(x).cpu(), atol=1e-5, rtol=1e-5):
            given = "a network that says something else of embeddings than of their ids"
            raise BadInput(given, "one that looks at ids by their embedding alone", "leave --certify out")
    return replace(net, source=victim), vectors
