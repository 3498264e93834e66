"""TensorFlow graphs, run by torch operation by operation, so that views and checks see what happens inside.

What a TensorFlow function does is a graph of some hundred kinds of operations, the usual ones of which torch has as
well. TensorFlow itself stays the judge: a graph that says anything else here is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import require
from sparring.models.bridge import Unreadable, moved

Values = dict[str, Any]
"""What was computed, by the name of a tensor in the graph."""

Attribute = Callable[[str], Any]


@dataclass(frozen=True)
class Plan:
    """A graph, or a function in one: what goes in, each operation with its inputs and outputs, and what comes out."""

    inputs: tuple[str, ...]
    steps: tuple[tuple[Any, tuple[str, ...], tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    constants: Values

    @staticmethod
    def of(graph: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Plan:
        """The plan of a graph of TensorFlow, whose operations stand in an order in which they can be run."""
        operations = [operation for operation in graph.get_operations() if operation.outputs]
        return Plan(
            inputs=_names(inputs),
            steps=tuple(
                (operation, _names(operation.inputs), _names(operation.outputs))
                for operation in operations
                if operation.type not in ("Const", "Placeholder")
            ),
            outputs=_names(outputs),
            constants={one.outputs[0].name: _constant(one) for one in operations if one.type == "Const"},
        )


class Graph:
    """The graph of a concrete function of TensorFlow with one input, its variables as they are now.

    Raises:
        Unreadable: when called, if it holds an operation that torch cannot run.

    """

    def __init__(self, concrete: Any) -> None:
        freezing = require("tensorflow.python.framework.convert_to_constants", "tensorflow")
        graphs = require("tensorflow.python.framework.function_def_to_graph", "tensorflow")
        frozen = freezing.convert_variables_to_constants_v2(concrete, lower_control_flow=False)
        library = frozen.graph.as_graph_def().library.function
        parts = {one.signature.name: graphs.function_def_to_graph(one) for one in library}
        self.whole = Plan.of(frozen.graph, frozen.inputs, frozen.outputs)
        self.parts = {name: Plan.of(part, part.inputs, part.outputs) for name, part in parts.items()}

    def __call__(self, x: Tensor) -> Tensor:
        """What it gives back."""
        with nullcontext() if x.device.type == "cpu" else x.device:
            (outputs,) = self._run(self.whole, [x], x.device)
        return outputs  # type: ignore[no-any-return]

    def _run(self, plan: Plan, given: Sequence[Any], device: torch.device) -> list[Any]:
        values = {name: moved(value, device) for name, value in plan.constants.items()}
        values.update(zip(plan.inputs, given, strict=True))
        for operation, ins, outs in plan.steps:
            found = self._outputs(operation, [values[name] for name in ins], device)
            values.update(zip(outs, found, strict=False))
        return [values[name] for name in plan.outputs]

    def _outputs(self, operation: Any, given: list[Any], device: torch.device) -> Sequence[Any]:
        def part(which: str, given: Sequence[Any]) -> list[Any]:
            return self._run(self.parts[operation.get_attr(which).name], given, device)

        match operation.type:
            case "If" | "StatelessIf":
                return part("then_branch" if bool(given[0].item()) else "else_branch", given[1:])
            case "While" | "StatelessWhile":
                while bool(part("cond", given)[0].item()):
                    given = part("body", given)
                return given
            case kind if kind in OPERATIONS:
                found = OPERATIONS[kind](operation.get_attr, *given)
                return found if kind in SEVERAL else [found]
            case kind:
                raise Unreadable(kind)


def _names(tensors: Sequence[Any]) -> tuple[str, ...]:
    return tuple(one.name for one in tensors)


def _constant(operation: Any) -> Any:
    value = require("tensorflow", "tensorflow").make_ndarray(operation.get_attr("value"))
    return torch.tensor(value) if value.dtype.kind in "fiub" else value


def _ints(value: Tensor) -> list[int]:
    """Sizes and places of dimensions, which are nobody's choice."""
    with torch._C.DisableTorchFunction():
        return [int(one) for one in value.flatten().tolist()]


