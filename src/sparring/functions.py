"""The functions of torch, by the names that its users know, whoever calls them.

A network in Python calls `torch.round`, one that was exported calls `torch.ops.aten.round.default`: to those who watch
a model run these are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparring.types import Model

KNOWN_AS = {
    "_softmax": "softmax",
    "_to_copy": "to",
    "_local_scalar_dense": "item",
    "index": "__getitem__",
    "index_put": "__setitem__",
    "index_put_": "__setitem__",
    "wrap_with_set_grad_enabled": "_set_grad_enabled",
}
"""Operations that have another name in Python."""


def called(function: Any) -> str:
    """The name of a function of torch: `round` for `torch.round`, `Tensor.round` and `torch.ops.aten.round.default`."""
    packet = function.overloadpacket if isinstance(function, OpOverload) else function
    name = str(getattr(packet, "__name__", ""))
    return KNOWN_AS.get(name, name) if isinstance(packet, OpOverloadPacket | HigherOrderOperator) else name


def bare(x: Tensor) -> Tensor:
    """Under `torch.vmap` the whole of which a row is in hand: the row itself does not say whether it has a gradient."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


LISTENING: list[dict[str, None]] = []
"""What those who ask now for what nobody hears have met."""


def unheard(what: str) -> None:
    """Tell them that something runs now of which no mode of Python will hear."""
    for met in LISTENING:
        met[what] = None


def unwatched(model: Model, x: Tensor) -> tuple[str, ...]:
    """What runs in a model where no mode of Python hears of it, by name.

    Operations of parts in TorchScript, say, or the framework that runs all of it. Costs a forward pass.
    """
    depth, met = 0, dict[str, None]()

    class Hear(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            nonlocal depth
            depth += 1
            try:
                return func(*args, **(kwargs or {}))
            finally:
                depth -= 1

    class Run(TorchDispatchMode):  # type: ignore[no-untyped-call]
        supports_higher_order_operators = True

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # to skip it, torch would import all of it

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if not depth and torch._C._is_torch_function_enabled():
                met[called(func)] = None
            return func(*args, **(kwargs or {}))

    LISTENING.append(met)
    try:
        with torch.no_grad(), Run(), Hear():  # type: ignore[no-untyped-call]
            model(x)
    finally:
        LISTENING.remove(met)
    return tuple(met)
