"""Defences of 2018 to 2020 that adaptive attacks broke (Tramèr et al., 2020), small, and trained on digits.

Each is made of what its paper says, on the convolutional network of Wong and Kolter unless it needs another. With it
comes what an attacker climbs who has read the paper: the `surrogate`, which says what the published attack says of the
model, with the gradients that the model hides. Ten of the thirteen are here: two only detect attacks, and one is for
speech.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import pgd
from sparring.attacks.simba import cosines
from sparring.goals import Never
from sparring.networks import wong_cnn
from sparring.streams import Streams
from sparring.threats import Ball, l0, linf
from sparring.types import Model
from sparring.views import stand
from sparring.zoo.broken import FewWin

CLASSES = 10
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Defended:
    """A defended model, and what an attacker climbs who knows it: a `surrogate`, averaged over `draws` calls."""

    model: nn.Module
    surrogate: Model
    draws: int = 1
    threat: Ball = field(default_factory=lambda: linf(0.15))


def learn(network: nn.Module, x: Tensor, y: Tensor, loss: Loss, *, epochs: int = 5, lr: float = 2e-3) -> nn.Module:
    """The network after some epochs of Adam, in inference mode, its weights no longer to be trained."""
    adam = torch.optim.Adam(network.parameters(), lr)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(100):
            adam.zero_grad()
            loss(network, x[rows], y[rows]).backward()
            adam.step()
    return network.eval().requires_grad_(False)


def plain(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of logits."""
    return functional.cross_entropy(network(x), y)


def replaced(network: nn.Sequential, kind: type[nn.Module], make: Callable[[], nn.Module]) -> nn.Sequential:
    """The network with other layers in place of those of a kind."""
    return nn.Sequential(*(make() if isinstance(part, kind) else part for part in network))


def winners(x: Tensor, y: Tensor) -> Defended:
    """k-Winners-Take-All (Xiao et al., 2020): activations without a derivative where it matters.

    Its attack takes the mean of gradients nearby for that of the model.
    """
    model = learn(replaced(wong_cnn(), nn.ReLU, FewWin), x, y, plain)
    return Defended(model=model, surrogate=lambda z: model(z + 0.03 * torch.randn_like(z)), draws=20)


def largest(x: Tensor, count: int) -> Tensor:
    """`x`, zero but for the largest of each row."""
    flat = x.flatten(1)
    least = flat.abs().topk(count, dim=1).values[:, -1:]
    return torch.where(flat.abs() >= least, flat, torch.zeros_like(flat)).view_as(x)


class SparseFourier(nn.Module):
    """An image as its largest cosines, after what few pixels may have added is taken away: hard thresholds in turn."""

    def __init__(self, coefficients: int = 60, pixels: int = 15, turns: int = 6) -> None:
        super().__init__()
        self.coefficients, self.pixels, self.turns = coefficients, pixels, turns
        self.register_buffer("cosines", cosines(28))

    def forward(self, x: Tensor) -> Tensor:
        c = self.get_buffer("cosines")
        added = torch.zeros_like(x)
        for _ in range(self.turns):
            found = c.T @ largest(c @ (x - added) @ c.T, self.coefficients) @ c
            added = largest(x - found, self.pixels)
        return found


def sparse_fourier(x: Tensor, y: Tensor) -> Defended:
    """Robust sparse Fourier transform (Bafna et al., 2018), against changes of 15 pixels; attacked as it is."""
    model = learn(nn.Sequential(SparseFourier(), wong_cnn()), x, y, plain)
    return Defended(model=model, surrogate=model, threat=l0(15))