def _dtype(kind: Any) -> torch.dtype:
    found = getattr(torch, str(kind.name), None)
    if not isinstance(found, torch.dtype):
        raise Unreadable(f"numbers of type {kind.name}")
    return found


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function without settings."""
    return lambda _, *given: function(*given)


def _channels(get: Attribute, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The same images with channels first, and how to put them back."""
    if get("data_format") == b"NCHW":
        return x, lambda y: y
    return x.permute(0, 3, 1, 2), lambda y: y.permute(0, 2, 3, 1)


def _spatial(get: Attribute, name: str) -> list[int]:
    sizes = list(get(name))
    return sizes[2:] if get("data_format") == b"NCHW" else sizes[1:3]


def _around(get: Attribute, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """What is put around images before a window slides over them, as `functional.pad` takes it."""
    if get("padding") == b"EXPLICIT":
        ends = list(get("explicit_paddings"))
        low_high = ends[4:8] if get("data_format") == b"NCHW" else ends[2:6]
        return [*low_high[2:], *low_high[:2]]
    if get("padding") == b"VALID":
        return [0, 0, 0, 0]
    need = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, kernel, stride, strict=True)]
    return [end for one in reversed(need) for end in (one // 2, one - one // 2)]


def _conv(get: Attribute, x: Tensor, weights: Tensor) -> Tensor:
    x, back = _channels(get, x)
    stride, dilation = _spatial(get, "strides"), _spatial(get, "dilations")
    kernel = weights.permute(3, 2, 0, 1)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True)]
    x = functional.pad(x, _around(get, x.shape[2:], reach, stride))
    groups = x.shape[1] // kernel.shape[1]
    return back(functional.conv2d(x, kernel, stride=stride, dilation=dilation, groups=groups))


def _depthwise(get: Attribute, x: Tensor, weights: Tensor) -> Tensor:
    height, width, channels, times = weights.shape
    x, back = _channels(get, x)
    stride, dilation = _spatial(get, "strides"), _spatial(get, "dilations")
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, (height, width), strict=True)]
    x = functional.pad(x, _around(get, x.shape[2:], reach, stride))
    kernel = weights.permute(2, 3, 0, 1).reshape(channels * times, 1, height, width)
    return back(functional.conv2d(x, kernel, stride=stride, dilation=dilation, groups=channels))


