"""ONNX operators of quantised networks: what they compute in whole numbers, as torch in floats that hold these.

A quantised tensor is its levels, `round(x / scale) + zero point` within the range of its type (Jacob et al., 2018,
equation 1). Backward that is `x / scale + zero point` (straight through; Bengio et al., 2013), beyond the range too.
onnxruntime computes in whole numbers, and in its own order, so that a level here and there is the next one: the answers
of such a file are onnxruntime's, of this graph only the gradients are used.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.models.onnx_operators import OPERATORS, concat, conv, filled_up, gemm, matmul, number, translates
from sparring.models.onnx_recorder import Op, Recorder, Value
from sparring.views import stand

MICROSOFT = "com.microsoft."
"""The domain of onnxruntime's own operators, as they are entered in `OPERATORS`."""


# --- what is recorded


def levels(x: Tensor, scale: Any, zero: Any, low: int, high: int) -> Tensor:
    """The levels of `x`."""
    steps = x / scale
    return stand((steps.round() + zero).clamp(low, high), steps + zero)


def restored(q: Tensor, scale: Any, zero: Any) -> Tensor:
    """What levels stand for."""
    return torch.mul(q - zero, scale)


def widest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The scale at which 256 levels hold all numbers along dimensions, and zero."""
    return torch.div(x.amax(dims, keepdim=True).clamp(min=0) - x.amin(dims, keepdim=True).clamp(max=0), 255)


def zero_of(x: Tensor, scale: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The level of zero, then."""
    steps = (-x.amin(dims, keepdim=True).clamp(max=0) / scale).clamp(0, 255)
    return stand(steps.round(), steps)


# --- parts of translations


@dataclass(frozen=True)
class Grid:
    """Where the levels of a tensor lie: scale and zero point, one for all or one for each place on an axis."""

    scale: Value
    zero: Value | None = None
    axis: int = 0

    def parts(self, r: Recorder, op: Op, rank: int) -> tuple[Any, Any]:
        """Both, to compute with."""
        return along(r, op, self.scale, rank, self.axis), along(r, op, self.zero, rank, self.axis)

    def real(self, r: Recorder, op: Op, q: Value) -> Value:
        """What levels stand for."""
        return r.call(restored, floated(r, q), *self.parts(r, op, q.rank))

    def rounded(self, r: Recorder, op: Op, y: Any) -> Value:
        """The levels of a tensor, of the type that its zero point has: 8 bits without a sign, if it has none.

        Where zero is the lowest level, what is below is cut off: exporters leave a ReLU out there, which is put back.
        """
        kind = torch.uint8 if self.zero is None else self.zero.seen[0].dtype
        if kind.is_floating_point:
            raise op.lacks(f"levels of {kind}")
        low, high = torch.iinfo(kind).min, torch.iinfo(kind).max
        lowest = self.zero is None or (self.zero.constant and bool((self.zero.seen[0] == low).all()))
        if lowest and any(bool((seen < 0).any()) for seen in y.seen):
            y = r.layer(nn.ReLU(), y, replace(op, name="", kind="Relu"))
        return r.call(levels, y, *self.parts(r, op, y.rank), low, high)


def along(r: Recorder, op: Op, parameter: Value | None, rank: int, axis: int) -> Any:
    """A scale or a zero point, in the shape in which it meets a tensor."""
    if parameter is None:
        return 0
    value = floated(r, parameter)
    if not value.known and value.rank == rank:  # one for each row
        return value
    if value.seen[0].numel() == 1:
        return number(r.call(torch.reshape, value, ()))
    if value.rank != 1:
        raise op.lacks("scales of blocks")
    return r.call(torch.reshape, value, [-1 if d == axis % rank else 1 for d in range(rank)])


def floated(r: Recorder, value: Value) -> Value:
    """Whole numbers of the file as floats; levels are floats already."""
    return value if value.seen[0].is_floating_point() else r.method("to", value, torch.float32)


def less(r: Recorder, op: Op, q: Value, zero: Value | None, axis: int = 0) -> Value:
    """Differences from a zero point."""
    return floated(r, q) if zero is None else r.call(operator.sub, floated(r, q), along(r, op, zero, q.rank, axis))


def shift(r: Recorder, bias: Value, *scales: Value) -> Value:
    """What a bias stands for that is in multiples of the product of scales."""
    return r.call(operator.mul, floated(r, bias), r.call(operator.mul, *(r.call(torch.flatten, s) for s in scales)))


def triples(r: Recorder, op: Op, given: Sequence[Any]) -> list[Value]:
    """What tensors stand for that come each with its scale and its zero point."""
    return [Grid(scale, zero).real(r, op, q) for q, scale, zero in zip(*[iter(given)] * 3, strict=True)]


def plain(op: Op, kind: str) -> Op:
    """The same operator on real numbers."""
    if op.get("channels_last", 0):
        raise op.lacks("the channels last")
    return replace(op, kind=kind, opset=op.get("opset", op.opset))


# --- to levels and back


