"""What defences that learn have in common: fresh copies of a network, and images as what a network gives."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparring.data.arrays import Arrays
from sparring.errors import BadInput
from sparring.models.victim import Victim, are_probabilities, inference
from sparring.types import Model

if TYPE_CHECKING:
    from sparring.training import Objective

CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = CONVOLUTIONS | nn.Linear
"""Layers that are looked at, or told to read more channels: their weights are `(out, in, ...)`."""

SAMPLED = 8
"""Examples on which is seen what a network gives."""


def network_of(model: Model) -> nn.Module:
    """The torch network behind a model.

    Raises:
        BadInput: there is none, so that nothing can be looked at inside of it, or trained in its place.
    """
    found = (model.trainee or model.module) if isinstance(model, Victim) else model
    if not isinstance(found, nn.Module):
        raise BadInput(f"{type(model).__name__} for a defence that trains", "a torch network", "use another defence")
    return found


def trainable(model: Model, x: Tensor) -> nn.Module:
    """The torch network behind a model of inputs like `x`, of which another one can be trained.

    Raises:
        BadInput: there is none, or one that gives probabilities: training would take them for logits.
    """
    found = network_of(model)
    with inference(found), torch.no_grad():
        here = next((part.device for part in found.parameters()), x.device)
        if are_probabilities(found(x[:SAMPLED].to(here))):
            do = "leave the softmax out, or use another defence"
            raise BadInput("a network of probabilities for a defence that trains", "one that gives logits", do)
    return found


def afresh(network: nn.Module, seed: int) -> nn.Module:
    """A copy of a network with fresh weights, that can be trained; torch's global random numbers are left alone.

    Layers draw theirs as torch does; parameters that no layer resets are drawn with the mean and deviation they have.
    """
    new = copy.deepcopy(network).requires_grad_(True)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for part in new.modules():
            reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
            if callable(reset):
                reset()
                continue
            for own in (one for one in part.parameters(recurse=False) if one.numel()):
                own.normal_(float(own.mean()), float(own.std(correction=0)))
    return new


class AnyPrecision(nn.Module):
    """A network for inputs of any precision: it computes in its own, and answers in theirs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """Its outputs; inputs that are no fractions, tokens say, go in as they are."""
        own = next((part.dtype for part in self.network.parameters()), x.dtype)
        fractions = x.is_floating_point()
        out: Tensor = self.network(x.to(own) if fractions else x, *more)
        return out.to(x.dtype) if fractions else out


def frozen(network: nn.Module) -> nn.Module:
    """The network in inference mode, its weights no longer to be trained."""
    return network.eval().requires_grad_(False)


def retrained(network: nn.Module, x: Tensor, labels: Tensor, objective: Objective, **settings: Any) -> nn.Module:
    """A network trained on these examples (`sparring.training.fit`), and frozen."""
    from sparring.training import fit

    usual = {"epochs": 8, "batch_size": 100, "average": 0.95, "lr": 3e-3}
    return frozen(fit(network, Arrays("examples", x.cpu(), labels.cpu()), objective, **{**usual, **settings}))


class _Flat(nn.Module):
    """A network that gives images, with flat outputs, as the trainer expects them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Tensor) -> Tensor:
        """Its outputs, `(B, n)`."""
        images: Tensor = self.network(*given)
        return images.flatten(1)


def taught(network: nn.Module, x: Tensor, objective: Objective, **settings: Any) -> nn.Module:
    """A network that gives images of any precision, trained on these; the objective sees it give `(B, n)`."""
    flat = retrained(_Flat(network), x, torch.zeros(len(x), dtype=torch.int64), objective, **settings)
    assert isinstance(flat, _Flat)
    return AnyPrecision(flat.network)
