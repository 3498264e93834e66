"""Training against rewritings: on texts drawn from the threat, on the worst that slopes find, or on bounds over all.

    network = trained(bag(len(words)), words, sst2("train"), synonyms(2), certified, epochs=20)

Three ways to fill in the outer minimum of adversarial training, and one baseline, by the trainer that images have. A
threat before it has met the texts goes in; words that the vocabulary does not know can be rewritten as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks.hotflip import hotflip
from sparring.data.texts import Texts
from sparring.domains.text.opened import Words, embedding_as
from sparring.domains.text.threats import Rewrites, Wording
from sparring.domains.text.vocabulary import Vocabulary
from sparring.limits import fractions, positive
from sparring.models.victim import inference
from sparring.streams import Streams
from sparring.training.contract import Objective
from sparring.training.objectives import Adversarial, standard
from sparring.training.objectives.boxes import Box, ranked
from sparring.training.objectives.certified import worst
from sparring.training.objectives.minmax import divergence
from sparring.training.trainer import Trainer

Against = Callable[[Wording], Objective]
"""An objective for a threat on words."""


def plain(threat: Wording) -> Objective:
    """Be right on the texts as they are."""
    return standard


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """Be right on the texts, and on others that are drawn from the threat: `L(x)/2 + L(z)/2`.

    Data augmentation, which an attacker who searches is not impressed by (Jia et al., 2019, table 1).
    """

    threat: Wording

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The mean of both cross-entropies."""
        z = self.threat.sample(x, rng)
        return (functional.cross_entropy(network(x), labels) + functional.cross_entropy(network(z), labels)) / 2


def augmented(threat: Wording) -> Rewritten:
    """Be right on texts rewritten at random, too."""
    return Rewritten(threat=threat)


def adversarial(threat: Wording, *, tries: int = 5) -> Adversarial:
    """Be right on the worst text that slopes find: HotFlip in the inner maximum (as Yoo and Qi, 2021, rank words)."""
    return Adversarial(threat=threat, attack=partial(hotflip, width=1, tries=tries, each=2))


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Be right on the texts, and on their embeddings moved where it costs most: `L(x) + weight L(e + r)`.

    Adversarial training of Miyato et al. (2017, equations 2 to 4): `r = eps g / |g|` by the gradient g of the loss, one
    length for a whole text, as its words are one vector. No threat on words bounds it: for embeddings that are
    normalised (`sparring.domains.text.networks.normalised`), or they grow out of reach. The gradient is taken in
    inference mode, where the paper keeps the dropout of the pass before. Costs a pass and a half more.
    """

    eps: float
    weight: float = 1.0

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        assert isinstance(network, Words)
        own = functional.cross_entropy(network(x), labels)

        def harm(moved: Tensor) -> Tensor:
            return functional.cross_entropy(moved, labels)

        r = strength * self.eps * _uphill(network, x, harm, torch.zeros_like(network.of(x.long())))
        return own + self.weight * harm(_said(network, x, r))


@dataclass(frozen=True, kw_only=True)
class Virtual:
    """Be right on the texts, and say the same of embeddings moved where least is the same: `L(x) + weight D(e, e + r)`.

    Virtual adversarial training (Miyato et al., 2017, equations 5 to 7): `r` is where the divergence grows most, by one
    power iteration over a random direction of the length `probe`. Else as `Moved`.
    """

    eps: float
    weight: float = 1.0
    probe: float = 0.1

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        assert isinstance(network, Words)
        logits = network(x)

        def harm(moved: Tensor) -> Tensor:
            return divergence(logits.detach(), moved).mean()

        vectors = network.of(x.long())
        start = self.probe * _long(rng.normal(*vectors.shape[1:], device=x.device) * (x != 0).unsqueeze(2))
        r = strength * self.eps * _uphill(network, x, harm, start)
        return functional.cross_entropy(logits, labels) + self.weight * harm(_said(network, x, r))


def _uphill(network: Words, x: Tensor, harm: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The direction of the length one, for each text, in which moved embeddings do most harm at `start`."""
    r = start.detach().requires_grad_()
    with inference(network):
        (slope,) = torch.autograd.grad(harm(_said(network, x, r)), r)
    return _long(slope * (x != 0).unsqueeze(2))


