"""ONNX operators as torch layers and functions, opsets 7 to 21 and what did not change since.

Where the operator is a layer, it becomes the layer of `torch.nn`; elsewhere functions of torch. Uses that a translation
does not cover raise `Missing`; whether the rest is right is judged against onnxruntime, operator by operator in the
tests and for every file when it is loaded.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.models.onnx_recorder import Missing, Op, Recorder, Value

T = TypeVar("T", bound=nn.Module)
Handler = Callable[..., Value | tuple[Value, ...]]
H = TypeVar("H", bound=Handler)
OPERATORS: dict[str, Handler] = {}
"""The operators covered, by their ONNX name; those of other domains than ONNX's own with it."""


def translates(*kinds: str) -> Callable[[H], H]:
    """Enter a translation `(recorder, op, *inputs) -> value or values`; inputs left out are None."""

    def enter(handler: H) -> H:
        OPERATORS.update(dict.fromkeys(kinds, handler))
        return handler

    return enter


def kept(tensor: Any, name: str = "") -> Value:
    """Read a tensor of the file."""
    import onnx

    try:
        value = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
    except TypeError:
        raise Missing(f"the number type of {tensor.name or 'a constant'} is not covered") from None
    return Value(None, (value, value), name)


def ints(r: Recorder, value: Value) -> list[int | Value]:
    """Return the whole numbers of a value; the ones that depend on the batch size stay values."""
    if not value.known:
        raise Missing("a shape computed from the input is not covered")
    pairs = zip(*(seen.flatten().tolist() for seen in value.seen), strict=True)
    return [one if one == two else Value(None, (one, two)) for one, two in pairs]


def static(op: Op, value: Value) -> list[int]:
    """Return the whole numbers of a constant."""
    if not value.constant:
        raise op.lacks("a computed setting")
    return [int(number) for number in value.seen[0].flatten().tolist()]


def tensor_of(op: Op, value: Value) -> Tensor:
    """Return a constant tensor."""
    if not value.constant:
        raise op.lacks("a computed setting")
    return value.seen[0]  # type: ignore[no-any-return]


def number(value: Value) -> Any:
    """Write a constant scalar as a Python number, which reads better in the graph."""
    return value.seen[0].item() if value.constant and value.rank == 0 else value


def filled_up(rest: tuple[Value | None, ...], count: int) -> list[Value | None]:
    """Return the optional inputs, None where the file leaves the last ones out."""
    return [*rest, *([None] * (count - len(rest)))]


def setting(op: Op, name: str, value: Value | None, otherwise: Any = None) -> list[int] | None:
    """Read whole numbers that are an attribute in early opsets and an input in later ones."""
    if value is not None:
        return static(op, value)
    given = op.get(name, otherwise)
    return None if given is None else [int(entry) for entry in given]


def dims(one: Sequence[int], two: Sequence[int]) -> tuple[Any, ...]:
    """Write the sizes of a reshape: -1 for the one that depends on the batch size."""
    differs = [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    if len(differs) == 1 and 0 not in one:
        return tuple(-1 if i == differs[0] else size for i, size in enumerate(one))
    return tuple(a if a == b else Value(None, (a, b)) for a, b in zip(one, two, strict=True))


# --- layers without weights, and arithmetic

LAYERS: dict[str, Callable[[Op], nn.Module]] = {
    "Relu": lambda op: nn.ReLU(),
    "LeakyRelu": lambda op: nn.LeakyReLU(op.get("alpha", 0.01)),
    "Elu": lambda op: nn.ELU(op.get("alpha", 1.0)),
    "Celu": lambda op: nn.CELU(op.get("alpha", 1.0)),
    "Gelu": lambda op: nn.GELU(op.get("approximate", "none")),
    "HardSwish": lambda op: nn.Hardswish(),
    "Mish": lambda op: nn.Mish(),
    "Sigmoid": lambda op: nn.Sigmoid(),
    "Tanh": lambda op: nn.Tanh(),
    "Softplus": lambda op: nn.Softplus(),
    "Softsign": lambda op: nn.Softsign(),
    "ThresholdedRelu": lambda op: nn.Threshold(op.get("alpha", 1.0), 0.0),
}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "And": torch.logical_and,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "IsInf": torch.isinf,
    "IsNaN": torch.isnan,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Where": torch.where,
    "Xor": torch.logical_xor,
}

ARITHMETIC: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "Pow": operator.pow,
}


@translates(*LAYERS)
def activation(r: Recorder, op: Op, x: Value) -> Value:
    """Activations that are layers in torch."""
    return r.layer(LAYERS[op.kind](op), x, op)


@translates(*FUNCTIONS)
def elementwise(r: Recorder, op: Op, *x: Value) -> Value:
    """Functions that are one function in torch."""
    if op.kind == "IsInf" and not (op.get("detect_negative", 1) and op.get("detect_positive", 1)):
        raise op.lacks("one sign")
    return r.call(FUNCTIONS[op.kind], *x)


@translates(*ARITHMETIC)
def arithmetic(r: Recorder, op: Op, a: Value, b: Value) -> Value:
    """Arithmetic by numpy's rules; a bias added to a linear layer that nothing else reads becomes its bias."""
    whole = not a.seen[0].is_floating_point()
    if op.kind == "Add":
        merged = with_bias(r, a, b, op.uses[0]) or with_bias(r, b, a, op.uses[1])
        if merged is not None:
            return merged
    if op.kind == "Div" and whole:  # ONNX divides whole numbers towards zero
        return r.call(torch.div, a, b, rounding_mode="trunc")
    if op.kind == "Pow" and a.seen[0].dtype != b.seen[0].dtype:  # the type of the base is the type of the result
        return r.method("to", r.call(torch.pow, a, number(b)), a.seen[0].dtype)
    if a.known and b.known:
        return r.call(ARITHMETIC[op.kind], a, b)
    return r.call(ARITHMETIC[op.kind], number(a), number(b))