@translates("QuantizeLinear", MICROSOFT + "QuantizeLinear")
def quantize(r: Recorder, op: Op, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """To levels."""
    if zero is None and op.get("output_dtype", 0):
        raise op.lacks("a type of its own and no zero point")
    return Grid(scale, zero, op.get("axis", 1)).rounded(r, op, x)


@translates("DequantizeLinear", MICROSOFT + "DequantizeLinear")
def dequantize(r: Recorder, op: Op, x: Value, scale: Value, zero: Value | None = None) -> Value:
    """Back to real numbers."""
    return Grid(scale, zero, op.get("axis", 1)).real(r, op, x)


@translates("DynamicQuantizeLinear")
def dynamic(r: Recorder, op: Op, x: Value) -> tuple[Value, ...]:
    """To levels that span what is there: the levels, the scale, the zero point. Such a file is run row by row."""
    by_row = x.rank > 1 and tuple(len(seen) for seen in x.seen) == r.sizes
    dims = tuple(range(by_row, x.rank))
    scale = r.call(widest, x, dims)
    zero = r.call(zero_of, x, scale, dims)
    return r.call(levels, x, scale, zero, 0, 255), scale, zero


# --- layers on levels


@translates("ConvInteger")
def conv_integer(r: Recorder, op: Op, x: Value, w: Value, *zeros: Value | None) -> Value:
    """Convolution of differences from the zero points."""
    middle, other = filled_up(zeros, 2)
    return conv(r, op, less(r, op, x, middle), less(r, op, w, other))


@translates("MatMulInteger")
def matmul_integer(r: Recorder, op: Op, a: Value, b: Value, *zeros: Value | None) -> Value:
    """The product of differences from the zero points, of which there may be one a row, and one a column."""
    middle, other = filled_up(zeros, 2)
    return matmul(r, op, less(r, op, a, middle, -2), less(r, op, b, other, -1))


@translates("QLinearConv", MICROSOFT + "QLinearConv")
def qlinear_conv(r: Recorder, op: Op, *given: Any) -> Value:
    """Convolution; its bias is in multiples of the product of both scales."""
    x, w = triples(r, op, given[:6])
    scale, zero, bias = (*given[6:], None)[:3]
    y = conv(r, plain(op, "Conv"), x, w, None if bias is None else shift(r, bias, given[1], given[4]))
    return Grid(scale, zero).rounded(r, op, y)


@translates("QLinearMatMul")
def qlinear_matmul(r: Recorder, op: Op, *given: Any) -> Value:
    """The product of two matrices; there may be a scale for each row of the left one, each column of the right one."""
    a, a_scale, a_zero, b, b_scale, b_zero, *grid = given
    left, right = Grid(a_scale, a_zero, -2).real(r, op, a), Grid(b_scale, b_zero, -1).real(r, op, b)
    return Grid(*grid).rounded(r, op, matmul(r, plain(op, "MatMul"), left, right))


@translates(MICROSOFT + "QGemm")
def qgemm(r: Recorder, op: Op, *given: Any) -> Value:
    """`alpha A B + C`, of which C is in multiples of all scales; without a scale of its own the result is real."""
    a, a_scale, a_zero, b, b_scale, b_zero, *rest = given
    bias, scale, zero = filled_up(tuple(rest), 3)
    if bias is not None:
        bias = r.call(operator.mul, shift(r, bias, a_scale, b_scale), op.get("alpha", 1.0))
    columns = 0 if op.get("transB", 0) else 1
    left, right = Grid(a_scale, a_zero).real(r, op, a), Grid(b_scale, b_zero, columns).real(r, op, b)
    y = gemm(r, plain(op, "Gemm"), left, right, bias)
    return y if scale is None else Grid(scale, zero).rounded(r, op, y)


SAME = {
    "QLinearAdd": "Add",
    "QLinearMul": "Mul",
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSoftmax": "Softmax",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
}
"""Operators of levels that are one of real numbers, before a rounding."""


@translates(*(MICROSOFT + kind for kind in SAME))
def between(r: Recorder, op: Op, *given: Any) -> Value:
    """What the tensors stand for, the operator of real numbers, and its levels."""
    *parts, scale, zero = (*given, None)[: (len(given) + 3) // 3 * 3 - 1]
    kind = SAME[op.kind]
    return Grid(scale, zero).rounded(r, op, OPERATORS[kind](r, plain(op, kind), *triples(r, op, parts)))


@translates(MICROSOFT + "QLinearConcat")
def qlinear_concat(r: Recorder, op: Op, scale: Value, zero: Value, *given: Any) -> Value:
    """One after another, on one scale."""
    return Grid(scale, zero).rounded(r, op, concat(r, plain(op, "Concat"), *triples(r, op, given)))


@translates(MICROSOFT + "QLinearWhere")
def qlinear_where(r: Recorder, op: Op, which: Value, *given: Any) -> Value:
    """The one or the other, on one scale."""
    return Grid(*given[6:]).rounded(r, op, r.call(torch.where, which, *triples(r, op, given[:6])))