def _said(network: Words, x: Tensor, r: Tensor) -> Tensor:
    """What the network says where the embeddings of texts are moved by `r` `(B, length, d)`."""
    with embedding_as(network.embedding[0], lambda out: out + r):
        said: Tensor = network(x)
    return said


def _long(r: Tensor) -> Tensor:
    """Directions `(B, length, d)` of the length one, all places of a text together."""
    length: Tensor = torch.linalg.vector_norm(r, dim=(1, 2), keepdim=True)
    return r / length.clamp(min=torch.finfo(r.dtype).tiny)


def moved(threat: Wording, *, eps: float = 1.0) -> Moved:
    """Be right on embeddings moved by their gradient, whatever the threat (Miyato et al., 2017, adversarial)."""
    positive(eps=eps)
    return Moved(eps=eps)


def virtual(threat: Wording, *, eps: float = 1.0) -> Virtual:
    """Say the same where embeddings are moved, whatever the threat (Miyato et al., 2017, virtual adversarial)."""
    positive(eps=eps)
    return Virtual(eps=eps)


@dataclass(frozen=True, kw_only=True)
class WordIBP:
    """Be right on all texts of the threat, by intervals from the embeddings on (Jia et al., 2019).

    `k L(f(x), y) + (1 - k) L(u(x), y)`: at every place the box around the embeddings of all words that may stand there.
    The boxes grow in with the strength, and k falls from 1 to `kappa`, as equation 7 of the paper has it (0.2 there:
    0.8 for the bound). In the paper all words may change at once. Where `eps` may, boxes are shrunk so that a sum over
    all places has the bounds that it has over all texts of the threat: of networks that add up their words nothing is
    lost. `network` is a `Words`. Costs three passes.
    """

    threat: Wording
    kappa: float = 0.2

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The loss at these weights."""
        assert isinstance(network, Words)
        box = boxed(network, self.threat, x, strength)
        with embedding_as(network.embedding[0], lambda _: box):
            out: Box = network(x)
        k = 1 - strength * (1 - self.kappa)
        return k * functional.cross_entropy(out.point, labels) + (1 - k) * worst(ranked(out, labels))


def boxed(network: Words, threat: Wording, x: Tensor, share: float = 1.0) -> Box:
    """The embeddings of texts `(B, length, d)`, in the box around what may stand at each place, as `WordIBP` has it."""
    own, choices = network.of(x.long()), threat.norm.choices(x)
    others = network.of(choices) - own.unsqueeze(2)
    low, high = others.amin(2).clamp(max=0), others.amax(2).clamp(min=0)
    count = min(int(threat.eps), x.shape[1])
    low, high = (-_few(-low, count), _few(high, count))
    return Box.of(own, own + share * low, own + share * high)


def _few(reach: Tensor, count: int) -> Tensor:
    """Reaches `(B, length, d)` shrunk alike at all places, so that they add up to the largest `count` of them."""
    most = reach.topk(count, 1).values.sum(1, keepdim=True)
    return reach * most / reach.sum(1, keepdim=True).clamp(min=torch.finfo(reach.dtype).tiny)


def certified(threat: Wording, *, kappa: float = 0.2) -> WordIBP:
    """Be right on all texts of the threat, by bounds (Jia et al., 2019)."""
    fractions(kappa=kappa)
    return WordIBP(threat=threat, kappa=kappa)


def trained(
    network: nn.Module, vocabulary: Vocabulary, data: Texts, threat: Rewrites, against: Against, **settings: Any
) -> nn.Module:
    """A trained copy of a network of whole words, in inference mode; `settings` are those of `Trainer`.

    Raises:
        BadInput: what `Words`, the threat and `Trainer` refuse.
    """
    numbered, wording = threat.over(data)
    words = Words(network, vocabulary, numbered.words)
    found = Trainer(**settings)(words, numbered, against(wording)).network
    assert isinstance(found, Words)
    return found.network
