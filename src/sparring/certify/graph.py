"""A network as a list of operations that bounds can walk, forward and backward.

What is linear knows its transpose and its rounding; what is not is relaxed between its bounds, in
`sparring.certify.lines`. All is kept in float64; the rounding is that of float32. `sparring.certify.reading` makes one
of a torch module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sparring.errors import BadInput
from sparring.types import Model

UNIT = 2.0**-24 * (1 + 2.0**-20)
"""Half the spacing of float32 at one; with a little over, for the rounding of the bounds themselves, in float64."""

TINY = torch.finfo(torch.float32).tiny
"""How much float32 can be off where a result is next to zero, whether or not the smallest numbers are flushed."""

LARGEST = torch.finfo(torch.float32).max / 4
"""Sums stay below this, or nothing is claimed of them: beyond it float32 has infinities, and then no numbers."""

Map = Callable[[Tensor], Tensor]


def rounding(terms: int) -> float:
    """How much a sum of so many rounded products can be off, relative to the sum of their sizes, in any order.

    The `gamma_n` of Higham (2002, section 3.1).
    """
    return terms * UNIT / (1 - terms * UNIT)


def off(terms: int, sizes: Tensor) -> Tensor:
    """By how much float32 can be off in a sum of so many rounded products, whose sizes add up to these."""
    return rounding(terms) * sizes + terms * TINY


@dataclass(frozen=True)
class Window:
    """Which part of a map an output depends on, as a convolution says it: of a single convolution, or of several."""

    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def after(self, first: Window) -> Window:
        """The window on the inputs of `first`, whose outputs this one is on."""
        axes = zip(self.kernel, self.stride, self.padding, first.kernel, first.stride, first.padding, strict=True)
        one, two = (((k - 1) * t + m, s * t, p * t + q) for k, s, p, m, t, q in axes)
        return Window(*zip(one, two, strict=True))

    def joined(self, other: Window) -> Window:
        """The least window around this one and another of the same stride."""
        axes = zip(self.kernel, self.padding, other.kernel, other.padding, strict=True)
        one, two = ((max(p, q) + max(k - p, m - q), max(p, q)) for k, p, m, q in axes)
        (high, above), (wide, left) = one, two
        return Window((high, wide), self.stride, (above, left))

    def within(self, other: Window, a: Tensor) -> Tensor:
        """Numbers on this window, `(*any, *kernel)`, as ones on another that is around it: zeros beside them."""
        (top, left), (above, before) = other.padding, self.padding
        right = other.kernel[1] - self.kernel[1] - (left - before)
        below = other.kernel[0] - self.kernel[0] - (top - above)
        return functional.pad(a, (left - before, right, top - above, below))

    def cut(self, maps: Tensor) -> Tensor:
        """The window of every place, `(B, places, C, *kernel)`, of maps `(B, C, H, W)`; zero outside of them."""
        found = functional.unfold(maps, self.kernel, padding=self.padding, stride=self.stride)
        return found.transpose(1, 2).view(len(maps), -1, maps.shape[1], *self.kernel)


@dataclass(frozen=True)
class Affine:
    """`forward(x) + constant`: `size` is `forward` with weights without sign, `transpose` its adjoint.

    `transpose` takes float32 as well, for what need not hold. `terms` counts the products that are summed for one
    output, the constant among them; `largest` bounds the size of what the constant is computed from. Where outputs
    depend on a window of the inputs, `spread` is the adjoint from a part of the outputs to its window.
    """

    forward: Map
    size: Map
    transpose: Map
    constant: Tensor | None = None
    largest: Tensor | None = None
    terms: int = 0
    window: Window | None = None
    spread: Map | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        y = self.forward(x)
        return y if self.constant is None else y + self.constant

    def bounds(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """The least and greatest outputs over a box."""
        y, reach = self((low + high) / 2), self.size((high - low) / 2)
        return y - reach, y + reach

    def sizes(self, most: Tensor) -> Tensor:
        """How large a sum of any of the terms of an output can be, for inputs of these sizes."""
        size = self.size(most)
        return size if self.largest is None else size + self.largest


@dataclass(frozen=True)
class Sum:
    """The sum of its inputs, each with a sign."""

    signs: tuple[int, ...]

    def __call__(self, *x: Tensor) -> Tensor:
        """Outputs of all inputs."""
        y = self.signs[0] * x[0]
        for sign, other in zip(self.signs[1:], x[1:], strict=True):
            y = y + sign * other
        return y

    @property
    def terms(self) -> int:
        """How many are summed."""
        return len(self.signs)

    def sizes(self, *most: Tensor) -> Tensor:
        """How large a sum of any of them can be, for inputs of these sizes."""
        return torch.stack(most).sum(0)


@dataclass(frozen=True)
class Concat:
    """The inputs side by side, along a dimension (counted with the batch)."""

    dim: int
    sizes: tuple[int, ...]

    def __call__(self, *x: Tensor) -> Tensor:
        """Outputs of all inputs."""
        return torch.cat(x, self.dim)


@dataclass(frozen=True)
class Rectifier:
    """ReLU, or with a slope LeakyReLU."""

    slope: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        return torch.where(x > 0, x, self.slope * x)


@dataclass(frozen=True)
class Sigmoid:
    """`scale tanh(x / width) + shift`: tanh itself, or the logistic function."""

    width: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        return self.scale * torch.tanh(x / self.width) + self.shift


LOGISTIC = Sigmoid(2.0, 0.5, 0.5)


SMOOTH, STEEP = 20.0, 80.0
"""`beta x` from which on torch takes a Softplus for the identity, unless told otherwise. At most: `exp` overflows."""


@dataclass(frozen=True)
class Softplus:
    """`log(1 + exp(beta x)) / beta`: a ReLU whose corner is bent."""

    beta: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        return torch.logaddexp(self.beta * x, torch.zeros_like(x)) / self.beta


@dataclass(frozen=True)
class MaxPool:
    """The largest of every window."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        return functional.max_pool2d(x, self.kernel, self.stride, self.padding)


Bend = Rectifier | Sigmoid | Softplus | MaxPool
"""What is not linear, and increasing in every input."""

Op = Affine | Sum | Concat | Bend


@dataclass(frozen=True)
class Node:
    """An operation, the positions of its inputs in the graph, and the shape of an output."""

    op: Op
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A network for inputs of one shape: nodes in order, the input at position 0, the logits last."""

    shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    source: Model | None = field(default=None, compare=False, repr=False)
    """The network that it was read from, as float32 runs it."""

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of `x`, computed in float64."""
        values = [x.double()]
        for node in self.nodes:
            values.append(node.op(*(values[i] for i in node.inputs)))
        return values[-1]

    def size(self, k: int) -> tuple[int, ...]:
        """The shape of an example at a position."""
        return self.nodes[k - 1].shape if k else self.shape


def classes(net: Graph) -> int:
    """How many logits a network gives an example.

    Raises:
        BadInput: not a row of two or more.
    """
    shape = net.size(len(net.nodes))
    if len(shape) != 1 or shape[0] < 2:
        raise BadInput(
            f"outputs of shape {shape} an example",
            "a row of two or more logits",
            "for one logit s return the pair (-s, s); flatten maps",
        )
    return shape[0]
