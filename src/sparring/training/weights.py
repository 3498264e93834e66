"""What surrounds the weights: a neighbourhood in which the loss must be low everywhere, and averages along the way.

A neighbourhood is used for the gradient of an update, and the weights come back to the bit:

    with neighbourhood.around(network, loss):
        loss().backward()
    optimiser.step()

An average sees the network after every update (or every epoch): `average.update(network)`; the averaged network is
`average.network`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparring.limits import below_one
from sparring.models.victim import inference
from sparring.norms import divisor
from sparring.training.passes import norms


class Neighbourhood(Protocol):
    """Weights near those of the network, at which an update takes its gradient."""

    def around(self, network: nn.Module, loss: Callable[[], Tensor]) -> AbstractContextManager[None]:
        """Move the weights to where `loss` is worst nearby, and back on leaving: one more forward and backward pass."""
        ...


@dataclass(frozen=True)
class AWP:
    """Minimise the worst loss over nearby weights: robustness that carries over to new data (Wu et al., 2020).

    Every weight matrix moves by `gamma` of its own length, `v = gamma |w| g / |g|` (section 4.2, one step); biases
    and the like stay. Among several processes each takes the gradient of its own share of the batch.
    """

    gamma: float = 0.005

    @contextmanager
    def around(self, network: nn.Module, loss: Callable[[], Tensor]) -> Iterator[None]:
        """The weights at `w + v`."""
        weights = [w for w in network.parameters() if w.requires_grad and w.dim() > 1]
        slopes = _slopes(network, weights, loss)
        with _moved(
            weights, [self.gamma * w.detach().norm() * _unit(g, g.norm()) for w, g in zip(weights, slopes, strict=True)]
        ):
            yield


@dataclass(frozen=True)
class SAM:
    """Minimise the worst loss within `rho` of the weights, which finds flat minima (Foret et al., 2021, equation 2)."""

    rho: float = 0.05

    @contextmanager
    def around(self, network: nn.Module, loss: Callable[[], Tensor]) -> Iterator[None]:
        """The weights at `w + rho g / |g|`, all weights as one vector."""
        weights = [w for w in network.parameters() if w.requires_grad]
        slopes = _slopes(network, weights, loss)
        length = torch.stack([g.norm() for g in slopes]).norm()
        with _moved(weights, [self.rho * _unit(g, length) for g in slopes]):
            yield


def _slopes(network: nn.Module, weights: Sequence[Tensor], loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
    """The gradients of the loss; what the pass does to running statistics is undone."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    slopes = torch.autograd.grad(loss(), list(weights), allow_unused=True, materialize_grads=True)
    with torch.no_grad():
        _put_back(network, before)
    return slopes


def _unit(g: Tensor, length: Tensor) -> Tensor:
    return g / divisor(length)


@contextmanager
def _moved(weights: Sequence[Tensor], moves: Sequence[Tensor]) -> Iterator[None]:
    """The weights moved meanwhile. They are put back from a copy: taking away what was added would round."""
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        torch._foreach_add_(list(weights), list(moves))
    try:
        yield
    finally:
        with torch.no_grad():
            for w, value in zip(weights, before, strict=True):
                w.copy_(value)


class Average:
    """The running average of a network's weights: `a <- k a + (1 - k) w`, where `kept(n)` says k after n networks.

    `network` is a copy of the one handed over, in inference mode. Averaged are weights and whatever else is a number
    with a fraction, the running statistics of BatchNorm above all: those of the network seen last belong to other
    weights. Where even their average is far from what the averaged weights ask for, they are `stale`, and have to be
    `refreshed` before use.
    """

    def __init__(self, network: nn.Module, kept: Callable[[int], float], *, stale: bool = False) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.kept, self.seen, self.stale = kept, 0, stale

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights as they are now; the first are taken over whole."""
        held = dict(network.named_buffers())
        grown = {name: own for name, own in self.network.named_buffers() if own.shape != held[name].shape}
        _put_back(self.network, {name: held[name] for name in grown})  # of another shape: there is nothing to average
        own, theirs = ([*one.parameters(), *one.buffers()] for one in (self.network, network))
        pairs = [(a, b.detach()) for a, b in zip(own, theirs, strict=True)]
        smooth = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([a for a, _ in smooth], [b for _, b in smooth], 1 - self.kept(self.seen))
        for a, b in pairs:
            if not a.is_floating_point():
                a.copy_(b)
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs."""
        return {"network": content(self.network), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state saved before."""
        refilled(self.network, state["network"])
        self.seen = int(state["seen"])


def ema(network: nn.Module, decay: float = 0.999) -> Average:
    """The exponential average, `k = min(decay, n / (n + 9))`: nearly free, and worth much of the robustness.

    Izmailov et al. (2018) and Gowal et al. (2020, section 3.4). The smaller decay at first lets a short training forget
    the weights that it started from. A decay of 0 gives the last weights.

    Raises:
        BadInput: a decay outside [0, 1).
    """
    below_one(decay=decay)
    return Average(network, lambda n: min(decay, n / (n + 9)))


def swa(network: nn.Module) -> Average:
    """The plain mean of all weights seen, `k = n / (n + 1)`, from late in training on.

    Izmailov et al. (2018). A network with BatchNorm must be `refreshed` before use: its running statistics are those of
    other weights. The trainer does so after every epoch.
    """
    return Average(network, lambda n: n / (n + 1), stale=True)


def content(network: nn.Module) -> dict[str, Any]:
    """All that a network holds: its state dict, and its buffers, of which those that are not persistent lack there."""
    return {
        "state": network.state_dict(),
        "buffers": {name: buffer.detach() for name, buffer in network.named_buffers()},
    }


@torch.no_grad()
def refilled(network: nn.Module, held: Mapping[str, Any]) -> nn.Module:
    """The network with the content that it, or another one like it, had before; in place."""
    network.load_state_dict(held["state"])
    _put_back(network, held["buffers"])
    return network


def _put_back(network: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Buffers by their names, in place where they have the shape."""
    for name, value in buffers.items():
        place, _, own = name.rpartition(".")
        part = network.get_submodule(place)
        buffer = getattr(part, own)
        if isinstance(buffer, Tensor) and buffer.shape == value.shape and buffer.dtype == value.dtype:
            buffer.copy_(value)
        else:  # one that a pass has put in the place of another
            setattr(part, own, value.to(next(network.parameters()).device, copy=True))


@torch.no_grad()
def refreshed(network: nn.Module, batches: Iterable[Tensor], *, still: Container[str] = ()) -> nn.Module:
    """Take the running statistics of BatchNorm anew, as the mean over batches of inputs (Izmailov et al., 2018, 3.2).

    Changes the network and returns it, with every submodule in the mode it had. All but BatchNorm runs in inference
    mode, and so do those that are to stand `still`, by their names. Costs a forward pass of each batch, and nothing
    where there is no BatchNorm.
    """
    found = [part for name, part in norms(network).items() if part.track_running_stats and name not in still]
    if not found:
        return network
    momenta = [part.momentum for part in found]
    with inference(network):
        for part in found:
            part.reset_running_stats()
            part.training, part.momentum = True, None  # None: the plain mean over all batches
        try:
            for x in batches:
                network(x)
        finally:
            for part, momentum in zip(found, momenta, strict=True):
                part.momentum = momentum
    return network
