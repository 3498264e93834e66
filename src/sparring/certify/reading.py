"""Read a torch module as a graph, by `torch.fx`, and make sure that it is the same function."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparring.certify.graph import (
    LARGEST,
    LOGISTIC,
    SMOOTH,
    STEEP,
    TINY,
    UNIT,
    Affine,
    Bend,
    Concat,
    Graph,
    Map,
    MaxPool,
    Node,
    Op,
    Rectifier,
    Sigmoid,
    Softplus,
    Sum,
    Window,
)
from sparring.certify.region import Region
from sparring.certify.walk import explore
from sparring.errors import BadInput, line
from sparring.models.victim import Victim, inference
from sparring.threats import linf
from sparring.types import Model


def graph(model: Model | Graph, x: Tensor) -> Graph:
    """The graph of a network for inputs like `x`, `(B, *shape)`, in inference mode; a graph as it is.

    Checked against the network on the rows of `x`, and on random points among them: its outputs must lie where float32
    can have rounded the graph's to.

    Raises:
        BadInput: no torch network behind the model, one that cannot be run on batches, or traced, an operation that has
            no bounds here, or outputs that differ, as those of half precision do.
    """
    if isinstance(model, Graph):
        return model
    module = model.module if isinstance(model, Victim) else model
    if isinstance(model, Victim) and model.rounds:
        raise BadInput("a quantised network", "one that does not round", "certify it by smoothing (--method smoothing)")
    if not isinstance(module, nn.Module):
        raise BadInput("a model without a torch network behind it", "an nn.Module", "certify the network itself")
    if torch.is_inference_mode_enabled():
        raise BadInput("torch.inference_mode, in which nothing can be traced", "torch.no_grad", "use that in its place")
    tried = torch.cat([x, among(x)])
    with inference(module), torch.no_grad():
        with _running(tried):
            found = _Reader(module, tuple(x.shape[1:])).read(tried[-1:])
            want = model(tried.clone())  # of a victim what is called, which may do more than its module
        got = found(tried)
        if want.shape != got.shape:
            raise _differs(f"of shape {tuple(want.shape)} and not {tuple(got.shape)}")
        gap, size = float((want - got).abs().max()), max(1.0, float(want.abs().max()))
        rounds = all(
            _rounds(found, *rows)
            for rows in zip(torch.split(tried, TOGETHER), torch.split(want, TOGETHER), strict=True)
        )
    if not (gap <= 1e-3 * size and rounds):
        raise _differs(f"{gap:.1g} apart, more than float32 rounds")
    return replace(found, source=model)


TOGETHER = 16
"""Rows that are bounded together."""


def _rounds(net: Graph, x: Tensor, outputs: Tensor) -> bool:
    """Whether float32 can have rounded to these outputs."""
    reach = explore(net, Region.of(linf(0.0, low=-math.inf, high=math.inf), x.double()), refine=False)
    inside = (reach.low[-1] <= outputs) & (outputs <= reach.high[-1])
    return bool((inside.flatten(1).all(1) | reach.beyond).all())


@contextmanager
def _running(x: Tensor) -> Iterator[None]:
    """Say in one line what a network raises of itself."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # the network's own code, which may raise anything
        said = f"a network that raises {type(error).__name__} on inputs {tuple(x.shape)} ({line(error)[:160]})"
        raise BadInput(said, "one that takes batches of any size, as float32", "try it on such a batch") from error


def _differs(how: str) -> BadInput:
    return BadInput(
        f"a network whose graph gives other outputs ({how})",
        "one that is a function of its input alone, and computes in float32",
        "leave randomness, changes of state, and half precision out of it",
    )


PROBES = 8
"""Random points that a graph is checked on: a quantiser is the identity on inputs that lie on its grid."""


