"""TorchScript, run by Python operation by operation, so that views and checks see what happens inside.

An interpreter in C++ runs TorchScript, past every mode of Python: no check would meet a rounding in it, and no view
could mend it. What is run here is the module's own graph: the same operations, on the same weights.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sparring.models.bridge import Unreadable

Values = dict[str, Any]
"""What was computed, by its name in the graph."""

Step = Callable[[Values], None]


def _told(value: Any) -> Any:
    """What Python reads of a tensor, by a function that modes know; numbers and words are what they are."""
    return value.item() if isinstance(value, Tensor) else value


def _dtype(number: int | None) -> torch.dtype | None:
    return None if number is None else torch.ops.aten.empty.memory_format([0], dtype=number).dtype


PYTHON: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *parts: list(parts),
    "prim::TupleConstruct": lambda *parts: parts,
    "prim::DictConstruct": lambda *parts: dict(zip(parts[::2], parts[1::2], strict=True)),
    "prim::ListUnpack": tuple,
    "prim::TupleUnpack": tuple,
    "prim::TupleIndex": operator.getitem,
    "prim::rangelist": lambda count: list(range(count)),
    "prim::Uninitialized": lambda: None,
    "prim::Print": lambda *parts: None,
    "prim::unchecked_cast": lambda value: value,
    "prim::unchecked_unwrap_optional": lambda value: value,
    "aten::_unwrap_optional": lambda value: value,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::warn": lambda *parts: None,
    "aten::format": str.format,
    "aten::Bool": lambda value: bool(_told(value)),
    "aten::is_nonzero": lambda value: bool(_told(value)),
    "aten::Int": lambda value: int(_told(value)),
    "aten::IntImplicit": lambda value: int(_told(value)),
    "aten::Float": lambda value: float(_told(value)),
    "aten::FloatImplicit": lambda value: float(_told(value)),
    "aten::item": _told,
    "aten::ScalarImplicit": _told,
    "prim::data": lambda x: x.data,
    "prim::NumToTensor": torch.tensor,
    "aten::tensor": lambda data, dtype, device, gradient: torch.tensor(
        data, dtype=_dtype(dtype), device=device, requires_grad=gradient
    ),
}
"""Operations that torch does not offer to Python, or under another name."""

LISTS: dict[str, Callable[..., Any]] = {
    "aten::__getitem__": operator.getitem,
    "aten::_set_item": operator.setitem,
    "aten::__contains__": operator.contains,
    "aten::slice": lambda parts, start, end, step: parts[start:end:step],
    "aten::append": list.append,
    "aten::extend": list.extend,
    "aten::insert": list.insert,
    "aten::pop": list.pop,
    "aten::list": list,
    "aten::copy": list,
    "aten::len": len,
    "aten::add": operator.add,
    "aten::mul": operator.mul,
    "aten::eq": operator.eq,
    "aten::ne": operator.ne,
    "aten::sum": sum,
    "aten::keys": list,
    "aten::values": lambda words: list(words.values()),
    "aten::items": lambda words: list(words.items()),
}
"""The same, where their first argument is no tensor."""


GENERIC = re.compile(r"\bt\d?(\[\]|\([a-z!]+\))* \w|\.\.\.")
"""In a schema: an argument of any type, or any number of them, which torch takes from no one but itself."""


@dataclass(frozen=True)
class Block:
    """A graph, or a branch or the body of a loop in one: what goes in, what is done, what comes out."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def __call__(self, values: Values, *given: Any) -> tuple[Any, ...]:
        """What comes out; `values` is what the blocks around it have computed, and gains what this one does."""
        values.update(zip(self.inputs, given, strict=True))
        for step in self.steps:
            step(values)
        return tuple(values[name] for name in self.outputs)