class Centres(nn.Module):
    """How near features are to the centre of each class: minus the squared distances."""

    def __init__(self, network: nn.Module, radius: float = 10.0) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("centres", radius * functional.normalize(torch.eye(CLASSES) - 1 / CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return -(self.network(x).unsqueeze(1) - self.get_buffer("centres")).square().sum(2)


def centres(x: Tensor, y: Tensor) -> Defended:
    """Max-Mahalanobis centres (Pang et al., 2020): distances from fixed points, trained without a softmax."""
    model = learn(Centres(wong_cnn()), x, y, lambda net, x, y: -net(x).gather(1, y[:, None]).mean() / 2)
    return Defended(model=model, surrogate=model)


class Codes(nn.Module):
    """Networks that give a few bits of a code each, and the class whose word is nearest, as probabilities."""

    def __init__(self, networks: list[nn.Module], words: Tensor) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("words", words)

    def bits(self, x: Tensor) -> Tensor:
        """Before the squashing."""
        return torch.cat([network(x) for network in self.networks], 1)

    def forward(self, x: Tensor) -> Tensor:
        likeness = (self.bits(x).tanh() @ self.get_buffer("words").T).relu()
        return likeness / likeness.sum(1, keepdim=True).clamp(min=1e-12)


def codes(x: Tensor, y: Tensor) -> Defended:
    """Error-correcting output codes (Verma and Swami, 2019): four networks of four bits, words of Hadamard.

    Its attack climbs the correlation of the words with what comes before the squashing.
    """
    words = torch.ones(1, 1)
    for _ in range(4):
        words = torch.cat([torch.cat([words, words], 1), torch.cat([words, -words], 1)])
    words = words[1 : CLASSES + 1]
    networks = [nn.Sequential(*list(wong_cnn(seed))[:-1], nn.Linear(100, 4)) for seed in range(4)]

    def hinge(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(net, Codes)
        return (1 - words[y] * net.bits(x)).relu().mean()

    model = learn(Codes(networks, words), x, y, hinge)
    assert isinstance(model, Codes)
    return Defended(model=model, surrogate=lambda z: model.bits(z) @ words.T)


class Mean(nn.Module):
    """The mean probabilities of several networks."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def each(self, x: Tensor) -> Tensor:
        """Of every network, `(n, B, K)`."""
        return torch.stack([network(x).softmax(1) for network in self.networks])

    def forward(self, x: Tensor) -> Tensor:
        return self.each(x).mean(0)


def diverse(x: Tensor, y: Tensor) -> Defended:
    """Adaptive diversity promoting (Pang et al., 2019): three networks whose other classes are to differ.

    Its attack climbs the mean of the logarithms.
    """

    def promoting(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(net, Mean)
        p, rows = net.each(x), torch.arange(len(x))
        fit = -p[:, rows, y].clamp(min=1e-12).log().sum(0).mean()
        entropy = -(p.mean(0) * p.mean(0).clamp(min=1e-12).log()).sum(1).mean()
        others = p.clone()
        others[:, rows, y] = 0
        unit = functional.normalize(others, dim=2).transpose(0, 1)
        volume = (unit @ unit.mT + 1e-6 * torch.eye(3)).logdet().mean()
        return fit - 2 * entropy - 0.5 * volume

    model = learn(Mean(*(wong_cnn(seed) for seed in range(3))), x, y, promoting)
    assert isinstance(model, Mean)
    return Defended(model=model, surrogate=lambda z: model.each(z).clamp(min=1e-12).log().mean(0))


def coarse(x: Tensor, bits: int) -> Tensor:
    """Numbers of a few bits between the largest and its opposite; gradients pass straight through."""
    most = x.abs().amax().clamp(min=1e-12)
    levels = 2 ** (bits - 1) - 1 if bits > 1 else 1
    return stand((x / most * levels).round() / levels * most, x)


class Coarse(nn.Module):
    """A network whose weights and activations have few bits; its gradient, if asked for, is straight through."""

    def __init__(self, network: nn.Sequential, weights: int, activations: int) -> None:
        super().__init__()
        self.network, self.weights, self.activations = network, weights, activations

    def forward(self, x: Tensor) -> Tensor:
        for part in self.network:
            if isinstance(part, nn.Conv2d):
                x = functional.conv2d(x, coarse(part.weight, self.weights), part.bias, part.stride, part.padding)
            elif isinstance(part, nn.Linear):
                x = functional.linear(x, coarse(part.weight, self.weights), part.bias)
            elif isinstance(part, nn.ReLU):
                x = coarse(x.clamp(0, 1), self.activations + 1)
            else:
                x = part(x)
        return x


class Vote(nn.Module):
    """The share of networks that decide for each class."""

    def __init__(self, *networks: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        decisions = torch.stack([network(x).argmax(1) for network in self.networks])
        return functional.one_hot(decisions, CLASSES).float().mean(0)


def mixed_precision(x: Tensor, y: Tensor) -> Defended:
    """EMPIR (Sen et al., 2020): three networks, two of them of 2 to 4 bits, vote.

    Its attack climbs the mean of their probabilities, straight through the rounding.
    """
    networks = [wong_cnn(0), Coarse(wong_cnn(1), 2, 4), Coarse(wong_cnn(2), 4, 2)]
    trained = [learn(one, x, y, plain) for one in networks]
    return Defended(model=Vote(*trained), surrogate=lambda z: Mean(*trained)(z).clamp(min=1e-12).log())


class MixupInference(nn.Module):
    """The mean probabilities of an input mixed with examples of other classes than the one it looks like."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor, share: float = 0.6, samples: int = 10) -> None:
        super().__init__()
        self.network, self.share, self.samples = network, share, samples
        self.register_buffer("pool", torch.stack([x[y == k][:50] for k in range(CLASSES)]))

    def forward(self, x: Tensor) -> Tensor:
        pool, looks = self.get_buffer("pool"), self.network(x).argmax(1)
        other = (looks + torch.randint(1, CLASSES, (self.samples, len(x)))) % CLASSES
        partner = pool[other, torch.randint(len(pool[0]), other.shape)]
        mixed = self.share * x + (1 - self.share) * partner
        p: Tensor = self.network(mixed.flatten(0, 1)).softmax(1)
        return p.view(self.samples, len(x), -1).mean(0)


def mixup(x: Tensor, y: Tensor) -> Defended:
    """Mixup inference with other labels (Pang et al., 2020), on a network trained by mixup.

    Its attack climbs the mean of the logarithms over draws.
    """

    def mixing(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        share, order = float(torch.rand(())), torch.randperm(len(x))
        outputs = net(share * x + (1 - share) * x[order])
        one, other = functional.cross_entropy(outputs, y), functional.cross_entropy(outputs, y[order])
        return share * one + (1 - share) * other

    model = MixupInference(learn(wong_cnn(), x, y, mixing, epochs=10), x, y).eval()
    return Defended(model=model, surrogate=lambda z: model(z).clamp(min=1e-12).log(), draws=4)


class Estimated(nn.Module):
    """An image of which half of the pixels are dropped, estimated from few singular values (USVT; Chatterjee, 2015)."""

    def __init__(self, keep: float = 0.5, least: float = 1.5) -> None:
        super().__init__()
        self.keep, self.least = keep, least

    def forward(self, x: Tensor) -> Tensor:
        kept = (torch.rand_like(x) < self.keep).to(x.dtype)
        left, values, right = torch.linalg.svd((kept * x).detach(), full_matrices=False)
        low = (left * torch.where(values >= self.least, values, torch.zeros_like(values)).unsqueeze(-2)) @ right
        return (low / self.keep).clamp(0, 1)


def estimated(x: Tensor, y: Tensor) -> Defended:
    """ME-Net (Yang et al., 2019): masks at random, and matrices of low rank in place of images, in training too.

    Its attack passes gradients straight through the estimate, over draws.
    """
    estimate = Estimated()
    model = learn(nn.Sequential(estimate, wong_cnn()), x, y, plain, epochs=12)
    assert isinstance(model, nn.Sequential)
    return Defended(model=model, surrogate=lambda z: model[1](stand(estimate(z), z)), draws=10)


def dense(*sizes: int) -> nn.Sequential:
    """Linear layers of these sizes, with ReLUs between them."""
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Generative(nn.Module):
    """How likely an input is with each class, by an autoencoder for all: `log 1/n sum p(x|z,y) p(z) / q(z|x,y)`."""

    def __init__(self, latent: int = 24, hidden: int = 256, samples: int = 5) -> None:
        super().__init__()
        self.latent, self.samples = latent, samples
        self.encoder = dense(784 + CLASSES, hidden, hidden, 2 * latent)
        self.decoder = dense(latent + CLASSES, hidden, hidden, 784)

    def weights(self, x: Tensor, labels: Tensor, samples: int) -> Tensor:
        """`log p(x|z,y) p(z) / q(z|x,y)` for samples of z, `(samples, B)`; labels one-hot."""
        mean, deviation = self.encoder(torch.cat([x.flatten(1), labels], 1)).chunk(2, 1)
        deviation = functional.softplus(deviation) + 1e-3
        noise = torch.randn(samples, *mean.shape)
        z = mean + deviation * noise
        drawn = self.decoder(torch.cat([z, labels.expand(samples, -1, -1)], 2))
        likely = -functional.binary_cross_entropy_with_logits(
            drawn, x.flatten(1).expand_as(drawn), reduction="none"
        ).sum(2)
        return likely - (z.square() / 2).sum(2) + (noise.square() / 2 + deviation.log()).sum(2)

    def forward(self, x: Tensor) -> Tensor:
        labels = torch.eye(CLASSES).repeat(len(x), 1)
        weights = self.weights(x.repeat_interleave(CLASSES, 0), labels, self.samples)
        return weights.logsumexp(0).view(len(x), CLASSES)


def generative(x: Tensor, y: Tensor) -> Defended:
    """A deep Bayes classifier (Li et al., 2019): an autoencoder says for which class an input is the likeliest."""

    def bound(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(net, Generative)
        return -net.weights(x, functional.one_hot(y, CLASSES).float(), 1).mean()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Generative()
    model = learn(network, x, y, bound, epochs=40, lr=1e-3)
    return Defended(model=model, surrogate=model, draws=4)


def asymmetrical(x: Tensor, y: Tensor) -> Defended:
    """Asymmetrical adversarial training (Yin et al., 2020): a detector for each class, robust to what others become.

    The class is that of the detector that says most.
    """
    attack = pgd(linf(0.15), steps=10, loss=lambda outputs, goal: outputs.gather(1, goal.labels[:, None])[:, 0])

    def asymmetric(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        rows, towards = torch.arange(len(x)), (y + torch.randint(1, CLASSES, y.shape)) % CLASSES
        z = attack(net, x, Never(towards), Streams.of(0, rows))
        own, foreign = net(x)[rows, y], net(z)[rows, towards]
        return functional.softplus(-own).mean() + functional.softplus(foreign).mean()

    model = learn(wong_cnn(), x, y, asymmetric, epochs=6)
    return Defended(model=model, surrogate=model)


MODELS: dict[str, Callable[[Tensor, Tensor], Defended]] = {
    "k-winners-take-all": winners,
    "sparse Fourier": sparse_fourier,
    "Mahalanobis centres": centres,
    "error-correcting codes": codes,
    "ensemble diversity": diverse,
    "EMPIR": mixed_precision,
    "mixup inference": mixup,
    "ME-Net": estimated,
    "deep Bayes": generative,
    "asymmetrical training": asymmetrical,
}
