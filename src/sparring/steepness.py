"""Units so steep that most of them pass on no gradient, whatever made them so.

`erf(30 u)`, `1 / (1 + exp(-100 u))` and `u / sqrt(1 + u^2)` of large u are smooth, and autograd is right about them: a
gradient in float32 is all but zero on either side of a step, so that attacks see the few units that happen to be on
it. Divided by the right number before the step, the same network leads across it (the temperature of Carlini and
Wagner, 2016, section 4.2, inside of the network). No list of functions: `steep` watches what gradient arrives at each
tensor on its way, and tries by how much it must be divided until most of its units pass one on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparring.functions import called
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


@dataclass(frozen=True)
class Steep:
    """What is too steep: the result of the how manieth call of a function of torch, and what it is to be divided by."""

    call: int
    name: str
    by: float


def steep(model: Model, x: Tensor, *, view: View | None = None) -> tuple[Steep, ...]:
    """The tensors inside of a model, in order, most of whose units pass on no gradient, on both sides of their middle.

    Those, that is, that would if they were smaller: what max-pooling, or a cut, takes of a gradient it takes of any
    scale. The input itself, shifted and scaled, is none of them. Looked at from the last to the first, each behind
    those that were found already; through a `view` of the model, where gradients need one to get there. A few `x`
    `(B, *shape)` will do; costs a forward and a backward pass on them, and 1 to 9 for each tensor that is in doubt.
    """
    found: dict[int, Steep] = {}
    look = partial(_shut, model, x, view or _itself)
    shut = look(found)

    def left(unit: Steep) -> float:
        return look(found | {unit.call: unit}).get(unit.call, (unit.name, 1.0))[1]

    for call in sorted(shut, reverse=True):
        name, share = shut.get(call, ("", 0.0))
        if share > HALF and left(Steep(call, name, DIVISORS[-1])) < HALF * share:
            found[call] = next(unit for by in DIVISORS if left(unit := Steep(call, name, by)) <= HALF)
            shut = look(found)
    return tuple(found[call] for call in sorted(found))


def moderated(model: Model, *, units: tuple[Steep, ...], draws: int = 3) -> Model:
    """The same outputs; the gradient is that of the mean of `draws` networks whose steep `units` are moderate.

    The first divides as much as `steep` found, each next one by `APART` less: the softest leads from far off, sharper
    ones across the last step. Costs `draws` + 1 passes a pass.
    """

    def softer(x: Tensor, sharper: float) -> Tensor:
        by = {one.call: one.by / sharper for one in units if one.by > sharper}
        with _Passed(lambda call, name, y: y / by[call] if call in by else y):
            return model(x)

    def view(x: Tensor) -> Tensor:
        outputs = model(x)
        if not torch.is_grad_enabled():
            return outputs
        return stand(outputs, mean([softer(x, APART**k) for k in range(draws)]))

    return view


class _Passed(TorchFunctionMode):
    """While active, `change(call, name, y)` may put another tensor in the place of any that a function returns."""

    def __init__(self, change: Callable[[int, str, Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.calls = change, itertools.count()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        y, call = func(*args, **(kwargs or {})), next(self.calls)
        carries = isinstance(y, Tensor) and y.is_floating_point() and y.dim() > 1 and y.requires_grad
        return self.change(call, called(func), y) if carries else y


def _itself(model: Model) -> Model:
    return model


def _shut(model: Model, x: Tensor, view: View, moderate: dict[int, Steep]) -> dict[int, tuple[str, float]]:
    """For each call, its function and the share of its units, at the better side of their middle, that pass none on.

    The gradient is `signed_gradient`'s.
    """
    shares: dict[int, tuple[str, float]] = {}

    def watch(call: int, name: str, y: Tensor) -> Tensor:
        if call in moderate:
            y = y / moderate[call].by
        batch = 0 if len(y) % len(x) == 0 else next((i for i, size in enumerate(y.shape) if size == len(x)), None)
        if y.numel() and batch is not None:
            u = y.detach().movedim(batch, 0).reshape(len(x), -1)
            if _affine(u, x.flatten(1)):
                return y
            shares[call] = (name, 0.0)

            def note(g: Tensor) -> None:
                shares[call] = (name, _share(u, g.detach().movedim(batch, 0).reshape(len(x), -1).abs()))

            y.register_hook(note)  # type: ignore[no-untyped-call]
        return y

    def watched(z: Tensor) -> Tensor:
        with _Passed(watch):
            return model(z)

    signed_gradient(view(watched), x)
    return shares


def _affine(u: Tensor, x: Tensor) -> bool:
    """Whether it is the input, shifted and scaled: smaller, that would be a darker image, and no softer network."""
    if u.shape != x.shape:
        return False
    u, x = (one.float() - one.float().mean(1, keepdim=True) for one in (u, x))
    return bool(((u * x).sum(1).abs() >= 0.9999 * u.norm(dim=1) * x.norm(dim=1)).all())


def _share(u: Tensor, g: Tensor) -> float:
    shut, middle = g <= TINY * g.amax(1, keepdim=True), u.median(1, keepdim=True).values
    sides = [side for side in (u > middle, u <= middle) if bool(side.any())]
    return min(float(shut[side].float().mean()) for side in sides) if len(sides) == 2 else 0.0