def with_bias(r: Recorder, x: Value, bias: Value, uses: int) -> Value | None:
    """Give the linear layer that made `x` its bias, where it has none and nothing else reads `x`."""
    if x.node is None or x.node.op != "call_module" or uses != 1 or not bias.constant:
        return None
    layer, shift = r.root.get_submodule(str(x.node.target)), bias.seen[0]
    if not isinstance(layer, nn.Linear) or len(list(layer.parameters())) == 2:
        return None
    if shift.ndim > x.rank or shift.shape[-1:] != (layer.out_features,) or shift.numel() != layer.out_features:
        return None
    layer.bias = nn.Parameter(shift.flatten().clone())
    return replace(x, seen=(x.seen[0] + shift, x.seen[1] + shift))


@translates("Max", "Min", "Sum", "Mean")
def variadic(r: Recorder, op: Op, *x: Value) -> Value:
    """The largest, smallest, sum or mean of several tensors."""
    pair = {"Max": torch.maximum, "Min": torch.minimum, "Sum": operator.add, "Mean": operator.add}[op.kind]
    total = reduce(lambda a, b: r.call(pair, a, b), x)
    return r.call(operator.truediv, total, len(x)) if op.kind == "Mean" else total


@translates("Mod")
def mod(r: Recorder, op: Op, a: Value, b: Value) -> Value:
    """The remainder, with the sign of the divisor or (fmod) of the dividend."""
    return r.call(torch.fmod if op.get("fmod", 0) else torch.remainder, a, b)


@translates("Identity", "Dropout")
def identity(r: Recorder, op: Op, x: Value, *rest: Value | None) -> Value:
    """Nothing, in inference."""
    training = rest[1] if len(rest) > 1 else None
    if training is not None and any(static(op, training)):
        raise op.lacks("training mode")
    return x


@translates("Selu")
def selu(r: Recorder, op: Op, x: Value) -> Value:
    """SELU, with its own constants or others."""
    alpha, gamma = op.get("alpha", 1.6732632), op.get("gamma", 1.0507010)
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return r.layer(nn.SELU(), x, op)
    return r.call(operator.mul, r.call(F.elu, x, alpha), gamma)


@translates("HardSigmoid")
def hard_sigmoid(r: Recorder, op: Op, x: Value) -> Value:
    """A line between 0 and 1; torch's has slope 1/6."""
    alpha, beta = op.get("alpha", 0.2), op.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return r.layer(nn.Hardsigmoid(), x, op)
    return r.call(torch.clamp, r.call(operator.add, r.call(operator.mul, x, alpha), beta), 0.0, 1.0)


@translates("PRelu")
def prelu(r: Recorder, op: Op, x: Value, slope: Value) -> Value:
    """A learned slope below zero."""
    if slope.constant:
        weight = slope.seen[0]
        per_channel = x.rank >= 2 and list(weight.shape) == [x.shape[1], *[1] * (x.rank - 2)]
        if weight.numel() == 1 or per_channel:
            layer = nn.PReLU(weight.numel())
            layer.weight = nn.Parameter(weight.flatten().clone())
            return r.layer(layer, x, op)
    return r.call(torch.where, r.call(operator.ge, x, 0), x, r.call(operator.mul, x, slope))


@translates("Clip")
def clip(r: Recorder, op: Op, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """Between two bounds."""
    bounds = [number(b) if b is not None else op.get(n) for b, n in ((low, "min"), (high, "max"))]
    if bounds == [0.0, 6.0]:
        return r.layer(nn.ReLU6(), x, op)
    return x if bounds == [None, None] else r.call(torch.clamp, x, *bounds)


@translates("Softmax", "LogSoftmax")
def softmax(r: Recorder, op: Op, x: Value) -> Value:
    """Softmax along an axis; before opset 13 over everything from that axis on."""
    kind = nn.Softmax if op.kind == "Softmax" else nn.LogSoftmax
    axis = op.get("axis", -1 if op.opset >= 13 else 1) % x.rank
    if op.opset >= 13 or axis == x.rank - 1:
        return r.layer(kind(axis), x, op)
    flat = r.layer(kind(axis), r.call(torch.flatten, x, axis), op)
    return r.call(torch.reshape, flat, dims(*(seen.shape for seen in x.seen)))


@translates("Cast", "CastLike")
def cast(r: Recorder, op: Op, x: Value, like: Value | None = None) -> Value:
    """Another number type."""
    import onnx

    if like is not None:
        dtype = like.seen[0].dtype
    else:
        try:
            dtype = torch.from_numpy(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(op.get("to")))).dtype
        except (TypeError, KeyError):
            raise op.lacks(f"type {op.get('to')}") from None
    return x if x.seen[0].dtype == dtype else r.method("to", x, dtype)


# --- layers with weights