def _transposed_conv(get: Attribute, sizes: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The gradient of a convolution: all that the window reaches, cut to the size of what it would have slid over."""
    x, back = _channels(get, x)
    stride, dilation = _spatial(get, "strides"), _spatial(get, "dilations")
    if get("padding") == b"EXPLICIT":
        raise Unreadable("a transposed convolution in a frame")
    y = functional.conv_transpose2d(x, weights.permute(3, 2, 0, 1), stride=stride, dilation=dilation)
    wanted = _ints(sizes)[2:] if get("data_format") == b"NCHW" else _ints(sizes)[1:3]
    over = [n - size for n, size in zip(y.shape[2:], wanted, strict=True)]
    low = [max(one, 0) // 2 if get("padding") == b"SAME" else 0 for one in over]
    ends = [[-first, first - one] for one, first in zip(over, low, strict=True)]
    return back(functional.pad(y, [*ends[1], *ends[0]]))


def _resized(mode: str) -> Callable[..., Tensor]:
    def run(get: Attribute, x: Tensor, size: Tensor) -> Tensor:
        if not get("half_pixel_centers"):
            raise Unreadable("images resized from their corners")
        return functional.interpolate(x.permute(0, 3, 1, 2), _ints(size), mode=mode).permute(0, 2, 3, 1)

    return run


def _max_pool(get: Attribute, x: Tensor) -> Tensor:
    x, back = _channels(get, x)
    size, stride = _spatial(get, "ksize"), _spatial(get, "strides")
    around = _around(get, x.shape[2:], size, stride)
    x = functional.pad(x, around, value=-math.inf) if any(around) else x
    return back(functional.max_pool2d(x, size, stride))


def _avg_pool(get: Attribute, x: Tensor) -> Tensor:
    """The mean of what is there: the frame around the image is not counted."""
    x, back = _channels(get, x)
    size, stride = _spatial(get, "ksize"), _spatial(get, "strides")
    around = _around(get, x.shape[2:], size, stride)
    if not any(around):
        return back(functional.avg_pool2d(x, size, stride))
    sums, counts = (
        functional.avg_pool2d(functional.pad(one, around), size, stride) for one in (x, torch.ones_like(x[:1, :1]))
    )
    return back(sums / counts)


def _batch_norm(get: Attribute, x: Tensor, *given: Tensor) -> list[Any]:
    scale, shift, mean, variance = given
    if get("is_training"):
        raise Unreadable("batch normalisation in training")
    x, back = _channels(get, x)
    y = functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=get("epsilon"))
    return [back(y), mean, variance, mean, variance, mean]


def _bias(get: Attribute, x: Tensor, bias: Tensor) -> Tensor:
    first = get("data_format") == b"NCHW" and x.dim() > 2
    return x + (bias.reshape(-1, *[1] * (x.dim() - 2)) if first else bias)


def _matmul(get: Attribute, x: Tensor, y: Tensor) -> Tensor:
    return (x.mT if get("transpose_a") else x) @ (y.mT if get("transpose_b") else y)


def _batch_matmul(get: Attribute, x: Tensor, y: Tensor) -> Tensor:
    return (x.mT if get("adj_x") else x) @ (y.mT if get("adj_y") else y)


def _over(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function over several dimensions."""

    def run(get: Attribute, x: Tensor, axes: Tensor) -> Tensor:
        dims = tuple(_ints(axes))
        return reduce(x, dim=dims, keepdim=get("keep_dims")) if dims else x

    return run


def _prod(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    for one in sorted((d % x.dim() for d in dim), reverse=True):
        x = x.prod(one, keepdim=keepdim)
    return x


def _strided_slice(get: Attribute, x: Tensor, begin: Tensor, end: Tensor, strides: Tensor) -> Tensor:
    masks = {name: int(get(f"{name}_mask")) for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
    index: list[Any] = []
    for i, (first, last, step) in enumerate(zip(_ints(begin), _ints(end), _ints(strides), strict=True)):
        on = {name: bool(mask >> i & 1) for name, mask in masks.items()}
        if on["ellipsis"]:
            index.append(Ellipsis)
        elif on["new_axis"]:
            index.append(None)
        elif on["shrink_axis"]:
            index.append(first)
        else:
            index.append(slice(None if on["begin"] else first, None if on["end"] else last, step))
    if not any(isinstance(one, slice) and one.step < 0 for one in index):
        return x[tuple(index)]
    if any(one is None or one is Ellipsis for one in index):
        raise Unreadable("slices backwards beside new dimensions")
    for i, one in enumerate(index):
        if isinstance(one, slice) and one.step < 0:
            with torch._C.DisableTorchFunction():
                places = torch.tensor(range(x.shape[i])[one], device=x.device)
            x = x.index_select(i, places)
            index[i] = slice(None)
    return x[tuple(index)]


def _slice(_: Attribute, x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    spans = zip(_ints(begin), _ints(size), strict=True)
    return x[tuple(slice(first, None if n < 0 else first + n) for first, n in spans)]


def _pad(_: Attribute, x: Tensor, ends: Tensor, value: Tensor | float = 0.0) -> Tensor:
    around = _ints(ends)
    pairs = [around[i : i + 2] for i in range(0, len(around), 2)]
    with torch._C.DisableTorchFunction():
        fill = float(value)
    return functional.pad(x, [end for pair in reversed(pairs) for end in pair], value=fill)


def _gather(get: Attribute, x: Tensor, places: Tensor, axis: Tensor) -> Tensor:
    (dim,) = _ints(axis)
    if get("batch_dims"):
        raise Unreadable("gather in batches")
    found = x.movedim(dim, 0)[places.long()]
    dim %= x.dim()
    order = [*range(places.dim(), places.dim() + dim), *range(places.dim()), *range(places.dim() + dim, found.dim())]
    return found.permute(*order)


def _one_hot(get: Attribute, places: Tensor, depth: Tensor, on: Tensor, off: Tensor) -> Tensor:
    if get("axis") != -1:
        raise Unreadable("one-hot along another dimension")
    (count,) = _ints(depth)
    return torch.where(places.unsqueeze(-1) == torch.arange(count, device=places.device), on, off)


def _top_k(_: Attribute, x: Tensor, k: Tensor) -> list[Tensor]:
    values, places = torch.topk(x, _ints(k)[0], dim=-1)
    return [values, places.to(torch.int32)]


def _cumulated(cumulate: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def run(get: Attribute, x: Tensor, axis: Tensor) -> Tensor:
        if get("exclusive"):
            raise Unreadable("cumulated without the last")
        (dim,) = _ints(axis)
        return cumulate(x.flip(dim), dim).flip(dim) if get("reverse") else cumulate(x, dim)

    return run


def _best(first: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda get, x, axis: first(x, dim=_ints(axis)[0]).to(_dtype(get("output_type")))


def _div(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() or y.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _squeeze(get: Attribute, x: Tensor) -> Tensor:
    dims = tuple(get("squeeze_dims"))
    return x.squeeze(dims) if dims else x.squeeze()


def _split(get: Attribute, axis: Tensor, x: Tensor) -> list[Tensor]:
    (dim,) = _ints(axis)
    return list(torch.split(x, x.shape[dim] // get("num_split"), dim))


def _concat(_: Attribute, *given: Tensor) -> Tensor:
    *parts, axis = given
    return torch.cat(parts, _ints(axis)[0])


SPELT_ALIKE = (
    *("Abs", "Neg", "Sign", "Square", "Sqrt", "Rsqrt", "Exp", "Expm1", "Log", "Log1p", "Pow", "Sin", "Cos", "Tanh"),
    *("Sigmoid", "Relu", "Erf", "Erfc", "Ceil", "Floor", "Maximum", "Minimum", "Mul", "Sub"),
)

NAMESAKES = {
    **dict.fromkeys(["Add", "AddV2"], torch.add),
    **dict.fromkeys(["Round", "Rint"], torch.round),
    **dict.fromkeys(["Identity", "Snapshot", "PreventGradient"], lambda x: x),
    **dict.fromkeys(["Select", "SelectV2"], torch.where),
    **dict.fromkeys(["RealDiv", "Div"], _div),
    **{name: getattr(torch, name.lower()) for name in SPELT_ALIKE},
    "Greater": torch.gt,
    "GreaterEqual": torch.ge,
    "Less": torch.lt,
    "LessEqual": torch.le,
    "LogicalAnd": torch.logical_and,
    "LogicalOr": torch.logical_or,
    "LogicalNot": torch.logical_not,
    "FloorMod": torch.remainder,
    "FloorDiv": torch.floor_divide,
    "SquaredDifference": lambda x, y: (x - y).square(),
    "Relu6": functional.relu6,
    "Elu": functional.elu,
    "Selu": functional.selu,
    "Softplus": functional.softplus,
    "Softsign": functional.softsign,
    "ClipByValue": torch.clamp,
    "StopGradient": lambda x: x.detach(),
    "ZerosLike": torch.zeros_like,
    "OnesLike": torch.ones_like,
}
"""Operations without settings, by the functions of torch that do the same."""

SEVERAL = frozenset({"IdentityN", "FusedBatchNormV3", "TopKV2", "Unpack", "Split", "SplitV"})
"""Operations with several outputs."""

OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{name: _plain(function) for name, function in NAMESAKES.items()},
    "Equal": lambda _, x, y: x == y,
    "NotEqual": lambda _, x, y: x != y,
    "AddN": lambda _, *given: sum(given[1:], given[0]),
    "IdentityN": lambda _, *given: list(given),
    "LeakyRelu": lambda get, x: functional.leaky_relu(x, get("alpha")),
    "Softmax": lambda _, x: x.softmax(-1),
    "LogSoftmax": lambda _, x: x.log_softmax(-1),
    "Cast": lambda get, x: x.to(_dtype(get("DstT"))),
    "Conv2D": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed_conv,
    "ResizeBilinear": _resized("bilinear"),
    "ResizeNearestNeighbor": _resized("nearest-exact"),
    "MaxPool": _max_pool,
    "AvgPool": _avg_pool,
    "FusedBatchNormV3": _batch_norm,
    "BiasAdd": _bias,
    "MatMul": _matmul,
    **dict.fromkeys(["BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"], _batch_matmul),
    "Einsum": lambda get, *given: torch.einsum(get("equation").decode(), *given),
    "Sum": _over(torch.sum),
    "Mean": _over(torch.mean),
    "Max": _over(torch.amax),
    "Min": _over(torch.amin),
    "Prod": _over(_prod),
    "All": _over(torch.all),
    "Any": _over(torch.any),
    "ArgMax": _best(torch.argmax),
    "ArgMin": _best(torch.argmin),
    "TopKV2": _top_k,
    "Cumsum": _cumulated(torch.cumsum),
    "Cumprod": _cumulated(torch.cumprod),
    "Reshape": lambda _, x, shape: x.reshape(_ints(shape)),
    "Transpose": lambda _, x, order: x.permute(*_ints(order)),
    "Squeeze": _squeeze,
    "ExpandDims": lambda _, x, axis: x.unsqueeze(_ints(axis)[0]),
    "ConcatV2": _concat,
    "Pack": lambda get, *given: torch.stack(given, get("axis")),
    "Unpack": lambda get, x: list(torch.unbind(x, get("axis"))),
    "Split": _split,
    "SplitV": lambda _, x, sizes, axis: list(torch.split(x, _ints(sizes), _ints(axis)[0])),
    "StridedSlice": _strided_slice,
    "Slice": _slice,
    **dict.fromkeys(["Pad", "PadV2"], _pad),
    "Tile": lambda _, x, times: x.repeat(*_ints(times)),
    "BroadcastTo": lambda _, x, shape: x.expand(_ints(shape)),
    "BroadcastArgs": lambda _, a, b: torch.tensor(np.broadcast_shapes(_ints(a), _ints(b)), dtype=a.dtype),
    "Fill": lambda _, shape, value: value.expand(_ints(shape)),
    "ReverseV2": lambda _, x, axes: x.flip(_ints(axes)),
    "GatherV2": _gather,
    "OneHot": _one_hot,
    "TensorListReserve": lambda _, shape, count: [None] * _ints(count)[0],
    "TensorListFromTensor": lambda _, x, shape: list(x.unbind(0)),
    "TensorListGetItem": lambda _, parts, place, shape: parts[_ints(place)[0]],
    "TensorListSetItem": lambda _, parts, place, x: [*parts[: (i := _ints(place)[0])], x, *parts[i + 1 :]],
    "TensorListStack": lambda _, parts, shape: torch.stack(parts),
    "Shape": lambda get, x: torch.tensor(list(x.shape), dtype=_dtype(get("out_type"))),
    "Rank": lambda _, x: torch.tensor(x.dim(), dtype=torch.int32),
    "Size": lambda get, x: torch.tensor(x.numel(), dtype=_dtype(get("out_type"))),
    "Range": lambda _, *ends: torch.arange(*(one.item() for one in ends), dtype=ends[0].dtype),
}
"""By the kind of an operation of TensorFlow, what torch does in its place; handed its settings first."""
