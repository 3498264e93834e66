"""What tests of several frameworks ask alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import BaseTorchFunctionMode

from sparring.functions import unwatched
from sparring.types import Model


def alike(victim: Model, x: Tensor) -> None:
    """Torch runs a program of another framework, and says what this says, with the same gradients."""
    x = x.requires_grad_()
    assert unwatched(victim, x.detach()) == ()
    told = victim(x)
    with BaseTorchFunctionMode():
        steps = victim(x)
    assert torch.allclose(steps, told, rtol=1e-4, atol=1e-5)
    g = torch.linspace(-1, 1, told.numel()).reshape(told.shape)
    slopes = [torch.autograd.grad(y, x, g)[0] for y in (steps, told)]
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-4)
