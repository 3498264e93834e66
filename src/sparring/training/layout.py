"""Channels last: the layout of images in which convolutions are fastest, for networks that can do with it.

`benchmarks/training.py` says what that is worth. Values are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from sparring.models.victim import inference

_channels_last = partial(Tensor.contiguous, memory_format=torch.channels_last)


def channels_last(network: nn.Module, x: Tensor) -> nn.Module:
    """The network with its weights laid out so, in place, or as it was where it cannot be, or fails on the inputs `x`.

    Many read their features by `h.view(len(h), -1)`, which asks for channels first; torch has no channels last for the
    weights of `nn.Conv3d`. Costs a forward pass.
    """
    try:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with inference(network), torch.no_grad():
            network(x)
    except RuntimeError:
        channels_first(network)
    return network


def channels_first(network: nn.Module) -> nn.Module:
    """The network with its weights laid out as they usually are, in place."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


@contextmanager
def gradients_alike(network: nn.Module) -> Iterator[None]:
    """Have the gradient at the input of each `nn.Flatten` laid out as that input is.

    It arrives in the layout of the flat output. The backward pass of an elementwise function whose gradient and values
    are laid out differently visits them one by one, and takes many times as long.
    """

    def alike(flatten: nn.Module, inputs: tuple[object, ...]) -> None:
        h = inputs[0]  # certified training sends boxes through a network
        if not isinstance(h, Tensor) or not h.requires_grad or h.dim() != 4:
            return
        if h.is_contiguous(memory_format=torch.channels_last):
            h.register_hook(_channels_last)  # type: ignore[no-untyped-call]

    images = any(weight.dim() == 4 for weight in network.parameters())  # else there is nothing to gain, and hooks cost
    flattens = [part for part in network.modules() if isinstance(part, nn.Flatten) and images]
    handles = [part.register_forward_pre_hook(alike) for part in flattens]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
