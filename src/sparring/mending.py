"""Views that mend gradients: the outputs are the model's own, the pullback goes on where the model's stops.

Rounding, `detach`, comparisons, casts to integers, saturated sigmoids: each is exact forward, and backward the nearest
thing that has a slope (BPDA; Athalye et al., 2018, section 4.1). They are found while the model runs, on any torch
model, modules or not. What functions of torch cannot show, a stage in NumPy or a backward pass written by hand, is
found module by module by `survey`, and bridged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from sparring.functions import bare, called
from sparring.norms import rows
from sparring.streams import Streams
from sparring.types import Model
from sparring.views import mean, stand


def mended(model: Model) -> Model:
    """The same outputs; gradients pass what stops them: rounding, cuts, comparisons, casts, saturation.

    The pullback of a staircase or of a cut is the identity, that of a comparison a wide sigmoid's; saturated
    functions have the mean slope of more moderate inputs. Costs nothing.
    """

    def view(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return model(x)
        with _buffers_left_alone(), _Mend():
            return model(x)

    return view


@contextmanager
def _buffers_left_alone() -> Iterator[None]:
    """Buffers that a module fills with what it detached, which mended is attached, are cut off again."""
    called: dict[int, nn.Module] = {}
    handle = register_module_forward_hook(lambda module, given, y: called.update({id(module): module}))
    try:
        yield
    finally:
        handle.remove()
        for module in called.values():
            for buffer in module.buffers(recurse=False):
                if buffer.requires_grad and not buffer.is_leaf:
                    buffer.detach_()


def obstacles(model: Model, x: Tensor) -> tuple[str, ...]:
    """The functions of torch, by name, that stop gradients of the outputs on their way back to `x`.

    Those that are met, where the pullback is another one by over a thousandth once they are mended: what a model does
    beside its outputs stops none. Costs a forward and a backward pass; two of each where any is met.
    """
    mode = _Mend()

    def watched(z: Tensor) -> Tensor:
        with _buffers_left_alone(), mode:
            return model(z)

    whole = signed_gradient(watched, x)
    if not mode.met:
        return ()
    plain = signed_gradient(model, x)
    return tuple(dict.fromkeys(mode.met)) if float((whole - plain).norm()) > 1e-3 * float(plain.norm()) else ()


def signed_gradient(model: Model, x: Tensor) -> Tensor:
    """The gradient in `x` of outputs with random signs, zero where there is none, with the same random numbers."""
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        point = x.detach().clone().requires_grad_()
        outputs = model(point)
        if not outputs.requires_grad:
            return torch.zeros_like(x)
        signs = Streams.of(0, [0]).sign(*outputs.shape[1:], device=outputs.device).to(outputs)
        try:
            (gradient,) = torch.autograd.grad((outputs * signs).sum(), point, allow_unused=True)
        except (NotImplementedError, RuntimeError) as error:
            if "derivative" not in str(error):  # as of torch.floor_divide, which has none
                raise
            gradient = None
    return torch.zeros_like(x) if gradient is None else gradient.detach().nan_to_num()


def rescaled(model: Model) -> Model:
    """The best output of every row at 10, the third best at 0: no scale of the logits saturates the loss.

    Not the least: beside a class that is masked by -1e9, all others would be the same.
    """

    def view(x: Tensor) -> Tensor:
        outputs = model(x)
        best = outputs.detach().topk(min(3, outputs.shape[1]), dim=1).values
        least, most = best[:, -1:], best[:, :1]
        return 10 * (outputs - least) / (most - least).clamp(min=1e-30)

    return view


def nearby(model: Model, *, width: float, draws: int = 8) -> Model:
    """The same outputs; the gradient is the mean over `draws` points around `x`, Gaussian, `width` in input units.

    For gradients that are shattered (Athalye et al., 2018, section 4.2, with noise as the transformation). The points
    are others at every call, so that a climb averages over more of them than a step can. Costs `draws` + 1 passes a
    pass.
    """
    noise, calls = Streams.of(0, range(draws)), itertools.count()

    def view(x: Tensor) -> Tensor:
        outputs = model(x)
        if not torch.is_grad_enabled():
            return outputs
        around = width * noise.at(next(calls)).normal(*x.shape[1:], device=x.device).to(x.dtype)
        return stand(outputs, torch.stack([model(x + u) for u in around]).mean(0))

    return view


def _moderate(x: Tensor, most: float) -> Tensor:
    """Every row divided by what brings its largest number to `most`, where it is above."""
    if x.dim() < 2 or not x.numel():
        return x
    return x / rows((x.detach().flatten(1).abs().amax(1) / most).clamp(min=1), x)


SHARPER = (1, 4, 16)
"""Times moderate: the mean of softer and sharper functions leads from far off, and across the last step."""


def _softened_softmax(x: Tensor, *given: Any, **kwargs: Any) -> Tensor:
    dim = kwargs.get("dim", given[0] if given else None)
    assert dim is not None
    seen = x.detach()
    low, high = seen.masked_fill(seen < MASKED, torch.inf).amin(dim, keepdim=True), seen.amax(dim, keepdim=True)
    return mean([(x / ((high - low) / (20 * k)).clamp(min=1)).softmax(dim) for k in SHARPER])


def _softened(squash: Callable[[Tensor], Tensor], most: float) -> Callable[..., Tensor]:
    """A function that squashes, of inputs of at most `most`, and the mean with some less moderate."""
    return lambda x, *given, **kwargs: mean([squash(_moderate(x, most * k)) for k in SHARPER])


def _two_sided(x: Tensor, *given: Any, **kwargs: Any) -> Tensor | None:
    ends = [*given[:2], kwargs.get("min"), kwargs.get("max")]
    return x if sum(end is not None for end in ends) == 2 else None  # one-sided, it is a ReLU


def _between(x: Tensor, low: float = -1.0, *given: Any, **kwargs: Any) -> Tensor:
    """From zero up it is a ReLU with an end, as `nn.ReLU6` calls it."""
    return x.clamp(min=0) if kwargs.get("min_val", low) == 0 else x


def _identity(x: Tensor, *given: Any, **kwargs: Any) -> Tensor:
    return x


def _nothing(x: Tensor, *given: Any, **kwargs: Any) -> Tensor:
    return 0 * x


def _quotient(x: Tensor, by: Any, **kwargs: Any) -> Tensor | None:
    return None if kwargs.get("rounding_mode", "") is None or by is None else x / by


STAIRS = [
    "round",
    "floor",
    "ceil",
    "trunc",
    "fix",
    "sign",
    "sgn",
    "heaviside",
    "bucketize",
    "fake_quantize_per_tensor_affine",
]
SOFT: dict[str, Callable[..., Tensor | None]] = {
    **dict.fromkeys(STAIRS, _identity),
    **dict.fromkeys(["remainder", "__mod__", "fmod", "frac"], _nothing),
    "hardsigmoid": _identity,
    "hardtanh": _between,
    **dict.fromkeys(["clamp", "clip"], _two_sided),
    **dict.fromkeys(["floor_divide", "__floordiv__"], _quotient),
    "div": lambda x, by, **kwargs: _quotient(x, by, **kwargs) if kwargs.get("rounding_mode") else None,
    "relu6": lambda x, *given, **kwargs: x.clamp(min=0),
    "sigmoid": _softened(torch.sigmoid, 8),
    "tanh": _softened(torch.tanh, 4),
    "softmax": _softened_softmax,
}
"""By the name of a function, what stands in for it backward; nothing where its own gradient will do."""

CASTS = ["float", "double", "half", "bfloat16", "to", "type", "type_as", "int", "long", "short", "byte", "char"]
ABOVE = {"gt": 1, "ge": 1, "greater": 1, "greater_equal": 1, "lt": -1, "le": -1, "less": -1, "less_equal": -1}
STOPS = frozenset({*STAIRS, *ABOVE})
"""What stops gradients wherever it runs."""

TOLD = ("numpy", "__array__", "item", "tolist", "__float__", "__int__", "__index__")
"""What hands values to Python, of which some is refused and some warned of where a tensor has a gradient."""

SATURATING = ("sigmoid", "tanh", "softmax", "hardsigmoid", "clamp", "clip", "hardtanh", "relu6")

FLAT = 1e-3
"""A slope that stops gradients, as a share of the function's steepest."""