class Script:
    """A TorchScript module, called as it is; while a mode of Python is active, run here, so that this hears of it.

    Raises:
        Unreadable: its graph cannot be run from here.

    """

    def __init__(self, module: torch.jit.ScriptModule) -> None:
        if not hasattr(module, "inlined_graph"):
            raise Unreadable("overloaded methods")
        self.module, self.block = module, _block(module.inlined_graph)
        asked = module._c._get_method("forward").schema.arguments[2:]
        self.others = tuple(argument.default_value for argument in asked if argument.has_default_value())

    def __call__(self, x: Tensor) -> Any:
        """Outputs of `x`."""
        if not torch._C._len_torch_function_stack():
            return self.module(x)
        outputs = self.block({}, self.module, x, *self.others)
        return outputs[0] if len(outputs) == 1 else outputs

    def __reduce__(self) -> tuple[Any, ...]:
        """The module; its graph is read again."""
        return Script, (self.module,)


def _names(values: Any) -> tuple[str, ...]:
    return tuple(value.debugName() for value in values)


def _block(block: Any) -> Block:
    return Block(_names(block.inputs()), tuple(_step(node) for node in block.nodes()), _names(block.outputs()))


def _step(node: Any) -> Step:
    ins, outs, kind = _names(node.inputs()), _names(node.outputs()), node.kind()
    blocks = [_block(block) for block in node.blocks()]

    def keep(values: Values, found: Sequence[Any]) -> None:
        values.update(zip(outs, found, strict=True))

    match kind:
        case "prim::Constant":
            constant = node.output().toIValue()
            return lambda values: keep(values, [constant])
        case "prim::GetAttr":
            name = node.s("name")
            return lambda values: keep(values, [getattr(values[ins[0]], name)])
        case "prim::SetAttr":
            name = node.s("name")
            return lambda values: setattr(values[ins[0]], name, values[ins[1]])
        case "prim::RaiseException":
            return lambda values: _raise(values[ins[0]])
        case "prim::If":
            return lambda values: keep(values, blocks[0 if values[ins[0]] else 1](values))
        case "prim::Loop":
            return lambda values: keep(values, _loop(blocks[0], values, *(values[name] for name in ins)))
        case "prim::CreateObject" | "prim::Enter" | "prim::Exit":
            run = _context(node)
        case _:
            run = _operation(node)
    many = kind in ("prim::ListUnpack", "prim::TupleUnpack") or len(outs) > 1

    def step(values: Values) -> None:
        found = run(*(values[name] for name in ins))
        if outs:
            keep(values, found if many else [found])

    return step


def _loop(body: Block, values: Values, most: int, going: bool, *carried: Any) -> Sequence[Any]:
    i = 0
    while i < most and going:
        going, *carried = body(values, i, *carried)  # type: ignore[assignment]
        i += 1
    return carried


def _raise(message: Any) -> None:
    raise RuntimeError(message)


def _context(node: Any) -> Callable[..., Any]:
    """`with torch.no_grad()` and `with torch.enable_grad()`."""
    kind = (node.output() if node.kind() == "prim::CreateObject" else node.input()).type().str().split(".")[-1]
    if kind not in ("no_grad", "enable_grad"):
        raise Unreadable(f"with {kind}")

    def enter(context: SimpleNamespace) -> None:
        context.prev = torch.is_grad_enabled()
        torch._C._set_grad_enabled(kind == "enable_grad")

    def leave(context: SimpleNamespace) -> None:
        torch._C._set_grad_enabled(context.prev)

    runs: dict[str, Callable[..., Any]] = {"CreateObject": SimpleNamespace, "Enter": enter, "Exit": leave}
    return runs[node.kind().removeprefix("prim::")]


def _operation(node: Any) -> Callable[..., Any]:
    """The function of torch, or of Python, that does what a node does."""
    kind = node.kind()
    if kind in PYTHON:
        return PYTHON[kind]
    if kind in LISTS and next(node.inputs()).type().kind() != "TensorType":
        return LISTS[kind]
    try:
        schema = torch._C.parse_schema(node.schema())
        namespace, name = kind.split("::")
        function = getattr(getattr(getattr(torch.ops, namespace), name), schema.overload_name or "default")
    except (AttributeError, RuntimeError) as error:
        raise Unreadable(kind) from error
    if GENERIC.search(node.schema()):
        raise Unreadable(kind)
    first = sum(not argument.kwarg_only for argument in schema.arguments)
    names = [argument.name for argument in schema.arguments[first:]]
    return lambda *given: function(*given[:first], **dict(zip(names, given[first:], strict=True)))
