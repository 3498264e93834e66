"""JAX programs, run by torch operation by operation, so that views and checks see what happens inside.

What a JAX function does is a list of some hundred primitive operations (`jax.make_jaxpr`), the usual ones of which
torch has as well. JAX itself stays the judge: a program that says anything else here is not used.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.dlpack import from_dlpack

from sparring.models.bridge import Unreadable, moved

SAME = frozenset({"relu", "relu6", "logaddexp"})
"""JAX functions with a derivative of their own, which is that of what they do. Nobody else's is known to be."""

PIECES: dict[str, Callable[..., Tensor]] = {
    "elu": functional.elu,
    "selu": functional.selu,
    "celu": functional.celu,
    "leaky_relu": functional.leaky_relu,
    "hard_tanh": functional.hardtanh,
}
"""Activations that JAX writes as a choice of what is computed on both sides."""


class Program:
    """A JAX program for inputs of one shape; `consts` are the arrays that the function closed over.

    Raises:
        Unreadable: when called, if it holds an operation that torch cannot run.

    """

    def __init__(self, closed: Any) -> None:
        self.jaxpr, self.consts = closed.jaxpr, [tensor(one) for one in closed.consts]

    def __call__(self, *given: Any, device: torch.device) -> list[Any]:
        """What it gives back; arrays of JAX may be among what it is given."""
        consts, inputs = ([moved(tensor(one), device) for one in some] for some in (self.consts, given))
        with nullcontext() if device.type == "cpu" else device:
            return _run(self.jaxpr, consts, inputs)


def tensor(value: Any) -> Any:
    """An array of JAX or NumPy as a tensor, without a copy where JAX allows it; what is none stays what it is."""
    if isinstance(value, Tensor):
        return value
    for read in (from_dlpack, lambda one: torch.tensor(np.array(one))):  # NumPy's may not be written, and are copied
        try:
            found: Tensor = read(value)  # type: ignore[no-untyped-call]
            return found
        except Exception:  # noqa: S112  (random keys are neither)
            continue
    return value


