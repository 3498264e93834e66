"""Units so steep that most of them pass on no gradient, whatever made them so.

`erf(30 u)`, `1 / (1 + exp(-100 u))` and `u / sqrt(1 + u^2)` of large u are smooth, and autograd is right about them: a
gradient in float32 is all but zero on either side of a step, so that attacks see the few units that happen to be on
it. Divided by the right number before the step, the same network leads across it (the temperature of Carlini and
Wagner, 2016, section 4.2, inside of the network). No list of functions: `steep` watches what gradient arrives at each
tensor on its way, and tries by how much it must be divided until most of its units pass one on.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparring.functions import bare, called
from sparring.mending import signed_gradient
from sparring.types import Model
from sparring.views import mean, stand

View = Callable[[Model], Model]

TINY = 1e-3
"""A gradient that is as good as none, as a share of the largest in its row."""

APART = 4.0
"""The divisors that are tried are powers of this, and so far apart are the soft networks that lead."""

DIVISORS = tuple(APART**k for k in range(1, 8))

HALF = 0.5
"""Of the units on a side of the middle, as many may pass on no gradient: a ReLU takes it from those below alone. And a
scale that opens them leaves less than this of their share: pooling and dead units hover about theirs."""


REPEATED = 8
"""A batch so many times as large tells by its calls whether a model goes through its rows one by one, or in parts."""


@dataclass(frozen=True)
class Steep:
    """What is too steep: the result of the how manieth call of a function of torch, and what it is to be divided by.

    Of a model that goes through its rows in a loop, all the calls from one place in its code: `call` is a digest of it.
    """

    call: int
    name: str
    by: float
    loop: bool = False


def steep(model: Model, x: Tensor, *, view: View | None = None) -> tuple[Steep, ...]:
    """The tensors inside of a model, in order, most of whose units pass on no gradient, on both sides of their middle.

    Those, that is, that would if they were smaller: what max-pooling, or a cut, takes of a gradient it takes of any
    scale. The input itself, shifted and scaled, is none of them. Looked at from the last to the first, each behind
    those that were found already; through a `view` of the model, where gradients need one to get there. A few `x`
    `(B, *shape)` will do; costs a forward and a backward pass on them, 9 forward passes to see whether the model has
    a loop over rows, and 1 to 9 of both kinds for each tensor that is in doubt.
    """
    loop = _calls(model, x) != _calls(model, torch.cat([x] * REPEATED))
    found: dict[int, Steep] = {}
    look = partial(_shut, model, x, view or _itself, loop)
    shut = look(found)

    def left(unit: Steep) -> float:
        return look(found | {unit.call: unit}).get(unit.call, (unit.name, 1.0))[1]

    for call in reversed(shut):
        name, share = shut.get(call, ("", 0.0))
        if share > HALF and left(Steep(call, name, DIVISORS[-1], loop)) < HALF * share:
            found[call] = next(unit for by in DIVISORS if left(unit := Steep(call, name, by, loop)) <= HALF)
            shut = look(found)
    return tuple(found[call] for call in shut if call in found)


def moderated(model: Model, *, units: tuple[Steep, ...], draws: int = 3) -> Model:
    """The same outputs; the gradient is that of the mean of `draws` networks whose steep `units` are moderate.

    The first divides as much as `steep` found, each next one by `APART` less: the softest leads from far off, sharper
    ones across the last step. Costs `draws` + 1 passes a pass.
    """

    def softer(x: Tensor, sharper: float) -> Tensor:
        by = {one.call: one.by / sharper for one in units if one.by > sharper}
        with _Passed(lambda call, name, y: y / by[call] if call in by else y, any(one.loop for one in units)):
            return model(x)

    def view(x: Tensor) -> Tensor:
        outputs = model(x)
        if not torch.is_grad_enabled():
            return outputs
        return stand(outputs, mean([softer(x, APART**k) for k in range(draws)]))

    return view


class _Passed(TorchFunctionMode):
    """While active, `change(call, name, y)` may put another tensor in the place of any that a function returns."""

    def __init__(self, change: Callable[[int, str, Tensor], Tensor], loop: bool = False) -> None:
        super().__init__()
        self.change, self.loop, self.calls = change, loop, 0
        self.parts: dict[int, int] = {}

    def __enter__(self) -> Any:
        """Calls are named by what is between here and them."""
        self.outside = sys._getframe(1)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        y, call = func(*args, **(kwargs or {})), self._place() if self.loop else self.calls
        self.calls += 1
        if not (isinstance(y, Tensor) and y.is_floating_point() and y.dim() and bare(y).requires_grad):
            return y
        return self.change(call, called(func), y)

    def _place(self) -> int:
        """A digest of where in the code a function is called, and of the modules on the way: the same for every row."""
        place, frame = 0, sys._getframe(2)
        while frame is not self.outside and frame.f_back is not None:
            part = frame.f_locals.get("self")
            number = self.parts.setdefault(id(part), len(self.parts)) if isinstance(part, nn.Module) else None
            place = zlib.crc32(f"{frame.f_code.co_qualname} {frame.f_lasti} {number}".encode(), place)
            frame = frame.f_back
        return place


def _itself(model: Model) -> Model:
    return model


def _calls(model: Model, x: Tensor) -> int:
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _Passed(lambda call, name, y: y) as passed:
        model(x)
    return int(passed.calls)


def _shut(model: Model, x: Tensor, view: View, loop: bool, moderate: dict[int, Steep]) -> dict[int, tuple[str, float]]:
    """For each call, its function and the share of its units, at the better side of their middle, that pass none on.

    The gradient is `signed_gradient`'s.
    """
    names: dict[int, str] = {}
    shares: dict[int, list[float]] = {}

    def watch(call: int, name: str, y: Tensor) -> Tensor:
        if call in moderate:
            y = y / moderate[call].by
        rows = _rows(y, len(x), loop)
        if rows is None or _affine(u := rows(bare(y).detach()), x.flatten(1)):
            return y
        names[call] = name
        told = shares.setdefault(call, [])

        def tell(g: Tensor | None) -> None:
            if g is not None:  # some functions, of quantised layers say, pass nothing on
                told.append(_share(u, rows(g.detach()).abs()))

        bare(y).register_hook(tell)  # type: ignore[no-untyped-call]
        return y

    def watched(z: Tensor) -> Tensor:
        with _Passed(watch, loop):
            return model(z)

    signed_gradient(view(watched), x)
    return {call: (name, sum(shares[call]) / max(len(shares[call]), 1)) for call, name in names.items()}


def _rows(y: Tensor, count: int, loop: bool) -> Callable[[Tensor], Tensor] | None:
    """How what belongs to a row is brought together: `(rows, units)`; nothing where no dimension is of rows."""
    whole = bare(y)
    if not whole.numel() or not (loop or whole.dim() > 1 or len(whole) == count):
        return None
    batch = 0 if len(whole) % count == 0 else next((i for i, n in enumerate(whole.shape) if n == count), None)
    if whole is not y:
        batch = int(torch._C._functorch.maybe_get_bdim(y))
    elif loop and batch is None:  # some of the rows, or one by itself
        return lambda one: one.reshape(len(one) if one.dim() > 1 else 1, -1)
    if batch is None:
        return None
    return lambda one: one.movedim(batch, 0).reshape(count if one.shape[batch] % count == 0 else one.shape[batch], -1)


def _affine(u: Tensor, x: Tensor) -> bool:
    """Whether it is the input, shifted and scaled: smaller, that would be a darker image, and no softer network."""
    if u.shape[1] != x.shape[1]:
        return False
    u, x = (one.float() - one.float().mean(1, keepdim=True) for one in (u, x))
    alike = (u @ x.T).abs() >= 0.9999 * u.norm(dim=1)[:, None] * x.norm(dim=1)
    return bool(alike.any(1).all())


def _share(u: Tensor, g: Tensor) -> float:
    middle = u.median(1, keepdim=True).values
    if u.shape[1] == 1:  # a single unit is compared with itself in the other rows: of a dead one, all have one sign
        u, g, middle = u.T, g.T, u.new_zeros(1, 1)
    shut = g <= TINY * g.amax(1, keepdim=True)
    sides = [side for side in (u > middle, u <= middle) if bool(side.any())]
    return min(float(shut[side].float().mean()) for side in sides) if len(sides) == 2 else 0.0