BEST = {"argmax": 1, "max": 1, "argmin": 1, "min": 1, "topk": 2}
"""Functions that say where the best is, or the least, and at which place they are told the dimension."""

MARKS = frozenset({"one_hot", "scatter", "scatter_", "eq", "__eq__"})
"""Those that mark a place: with ones in zeros."""

PLACED = frozenset({"unsqueeze", "squeeze", "view", "reshape", "flatten", "__getitem__", "long"})
"""Those that hand a place on."""

LOOKUPS = {"__getitem__": (0, 1), "index_select": (0, 2), "embedding": (1, 0)}
"""Those that look a place up in a table: at which places they are told the table and the place."""

MASKED = -1e8
"""Below this a number is a mask, as attention has it: no softmax is saturated by it."""


def _one_hot(marks: Tensor) -> bool:
    """Whether these are zeros and, along the last dimension, a single one."""
    return bool(((marks == 0) | (marks == 1)).all()) and bool((marks.sum(-1) == 1).all())


class _Mend(TorchFunctionMode):
    """While active, what stops a gradient is exact forward and soft backward.

    Whole numbers and truth values carry none, so `soft` keeps for each such tensor (by identity, with the tensor, lest
    its place be used again) a float tensor that stands for it until it becomes a float tensor again. `places` keeps for
    whole numbers that say where the best is, `(*shape)`, how likely they are each of `n` numbers, `(*shape, n)`: the
    softmax, which stands for them once they are marked, a choice by `one_hot(argmax)`, or looked up, as by `table[i]`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.soft: dict[int, tuple[Tensor, Tensor]] = {}
        self.places: dict[int, tuple[Tensor, Tensor]] = {}
        self.met: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, called(func)
        if name == "_set_grad_enabled":
            self.met += ["no_grad"] * (not args[0])
            return args[1](*args[2:]) if len(args) > 1 else None  # an exported program names what runs under it
        first = args[0] if args else None
        if not isinstance(first, Tensor):
            return self._carried(func, name, args, kwargs)
        if name in TOLD:
            return func(first.detach(), *args[1:], **kwargs)
        if bare(first).requires_grad and (name == "detach" or func == Tensor.data.__get__):  # type: ignore[attr-defined]
            self.met.append("detach")
            return first.clone()
        if name in BEST and bare(first).requires_grad:
            return self._placed(func(*args, **kwargs), first, name, args, kwargs)
        if self.places and (name in MARKS or name in PLACED or name in LOOKUPS):
            return self._marked(func, name, args, kwargs)
        in_place = (name.endswith("_") and not name.endswith("__")) or bool(kwargs.get("inplace"))
        if name.rstrip("_" * in_place) in SOFT and bare(first).requires_grad:
            soft = SOFT[name.rstrip("_" * in_place)](first.clone() if in_place else first, *args[1:], **kwargs)
            if soft is not None:
                value = func(first.detach().clone(), *args[1:], **kwargs)
                self.met += [name.strip("_")] * self._blocks(name, value, first)
                return first.copy_(stand(value, soft)) if in_place else self._known(value, soft)
        return self._carried(func, name, args, kwargs)

    def _placed(self, value: Any, x: Tensor, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What says where the best or the least is along a dimension, once for each row or several times."""
        told = args[BEST[name]] if len(args) > BEST[name] else -1 if name == "topk" else None
        dim, place = kwargs.get("dim", told), value if isinstance(value, Tensor) else value[1]
        if isinstance(dim, int):
            least = name in ("argmin", "min") or not kwargs.get("largest", True)
            likely = _softened_softmax((-x if least else x).movedim(dim, -1), -1)
            kept = likely.unsqueeze(dim % x.dim()) if place.dim() == x.dim() else likely
            self.places[id(place)] = (place, kept.expand(*place.shape, likely.shape[-1]))
        return value

    def _marked(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A place in another shape, marked by a one, or looked up in a table."""
        found = [self.places[id(arg)][1] for arg in (*args, *kwargs.values()) if id(arg) in self.places]
        if not found:
            return self._carried(func, name, args, kwargs)
        value, likely = func(*args, **kwargs), found[0]
        if name in PLACED and id(args[0]) in self.places:
            if value.numel() == args[0].numel():
                self.places[id(value)] = (value, likely.reshape(*value.shape, likely.shape[-1]))
        elif name in LOOKUPS and len(args) > max(LOOKUPS[name]):
            return self._looked_up(value, likely, args[LOOKUPS[name][0]])
        elif name in MARKS and _one_hot(bare(value)) and value.shape[-1] >= likely.shape[-1]:
            likely = nn.functional.pad(likely, (0, value.shape[-1] - likely.shape[-1]))
            if likely.numel() == value.numel():
                self.met.append("argmax")
                likely = likely.reshape(value.shape)
                return args[0].copy_(stand(value, likely)) if name == "scatter_" else self._known(value, likely)
        return value

    def _looked_up(self, value: Tensor, likely: Tensor, table: Tensor) -> Tensor:
        """What a table says at a place: the mean of its rows stands for it; of whole numbers, how likely each is."""
        if len(table) != likely.shape[-1]:
            return value
        if value.is_floating_point():
            soft = torch.tensordot(likely, table, 1)
            if soft.shape == value.shape:
                self.met.append("index")
                return stand(value, soft)
        elif table.dim() == 1 and value.shape == likely.shape[:-1] and int(table.min()) >= 0:
            self.places[id(value)] = (value, likely @ nn.functional.one_hot(table.long()).to(likely.dtype))
        return value

    def _blocks(self, name: str, value: Tensor, x: Tensor) -> bool:
        """Whether the function really stops gradients here: a sigmoid at moderate inputs does not."""
        if name.rstrip("_") not in SATURATING:
            return True
        match name.rstrip("_"):
            case "sigmoid":
                flat = 4 * value * (1 - value) < FLAT
            case "tanh":
                flat = 1 - value.square() < FLAT
            case "softmax" | "hardsigmoid":
                flat = (value == 0) | (value == 1)
            case "hardtanh" | "relu6" if not bool((value < 0).any()):
                flat = x > value  # from zero on: below it is a ReLU, as `nn.ReLU6` calls it
            case _:
                flat = value != x
        seen = x >= MASKED
        return bool(bare(flat & seen).sum() > 0.5 * bare(seen).sum())

    def _known(self, value: Tensor, soft: Tensor) -> Tensor:
        """The value, with the gradient of what stands for it, now or once it is a float tensor again."""
        if value.is_floating_point():
            return stand(value, soft)
        self.soft[id(value)] = (value, soft)
        return value

    def _carried(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of tensors that may stand for something."""
        value = func(*args, **kwargs)
        if not isinstance(value, Tensor) or not (self.soft or name in ABOVE or name in CASTS):
            return value
        soft = self._softly(func, name, args, kwargs, value)
        if soft is None or soft.shape != value.shape or not bare(soft).requires_grad:
            return value
        if not bool(bare(soft.isfinite()).all()):
            return value
        return self._known(value, soft)

    def _softly(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor
    ) -> Tensor | None:
        stood = [self.soft[id(arg)][1] for arg in _flat(args) if id(arg) in self.soft]
        floats = [arg for arg in _flat(args) if isinstance(arg, Tensor) and bare(arg).requires_grad]
        if name in ABOVE and (stood or floats):
            self.met.append("comparison")
            left, right = (self._stood(arg) for arg in args[:2])
            gap = torch.as_tensor(ABOVE[name] * (left - right))
            wide = gap.detach().abs().flatten(1).mean(1) if gap.dim() > 1 else gap.detach().abs().mean()
            return torch.sigmoid(gap / (rows(wide, gap) if gap.dim() > 1 else wide).clamp(min=1e-30))
        if name in CASTS and floats and not value.is_floating_point() and not value.is_complex():
            self.met.append("cast")
            return floats[0]
        if not stood:
            return None
        try:
            if name == "where":
                mask, left, right = (self._stood(arg) for arg in args)
                return torch.as_tensor(mask * left + (1 - mask) * right)
            if name == "masked_fill":
                mask = self._stood(args[1])
                return torch.as_tensor(self._stood(args[0]) * (1 - mask) + mask * args[2])
            if name in ("logical_not", "bitwise_not", "__invert__"):
                return 1 - stood[0]
            if name in CASTS:
                return stood[0]
            soft = func(*_replaced(args, self._stood), **kwargs)
            return soft if isinstance(soft, Tensor) and soft.is_floating_point() else None
        except (RuntimeError, TypeError, IndexError):  # a function of whole numbers alone: a table, say
            return next((one for one in stood if one.shape == value.shape), None)

    def _stood(self, arg: Any) -> Any:
        return self.soft[id(arg)][1] if id(arg) in self.soft else arg


def _flat(args: Sequence[Any]) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, tuple | list):
            yield from _flat(arg)
        else:
            yield arg


