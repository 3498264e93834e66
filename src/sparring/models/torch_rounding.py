"""Quantised torch modules (`torch.ao.nn.quantized`): their own outputs, with gradients straight through the rounding.

The operators of quantised tensors have no gradient. So each such tensor is followed by a float tensor: its value, with
the gradient of the same operator on real numbers (Bengio et al., 2013; BPDA of Athalye et al., 2018, section 4.1).
Networks that are trained for it compute in floats, and their rounding lets gradients through by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverloadPacket
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from sparring.functions import called
from sparring.views import stand

KINDS = ("torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.quantization.fake_quantize.")
"""Where the modules are that hand quantised tensors to each other, and those that round floats in training."""


def rounds(module: nn.Module) -> bool:
    """Whether a module was quantised, or is trained for it."""
    return any(kind.startswith(KINDS) for kind in _kinds(module))


def shares_scales(module: nn.Module) -> bool:
    """Whether a module was quantised with scales that are set by all rows of a batch: it is to be run row by row."""
    return any(".quantized.dynamic." in kind for kind in _kinds(module))


def _kinds(module: nn.Module) -> set[str]:
    return {type(part).__module__ + "." for part in module.modules()}


def straight(module: nn.Module, x: Tensor) -> Tensor:
    """The outputs of a quantised module; where a gradient is asked for, with one. Costs as much again.

    With none where an operator is not known: that of the others would pass for the whole.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        with Followed() as followed:
            outputs = module(x)
        if not followed.lost:
            return outputs  # type: ignore[no-any-return]
    return module(x)  # type: ignore[no-any-return]


def linear(x: Tensor, packed: Any) -> Tensor:
    """A linear layer of packed weights."""
    weight, bias = packed.unpack()
    return F.linear(x, weight.dequantize(), bias)


def convolution(run: Callable[..., Tensor], x: Tensor, packed: Any) -> Tensor:
    """A convolution of packed weights."""
    weight, bias = packed.unpack()
    return run(x, weight.dequantize(), bias, packed.stride(), packed.padding(), packed.dilation(), packed.groups())


DYNAMIC: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "linear_dynamic": linear,
    "linear_relu_dynamic": lambda x, packed: linear(x, packed).relu(),
}
"""The same where floats go in and come out, rounded on the way."""

REAL: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "linear": (2, linear),
    "conv2d": (2, partial(convolution, F.conv2d)),
    "conv3d": (2, partial(convolution, F.conv3d)),
    "add": (2, torch.add),
    "mul": (2, torch.mul),
    "batch_norm2d": (6, lambda x, weight, bias, mean, var, eps: F.batch_norm(x, mean, var, weight, bias, eps=eps)),
    "relu6": (1, F.relu6),
    "hardswish": (1, F.hardswish),
    "leaky_relu": (2, F.leaky_relu),
    "sigmoid": (1, torch.sigmoid),
    "elu": (4, lambda x, scale, zero, alpha=1.0: F.elu(x, alpha)),
}
"""What torch's operators of quantised tensors compute on real numbers, and of how many of their arguments.

The others are the scale and the zero point of the result. `_relu` may follow a name.
"""


def real_operator(name: str) -> tuple[int, Callable[..., Tensor]] | None:
    """The same by the name of the operator of quantised tensors."""
    if name in REAL or not name.endswith("_relu"):
        return REAL.get(name)
    found = REAL.get(name.removesuffix("_relu"))
    return None if found is None else (found[0], lambda *given: found[1](*given).relu())


class Followed(TorchFunctionMode):
    """While active, float tensors follow quantised ones: by identity, with the tensor, lest its place be used again."""

    def __init__(self) -> None:
        super().__init__()
        self.real: dict[int, tuple[Tensor, Tensor]] = {}
        self.lost: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, called(func)
        value = func(*args, **kwargs)
        if not isinstance(value, Tensor):
            return value
        if name == "dequantize" and id(args[0]) in self.real:
            return self.real[id(args[0])][1]
        if name in DYNAMIC:
            return stand(value, DYNAMIC[name](args[0], args[1]))
        if value.is_quantized:
            real = args[0] if name.startswith("quantize_") else self._computed(func, name, args, kwargs)
            if real is None:
                self.lost.append(name)
            else:
                self.real[id(value)] = value, stand(value.dequantize(), real)
        return value

    def _computed(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The same on real numbers; none, of operators that are not known."""
        numbers = map_aggregate(args, self._number)
        if name == "cat":
            return torch.cat(numbers[0], kwargs["dim"] if "dim" in kwargs else numbers[1])
        if isinstance(func, OpOverloadPacket):
            found = real_operator(name)
            return None if found is None else found[1](*numbers[: found[0]])
        try:
            return func(*numbers, **kwargs)  # type: ignore[no-any-return]
        except RuntimeError:  # a function of quantised tensors alone
            return None

    def _number(self, arg: Any) -> Any:
        """What follows a quantised tensor; of one that does not depend on the input, its value."""
        if isinstance(arg, Tensor) and arg.is_quantized:
            return self.real[id(arg)][1] if id(arg) in self.real else arg.dequantize()
        return arg