@translates("Gemm")
def gemm(r: Recorder, op: Op, a: Value, b: Value, c: Value | None = None) -> Value:
    """`alpha A B + beta C`, a linear layer where B and C are weights."""
    alpha, beta = op.get("alpha", 1.0), op.get("beta", 1.0)
    if op.get("transA", 0):
        a = r.call(torch.transpose, a, 0, 1)
    if b.constant and (
        c is None or (c.constant and c.seen[0].numel() in {1, b.shape[0 if op.get("transB", 0) else 1]})
    ):
        weight = b.seen[0] if op.get("transB", 0) else b.seen[0].T
        bias = None if c is None else (beta * c.seen[0]).expand(1, weight.shape[0]).flatten()
        return r.layer(linear(alpha * weight, bias), a, op)
    b = r.call(torch.transpose, b, 0, 1) if op.get("transB", 0) else b
    y = r.call(torch.matmul, a, b)
    y = y if alpha == 1 else r.call(operator.mul, y, alpha)
    if c is None:
        return y
    return r.call(operator.add, y, c if beta == 1 else r.call(operator.mul, c, beta))


@translates("MatMul")
def matmul(r: Recorder, op: Op, a: Value, b: Value) -> Value:
    """A linear layer where the right side is a matrix of weights."""
    if b.constant and b.rank == 2 and not a.known:
        return r.layer(linear(b.seen[0].T, None), a, op)
    return r.call(torch.matmul, a, b)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a layer of `(outputs, inputs)` weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    return filled(layer, weight, bias)


