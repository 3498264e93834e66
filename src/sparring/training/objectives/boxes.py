"""A network on boxes of inputs: `network(Box.of(x, low, high))` gives bounds that can be trained.

A box goes through a network's own forward pass in the place of a tensor, and every operation of torch bounds itself
(`__torch_function__`): no graph is read, no second network built. Float32, differentiable in the weights, and not
sound to the last bit: that is for `sparring.certify` to say, once training is over.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from sparring.certify.graph import Rectifier
from sparring.certify.lines import Constants, relax
from sparring.errors import BadInput
from sparring.training.augmentations import shares

Map = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Walk:
    """What the boxes of one pass share: those before every ReLU, and what lines give away (see `Box.line`)."""

    before: list[Box] = field(default_factory=list)
    slack: Tensor | None = None


class Box:
    """Everything within `reach` of `middle`, `(B, *shape)`, and a `point` in it that goes through the network as usual.

    BatchNorm in training mode gathers the statistics of the points, once, and bounds by the same statistics. `line`,
    where there is one, takes the way of the point, but hands back the slopes of lines under and over every ReLU in
    place of its own.

    An operation in place makes another box of this one. `changes` counts those of a value and of its views, as torch
    does for what lies at the same place in memory: whoever has missed one is not what the network would see there.
    """

    def __init__(
        self, point: Tensor, middle: Tensor, reach: Tensor, walk: Walk | None = None, line: Tensor | None = None
    ) -> None:
        self.point, self._middle, self.reach, self.line = point, middle, reach, line
        self.walk = Walk() if walk is None else walk
        self.head: tuple[Box, Tensor] | None = None
        self.changes, self.seen = [0], 0

    @classmethod
    def of(cls, point: Tensor, low: Tensor, high: Tensor, walk: Walk | None = None, line: Tensor | None = None) -> Box:
        """The box from `low` to `high`."""
        return cls(point, (low + high) / 2, (high - low) / 2, walk, line)

    @property
    def middle(self) -> Tensor:
        """The middle.

        Raises:
            BadInput: the value was changed in place by way of another view of it.
        """
        if self.seen != self.changes[0]:
            raise _lacks("a value that was changed in place by way of a view of it")
        return self._middle

    @property
    def low(self) -> Tensor:
        """The least values."""
        return self.middle - self.reach

    @property
    def high(self) -> Tensor:
        """The greatest values."""
        return self.middle + self.reach

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The rule for an operation of torch, by its name; in place where torch does it so."""
        name, kwargs = func.__name__, kwargs or {}
        try:
            value = _rule(name)(*args, **kwargs)
        except TypeError as error:
            raise _lacks(f"the operation {name} with such arguments ({error})") from error
        in_place = kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__"))
        return _put(args[0], value) if in_place else value

    def __getattr__(self, name: str) -> Any:
        """A method of tensors, bound to this box; one that has no rule is refused once it is called."""
        if name in RULES:
            return partial(RULES[name], self)
        if name.endswith("_") and not name.startswith("_") and name[:-1] in RULES:
            return lambda *args, **kwargs: _put(self, RULES[name[:-1]](self, *args, **kwargs))
        if name in {"T", "mT", "H", "mH"}:
            raise _lacks(f"the transpose {name}")
        if name.startswith("_") or not callable(getattr(Tensor, name, None)):
            raise AttributeError(name)
        return partial(_refused, name)

    def __getitem__(self, key: Any) -> Box:
        """Refuse a part of a value.

        Raises:
            BadInput: always.
        """
        raise _lacks("a subscript")

    def __len__(self) -> int:
        return len(self.point)

    # What modules and hooks ask of a tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of a value."""
        return self.point.shape

    @property
    def device(self) -> torch.device:
        """Where the box is."""
        return self.point.device

    @property
    def requires_grad(self) -> bool:
        """Whether the bounds have a gradient."""
        return self.middle.requires_grad

    def dim(self) -> int:
        """The number of dimensions, the batch among them."""
        return self.point.dim()

    @property
    def ndim(self) -> int:
        """The number of dimensions, the batch among them."""
        return self.point.dim()

    def size(self, *dim: int) -> Any:
        """The shape of a value, or one of its sizes."""
        return self.point.size(*dim)

    def register_hook(self, hook: Callable[[Tensor], None]) -> None:
        """Call `hook` when a gradient comes by, whichever way."""
        last = self if self.head is None else self.head[0]
        for part in (self.point, self.middle, self.reach, last.reach):
            if part.requires_grad:
                part.register_hook(hook)  # type: ignore[no-untyped-call]

    # Arithmetic

    def __add__(self, other: Any) -> Box:
        return added(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Box:
        return less(self, other)

    def __rsub__(self, other: Any) -> Box:
        return less(other, self)

    def __neg__(self) -> Box:
        return times(self, -1.0)

    def __mul__(self, other: Any) -> Box:
        return times(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Box:
        return divided(self, other)

    def __rtruediv__(self, other: Any) -> Box:
        return divided(other, self)

    def __iadd__(self, other: Any) -> Box:
        return _put(self, added(self, other))

    def __isub__(self, other: Any) -> Box:
        return _put(self, less(self, other))

    def __imul__(self, other: Any) -> Box:
        return _put(self, times(self, other))

    def __itruediv__(self, other: Any) -> Box:
        return _put(self, divided(self, other))

    # The three kinds of operations

    def affine(self, f: Map, size: Map) -> Box:
        """Through an affine function; `size` is its linear part, with weights without sign.

        `f(m) - |f|(r)` to `f(m) + |f|(r)`, m the middle of the box and r its reach (Gowal et al., 2018).
        """
        line = None if self.line is None else f(self.line)
        return Box(f(self.point), f(self.middle), size(self.reach), self.walk, line)

    def each(self, f: Map) -> Box:
        """Through a linear function without negative weights."""
        return self.affine(f, f)

    def rising(self, f: Map, slope: float | None = None) -> Box:
        """Through a function that rises, or stays, in every coordinate; with `slope` a ReLU that has it below zero."""
        low, high, line = f(self.low), f(self.high), self.line
        if line is not None:
            line = _Relaxed.apply(line, self.walk.slack, self.low, self.high, low, high, f, slope)  # type: ignore[no-untyped-call]
        return Box.of(f(self.point), low, high, self.walk, line)


def _put(place: Any, value: Box) -> Box:
    """The value in the place of another one, for all who hold that."""
    if not isinstance(place, Box):
        raise _lacks("a constant changed in place by what depends on the input")
    if value is not place:
        place.point, place._middle, place.reach = value.point, value.middle, value.reach
        place.line, place.head = value.line, value.head
        place.changes[0] += 1
        place.seen = place.changes[0]
    return place


def _kept(x: Box) -> Box:
    """The box as it is now, whatever becomes of it in place."""
    y = copy.copy(x)
    y.changes, y.seen = [0], 0
    return y


class _Relaxed(torch.autograd.Function):
    """`v = f(h)`, whose backward pass hands back a line under `<a, f>` in the place of a gradient, for CROWN's walk.

    Between its bounds `<a, f(h')> >= <a', h'> + c` for all `h'`. `a'` goes on to `h`; what the line gives away at `h`
    itself, `<a', h> + c - <a, v>`, is the gradient of `slack`, where all layers' shares add up.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  (torch passes them so)
        ctx: Any, h: Tensor, slack: Tensor, low: Tensor, high: Tensor, least: Tensor, most: Tensor, f: Map, slope: Any
    ) -> Tensor:
        v = f(h)
        ctx.save_for_backward(h, v, low, high, least, most)
        ctx.slope = slope
        return v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (a,), (h, v, low, high, least, most) = gradients, ctx.saved_tensors
        lines = Constants(least, most) if ctx.slope is None else relax(Rectifier(ctx.slope), low, high)
        back, constant = lines.back(a.unsqueeze(1))
        slope = torch.zeros_like(h) if back is None else back.squeeze(1)
        lost = constant.squeeze(1) + (slope * h).flatten(1).sum(1) - (a * v).flatten(1).sum(1)
        return slope, lost, None, None, None, None, None, None


def linear(x: Box, weight: Tensor, bias: Tensor | None = None) -> Box:
    """`W x + b`; the last one of a network is remembered, and joined with what is asked of the logits."""
    y = x.affine(lambda h: functional.linear(h, weight, bias), lambda h: functional.linear(h, weight.abs()))
    y.head = _kept(x), weight
    return y


def conv2d(x: Box, weight: Tensor, bias: Tensor | None = None, *settings: Any, **more: Any) -> Box:
    """A convolution."""
    shared = partial(functional.conv2d, **more)
    return x.affine(lambda h: shared(h, weight, bias, *settings), lambda h: shared(h, weight.abs(), None, *settings))


def batch_norm(  # noqa: PLR0917  (those of torch)
    x: Box,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Box:
    """Normalised by the statistics of the points, or by those of training."""
    point = functional.batch_norm(x.point, running_mean, running_var, weight, bias, training, momentum, eps)
    if training:
        var, mean = torch.var_mean(x.point, [d for d in range(x.dim()) if d != 1], correction=0)
    else:
        assert running_mean is not None
        assert running_var is not None
        var, mean = running_var, running_mean
    gain = (var + eps).rsqrt()
    gain = gain if weight is None else gain * weight
    shift = -mean * gain if bias is None else bias - mean * gain
    gain, shift = (part.view(-1, *[1] * (x.dim() - 2)) for part in (gain, shift))
    y = x.affine(lambda h: torch.addcmul(shift.to(h), h, gain.to(h)), lambda h: h * gain.abs().to(h))
    y.point = point
    return y


def rectified(x: Box, slope: float = 0.0) -> Box:
    """ReLU, or with a slope from 0 to 1 LeakyReLU."""
    if not 0 <= slope <= 1:
        raise _lacks(f"a LeakyReLU of slope {slope}")
    x.walk.before.append(_kept(x))
    return x.rising(partial(functional.leaky_relu, negative_slope=slope) if slope else functional.relu, slope)


def max_pool2d(x: Box, *settings: Any, **more: Any) -> Box:
    """The largest of every window."""
    return x.rising(lambda h: functional.max_pool2d(h, *settings, **more))


def avg_pool2d(  # noqa: PLR0917  (those of torch)
    x: Box,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Box:
    """The mean of every window."""
    if divisor_override is not None and divisor_override < 0:
        raise _lacks(f"a mean that divides by {divisor_override}")
    settings = (kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    return x.each(lambda h: functional.avg_pool2d(h, *settings))


def wider(x: Box) -> Box:
    """In float32; what is known of the last layer stays known."""
    y = _view(x, Tensor.float)
    y.head = x.head
    return y


def _left_out(dropout: Callable[..., Tensor]) -> Callable[..., Box]:
    """The rule of a dropout: the same coordinates, or maps, left out everywhere."""

    def rule(x: Box, p: float = 0.5, training: bool = True, inplace: bool = False) -> Box:
        return times(x, dropout(torch.ones_like(x.point), p)) if training else x

    return rule


def added(x: Any, other: Any) -> Box:
    """The sum of two boxes, or of a box and a constant."""
    x, other = (x, other) if isinstance(x, Box) else (other, x)
    if not isinstance(other, Box):
        return x.affine(lambda h: h + other, lambda h: h.expand_as(h + other))  # type: ignore[no-any-return]
    line = None if x.line is None or other.line is None else x.line + other.line
    return Box(x.point + other.point, x.middle + other.middle, x.reach + other.reach, x.walk, line)


def times(x: Any, other: Any) -> Box:
    """A box times a constant."""
    x, other = (x, other) if isinstance(x, Box) else (other, x)
    if isinstance(other, Box):
        raise _lacks("a product of two values that depend on the input")
    if isinstance(other, Tensor) and other.dtype == torch.bool:  # which has no size
        other = other.to(x.reach)
    return x.affine(lambda h: h * other, lambda h: h * abs(other))  # type: ignore[no-any-return]


def less(x: Any, other: Any) -> Box:
    """A difference."""
    return added(x, times(other, -1.0) if isinstance(other, Box) else -other)


def divided(x: Any, other: Any) -> Box:
    """A box divided by a constant."""
    if isinstance(other, Box):
        raise _lacks("a division by what depends on the input")
    return times(x, 1 / other)


def beside(parts: Sequence[Box], dim: int = 0) -> Box:
    """Boxes side by side."""
    if not all(isinstance(part, Box) for part in parts):
        raise _lacks("a constant beside what depends on the input")
    lines = [part.line for part in parts if part.line is not None]
    names = ("point", "middle", "reach")
    point, middle, reach = (torch.cat([getattr(part, name) for part in parts], dim) for name in names)
    return Box(point, middle, reach, parts[0].walk, torch.cat(lines, dim) if lines else None)


def _view(x: Box, f: Map) -> Box:
    """What may lie at the same place in memory, and is changed along with it."""
    y = x.each(f)
    y.changes, y.seen = x.changes, x.seen
    return y


def _seen(name: str) -> Callable[..., Box]:
    """The rule of a method that shows the same values in another shape."""
    f = getattr(Tensor, name)
    return lambda x, *settings, **more: _view(x, lambda h: f(h, *settings, **more))


RULES: dict[str, Callable[..., Box]] = {
    "linear": linear,
    "conv2d": conv2d,
    "batch_norm": batch_norm,
    "relu": lambda x, inplace=False: rectified(x),
    "leaky_relu": lambda x, negative_slope=0.01, inplace=False: rectified(x, negative_slope),
    "sigmoid": lambda x: x.rising(torch.sigmoid),
    "tanh": lambda x: x.rising(torch.tanh),
    "max_pool2d": max_pool2d,
    "dropout": _left_out(functional.dropout),
    "dropout2d": _left_out(functional.dropout2d),
    "add": added,
    "sub": less,
    "rsub": lambda x, other: less(other, x),
    "mul": times,
    "div": divided,
    "cat": beside,
    "concat": beside,
    "concatenate": beside,
    "avg_pool2d": avg_pool2d,
    "adaptive_avg_pool2d": lambda x, output_size: x.each(lambda h: functional.adaptive_avg_pool2d(h, output_size)),
    **{
        name: _seen(name)
        for name in ("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous", "detach")
    },
    "float": wider,
}
"""What an operation of torch does to a box, by its name; those in place (`relu_`) go by the name of the others."""


def _rule(name: str) -> Callable[..., Box]:
    name = name.strip("_")
    if name not in RULES:
        raise _lacks(f"the operation {name}")
    return RULES[name]


def _refused(name: str, *settings: Any, **more: Any) -> NoReturn:
    raise _lacks(f"the operation {name}")


def _lacks(what: str) -> BadInput:
    return BadInput(
        what,
        "Linear, Conv2d, BatchNorm, ReLU, LeakyReLU, Sigmoid, Tanh, pooling, Flatten, sums, Concat",
        "write the network with those",
    )


# What is asked of the logits


def ranked(out: Box, labels: Tensor) -> Tensor:
    """Upper bounds of `z_k - z_y` for every class k, `(B, K)`, by intervals up to the last layer.

    That one is joined with the difference, which leaves nothing of what the logits have in common (Gowal et al.,
    2018). Where labels are shares `s`, of `z_k - <s, z>`.
    """
    rows = _rows(out, labels)
    across, reach = (rows, out.reach) if out.head is None else (rows @ out.head[1], out.head[0].reach.to(rows))
    return (rows @ out.middle.unsqueeze(2) + across.abs() @ reach.unsqueeze(2)).squeeze(2)


def ranked_by_lines(out: Box, x: Box, labels: Tensor) -> Tensor:
    """The same by CROWN between the bounds of intervals, for `out = network(x)` with a line (Zhang et al., 2020).

    Costs a backward pass a class.
    """
    assert x.line is not None
    assert out.line is not None
    assert out.walk.slack is not None
    bounds = []
    for row in (-_rows(out, labels)).unbind(1):
        ends = (x.line, out.walk.slack)
        slope, lost = torch.autograd.grad(out.line, ends, row, create_graph=True, allow_unused=True)
        assert slope is not None
        least = (slope * (x.middle - x.point) - slope.abs() * x.reach).flatten(1).sum(1)
        given_away = 0.0 if lost is None else lost  # without a ReLU there are no lines
        bounds.append((row * out.line).sum(1) + given_away + least)
    return -torch.stack(bounds, 1)


def _rows(out: Box, labels: Tensor) -> Tensor:
    """`e_k - s` for every class k, `(B, K, K)`."""
    count = out.shape[1]
    eye = torch.eye(count, dtype=out.middle.dtype, device=out.middle.device)
    return eye - shares(labels, count).to(eye).unsqueeze(1)


SAMPLED = 4
"""One row in so many is enough for the regularisers: means over all units, which cost as much as the bounds do."""


def unsettled(x: Box, out: Box, tolerance: float = 0.5) -> Tensor:
    """How far bounds grow from the input to a ReLU, and how unevenly ReLUs are active and inactive.

    The two regularisers of Shi et al. (2021), the mean over all ReLUs: each ratio should be
    `tolerance` or more. Active and inactive are compared by their share of the mean, and of the variance. Departs from
    the paper in that a quarter of the batch stands for all of it.
    """
    width = x.reach[::SAMPLED].mean().clamp(min=1e-12)
    total = out.reach.new_zeros(())
    for box in out.walk.before:
        middle, reach = (part[::SAMPLED].to(width) for part in (box.middle, box.reach))
        spread = (middle - middle.mean()).square()
        on, off = (middle > reach).to(spread), (middle < -reach).to(spread)
        ratios = torch.stack(
            [
                width / reach.mean().clamp(min=1e-12),
                _balance((middle * on).mean(), -(middle * off).mean()),
                _balance((spread * on).mean(), (spread * off).mean()),
            ]
        )
        total = total + (tolerance - ratios).relu().sum() / tolerance
    return total / max(len(out.walk.before), 1)


def _balance(one: Tensor, other: Tensor) -> Tensor:
    """`min(a, 1 / a)` of their ratio."""
    return torch.minimum(one, other) / torch.maximum(one, other).clamp(min=1e-12)
