"""The bridge from other frameworks: one function `x -> (y, pullback)` becomes a differentiable torch function."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparring.errors import BadInput
from sparring.functions import unheard
from sparring.types import Model

Pullback = Callable[[Tensor], Tensor]
"""The gradient of the outputs `(B, K)` to the gradient of the inputs `(B, *shape)`."""

AGREES = 1e-4
"""How far a program may be from the framework that it stands for, as a share of the largest output."""

ALIGNMENT = 64
"""Bytes. TensorFlow aborts the process on a buffer that starts elsewhere, and JAX copies it."""


class Unreadable(Exception):
    """A program with an operation that cannot be run by torch, step by step."""


def bridge(
    values: Model,
    vjp: Callable[[Tensor], tuple[Tensor, Pullback]],
    *,
    framework: str,
    steps: Model | None = None,
) -> Model:
    """Make a torch function of another framework's: `values` where no gradient is asked for, `vjp` where one is.

    While a mode of Python is active, `steps`: the same by functions of torch, so that the mode hears of them. Where
    there are none, or they are `Unreadable`, those who listen are told.

    Both take a contiguous, aligned CPU or accelerator tensor without a gradient of its own: float64 if `x` is,
    float32 for any other floating point, integers as they are. Nothing is copied that meets this already. Outputs
    come back as float32 or float64, the gradient in the type of `x`. A pullback may be called more than once
    (`retain_graph`); there is no second derivative. Changing `x` or the outputs in place before the backward pass
    raises torch's usual error, because the other framework may still be reading the same memory.

    Cost: what `values` and `vjp` cost, and no copy.
    """

    def call(x: Tensor) -> Tensor:
        if torch._C._len_torch_function_stack():
            try:
                if steps is not None:
                    return steps(x)
            except Unreadable:
                pass
            unheard(framework)
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Crossing.apply(x, vjp)  # type: ignore[no-untyped-call]
        else:
            y = _apart(values(ready(x)), x)
        return y.float() if y.dtype in {torch.float16, torch.bfloat16} else y

    return call


def says_the_same(steps: Model, x: Tensor, outputs: Tensor) -> bool:
    """Whether a program that torch runs may stand for another framework's, whose outputs are given.

    In the median of the rows: stairs may round some of them another way.
    """
    try:
        with torch.no_grad():
            off = (steps(x.detach()) - outputs).abs().reshape(len(x), -1).amax(1)
    except Exception:  # an operation that torch has not, or has in another form
        return False
    return bool(off.median() <= AGREES * outputs.abs().amax())


def ready(x: Tensor) -> Tensor:
    """`x` as every framework takes it, sharing memory with `x` where its type, order and alignment allow it."""
    x = x.detach()
    if x.dtype in {torch.float16, torch.bfloat16}:
        x = x.float()
    return _aligned(x)


def moved(value: Any, device: torch.device) -> Any:
    """A tensor on a device, without a copy if it is there already; what is no tensor stays what it is."""
    return value.to(device) if isinstance(value, Tensor) and value.device != device else value


def _aligned(x: Tensor) -> Tensor:
    x = x.contiguous()
    return x.clone() if x.data_ptr() % ALIGNMENT else x


def _apart(y: Tensor, x: Tensor) -> Tensor:
    """`y`, copied if the framework gave the memory of `x` back (an identity, a reshape)."""
    return y.clone() if y.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() else y


class _Crossing(torch.autograd.Function):
    """One forward pass with its pullback kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, vjp: Callable[[Tensor], tuple[Tensor, Pullback]]) -> Tensor:
        y, ctx.pullback = vjp(ready(x))
        y = _apart(y, x)
        ctx.save_for_backward(x, y)  # for the version check: the pullback itself may be reading this memory
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (x, _) = ctx.saved_tensors
        return ctx.pullback(_aligned(g)).to(device=x.device, dtype=x.dtype), None


def layout(shape: tuple[int | None, ...] | None) -> tuple[Model, tuple[str, ...]]:
    """The function that brings inputs into the shape `(*shape)` which a model reads, and what to tell the reader of it.

    Inputs of that shape pass as they are. Channels-first images `(B, C, H, W)` for a channels-last model are
    transposed; flat inputs, and axes of size one, are reshaped in their own order. `None` in `shape` fits any size;
    `shape` itself is None where the model does not say what it reads, and then everything passes.

    Raises:
        BadInput: when called with inputs that fit none of these.

    """
    if shape is None:
        return _same, ()

    def arrange(x: Tensor) -> Tensor:
        given = tuple(x.shape[1:])
        if _fits(given, shape):
            return x
        if len(given) == 3 and _fits((*given[1:], given[0]), shape):
            return x.permute(0, 2, 3, 1)
        sizes = tuple(size for size in shape if size is not None)
        if len(sizes) == len(shape):
            flat = 1 in {len(given), len(shape)} and torch.Size(given).numel() == torch.Size(sizes).numel()
            if flat or _squeezed(given) == _squeezed(sizes):
                return x.reshape(len(x), *sizes)
        raise BadInput(f"inputs of shape {given}", f"{shape}, which this model reads", "give data of that shape")

    note = f"reads inputs {shape}"
    if len(shape) == 3:
        return arrange, (f"{note}; channels-first images are transposed, flat inputs reshaped, inside the model",)
    return arrange, (f"{note}; images are reshaped in their own order inside the model",) if len(shape) == 1 else ()


def _same(x: Tensor) -> Tensor:
    return x


def _fits(given: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(given) == len(shape) and all(want in {size, None} for size, want in zip(given, shape, strict=True))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def in_batches_of(rows: int, model: Model, least: int | None = None) -> Model:
    """Run a model that was exported for exactly `rows` rows, or for `least` to `rows`, on any number of them.

    The last batch repeats a row.
    """

    def call(x: Tensor) -> Tensor:
        parts = [model(pad(part, rows if least is None else least)) for part in torch.split(x, rows)]
        return torch.cat(parts)[: len(x)]

    return call


def pad(x: Tensor, rows: int) -> Tensor:
    """`x` with its last row repeated up to `rows` of them, `x` itself where it has as many, zeros where it has none."""
    missing = rows - len(x)
    if missing <= 0:
        return x
    last = x[-1:] if len(x) else x.new_zeros(1, *x.shape[1:])
    return torch.cat([x, last.expand(missing, *x.shape[1:])])


@contextmanager
def environment(**defaults: str) -> Iterator[None]:
    """Settings that a framework reads while it is imported, put back afterwards; those the user made win."""
    ours = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in ours.items():
            if os.environ.get(name) == value:
                del os.environ[name]