def _replaced(args: Sequence[Any], by: Callable[[Any], Any]) -> Sequence[Any]:
    """The same with each part replaced; tuples stay tuples, which mean other things than lists in an index."""
    found = [_replaced(arg, by) if isinstance(arg, tuple | list) else by(arg) for arg in args]
    return tuple(found) if isinstance(args, tuple) else found


Surrogate = Literal["identity", "slopes"]


@dataclass(frozen=True)
class Stage:
    """A call of a module whose gradient is not its own slope: the how manieth call of a pass, and what stands in."""

    call: int
    name: str
    surrogate: Surrogate


@contextmanager
def listening(hook: Callable[[int, nn.Module, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """`hook(call, module, x, y)` after every call of a module that turns a float tensor into one; may return another.

    Calls are counted as they end: inner ones before outer ones. Those under `torch.vmap` are of single rows, and none.
    """
    calls, deaf = itertools.count(), False

    def after(module: nn.Module, given: tuple[Any, ...], y: Any) -> Any:
        nonlocal deaf
        if deaf or len(given) != 1 or not (_is_float(given[0]) and _is_float(y)) or bare(y) is not y:
            return None
        deaf = True  # what the hook itself calls is not counted
        try:
            return hook(next(calls), module, given[0], y)
        finally:
            deaf = False

    handle = register_module_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def bridged(model: Model, *, stages: tuple[Stage, ...], width: float = 0.1, draws: int = 32) -> Model:
    """The same outputs; the calls of modules that `survey` found get a stand-in's gradient.

    "identity" is BPDA's own. "slopes" is a linear surrogate fitted at every point, by central differences of the
    stage along `draws` random directions of `width` times the range of its input; it runs the stage (not the model)
    2 `draws` times in a backward pass. Directions are others at every call: a climb along the same ones would never
    leave the space that they span.
    """
    wanted, calls = {stage.call: stage.surrogate for stage in stages}, itertools.count()

    def bridge(call: int, module: nn.Module, x: Tensor, y: Tensor) -> Tensor | None:
        if call not in wanted or not x.requires_grad:
            return None
        if wanted[call] == "identity":
            return stand(y, x)
        along = partial(_directions, width=width, draws=draws, seed=next(calls))
        pulled: Tensor = _Slopes.apply(y.detach(), x, module, along)  # type: ignore[no-untyped-call]
        return pulled

    def view(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return model(x)
        with listening(bridge):
            return model(x)

    return view


def _directions(x: Tensor, width: float, draws: int, seed: int = 0) -> Iterator[Tensor]:
    """Random signs, the same for every row, at `width` times the row's range."""
    span = x.detach().flatten(1).amax(1) - x.detach().flatten(1).amin(1)
    for signs in Streams.of(seed, range(draws)).sign(*x.shape[1:], device=x.device).to(x.dtype):
        yield signs * rows(width * span.clamp(min=1e-6), x)


class _Slopes(torch.autograd.Function):
    """A value given; the pullback `sum_u u <(f(x + u) - f(x - u)) / (2 |u|^2), g>`, |u|^2 by coordinate."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, stage: Model, along: Callable[[Tensor], Iterator[Tensor]]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.stage, ctx.along = stage, along
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        (x,) = ctx.saved_tensors
        terms = []
        for u in ctx.along(x):
            rise = ((ctx.stage(x + u) - ctx.stage(x - u)) * gradients[0]).flatten(1).sum(1)
            terms.append(u * rows(rise / (2 * u.flatten(1).square().mean(1)), u))
        return None, mean(terms), None, None


AGREES = 0.3
"""Correlation of autograd with finite differences, over random directions, under which a stage is not its own slope.

Measured: 0.4 and more on every module of honest and robust networks, 0.01 and less on those that need a bridge.
"""


def survey(model: Model, x: Tensor, *, directions: int = 24) -> tuple[Stage, ...]:
    """The innermost modules whose gradient is not their slope, once functions of torch are mended.

    Each call is run again by itself, with the same random numbers each time. A few `x` will do, best off the data: a
    fault may be absent where pixels are black. The outermost module is left out, however often a view calls it: what
    stands in for all of a model is a black-box attack. Costs about 50 passes a row.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    with torch.no_grad(), listening(lambda call, module, x, y: calls.append((module, x.detach(), y.detach()))):
        model(x)
    found: list[Stage] = []
    for call, (module, given, y) in enumerate(calls):
        if module is calls[-1][0]:
            continue
        inside = {id(part) for part in module.modules()} - {id(module)}
        if any(id(calls[stage.call][0]) in inside for stage in found):
            continue
        real, own, same = _slopes(module, given, y, directions)
        if float(real.abs().amax()) > 0 and _correlation(own, real) < AGREES:
            fits = same is not None and _correlation(same, real) > 0.1
            found.append(Stage(call, type(module).__name__, "identity" if fits else "slopes"))
    return tuple(found)


def _slopes(module: nn.Module, x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """`<g, J u>` for a random `g` and random directions u: real, by autograd, and if the stage were the identity."""
    g = Streams.of(1, [0]).sign(*y.shape[1:], device=y.device).to(y)

    def run(z: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out: Tensor = module(z)
        return out

    with torch.enable_grad():
        point = x.clone().requires_grad_()
        out = mended(run)(point)
        (gradient,) = torch.autograd.grad((out * g).sum(), point, allow_unused=True) if out.requires_grad else (None,)
    real, own, same = [], [], []
    with torch.no_grad():
        for u in _directions(x, 0.05, count):
            real.append(((run(x + u) - run(x - u)) * g / 2).flatten(1).sum(1))
            own.append(torch.zeros_like(real[-1]) if gradient is None else (gradient * u).flatten(1).sum(1))
            same.append((g * u).flatten(1).sum(1) if x.shape == y.shape else real[-1])
    return torch.stack(real), torch.stack(own), torch.stack(same) if x.shape == y.shape else None


def _correlation(a: Tensor, b: Tensor) -> float:
    """The median over the rows (dimension 1) of the cosine over the directions."""
    cosine = torch.nn.functional.cosine_similarity(a.nan_to_num(), b.nan_to_num(), dim=0)
    return float(cosine.median()) if math.isfinite(float(cosine.median())) else 0.0