def _run(jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
    values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, given, strict=True))

    def read(atom: Any) -> Any:
        if not hasattr(atom, "val"):
            return values[atom]
        value = np.asarray(atom.val)
        return tensor(value) if value.shape else value.item()

    for step in jaxpr.eqns:
        name = step.primitive.name
        if name not in OPERATIONS:
            raise Unreadable(name)
        found = OPERATIONS[name](*(read(atom) for atom in step.invars), **step.params)
        values.update(zip(step.outvars, found if step.primitive.multiple_results else [found], strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _inner(*given: Any, jaxpr: Any, **_: Any) -> list[Any]:
    return _run(jaxpr.jaxpr, [tensor(one) for one in jaxpr.consts], given)


def _jit(*given: Any, name: str, jaxpr: Any, **_: Any) -> list[Any]:
    """What was compiled by itself: an activation of JAX, written in comparisons, is that of torch where it says so."""
    if name not in PIECES or [isinstance(one, Tensor) for one in given] not in ([True], [True, False]):
        return _inner(*given, jaxpr=jaxpr)
    with torch._C.DisableTorchFunction():
        written, own = _inner(*given, jaxpr=jaxpr)[0], PIECES[name](*given)
        same = own.shape == written.shape and torch.allclose(own.detach(), written.detach())
    return [PIECES[name](*given)] if same else _inner(*given, jaxpr=jaxpr)


def _remat(*given: Any, jaxpr: Any, **_: Any) -> list[Any]:
    return _run(jaxpr, (), given)


def _derived(*given: Any, call_jaxpr: Any, **_: Any) -> list[Any]:
    name = call_jaxpr.jaxpr.debug_info.func_name
    if name not in SAME:
        raise Unreadable(f"the derivative of {name}")
    return _inner(*given, jaxpr=call_jaxpr)


def _cond(index: Any, *given: Any, branches: Any, **_: Any) -> list[Any]:
    return _inner(*given, jaxpr=branches[max(0, min(_whole(index), len(branches) - 1))])


def _while(*given: Any, cond_jaxpr: Any, body_jaxpr: Any, cond_nconsts: int, body_nconsts: int) -> Sequence[Any]:
    start = cond_nconsts + body_nconsts
    asked, done, carried = given[:cond_nconsts], given[cond_nconsts:start], given[start:]
    while _whole(_inner(*asked, *carried, jaxpr=cond_jaxpr)[0]):
        carried = tuple(_inner(*done, *carried, jaxpr=body_jaxpr))
    return carried


def _scan(
    *given: Any, jaxpr: Any, length: int, reverse: bool, num_consts: int, num_carry: int, **_: Any
) -> Sequence[Any]:
    start = num_consts + num_carry
    consts, carried, slices = given[:num_consts], list(given[num_consts:start]), given[start:]
    rows: list[list[Any]] = []
    for k in reversed(range(length)) if reverse else range(length):
        found = _inner(*consts, *carried, *(one[k] for one in slices), jaxpr=jaxpr)
        carried, row = found[:num_carry], found[num_carry:]
        rows.append(row)
    stacks = [torch.stack([_tensor(one) for one in some]) for some in zip(*rows, strict=True)]
    return [*carried, *(stack.flip(0) if reverse else stack for stack in stacks)]


def _whole(value: Any) -> int:
    """A number that decides what is run next."""
    return int(value.item() if isinstance(value, Tensor) else value)


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _dtype(kind: Any) -> torch.dtype:
    found = getattr(torch, str(kind), None)
    if not isinstance(found, torch.dtype):
        raise Unreadable(f"numbers of type {kind}")
    return found


def _convert(x: Any, new_dtype: Any, **_: Any) -> Any:
    kind = _dtype(new_dtype)
    if isinstance(x, Tensor):
        return x.to(kind)
    return bool(x) if kind == torch.bool else float(x) if kind.is_floating_point else int(x)


def _max(x: Any, y: Any, **_: Any) -> Any:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.maximum(x, y)
    x, y = (x, y) if isinstance(x, Tensor) else (y, x)
    return torch.relu(x) if y == 0 else x.clamp(min=y)


def _min(x: Any, y: Any, **_: Any) -> Any:
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.minimum(x, y)
    x, y = (x, y) if isinstance(x, Tensor) else (y, x)
    return x.clamp(max=y)


def _div(x: Any, y: Any, **_: Any) -> Any:
    kinds = [one.is_floating_point() if isinstance(one, Tensor) else isinstance(one, float) for one in (x, y)]
    return x / y if any(kinds) else torch.div(_tensor(x), y, rounding_mode="trunc")


def _select(which: Any, *cases: Any, **_: Any) -> Any:
    which = _tensor(which)
    found = _tensor(cases[0])
    for k, case in enumerate(cases[1:], 1):
        found = torch.where(which if which.dtype == torch.bool else which == k, case, found)
    return found


def _round(x: Tensor, rounding_method: Any, **_: Any) -> Tensor:
    return torch.round(x) if int(rounding_method) == 1 else x.sign() * (x.abs() + 0.5).floor()


def _logical(truths: Callable[..., Tensor], bits: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **_: Any) -> Any:
        given = tuple(_tensor(one) for one in given)
        return (truths if given[0].dtype == torch.bool else bits)(*given)

    return run


def _broadcast(x: Any, shape: Sequence[int], broadcast_dimensions: Sequence[int], **_: Any) -> Tensor:
    if not isinstance(x, Tensor):
        return torch.full(tuple(shape), x)
    sizes = [1] * len(shape)
    for dimension, size in zip(broadcast_dimensions, x.shape, strict=True):
        sizes[dimension] = size
    return x.reshape(sizes).expand(tuple(shape))


def _pad(x: Tensor, value: Any, padding_config: Any, **_: Any) -> Tensor:
    reach = [(size - 1) * (between + 1) + 1 for size, (_, _, between) in zip(x.shape, padding_config, strict=True)]
    wide = [max(low, 0) + n + max(high, 0) for n, (low, high, _) in zip(reach, padding_config, strict=True)]
    whole = torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(wide).clone()
    spans = zip(reach, padding_config, strict=True)
    whole[tuple(slice(max(low, 0), max(low, 0) + n, between + 1) for n, (low, _, between) in spans)] = x
    kept = zip(wide, padding_config, strict=True)
    return whole[tuple(slice(max(-low, 0), n - max(-high, 0)) for n, (low, high, _) in kept)]


def _slice(
    x: Tensor, start_indices: Sequence[int], limit_indices: Sequence[int], strides: Sequence[int] | None, **_: Any
) -> Tensor:
    steps = strides or [1] * x.dim()
    return x[tuple(slice(*one) for one in zip(start_indices, limit_indices, steps, strict=True))]


def _dynamic_slice(x: Tensor, *starts: Any, slice_sizes: Sequence[int], **_: Any) -> Tensor:
    begins = [max(0, min(_whole(start), n - size)) for start, n, size in zip(starts, x.shape, slice_sizes, strict=True)]
    return x[tuple(slice(begin, begin + size) for begin, size in zip(begins, slice_sizes, strict=True))]


def _iota(dtype: Any, shape: Sequence[int], dimension: int, **_: Any) -> Tensor:
    sizes = [1] * len(shape)
    sizes[dimension] = shape[dimension]
    return torch.arange(shape[dimension], dtype=_dtype(dtype)).reshape(sizes).expand(tuple(shape))


def _over(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function over several dimensions."""
    return lambda x, axes, **_: reduce(x, dim=tuple(axes)) if len(axes) else x


def _prod(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    for one in sorted(dim, reverse=True):
        x = x.prod(one)
    return x


def _along(cumulate: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def run(x: Tensor, axis: int, reverse: bool, **_: Any) -> Tensor:
        return cumulate(x.flip(axis), axis).flip(axis) if reverse else cumulate(x, axis)

    return run


def _best(first: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, axes, index_dtype, **_: first(x, dim=axes[0]).to(_dtype(index_dtype))


def _sort(*given: Tensor, dimension: int, num_keys: int, **_: Any) -> list[Tensor]:
    if num_keys != 1:
        raise Unreadable("sort by several keys")
    order = torch.argsort(given[0], dim=dimension, stable=True)
    return [torch.take_along_dim(one, order, dimension) for one in given]


def _top_k(x: Tensor, k: int, **_: Any) -> list[Tensor]:
    values, places = torch.topk(x, k, dim=-1)
    return [values, places.to(torch.int32)]


def _dot(x: Tensor, y: Tensor, dimension_numbers: Any, **_: Any) -> Tensor:
    """Batches first, then what is free on the left, then what is free on the right."""
    (summed, summed_too), (batch, batch_too) = (tuple(tuple(one) for one in pair) for pair in dimension_numbers)
    free = [i for i in range(x.dim()) if i not in (*summed, *batch)]
    free_too = [i for i in range(y.dim()) if i not in (*summed_too, *batch_too)]
    sizes = ([x.shape[i] for i in batch], [x.shape[i] for i in free], [y.shape[i] for i in free_too])
    many = [math.prod(one) for one in sizes]
    shared = math.prod(x.shape[i] for i in summed)
    left = x.permute(*batch, *free, *summed).reshape(*many[:1] * bool(batch), many[1], shared)
    right = y.permute(*batch_too, *summed_too, *free_too).reshape(*many[:1] * bool(batch), shared, many[2])
    return (left @ right).reshape([*sizes[0], *sizes[1], *sizes[2]])


def _conv(
    x: Tensor,
    weights: Tensor,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **_: Any,
) -> Tensor:
    if batch_group_count != 1 or len(window_strides) > 3:
        raise Unreadable("a convolution with groups of rows")
    between = [(0, 0, 0)] * 2 + [(low, high, by - 1) for (low, high), by in zip(padding, lhs_dilation, strict=True)]
    x = _pad(x.permute(*dimension_numbers.lhs_spec), 0.0, between)
    run = (functional.conv1d, functional.conv2d, functional.conv3d)[len(window_strides) - 1]
    kernel = weights.permute(*dimension_numbers.rhs_spec)
    y = run(x, kernel, stride=window_strides, dilation=rhs_dilation, groups=feature_group_count)
    return y.permute(*(dimension_numbers.out_spec.index(i) for i in range(y.dim())))


def _window(pool: Callable[..., Tensor], fill: float) -> Callable[..., Tensor]:
    """A window over at most two dimensions, whichever they are, of a tensor with `fill` around it."""

    def run(x: Tensor, *, window_dimensions: Any, window_strides: Any, padding: Any, **dilation: Any) -> Tensor:
        slid = [i for i in range(x.dim()) if window_dimensions[i] > 1 or window_strides[i] > 1]
        if len(slid) > 2 or {*dilation["base_dilation"], *dilation["window_dilation"]} != {1}:
            raise Unreadable("a window over many dimensions, or with gaps")
        slid = slid + [i for i in reversed(range(x.dim())) if i not in slid][: 2 - len(slid)]
        order = [i for i in range(x.dim()) if i not in slid] + slid
        wide = _pad(x, fill, [(low, high, 0) for low, high in padding]).permute(*order)
        kernel, stride = ([sizes[i] for i in slid] for sizes in (window_dimensions, window_strides))
        flat = wide.reshape(-1, 1, *wide.shape[-2:])
        y = pool(flat, kernel, stride)
        return y.reshape(*wide.shape[:-2], *y.shape[-2:]).permute(*(order.index(i) for i in range(x.dim())))

    return run


def _gather(x: Tensor, indices: Tensor, dimension_numbers: Any, slice_sizes: Any, **_: Any) -> Tensor:
    """Whole slices by their place along one axis (`take`), and single numbers of every row (`take_along_axis`)."""
    d = dimension_numbers
    axis, *more = d.start_index_map
    batch = tuple(d.operand_batching_dims)
    rest = [i for i in range(x.dim()) if i != axis and i not in batch]
    kept = axis not in d.collapsed_slice_dims
    if more or slice_sizes[axis] != 1 or any(slice_sizes[i] != x.shape[i] for i in rest):
        raise Unreadable("gather in blocks")
    place = indices[..., 0].long().clamp(0, x.shape[axis] - 1)
    if not batch:
        found = x.movedim(axis, 0)[place]
        found = found.unsqueeze(place.dim() + axis) if kept else found
        others = [i for i in range(found.dim()) if i not in d.offset_dims]
        return found.permute(*((others + list(d.offset_dims)).index(i) for i in range(found.dim())))
    if rest or kept or not tuple(d.start_indices_batching_dims) == batch == tuple(range(len(batch))):
        raise Unreadable("gather in batches of blocks")
    flat = place.reshape(*place.shape[: len(batch)], -1)
    return torch.take_along_dim(x, flat, axis).reshape(place.shape)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers that has no settings but for precision."""
    return lambda *given, **_: function(*given)


def _of_tensors(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given, **_: function(*(_tensor(one) for one in given))


NAMESAKES = (
    *("abs", "sign", "floor", "ceil", "square", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "atan2"),
    *("erf", "erfc", "lgamma", "digamma"),
)

OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: _of_tensors(getattr(torch, name)) for name in NAMESAKES},
    **{name: _plain(getattr(operator, name)) for name in ("add", "sub", "mul", "neg")},
    **{name: _plain(getattr(operator, name)) for name in ("eq", "ne", "gt", "ge", "lt", "le")},
    "add_any": _plain(operator.add),
    "logistic": _of_tensors(torch.sigmoid),
    "erf_inv": _of_tensors(torch.erfinv),
    "cbrt": lambda x, **_: x.sign() * x.abs() ** (1 / 3),
    "is_finite": _of_tensors(torch.isfinite),
    "rem": _of_tensors(torch.fmod),
    "pow": _plain(operator.pow),
    "integer_pow": lambda x, y, **_: x**y,
    "div": _div,
    "max": _max,
    "min": _min,
    "clamp": lambda low, x, high, **_: x.clamp(min=low, max=high),
    "round": _round,
    "and": _logical(torch.logical_and, torch.bitwise_and),
    "or": _logical(torch.logical_or, torch.bitwise_or),
    "xor": _logical(torch.logical_xor, torch.bitwise_xor),
    "not": _logical(torch.logical_not, torch.bitwise_not),
    "select_n": _select,
    "convert_element_type": _convert,
    "stop_gradient": lambda x, **_: x.detach() if isinstance(x, Tensor) else x,
    "copy": _plain(lambda x: x),
    "copy_p": _plain(lambda x: x),
    "reshape": lambda x, new_sizes, **_: _tensor(x).reshape(tuple(new_sizes)),
    "squeeze": lambda x, dimensions, **_: x.squeeze(tuple(dimensions)),
    "transpose": lambda x, permutation, **_: x.permute(*permutation),
    "rev": lambda x, dimensions, **_: x.flip(tuple(dimensions)),
    "broadcast_in_dim": _broadcast,
    "concatenate": lambda *given, dimension, **_: torch.cat(given, dimension),
    "split": lambda x, sizes, axis, **_: torch.split(x, list(sizes), axis),
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "iota": _iota,
    "argmax": _best(torch.argmax),
    "argmin": _best(torch.argmin),
    "sort": _sort,
    "top_k": _top_k,
    "reduce_sum": _over(torch.sum),
    "reduce_max": _over(torch.amax),
    "reduce_min": _over(torch.amin),
    "reduce_prod": _over(_prod),
    "reduce_and": _over(torch.all),
    "reduce_or": _over(torch.any),
    "cumsum": _along(torch.cumsum),
    "cumprod": _along(torch.cumprod),
    "cumlogsumexp": _along(torch.logcumsumexp),
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reduce_window_sum": _window(lambda x, size, by: functional.avg_pool2d(x, size, by, divisor_override=1), 0.0),
    "reduce_window_max": _window(functional.max_pool2d, -math.inf),
    "reduce_window_min": _window(lambda x, size, by: -functional.max_pool2d(-x, size, by), math.inf),
    "jit": _jit,
    "pjit": _jit,
    "closed_call": lambda *given, call_jaxpr, **_: _inner(*given, jaxpr=call_jaxpr),
    "checkpoint": _remat,
    "remat2": _remat,
    "custom_jvp_call": _derived,
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
"""By the name of a primitive of JAX, what torch does in its place."""