def among(x: Tensor) -> Tensor:
    """Random points `(8, *shape)` of the range of `x`; from -1 to 1 where it has none."""
    low, high = (x.min(), x.max()) if x.numel() and bool(x.min() < x.max()) else (-1.0, 1.0)
    random = torch.rand(PROBES, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    return (low + (high - low) * random).to(x)


@dataclass(frozen=True)
class _Ref:
    """A position in the graph, where a traced program has a tensor."""

    at: int


class _Replay(fx.Interpreter):
    """Runs a traced program, and hands out its operations one by one."""

    def each(self, x: Tensor) -> Iterator[fx.Node]:
        """The operations.

        Raises:
            BadInput: one uses a tensor that another wrote into since: a graph of values would have the old one.
        """
        versions: dict[fx.Node, int] = {}
        self.args_iter = iter([x.clone()])
        for node in self.graph.nodes:
            for given in node.all_input_nodes:
                if given in versions and self.env[given]._version != versions[given]:
                    raise _lacks(f"{given}, which an operation in place has overwritten before {node} uses it")
            if node.op != "output":
                self.env[node] = self.run_node(node)
                if isinstance(self.env[node], Tensor):
                    versions[node] = self.env[node]._version
            yield node


class _Reader:
    """Replays a traced program: tensors that depend on the input become nodes, everything else is computed."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        self.module, self.shape, self.nodes = module, shape, list[Node]()

    def read(self, x: Tensor) -> Graph:
        """The graph. A run on `x` beside it tells which tensors are overwritten after they were given out."""
        try:
            traced = fx.symbolic_trace(nn.Sequential(self.module))  # a single layer is a leaf only inside of another
        except Exception as error:  # tracing runs the network's own code, which may raise anything
            raise _lacks(f"a network that cannot be traced ({line(error)[:160]})") from error
        values: dict[fx.Node, Any] = {}
        modules = dict(traced.named_modules())
        for node in _Replay(traced).each(x):
            args = fx.node.map_arg(node.args, values.__getitem__)
            settings = fx.node.map_arg(node.kwargs, values.__getitem__)
            if node.op == "output":
                return self.ended(args[0])
            try:
                values[node] = self.value(node, traced, modules, args, dict(settings))
            except BadInput:
                raise
            except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
                raise _lacks(f"the operation {node} with such arguments ({line(error)[:160]})") from error
        raise AssertionError

    def value(
        self,
        node: fx.Node,
        traced: nn.Module,
        modules: dict[str, nn.Module],
        args: tuple[Any, ...],
        settings: dict[str, Any],
    ) -> Any:
        """What a line of the program gives: a position in the graph, or what does not depend on the input."""
        match node.op:
            case "placeholder":
                return _Ref(0)
            case "get_attr":
                return operator.attrgetter(str(node.target))(traced)
            case "call_module":
                return self.called(modules[str(node.target)], args, settings)
        name = node.target if isinstance(node.target, str) else node.target.__name__
        if callable(node.target) and (node.target.__module__ or "").partition(".")[0] not in KNOWN_BY_NAME:
            raise _lacks(f"the function {name} of {node.target.__module__}")
        for key in {"input", "tensors"} & settings.keys():
            args = (settings.pop(key), *args)
        if "axis" in settings:
            settings["dim"] = settings.pop("axis")
        return self.call(name, node.target, args, settings)

    def ended(self, last: Any) -> Graph:
        """The graph up to what is given out: what is computed after that, for a head of another kind, is left off."""
        if not isinstance(last, _Ref):
            raise BadInput(
                "a network that does not give out one tensor that it computes from its inputs",
                "a row of outputs for each input",
                "wrap it in one that returns the scores alone",
            )
        return Graph(self.shape, tuple(self.nodes[: last.at]))

    def size(self, ref: _Ref) -> tuple[int, ...]:
        return self.nodes[ref.at - 1].shape if ref.at else self.shape

    def add(self, op: Op, *inputs: _Ref) -> _Ref:
        before = tuple(ref.at for ref in inputs)
        for at, node in enumerate(self.nodes, 1):
            if isinstance(op, Bend) and node.op == op and node.inputs == before:
                return _Ref(at)  # the same ReLU of the same value, to be split once
        y = op(*(torch.zeros(1, *self.size(ref), dtype=torch.float64) for ref in inputs))
        self.nodes.append(Node(op, before, tuple(y.shape[1:])))
        return _Ref(len(self.nodes))

    def even(self, f: Map, x: _Ref, terms: int = 0) -> _Ref:
        """A linear function without negative weights and without a constant."""
        shape = self.size(x)

        def transpose(a: Tensor) -> Tensor:
            with torch.enable_grad():  # torch.func.vjp does the same, and takes seconds to import
                zero = a.new_zeros(len(a), *shape).requires_grad_()
                (pulled,) = torch.autograd.grad(f(zero), zero, a, create_graph=a.requires_grad)
            return pulled

        return self.add(Affine(f, f, transpose, terms=terms), x)

    def reshaped(self, f: Map, x: _Ref) -> _Ref:
        """The same numbers in another shape."""
        old, y = self.size(x), f(torch.zeros(1, *self.size(x), dtype=torch.float32))
        if y.shape[:1] != (1,) or y.dtype != torch.float32:
            raise _lacks("another shape across the batch, or another type")
        new = tuple(y.shape[1:])
        there, back = (lambda h: h.reshape(len(h), *new)), (lambda a: a.reshape(len(a), *old))
        return self.add(Affine(there, there, back), x)

    def called(self, layer: nn.Module, args: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """A layer of one input; of none that depends on the network's, what it gives."""
        given = (*args, *settings.values())
        if not any(isinstance(one, _Ref) for one in given):
            return layer(*args, **settings)
        if len(given) != 1:
            raise _lacks(f"the layer {layer} of {len(given)} inputs")
        if not _as_torch_has_it(layer):
            raise BadInput(
                f"the layer {layer}, with a hook or a forward pass of its own",
                "layers that do what torch says of them",
                "remove the hook, or write what it does as a part of the network",
            )
        return self.layer(layer, given[0])

    def layer(self, layer: nn.Module, x: _Ref) -> _Ref:
        maps = len(self.size(x)) == 3  # of windows without channels torch pools something else
        match layer:
            case nn.Linear():
                return self.linear(x, layer.weight, layer.bias)
            case nn.Conv2d():
                return self.conv(x, layer)
            case nn.BatchNorm1d() | nn.BatchNorm2d() if layer.running_mean is not None:
                return self.batch_norm(x, layer)
            case nn.ReLU():
                return self.add(Rectifier(), x)
            case nn.LeakyReLU() if 0 <= layer.negative_slope <= 1:
                return self.add(Rectifier(layer.negative_slope), x)
            case nn.Sigmoid() | nn.Tanh():
                return self.add(Sigmoid() if isinstance(layer, nn.Tanh) else LOGISTIC, x)
            case nn.Softplus() if layer.beta >= 1 / LARGEST and SMOOTH <= layer.threshold <= STEEP:
                return self.add(Softplus(layer.beta), x)
            case nn.AvgPool2d() | nn.AdaptiveAvgPool2d() if maps and _divides(layer) > 0:
                return self.even(layer, x, math.prod(self.size(x)[1:]) + 1)
            case nn.MaxPool2d() if (
                maps and not (layer.ceil_mode or layer.return_indices) and _pair(layer.dilation) == (1, 1)
            ):
                return self.add(MaxPool(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)), x)
            case nn.Flatten() | nn.Unflatten():
                return self.reshaped(layer, x)
            case nn.Dropout() | nn.Dropout2d() | nn.Identity():
                return x
        raise _lacks(f"the layer {layer} on values of shape {self.size(x)}")

    def linear(self, x: _Ref, weight: Tensor, bias: Tensor | None) -> _Ref:
        w = weight.detach().double()
        b = None if bias is None else bias.detach().double()
        by = _in_both(w)
        return self.add(
            Affine(
                forward=lambda h: h @ w.T,
                size=lambda h: h @ w.abs().T,
                transpose=lambda a: a @ by[a.dtype],
                constant=b,
                largest=None if b is None else b.abs(),
                terms=w.shape[1] + 1,
            ),
            x,
        )

    def conv(self, x: _Ref, layer: nn.Conv2d) -> _Ref:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise _lacks(f"the padding of {layer}")
        w = layer.weight.detach().double()
        b = None if layer.bias is None else layer.bias.detach().double().view(-1, 1, 1)
        stride, padding, dilation = _pair(layer.stride), _pair(layer.padding), _pair(layer.dilation)
        sizes = zip(self.size(x)[1:], w.shape[2:], stride, padding, dilation, strict=True)
        left = tuple((n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in sizes)
        local = layer.groups == 1 and dilation == (1, 1)
        by = _in_both(w)
        shared = partial(functional.conv2d, stride=stride, padding=padding, dilation=dilation, groups=layer.groups)
        return self.add(
            Affine(
                forward=lambda h: shared(h, w),
                size=lambda h: shared(h, w.abs()),
                transpose=lambda a: functional.conv_transpose2d(
                    a, by[a.dtype], None, stride, padding, left, layer.groups, dilation
                ),
                constant=b,
                largest=None if b is None else b.abs(),
                terms=w[0].numel() + 1,
                window=Window(_pair(layer.kernel_size), stride, padding) if local else None,
                spread=(lambda a: functional.conv_transpose2d(a, w, None, stride)) if local else None,
            ),
            x,
        )

    def batch_norm(self, x: _Ref, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> _Ref:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, var = layer.running_mean.double(), layer.running_var.double()
        gain = 1 / (var + layer.eps).sqrt()
        if layer.weight is not None:
            gain = gain * layer.weight.detach().double()
        shift = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double()
        where = (-1, *[1] * (len(self.size(x)) - 1))
        gain, mean, shift = (part.view(where) for part in (gain, mean, shift))
        return self.scaled(x, gain, shift - gain * mean, (gain * mean).abs() + shift.abs(), terms=8)

    def scaled(
        self, x: _Ref, gain: Tensor | float, constant: Tensor | None, largest: Tensor | None, terms: int
    ) -> _Ref:
        """Every coordinate times a number of its own."""
        by = torch.as_tensor(gain, dtype=torch.float64).detach()
        for one in (by, torch.zeros(()) if constant is None else constant):
            try:
                joined = torch.broadcast_shapes(one.shape, (1, *self.size(x)))  # type: ignore[no-untyped-call]
            except RuntimeError:
                joined = None
            if joined != (1, *self.size(x)):
                raise _lacks(f"constants of shape {tuple(one.shape)} beside values of {self.size(x)}")
        about = by.abs() + TINY / UNIT  # float32 may hold a factor next to nothing less well than others
        times, widened = (lambda h: h * by.to(h.dtype)), (lambda h: h * about)
        alike = len(self.size(x)) == 3 and by.shape[-2:] in {(), (1, 1)}
        if constant is not None and constant.shape[-2:] not in {(), (1, 1)}:
            alike = False
        local = (Window(), times) if alike else (None, None)
        return self.add(Affine(times, widened, times, constant, largest, terms, *local), x)

    def call(self, name: str, function: Any, args: tuple[Any, ...], settings: dict[str, Any]) -> Any:  # noqa: PLR0912  (one case an operation)
        """A function or a method of tensors, by its name."""
        refs = [a for a in (*args, *settings.values()) if isinstance(a, _Ref)]
        if not refs and name not in {"cat", "concat", "concatenate"}:
            return function(*args, **settings) if callable(function) else getattr(args[0], name)(*args[1:], **settings)
        name = name.strip("_")
        if any(isinstance(one, _Ref) for key, one in settings.items() if key != "other"):
            raise _lacks(f"the operation {name} with such arguments")
        x = refs[0] if refs else _Ref(0)
        match name:
            case "relu":
                return self.add(Rectifier(), x)
            case "leaky_relu":
                return self.layer(nn.LeakyReLU(*args[1:], **settings), x)
            case "tanh":
                return self.add(Sigmoid(), x)
            case "sigmoid":
                return self.add(LOGISTIC, x)
            case "softplus":
                return self.layer(nn.Softplus(*args[1:], **settings), x)
            case "dropout" if not _drops(*args[1:], **settings):
                return x
            case "contiguous" | "detach":
                return x
            case "size":
                whole = torch.Size((1, *self.size(x)))
                at = settings.get("dim", args[1] if len(args) > 1 else None)
                return whole if at is None else whole[at]
            case "getattr" if args[1] == "shape":
                return torch.Size((1, *self.size(x)))
            case "flatten" | "reshape" | "view" | "squeeze" | "unsqueeze":
                return self.reshaped(lambda h: getattr(h, name)(*args[1:], **settings), x)
            case "avg_pool2d":
                return self.layer(nn.AvgPool2d(*args[1:], **settings), x)
            case "adaptive_avg_pool2d":
                return self.layer(nn.AdaptiveAvgPool2d(*args[1:], **settings), x)
            case "max_pool2d" | "boolean_dispatch" if len(args) <= 5:  # the layer has another order from there on
                layer = nn.MaxPool2d(*args[1:], **settings)
                return self.layer(layer, x)
            case "cat" | "concat" | "concatenate":
                return self.beside(*args, **settings)
            case "add" | "iadd" | "sub" | "isub" if (two := _operands(args, settings)) is not None:
                return self.added(two, -1 if "sub" in name else 1)
            case "mul" | "imul" | "truediv" | "itruediv" | "div" if (two := _operands(args, settings)) is not None:
                return self.times(two, divide="div" in name)
        raise _lacks(f"the operation {name}")

    def beside(self, parts: Sequence[Any], dim: int = 0) -> _Ref:
        if not all(isinstance(part, _Ref) for part in parts):
            raise _lacks("a constant beside what depends on the input")
        dim = dim if dim >= 0 else dim + len(self.size(parts[0])) + 1
        if dim < 1:
            raise _lacks("concatenation along the batch")
        return self.add(Concat(dim, tuple(self.size(part)[dim - 1] for part in parts)), *parts)

    def added(self, args: tuple[Any, ...], sign: int) -> _Ref:
        one, two = args
        if isinstance(one, _Ref) and isinstance(two, _Ref):
            if self.size(one) != self.size(two):
                raise _lacks("a sum of different shapes")
            return self.add(Sum((1, sign)), one, two)
        x, other, factor = (one, two, sign) if isinstance(one, _Ref) else (two, one, 1)
        constant = factor * torch.as_tensor(other, dtype=torch.float64).detach()
        return self.scaled(x, 1.0 if x is one else float(sign), constant, constant.abs(), 2)

    def times(self, args: tuple[Any, ...], *, divide: bool) -> _Ref:
        one, two = args
        x, by = (one, two) if isinstance(one, _Ref) else (two, one)
        if isinstance(by, _Ref):
            raise _lacks("a product of two values that depend on the input")
        if divide and x is two:
            raise _lacks("a division by what depends on the input")
        by = torch.as_tensor(by, dtype=torch.float64)
        return self.scaled(x, 1 / by if divide else by, None, None, 2)


KNOWN_BY_NAME = ("torch", "_operator", "builtins", "math")
"""Where functions come from of which the name tells what they do."""


def _as_torch_has_it(layer: nn.Module) -> bool:
    """Whether a layer computes what its class in torch does, and nothing beside it.

    Hooks that renew weights before the pass (`torch.nn.utils.weight_norm`) change nothing that is read here.
    """
    renewing = all(type(hook).__module__.startswith("torch.nn.utils.") for hook in layer._forward_pre_hooks.values())
    own = "forward" in vars(layer) or not type(layer).forward.__module__.startswith("torch.nn.modules.")
    return renewing and not layer._forward_hooks and not own


def _drops(p: float = 0.5, training: bool = True, inplace: bool = False) -> bool:
    """Whether torch's function `dropout`, called so, leaves anything out."""
    return training


def _operands(args: tuple[Any, ...], settings: dict[str, Any]) -> tuple[Any, ...] | None:
    """The two operands of a sum or a product; None where more is asked: `alpha`, or a way to round."""
    two = (*args, settings["other"]) if "other" in settings else args
    return two if len(two) == 2 and not settings.keys() - {"other"} else None


def _in_both(weight: Tensor) -> dict[torch.dtype, Tensor]:
    """In the precision of bounds, and in the one that slopes are looked for in."""
    return {torch.float64: weight, torch.float32: weight.float()}


def _divides(layer: nn.Module) -> float:
    """By what a pooling layer divides a sum, where it is told; 1 where it counts."""
    told = getattr(layer, "divisor_override", None)
    return 1.0 if told is None else told


def _pair(size: Any) -> tuple[int, int]:
    one, two = (size, size) if isinstance(size, int) else size
    return int(one), int(two)


def _lacks(what: str) -> BadInput:
    return BadInput(
        what,
        "Linear, Conv2d, BatchNorm, ReLU, LeakyReLU, Softplus, Sigmoid, Tanh, pooling, Flatten, sums, Concat",
        "write the network with those",
    )
