"""What the layers of a network give, a vector for each input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparring.defences.learning import CONVOLUTIONS, LAYERS, network_of
from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.types import Model
from sparring.views import mean

Features = Callable[[Tensor], list[Tensor]]


def features_of(model: Model) -> Features:
    """The outputs of every convolution and linear layer but the last, `(B, d)` each, averaged over places and tokens.

    Raises:
        BadInput: no torch network, or none with such layers.
    """
    network = network_of(model)
    layers = [part for part in network.modules() if isinstance(part, LAYERS)][:-1]
    if not layers:
        raise BadInput(
            f"{type(network).__name__}", "a hidden layer", "use a detector on the outputs: energy, max-softmax"
        )

    def features(x: Tensor) -> list[Tensor]:
        seen: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda module, given, out: seen.append(_averaged(module, out.relu())))
            for layer in layers
        ]
        try:
            with inference(network):
                network(x)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    return features


def _averaged(layer: nn.Module, out: Tensor) -> Tensor:
    """`(B, d)`, of what a convolution gives, `(B, d, ...)`, or a linear layer, `(B, ..., d)`.

    In float32 at least: half of that is too few bits for distances between features.
    """
    out = out.to(torch.promote_types(out.dtype, torch.float32))
    return out.flatten(2).mean(2) if isinstance(layer, CONVOLUTIONS) else out.unsqueeze(1).flatten(1, -2).mean(1)


def quietly(features: Features, x: Tensor) -> list[Tensor]:
    """The features of many examples, without gradients."""
    with torch.no_grad():
        parts = [features(some) for some in torch.split(x, 200)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def standardised(scores: Callable[[Tensor], list[Tensor]], x: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean over layers of scores in units of their deviation on these clean examples.

    Raises:
        BadInput: a single example.
    """
    if len(x) < 2:
        raise BadInput("a single example to learn deviations from", "two or more", "learn from more")
    clean = torch.stack(quietly(scores, x))
    middle, deviation = clean.mean(1, keepdim=True), clean.std(1, keepdim=True).clamp(min=1e-6)
    return lambda z: mean(list((torch.stack(scores(z)) - middle) / deviation))
