"""Thermometer codes: values as the levels that they are above, for a network that has learned to read them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sparring.defences.cleaning import Learning
from sparring.defences.learning import LAYERS, afresh, retrained, trainable
from sparring.defences.replacing import Replacement
from sparring.errors import BadInput
from sparring.limits import one_or_more
from sparring.registry import register
from sparring.types import Defence, Model
from sparring.views import settled


def coded(x: Tensor, *, levels: int) -> Tensor:
    """Each channel of `x` in [0, 1] as `levels` ones and zeros: above 0, above 1/levels, ... `(B, C levels, ...)`."""
    return (x.unsqueeze(2) > _marks(x, levels)).flatten(1, 2).to(x.dtype)


def ramped(x: Tensor, *, levels: int) -> Tensor:
    """The same with ramps in place of steps, as Athalye et al. (2018, section 5.2.1) attack it.

    A ramp is as wide as a level here, and has its step in the middle: a value has a slope towards the nearest mark
    alone. Theirs, `min(max(x - mark, 0), 1)`, have one towards every mark below, most of them out of reach.
    """
    return (levels * (x.unsqueeze(2) - _marks(x, levels)) + 0.5).clamp(0, 1).flatten(1, 2)


def _marks(x: Tensor, levels: int) -> Tensor:
    return (torch.arange(levels, device=x.device).to(x) / levels).view(-1, *[1] * (x.dim() - 2))


def widened(network: nn.Module, times: int) -> nn.Module:
    """A copy of a network whose first layer, a convolution or linear, takes `times` as many channels; fresh weights.

    Raises:
        BadInput: another first layer, or one whose weights are made of others.
    """
    wide = copy.deepcopy(network)
    leaves = (part for part in wide.modules() if isinstance(part, LAYERS) or not list(part.children()))
    first = next((part for part in leaves if list(part.parameters())), None)
    if not isinstance(first, LAYERS) or "weight" not in dict(first.named_parameters(recurse=False)):
        given = f"{type(network).__name__} that begins with {type(first).__name__}"
        raise BadInput(given, "a first layer that is a plain convolution or linear", "use another defence")
    channels = "in_features" if isinstance(first, nn.Linear) else "in_channels"
    setattr(first, channels, times * getattr(first, channels))
    first.weight = nn.Parameter(first.weight.detach().repeat_interleave(times, 1))
    return afresh(wide, 0)


@register("defences", "thermometer", paper="Buckman et al., 2018")
def thermometer(*, levels: int = 16, epochs: int = 8) -> Learning:
    """Show a network, trained for it, each value as the levels that it is above (Buckman et al., 2018).

    The model's own layers with a wider first one, trained from fresh weights, on clean examples: the paper's other
    half, adversarial training, is left out. Not for networks that normalise their inputs.
    """
    one_or_more(levels=levels)

    def fit(model: Model, x: Tensor, labels: Tensor) -> Defence:
        from sparring.training import standard

        clean, soft = settled(coded, levels=levels), settled(ramped, levels=levels)
        with torch.enable_grad():
            network = retrained(widened(trainable(model, x), levels), clean(x), labels, standard, epochs=epochs)
        return Replacement(network, clean, soft)

    return Learning(fit)