def filled(layer: T, weight: Tensor | None, bias: Tensor | None) -> T:
    """Give a layer its weights."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            setattr(layer, name, nn.Parameter(value.contiguous().clone()))
    return layer


def windows(op: Op, x: Value, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Return strides, dilations, and the padding before and after, of a sliding window."""
    n = len(kernel)
    strides, dilations = list(op.get("strides", [1] * n)), list(op.get("dilations", [1] * n))
    how = op.get("auto_pad", "NOTSET")
    if how == "NOTSET":
        pads = list(op.get("pads", [0] * (2 * n)))
        return strides, dilations, pads[:n], pads[n:]
    if how == "VALID":
        return strides, dilations, [0] * n, [0] * n
    total = [
        max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    return strides, dilations, *halves(total, how)


def halves(total: Sequence[int], how: str) -> tuple[list[int], list[int]]:
    """Return the padding before and after; an odd one is more after in SAME_UPPER, more before elsewhere."""
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return (less, more) if how == "SAME_UPPER" else (more, less)


def amounts(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Write padding as torch takes it: pairs, from the last dimension on."""
    return [amount for pair in reversed(list(zip(before, after, strict=True))) for amount in pair]


def padded(r: Recorder, x: Value, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Value:
    """Pad (or, where negative, crop) the last dimensions."""
    if not any(before) and not any(after):
        return x
    return r.call(F.pad, x, amounts(before, after), value=value)


@translates("Conv")
def conv(r: Recorder, op: Op, x: Value, w: Value, b: Value | None = None) -> Value:
    """Convolution in one to three dimensions."""
    kernel = w.shape[2:]
    n = len(kernel)
    if not 1 <= n <= 3:
        raise op.lacks(f"{n} dimensions")
    strides, dilations, before, after = windows(op, x, kernel)
    if before != after:
        x, before = padded(r, x, before, after), [0] * n
    group = op.get("group", 1)
    if w.constant and (b is None or b.constant):
        weight = w.seen[0]
        layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1](
            weight.shape[1] * group,
            weight.shape[0],
            tuple(kernel),  # type: ignore[arg-type]
            tuple(strides),  # type: ignore[arg-type]
            tuple(before),  # type: ignore[arg-type]
            tuple(dilations),  # type: ignore[arg-type]
            group,
            bias=b is not None,
            dtype=weight.dtype,
        )
        return r.layer(filled(layer, weight, None if b is None else b.seen[0]), x, op)
    return r.call((F.conv1d, F.conv2d, F.conv3d)[n - 1], x, w, b, strides, before, dilations, group)


@translates("ConvTranspose")
def conv_transpose(r: Recorder, op: Op, x: Value, w: Value, b: Value | None = None) -> Value:
    """Transposed convolution in one to three dimensions."""
    kernel = w.shape[2:]
    n = len(kernel)
    if not 1 <= n <= 3 or not w.constant or (b is not None and not b.constant):
        raise op.lacks("computed weights or more than three dimensions")
    strides, dilations = list(op.get("strides", [1] * n)), list(op.get("dilations", [1] * n))
    extra, group = list(op.get("output_padding", [0] * n)), op.get("group", 1)
    how, wanted = op.get("auto_pad", "NOTSET"), op.get("output_shape")
    full = [
        s * (size - 1) + (k - 1) * d + 1 for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]
    if wanted is None and how.startswith("SAME"):
        wanted = [size * s for size, s in zip(x.shape[2:], strides, strict=True)]
    if wanted is None:
        pads = list(op.get("pads", [0] * (2 * n))) if how == "NOTSET" else [0] * (2 * n)
        before, after = pads[:n], pads[n:]
    else:
        total = [max(f + e - size, 0) for f, e, size in zip(full, extra, wanted[-n:], strict=True)]
        before, after = halves(total, how)
    weight = w.seen[0]
    plain = before == after and all(e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    crop = [a - e for a, e in zip(after, extra, strict=True)]
    if not plain and min(crop) < 0:
        raise op.lacks("output padding beyond the last window")
    kind: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[n - 1]
    layer: nn.Module = kind(
        weight.shape[0],
        weight.shape[1] * group,
        tuple(kernel),
        tuple(strides),
        tuple(before) if plain else 0,
        tuple(extra) if plain else 0,
        group,
        b is not None,
        tuple(dilations),
        dtype=weight.dtype,
    )
    y = r.layer(filled(layer, weight, None if b is None else b.seen[0]), x, op)
    return y if plain else padded(r, y, [-a for a in before], [-a for a in crop])


@translates("BatchNormalization")
def batch_norm(r: Recorder, op: Op, x: Value, *parameters: Value) -> Value:
    """Normalisation by stored statistics."""
    if op.get("training_mode", 0) or op.get("spatial", 1) != 1:
        raise op.lacks("training mode")
    parts = [tensor_of(op, parameter) for parameter in parameters]  # scale, shift, mean, variance
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(x.rank)
    if kind is None:
        raise op.lacks(f"{x.rank} dimensions")
    layer = filled(kind(len(parts[0]), op.get("epsilon", 1e-5), dtype=parts[0].dtype), parts[0], parts[1])
    layer.running_mean, layer.running_var = parts[2].clone(), parts[3].clone()
    return r.layer(layer, x, op)


@translates("InstanceNormalization")
def instance_norm(r: Recorder, op: Op, x: Value, scale: Value, shift: Value) -> Value:
    """Normalisation of every channel of every example."""
    weight, bias = tensor_of(op, scale), tensor_of(op, shift)
    kind = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}.get(x.rank)
    if kind is None:
        raise op.lacks(f"{x.rank} dimensions")
    layer = kind(len(weight), op.get("epsilon", 1e-5), affine=True, dtype=weight.dtype)
    return r.layer(filled(layer, weight, bias), x, op)


@translates("LayerNormalization")
def layer_norm(r: Recorder, op: Op, x: Value, scale: Value, shift: Value | None = None) -> Value:
    """Normalisation over everything from an axis on."""
    shape, eps = x.shape[op.get("axis", -1) % x.rank :], op.get("epsilon", 1e-5)
    parts = [scale] if shift is None else [scale, shift]
    if all(part.constant and part.shape == shape for part in parts):
        layer = nn.LayerNorm(shape, eps, bias=shift is not None, dtype=scale.seen[0].dtype)
        return r.layer(filled(layer, scale.seen[0], None if shift is None else shift.seen[0]), x, op)
    y = r.call(operator.mul, r.call(F.layer_norm, x, shape, eps=eps), scale)
    return y if shift is None else r.call(operator.add, y, shift)


@translates("GroupNormalization")
def group_norm(r: Recorder, op: Op, x: Value, scale: Value, shift: Value) -> Value:
    """Normalisation of groups of channels; before opset 21 with one weight a group."""
    groups, channels = op.get("num_groups"), x.shape[1]
    weight, bias = (tensor_of(op, v) for v in (scale, shift))
    if op.opset < 21:
        weight, bias = (t.repeat_interleave(channels // groups) for t in (weight, bias))
    layer = nn.GroupNorm(groups, channels, op.get("epsilon", 1e-5), dtype=weight.dtype)
    return r.layer(filled(layer, weight, bias), x, op)


@translates("LRN")
def local_response_norm(r: Recorder, op: Op, x: Value) -> Value:
    """Normalisation over neighbouring channels, as in AlexNet."""
    size = op.get("size")
    if size % 2 == 0:
        raise op.lacks("an even size")
    return r.layer(nn.LocalResponseNorm(size, op.get("alpha", 1e-4), op.get("beta", 0.75), op.get("bias", 1.0)), x, op)


@translates("LpNormalization")
def lp_norm(r: Recorder, op: Op, x: Value) -> Value:
    """Norm one along an axis; a row of zeros stays zero."""
    return r.call(F.normalize, x, p=op.get("p", 2), dim=op.get("axis", -1), eps=1e-12)


# --- pooling


def pooled(op: Op, x: Value) -> tuple[list[int], list[int], list[int], list[int], list[int], list[int]]:
    """Return kernel, strides, dilations, padding before and after, and what ceil_mode adds after that."""
    kernel = list(op.get("kernel_shape"))
    strides, dilations, before, after = windows(op, x, kernel)
    more = [0] * len(kernel)
    if op.get("ceil_mode", 0):
        for i, (size, k, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
            span = size + before[i] + after[i] - (d * (k - 1) + 1)
            last = -(-span // s)
            if last * s >= size + before[i]:  # a window that starts in the padding is left out
                last -= 1
            more[i] = max(last * s - span, 0)
    return kernel, strides, dilations, before, after, more


@translates("MaxPool")
def max_pool(r: Recorder, op: Op, x: Value) -> Value:
    """The largest of every window."""
    kernel, strides, dilations, before, after, more = pooled(op, x)
    n = len(kernel)
    if before != after or any(more) or any(2 * b > k for b, k in zip(before, kernel, strict=True)):
        x = padded(r, x, before, list(map(operator.add, after, more)), -math.inf)
        before = [0] * n
    kind: Any = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[n - 1]
    return r.layer(kind(tuple(kernel), tuple(strides), tuple(before), tuple(dilations)), x, op)


@translates("AveragePool")
def average_pool(r: Recorder, op: Op, x: Value) -> Value:
    """The mean of every window, padding counted or not."""
    kernel, strides, dilations, before, after, more = pooled(op, x)
    n = len(kernel)
    if any(d != 1 for d in dilations):
        raise op.lacks("dilations")
    kind: Any = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[n - 1]
    counted = bool(op.get("count_include_pad", 0))
    if before == after and not any(more) and all(2 * b <= k for b, k in zip(before, kernel, strict=True)):
        return r.layer(kind(tuple(kernel), tuple(strides), tuple(before), count_include_pad=counted), x, op)
    # The mean over a window with padding is the mean of the padded values divided by the share that counts.
    ends = list(map(operator.add, after, more))
    inside, share = x.shape[2:], amounts(before, ends)
    if counted:
        inside, share = list(map(sum, zip(inside, before, after, strict=True))), amounts([0] * n, more)
    layer = kind(tuple(kernel), tuple(strides))
    factor = 1 / layer(F.pad(torch.ones(1, 1, *inside, dtype=x.seen[0].dtype), share))
    y = r.layer(layer, padded(r, x, before, ends), op)
    return r.call(operator.mul, y, Value(None, (factor, factor)))


@translates("GlobalAveragePool", "GlobalMaxPool")
def global_pool(r: Recorder, op: Op, x: Value) -> Value:
    """One value a channel."""
    if not 3 <= x.rank <= 5:
        raise op.lacks(f"{x.rank} dimensions")
    average = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
    largest = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)
    kind: Any = (average if op.kind == "GlobalAveragePool" else largest)[x.rank - 3]
    return r.layer(kind(1), x, op)


# --- shapes


@translates("Shape")
def shape_of(r: Recorder, op: Op, x: Value) -> Value:
    """The sizes, known while importing."""
    part = slice(op.get("start", 0), op.get("end"))
    first, second = (torch.tensor(list(seen.shape)[part], dtype=torch.int64) for seen in x.seen)
    return Value(None, (first, second))


@translates("Size")
def size_of(r: Recorder, op: Op, x: Value) -> Value:
    """The number of elements, known while importing."""
    first, second = (torch.tensor(seen.numel()) for seen in x.seen)
    return Value(None, (first, second))


@translates("Constant")
def constant(r: Recorder, op: Op) -> Value:
    """A tensor or numbers in the file."""
    if "value" in op.attributes:
        return kept(op.attributes["value"])
    types = {"float": torch.float32, "floats": torch.float32, "int": torch.int64, "ints": torch.int64}
    for kind, dtype in types.items():
        if f"value_{kind}" in op.attributes:
            tensor = torch.tensor(op.attributes[f"value_{kind}"], dtype=dtype)
            return Value(None, (tensor, tensor))
    raise op.lacks("strings or sparse values")


@translates("ConstantOfShape")
def constant_of_shape(r: Recorder, op: Op, shape: Value) -> Value:
    """One number, many times."""
    fill = kept(op.attributes["value"]).seen[0] if "value" in op.attributes else torch.zeros(1, dtype=torch.float32)
    if not shape.known:
        raise op.lacks("a computed shape")
    first, second = (fill.reshape(()).expand(*seen.tolist()).clone() for seen in shape.seen)
    return Value(None, (first, second))


@translates("Range")
def arange(r: Recorder, op: Op, start: Value, limit: Value, delta: Value) -> Value:
    """Numbers at equal distance."""
    return r.call(lambda *ends: torch.arange(*(e.item() for e in ends), dtype=ends[0].dtype), start, limit, delta)


@translates("Reshape")
def reshape(r: Recorder, op: Op, x: Value, shape: Value | None = None) -> Value:
    """The same numbers in another shape; where the file fixes the batch size, freed by its first dimension."""
    if shape is not None and not shape.known:
        raise op.lacks("a shape computed from the input")
    wanted = shape.seen if shape is not None else (torch.tensor(op.get("shape")),) * 2
    one, two = (
        resolved(r, op, want.tolist(), list(seen.shape), batch)
        for want, seen, batch in zip(wanted, x.seen, r.sizes, strict=True)
    )
    return r.call(torch.reshape, x, dims(one, two))


def resolved(r: Recorder, op: Op, wanted: list[int], given: list[int], batch: int) -> list[int]:
    """Return the sizes that a reshape means."""
    if not op.get("allowzero", 0):
        wanted = [given[i] if size == 0 else size for i, size in enumerate(wanted)]
    count = math.prod(given)
    if r.fixed is not None and batch != r.fixed and wanted:
        if -1 in wanted[1:] and wanted[0] == r.fixed and given[0] == batch:
            wanted = [batch, *wanted[1:]]
        elif -1 not in wanted and math.prod(wanted) * batch == count * r.fixed and wanted[0] % r.fixed == 0:
            wanted = [wanted[0] // r.fixed * batch, *wanted[1:]]
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted = [count // rest if size == -1 else size for size in wanted]
    return wanted


@translates("Flatten")
def flatten(r: Recorder, op: Op, x: Value) -> Value:
    """Two dimensions, split at an axis."""
    axis = op.get("axis", 1)
    if axis == 1 and x.rank > 1:
        return r.layer(nn.Flatten(), x, op)
    axis = axis if axis >= 0 else axis + x.rank
    one, two = ([math.prod(seen.shape[:axis]), math.prod(seen.shape[axis:])] for seen in x.seen)
    return r.call(torch.reshape, x, dims(one, two))


@translates("Transpose")
def transpose(r: Recorder, op: Op, x: Value) -> Value:
    """Another order of the dimensions."""
    return r.call(torch.permute, x, tuple(op.get("perm", range(x.rank)[::-1])))


@translates("Concat")
def concat(r: Recorder, op: Op, *x: Value) -> Value:
    """One after another; where the file fixes the batch size at one, a constant row is repeated for every example."""
    axis = op.get("axis") % x[0].rank
    if r.fixed == 1 and axis != 0 and any(not v.known and v.shape[0] == r.sizes[0] for v in x):
        x = tuple(
            r.call(torch.broadcast_to, v, (Value(None, r.sizes), *v.shape[1:])) if v.known and v.shape[0] == 1 else v
            for v in x
        )
    return r.call(torch.cat, list(x), axis)


@translates("Split")
def split(r: Recorder, op: Op, x: Value, sizes: Value | None = None) -> tuple[Value, ...]:
    """In parts along an axis."""
    axis = op.get("axis", 0) % x.rank
    parts = setting(op, "split", sizes)
    if parts is None:
        count, size = op.get("num_outputs", len(op.outputs)), x.shape[axis]
        each = -(-size // count)
        parts = [each] * (count - 1) + [size - each * (count - 1)]
    pieces = r.call(torch.split, x, parts, axis)
    return tuple(r.call(operator.getitem, pieces, i) for i in range(len(parts)))


@translates("Slice")
def slices(r: Recorder, op: Op, x: Value, *rest: Value | None) -> Value:
    """Ranges along axes, backwards too."""
    starts, ends, axes, steps = filled_up(rest, 4)
    if starts is None or ends is None:
        low: list[int | Value] = list(op.get("starts"))
        high: list[int | Value] = list(op.get("ends"))
    else:
        low, high = ints(r, starts), ints(r, ends)
    along = setting(op, "axes", axes) or list(range(len(low)))
    by = static(op, steps) if steps is not None else [1] * len(low)
    index: list[Any] = [slice(None)] * x.rank
    for axis, start, end, step in zip(along, low, high, by, strict=True):
        axis %= x.rank
        if step > 0:
            index[axis] = slice(start, end, step) if step != 1 else slice(start, end)
            continue
        if isinstance(start, Value) or isinstance(end, Value):
            raise op.lacks("a step back that depends on the batch size")
        size = x.shape[axis]
        if any(seen.shape[axis] != size for seen in x.seen):
            raise op.lacks("a step back along the batch")
        order = torch.tensor(list(range(size))[slice(start, None if end < -size else end, step)], dtype=torch.int64)
        x = r.call(torch.index_select, x, axis, Value(None, (order, order)))
    if all(part == slice(None) for part in index):
        return x
    while index[-1] == slice(None):
        index.pop()
    return r.call(operator.getitem, x, tuple(index))


@translates("Gather")
def gather(r: Recorder, op: Op, x: Value, index: Value) -> Value:
    """Entries along an axis."""
    axis = op.get("axis", 0) % x.rank
    if index.constant and index.rank == 0:
        return r.call(torch.select, x, axis, int(index.seen[0]))
    if index.known and x.shape[axis] == x.seen[1].shape[axis]:  # count from the front, as torch does
        first, second = (seen % x.shape[axis] for seen in index.seen)
        index = Value(None, (first, second), index.name)
    flat = index if index.rank == 1 else r.call(torch.reshape, index, (-1,))
    y = r.call(torch.index_select, x, axis, flat)
    if index.rank == 1:
        return y
    one, two = ([*a.shape[:axis], *i.shape, *a.shape[axis + 1 :]] for a, i in zip(x.seen, index.seen, strict=True))
    return r.call(torch.reshape, y, dims(one, two))


@translates("GatherElements")
def gather_elements(r: Recorder, op: Op, x: Value, index: Value) -> Value:
    """An entry for every position."""
    axis = op.get("axis", 0) % x.rank
    return r.call(torch.gather, x, axis, r.call(operator.mod, index, x.shape[axis]))


@translates("Unsqueeze")
def unsqueeze(r: Recorder, op: Op, x: Value, axes: Value | None = None) -> Value:
    """New dimensions of size one."""
    along = setting(op, "axes", axes) or []
    rank = x.rank + len(along)
    for axis in sorted(axis % rank for axis in along):
        x = r.call(torch.unsqueeze, x, axis)
    return x


@translates("Squeeze")
def squeeze(r: Recorder, op: Op, x: Value, axes: Value | None = None) -> Value:
    """Without dimensions of size one."""
    along = setting(op, "axes", axes)
    if along is None:
        along = [i for i, pair in enumerate(zip(*(seen.shape for seen in x.seen), strict=True)) if set(pair) == {1}]
    if any(seen.shape[axis] != 1 for axis in along for seen in x.seen):
        raise op.lacks("a dimension that is not one")
    return r.call(torch.squeeze, x, tuple(axis % x.rank for axis in along))


@translates("Expand")
def expand(r: Recorder, op: Op, x: Value, shape: Value) -> Value:
    """Repeated along dimensions of size one."""
    if not shape.known:
        raise op.lacks("a computed shape")
    one, two = (
        np.broadcast_shapes(tuple(seen.shape), tuple(want.tolist()))
        for seen, want in zip(x.seen, shape.seen, strict=True)
    )
    sizes = tuple(a if a == b else Value(None, (a, b)) for a, b in zip(one, two, strict=True))
    return r.call(torch.broadcast_to, x, sizes)


@translates("Tile")
def tile(r: Recorder, op: Op, x: Value, repeats: Value) -> Value:
    """Repeated whole."""
    return r.call(torch.tile, x, tuple(ints(r, repeats)))


@translates("Trilu")
def trilu(r: Recorder, op: Op, x: Value, k: Value | None = None) -> Value:
    """One triangle."""
    return r.call(torch.triu if op.get("upper", 1) else torch.tril, x, 0 if k is None else static(op, k)[0])


@translates("DepthToSpace")
def depth_to_space(r: Recorder, op: Op, x: Value) -> Value:
    """Channels to pixels."""
    block = op.get("blocksize")
    if op.get("mode", "DCR") == "CRD":
        return r.layer(nn.PixelShuffle(block), x, op)
    _, c, h, w = x.shape
    y = r.call(torch.reshape, x, (-1, block, block, c // block**2, h, w))
    y = r.call(torch.permute, y, (0, 3, 4, 1, 5, 2))
    return r.call(torch.reshape, y, (-1, c // block**2, h * block, w * block))


@translates("SpaceToDepth")
def space_to_depth(r: Recorder, op: Op, x: Value) -> Value:
    """Pixels to channels."""
    block = op.get("blocksize")
    _, c, h, w = x.shape
    y = r.call(torch.reshape, x, (-1, c, h // block, block, w // block, block))
    y = r.call(torch.permute, y, (0, 3, 5, 1, 2, 4))
    return r.call(torch.reshape, y, (-1, c * block**2, h // block, w // block))


@translates("Einsum")
def einsum(r: Recorder, op: Op, *x: Value) -> Value:
    """Sums of products by index."""
    return r.call(torch.einsum, op.get("equation"), *x)


@translates("Pad")
def pad(r: Recorder, op: Op, x: Value, *rest: Value | None) -> Value:
    """More at the borders: a constant, a mirror, the edge, or the other side."""
    pads, fill, axes = filled_up(rest, 3)
    amounts = setting(op, "pads", pads) or []
    along = [axis % x.rank for axis in static(op, axes)] if axes is not None else list(range(x.rank))
    before, after = [0] * x.rank, [0] * x.rank
    for i, axis in enumerate(along):
        before[axis], after[axis] = amounts[i], amounts[i + len(along)]
    mode = op.get("mode", "constant")
    if mode == "constant":
        value = op.get("value", 0.0) if fill is None else tensor_of(op, fill).item()
        first = next((i for i in range(x.rank) if before[i] or after[i]), x.rank)
        return padded(r, x, before[first:], after[first:], value)
    for axis in range(x.rank):
        if before[axis] or after[axis]:
            size = x.shape[axis]
            places = torch.arange(-before[axis], size + after[axis])
            if mode == "reflect":
                places = size - 1 - (size - 1 - places % (2 * size - 2)).abs() if size > 1 else places * 0
            else:
                places = places.clamp(0, size - 1) if mode == "edge" else places % size
            x = r.call(torch.index_select, x, axis, Value(None, (places, places)))
    return x


# --- reductions


def over(op: Op, x: Value, axes: Value | None) -> tuple[int, ...] | None:
    """Return the axes of a reduction, or None where it does nothing."""
    along = setting(op, "axes", axes)
    if not along:
        return None if op.get("noop_with_empty_axes", 0) else tuple(range(x.rank))
    return tuple(axis % x.rank for axis in along)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
}


@translates(*REDUCTIONS, "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceProd")
def reduction(r: Recorder, op: Op, x: Value, axes: Value | None = None) -> Value:
    """One number along axes."""
    along, keep = over(op, x, axes), bool(op.get("keepdims", 1))
    if along is None:
        return x
    if op.kind in REDUCTIONS:
        return r.call(REDUCTIONS[op.kind], x, along, keepdim=keep)
    if op.kind in {"ReduceL1", "ReduceL2"}:
        return r.call(torch.linalg.vector_norm, x, int(op.kind[-1]), along, keepdim=keep)
    if op.kind == "ReduceSumSquare":
        return r.call(torch.sum, r.call(operator.mul, x, x), along, keepdim=keep)
    if op.kind == "ReduceLogSum":
        return r.call(torch.log, r.call(torch.sum, x, along, keepdim=keep))
    for axis in sorted(along, reverse=True):
        x = r.call(torch.prod, x, axis, keepdim=keep)
    return x


@translates("ArgMax", "ArgMin")
def arg(r: Recorder, op: Op, x: Value) -> Value:
    """Where the largest or smallest is; it has no gradient."""
    if op.get("select_last_index", 0):
        raise op.lacks("select_last_index")
    function = torch.argmax if op.kind == "ArgMax" else torch.argmin
    return r.call(function, x, op.get("axis", 0), keepdim=bool(op.get("keepdims", 1)))


@translates("CumSum")
def cumsum(r: Recorder, op: Op, x: Value, axis: Value) -> Value:
    """Sums so far."""
    if op.get("exclusive", 0) or op.get("reverse", 0):
        raise op.lacks("exclusive or reverse")
    return r.call(torch.cumsum, x, static(op, axis)[0])


@translates("TopK")
def top_k(r: Recorder, op: Op, x: Value, k: Value | None = None) -> tuple[Value, ...]:
    """The largest, or smallest, and where they are."""
    count = op.get("k") if k is None else static(op, k)[0]
    pair = r.call(torch.topk, x, count, op.get("axis", -1), bool(op.get("largest", 1)))
    return r.call(operator.getitem, pair, 0), r.call(operator.getitem, pair, 1)


# --- resizing


@translates("Resize", "Upsample")
def resize(r: Recorder, op: Op, x: Value, *rest: Value | None) -> Value:
    """Another resolution: torch's own where it means the same, else exactly as the specification has it, by axis."""
    if op.kind == "Upsample" or op.opset < 11:
        scales, sizes = filled_up(rest, 1)[0], None
        coordinates, rounding = "asymmetric", "floor"
    else:
        _, scales, sizes = filled_up(rest, 3)
        coordinates = op.get("coordinate_transformation_mode", "half_pixel")
        rounding = op.get("nearest_mode", "round_prefer_floor")
    mode, a = op.get("mode", "nearest"), op.get("cubic_coeff_a", -0.75)
    if op.get("antialias", 0) or op.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise op.lacks("antialias or a fixed aspect ratio")
    given = x.shape
    out, factors = target(op, x, scales, sizes)
    changed = [axis for axis in range(x.rank) if factors[axis] != 1]
    if not changed:
        return x
    exact = all(factor * n == m for factor, n, m in zip(factors, given, out, strict=True)) and min(changed) >= 2
    whole = all(m % n == 0 for n, m in zip(given[2:], out[2:], strict=True))
    layer = None
    if exact and mode == "nearest":
        layer = upsample_nearest(x.rank, out) if whole and (coordinates, rounding) == ("asymmetric", "floor") else None
    elif exact and (mode == "linear" or a == -0.75):
        layer = upsample_smooth(mode, coordinates, x.rank, out)
    if layer is not None:
        return r.layer(layer, x, op)
    for axis in changed:
        at = positions(op, coordinates, given[axis], out[axis], factors[axis])
        if mode == "nearest":
            places = nearest(rounding, at).clip(0, given[axis] - 1).long()
            x = r.call(torch.index_select, x, axis, Value(None, (places, places)))
            continue
        matrix = interpolation(op, mode, at, given[axis]).to(x.seen[0].dtype)
        turned = r.layer(linear(matrix, None), r.call(torch.transpose, x, axis, -1), op)
        x = r.call(torch.transpose, turned, axis, -1)
    return x


def target(op: Op, x: Value, scales: Value | None, sizes: Value | None) -> tuple[list[int], list[float]]:
    """Return the size and the scale of every axis; what follows the batch size keeps it."""
    out, factors = x.shape, [1.0] * x.rank
    axes = [axis % x.rank for axis in op.get("axes", range(x.rank))]
    if sizes is None or not sizes.seen[0].numel():
        listed = op.get("scales") if scales is None else tensor_of(op, scales).tolist()
        for axis, factor in zip(axes, listed, strict=True):
            out[axis], factors[axis] = int(out[axis] * factor), factor
        return out, factors
    if not sizes.known:
        raise op.lacks("a computed size")
    for axis, one, two in zip(axes, *(seen.flatten().tolist() for seen in sizes.seen), strict=True):
        if axis == 0 or (one, two) == tuple(seen.shape[axis] for seen in x.seen):
            continue
        if one != two:
            raise op.lacks("a size that depends on the batch size")
        out[axis], factors[axis] = one, one / out[axis]
    return out, factors


def upsample_nearest(rank: int, out: list[int]) -> nn.Module | None:
    """Return torch's layer, which rounds down."""
    return nn.Upsample(tuple(out[2:])) if 3 <= rank <= 5 else None


def upsample_smooth(mode: str, coordinates: str, rank: int, out: list[int]) -> nn.Module | None:
    """Return torch's layer where it computes the same."""
    how = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    if coordinates not in {"half_pixel", "pytorch_half_pixel", "align_corners"} or (mode, rank) not in how:
        return None
    corners = coordinates == "align_corners"
    return None if 1 in out[2:] else nn.Upsample(tuple(out[2:]), mode=how[mode, rank], align_corners=corners)


def positions(op: Op, coordinates: str, given: int, out: int, factor: float) -> Tensor:
    """Return where every output lies among the inputs along one axis (the specification's table), in doubles."""
    i = torch.arange(out, dtype=torch.float64)
    if coordinates == "asymmetric":
        return i / factor
    if coordinates == "align_corners":
        return i * (given - 1) / (out - 1) if out > 1 else i * 0
    if coordinates == "pytorch_half_pixel" and out == 1:
        return i * 0
    if coordinates == "tf_half_pixel_for_nn":
        return (i + 0.5) / factor
    half = (i + 0.5) / factor - 0.5
    if coordinates in {"half_pixel", "pytorch_half_pixel"}:
        return half
    if coordinates == "half_pixel_symmetric":
        return half + given / 2 * (1 - out / (given * factor))
    raise op.lacks(coordinates)


def nearest(rounding: str, at: Tensor) -> Tensor:
    """Round positions to whole ones."""
    if rounding == "round_prefer_floor":
        return (at - 0.5).ceil()
    if rounding == "round_prefer_ceil":
        return (at + 0.5).floor()
    return at.floor() if rounding == "floor" else at.ceil()


def interpolation(op: Op, mode: str, at: Tensor, given: int) -> Tensor:
    """Return the matrix `(out, given)` that interpolates along one axis."""
    low = at.floor()
    t = at - low
    if mode == "linear":
        taps = {0: 1 - t, 1: t}
    elif mode == "cubic":  # Keys (1981), with the file's a
        a = op.get("cubic_coeff_a", -0.75)
        near = [((a + 2) * s - (a + 3)) * s * s + 1 for s in (t, 1 - t)]
        far = [((a * s - 5 * a) * s + 8 * a) * s - 4 * a for s in (t + 1, 2 - t)]
        taps = {-1: far[0], 0: near[0], 1: near[1], 2: far[1]}
    else:
        raise op.lacks(mode)
    matrix = torch.zeros(len(at), given, dtype=torch.float64)
    rows = torch.arange(len(at))
    for offset, weight in taps.items():
        place = low + offset
        if mode == "cubic" and op.get("exclude_outside", 0):
            weight = torch.where((place >= 0) & (place < given), weight, 0.0)
        matrix.index_put_((rows, place.clip(0, given - 1).long()), weight, accumulate=True)
    return matrix / matrix.sum(1, keepdim=True)
