"""Writing a torch.fx graph while an ONNX file is read.

Every operator is run on two batches of different size while it is recorded. What does not depend on the input is folded
away; what depends on the batch size alone (`Shape -> Gather -> Concat -> Reshape`, as torch writes it) is solved from
the two runs, so that the graph holds layers and arithmetic and no bookkeeping.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn


class Missing(Exception):
    """An operator, or a use of one, that the import does not cover."""


@dataclass(frozen=True)
class Value:
    """A value of the file while it is read: its node in the graph, and what it is in the two batches.

    Without a node it does not depend on the input: a constant, or (where the two differ) a function of the batch size.
    """

    node: fx.Node | None
    seen: tuple[Any, Any]
    name: str = ""

    @property
    def known(self) -> bool:
        """Whether it is the same for every input."""
        return self.node is None

    @property
    def constant(self) -> bool:
        """Whether it is the same for every input and every batch size."""
        one, two = self.seen
        if self.node is not None:
            return False
        if isinstance(one, Tensor):
            return one is two or (one.shape == two.shape and torch.equal(one, two))
        return bool(one == two)

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return int(self.seen[0].ndim)

    @property
    def shape(self) -> list[int]:
        """The sizes in the first batch: right for every dimension that does not depend on the batch size."""
        return list(self.seen[0].shape)


@dataclass(frozen=True)
class Op:
    """One node of the file: its kind, its attributes, how many outputs and inputs are used elsewhere."""

    kind: str
    name: str
    opset: int
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    uses: tuple[int, ...]

    def get(self, name: str, otherwise: Any = None) -> Any:
        """Read an attribute."""
        value = self.attributes.get(name, otherwise)
        return value.decode() if isinstance(value, bytes) else value

    def lacks(self, what: str) -> Missing:
        """Say which use is not covered."""
        return Missing(f"operator {self.kind} with {what} is not covered")


@dataclass
class Recorder:
    """The torch graph while it is written."""

    sizes: tuple[int, int]
    fixed: int | None
    root: nn.Module = field(default_factory=nn.Module)
    graph: fx.Graph = field(default_factory=fx.Graph)
    attributes: dict[int, tuple[str, Tensor]] = field(default_factory=dict)
    input: fx.Node | None = None
    batch: fx.Node | None = None

    def call(self, function: Callable[..., Any], *args: Any, **settings: Any) -> Value:
        """Apply a function: fold it where nothing depends on the input, record it elsewhere."""
        return self._apply(function, lambda a, k: self.graph.call_function(function, a, k), args, settings)

    def method(self, name: str, x: Value, *args: Any, **settings: Any) -> Value:
        """Apply a method of tensors."""
        return self._apply(
            operator.methodcaller(name, *args, **settings),
            lambda a, _: self.graph.call_method(name, (*a, *args), settings),
            (x,),
            {},
        )

    def layer(self, layer: nn.Module, x: Value, op: Op) -> Value:
        """Apply a layer, under the name that it has in the file."""
        layer.eval()
        if x.known:
            return self.call(layer, x)
        name = self._name(op.name or op.kind, op.kind)
        self.root.add_module(name, layer)
        return self._apply(layer, lambda a, _: self.graph.call_module(name, a), (x,), {})

    def _apply(
        self, function: Callable[..., Any], record: Callable[[Any, Any], fx.Node], args: Any, settings: Any
    ) -> Value:
        first, second = (
            function(*aggregate(args, batch), **aggregate(settings, batch))
            for batch in (lambda v: v.seen[0], lambda v: v.seen[1])
        )
        values: list[Value] = []
        aggregate((args, settings), values.append)
        if all(value.known for value in values):
            return Value(None, (first, second))
        return Value(record(aggregate(args, self.argument), aggregate(settings, self.argument)), (first, second))

    def argument(self, value: Value) -> Any:
        """Write a value as an argument of a node."""
        one, two = value.seen
        if value.node is not None:
            return value.node
        if value.constant:
            return self._attribute(value) if isinstance(one, Tensor) else one
        if isinstance(one, int) and isinstance(two, int):
            return self._size(one, two)
        # A tensor that grows with the batch and is the same in every row, such as an expanded token, or for every
        # example, such as a mask of its windows.
        differs = [d for d in range(one.ndim) if one.shape[d] != two.shape[d]] if one.ndim == two.ndim else []
        if len(differs) == 1:
            (d,) = differs
            times = [tuple(size if i == d else 1 for i in range(one.ndim)) for size in self.sizes]
            for function, part, sizes in (
                (torch.broadcast_to, one.narrow(d, 0, 1), (one.shape, two.shape)),
                (torch.tile, one.narrow(d, 0, two.shape[d] - one.shape[d]), times),
            ):
                if all(torch.equal(function(part, size), seen) for size, seen in zip(sizes, value.seen, strict=True)):
                    kept = self._attribute(Value(None, (part, part), value.name))
                    return self.graph.call_function(function, (kept, tuple(map(self._size, *sizes))))
        raise Missing("the batch size used as a number is not covered")

    def _size(self, one: int, two: int) -> Any:
        """Write a number that is linear in the batch size."""
        slope = (two - one) // max(self.sizes[1] - self.sizes[0], 1)
        offset = one - slope * self.sizes[0]
        if not slope:
            return one
        if self.batch is None:
            self.batch = self.graph.call_method("size", (self.input, 0))
        scaled = self.graph.call_function(operator.mul, (self.batch, slope)) if slope != 1 else self.batch
        return self.graph.call_function(operator.add, (scaled, offset)) if offset else scaled

    def _attribute(self, value: Value) -> fx.Node:
        """Keep a tensor in the module, once, and read it."""
        tensor: Tensor = value.seen[0]
        if id(tensor) not in self.attributes:
            name = self._name(value.name, "constant")
            if value.name and tensor.is_floating_point() and tensor.ndim:
                self.root.register_parameter(name, nn.Parameter(tensor.clone()))
            else:
                self.root.register_buffer(name, tensor.clone())
            self.attributes[id(tensor)] = name, tensor  # the tensor is kept, so that its id stays its own
        # Not graph.get_attr: it warns unless the graph already owns the module.
        return self.graph.create_node("get_attr", self.attributes[id(tensor)][0])

    def _name(self, wanted: str, otherwise: str) -> str:
        """Make a free and valid name of a module, parameter or buffer."""
        plain = re.sub(r"\W+", "_", wanted).strip("_") or otherwise
        plain = f"{otherwise}_{plain}" if plain[0].isdigit() else plain
        for name in itertools.chain([plain], (f"{plain}_{i}" for i in itertools.count(1))):
            if not hasattr(self.root, name):
                return name
        raise AssertionError


def aggregate(args: Any, change: Callable[[Value], Any]) -> Any:
    """Replace every value inside tuples, lists, slices and dictionaries."""
    return fx.node.map_aggregate(args, lambda a: change(a) if isinstance(a, Value) else a)
