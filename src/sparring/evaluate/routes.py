"""Routes through a model that it chooses beside its gradients: by what Python reads, by what an index picks.

An early exit by `if`, an expert by `argmax`: an attack follows the slope of the route that it is on, and the model
changes the route under it. A choice is found by having it made as for other inputs. What fools one of the networks so
surely that it is asked to the end fools the whole: each is attacked by itself, and all at once, for they may vote.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from traceback import walk_stack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparring.evaluate.outputs import agree
from sparring.functions import bare, called
from sparring.mending import listening
from sparring.models.victim import are_probabilities
from sparring.types import Model
from sparring.views import log_probabilities, mean, stand

READ = {"__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__"}
READ |= {"item", "tolist", "numpy", "is_nonzero", "equal", "allclose", "nonzero"}
"""Functions of torch, by name, that tell Python values, or how many there are."""

PICK = {"__getitem__", "__setitem__", "index_select"}
"""Those that pick rows."""

HALF = frozenset({torch.float16, torch.bfloat16})
"""Types of half precision."""

OWN = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
"""What runs a function that has a backward pass of its own: that answers for what is read there."""


class Reading(TorchFunctionMode):
    """While active, notes what choices are made of: values that Python reads, whole numbers that pick rows.

    With `told`, what was noted of other inputs, these are read instead, one after another, as long as they fit.
    `halves` are the functions, by name, that gave something in half precision.
    """

    def __init__(self, told: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self.noted: list[tuple[str, Any]] = []
        self.told = iter(told)
        self.halves: dict[str, torch.dtype] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = called(func)
        if name in PICK:
            args = (args[0], *(self._picked(name, one) for one in args[1:]))
        elif name == "cond":
            args = (self._read(name, args[0]), *args[1:])
        value = func(*args, **(kwargs or {}))
        if isinstance(value, Tensor) and value.dtype in HALF:
            self.halves[name] = value.dtype
        return self._read(name, value) if name in READ else value

    def _picked(self, name: str, index: Any) -> Any:
        if isinstance(index, tuple | list):
            return type(index)(self._picked(name, one) for one in index)
        rows = isinstance(index, Tensor) and index.dim() > 0 and index.numel() == len(index)
        return self._read(name, index) if rows and not index.is_floating_point() else index

    def _read(self, name: str, value: Any) -> Any:
        if any(frame.f_code is OWN for frame, _ in walk_stack(sys._getframe())):
            return value
        self.noted.append((name, copy.deepcopy(value)))
        known, other = next(self.told, (None, None))
        if known == name and getattr(other, "shape", None) == getattr(value, "shape", None):
            return other
        self.told = iter(())  # it went another way: what comes now was not made of the same
        return value


def choices(model: Model, x: Tensor, outputs: Tensor, reading: Reading, others: Tensor) -> tuple[str, ...]:
    """The functions of torch, by name, that choose a route, if another one is chosen for `others`.

    `reading` is what was noted of the model on `x` while it gave `outputs`; what these would be if it had read what it
    reads of `others`, as many inputs, is asked. What is read and never used, as by an assertion, chooses nothing. Costs
    two forward passes where anything was read, of a model that is not random.
    """
    if not reading.noted:
        return ()
    try:
        with torch.no_grad():
            with Reading() as elsewhere:
                model(others)
            with Reading(elsewhere.noted):
                same = agree(outputs, model(x))
    except Exception:  # it was led where it never goes
        same = False
    return () if same else tuple(dict.fromkeys(name.strip("_") for name, _ in reading.noted))


ALIKE = 0.5
"""The rank correlation of leads under which a network inside is sure of other inputs than the whole is."""

MANY = 20
"""Inputs that such a correlation takes: of fewer it may be anything."""


ALONE = 4
"""Networks inside of a model that are attacked by themselves, at most."""

STACKED = 64
"""Networks whose scores are stacked, at most."""


class Stacks(TorchFunctionMode):
    """While active, `hook(call, y)` after every function of torch that gives what may be scores of several networks.

    Of B inputs of a `shape`, `(B, n, K)` or `(n, B, K)`: heads that are no modules, say. `y` has the scores of each,
    `(B, K)`. Calls are counted down from -1.
    """

    def __init__(self, shape: torch.Size, hook: Callable[[int, Sequence[Tensor]], object]) -> None:
        super().__init__()
        self.shape, self.hook, self.calls, self.count = shape, hook, 0, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        if not isinstance(value, Tensor) or bare(value) is not value:
            return value
        if not self.count and args and isinstance(args[0], Tensor) and args[0].shape[1:] == self.shape:
            self.count = len(args[0])  # of the inputs, among which may be some that fill a batch
        if value.is_floating_point() and value.dim() == 3:
            members = 1 if len(value) == self.count else 0
            if 2 <= value.shape[members] <= STACKED and value.shape[1 - members] == self.count:
                self.calls -= 1
                with torch._C.DisableTorchFunction():
                    self.hook(self.calls, value.unbind(members))
        return value


@dataclass(frozen=True)
class Part:
    """The view of a model that networks inside of it give: what its how manieth calls of a module say.

    Of several it is the mean of their log-probabilities, by which a vote of all is won. The model's own outputs where
    those calls say nothing of the kind.
    """

    calls: tuple[int, ...]

    def __call__(self, model: Model) -> Model:
        """The view."""

        def view(x: Tensor) -> Tensor:
            said: list[Tensor] = []
            with (
                listening(lambda call, module, given, y: said.append(y) if call in self.calls else None),
                Stacks(x.shape[1:], lambda call, y: said.append(_voted(y)) if call in self.calls else None),
            ):
                outputs = model(x)
            fits = [y[: len(outputs)] for y in said if y.shape[1:] == outputs.shape[1:] and len(y) >= len(outputs)]
            if len(fits) < len(self.calls):
                return outputs
            y, trace = fits[0] if len(fits) == 1 else _voted(fits), 1 * outputs
            if trace.requires_grad:  # passes are counted by it, however small the gradient
                trace.register_hook(lambda g: torch.finfo(g.dtype).tiny * g.sign())  # type: ignore[no-untyped-call]
            return stand(y, y + trace)

        return view

    def __str__(self) -> str:
        return f"part {self.calls[0]}" if len(self.calls) == 1 else f"parts {', '.join(map(str, self.calls))}"


def _logarithms(outputs: Tensor) -> Tensor:
    """Log-probabilities, of logits or of probabilities."""
    return log_probabilities(outputs) if are_probabilities(outputs) else outputs.log_softmax(1)


def _voted(each: Sequence[Tensor]) -> Tensor:
    """The mean of log-probabilities, by which a vote of all is won."""
    return mean([_logarithms(one) for one in each])


def parts(model: Model, x: Tensor) -> tuple[Part, ...]:
    """The networks inside of a model that answer as it does, inputs like `x` by a score a class, but not the same.

    Each once, whether before a softmax or behind it. Those that say the same of an input by itself: others would depend
    on the batch. Costs two forward passes, one where there are none.
    """
    outputs, said = _said(model, x)
    found, known = dict[int, Tensor](), [_logarithms(outputs)]
    for call, y in said.items():
        told = _logarithms(y)
        if not any(agree(one, told) for one in known):
            found[call] = y
            known.append(told)
    if any(call >= 0 for call in found):  # modules, which what is stacked is made of
        found = {call: y for call, y in found.items() if call >= 0}
    alone = [_said(model, row, alike=False)[1] for row in torch.split(x, 1)] if found else []
    return tuple(
        Part((call,))
        for call, y in found.items()
        if all(call in one for one in alone) and agree(y, torch.cat([one[call] for one in alone]))
    )


def together(found: Sequence[Part]) -> tuple[Part, ...]:
    """The parts one by one, the first few, and before them, where there are several, all at once."""
    calls = tuple(call for part in found for call in part.calls)
    return (Part(calls), *found[:ALONE]) if len(found) > 1 else tuple(found)


def rivals(model: Model, x: Tensor) -> bool:
    """Whether a network inside of a model decides otherwise of some of these inputs than it does, or is sure of others.

    One that says the same in other numbers, before a temperature or a mask, does neither. Costs a forward pass.
    """
    outputs, said = _said(model, x)
    return any(bool((y.argmax(1) != outputs.argmax(1)).any()) or _alike(y, outputs) < ALIKE for y in said.values())


def _alike(y: Tensor, outputs: Tensor) -> float:
    """How alike inputs are ordered by the lead of their best class (Spearman's rank correlation)."""
    first, second = (one.topk(2, dim=1).values.diff(dim=1)[:, 0].argsort().argsort().float() for one in (y, outputs))
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1]) if len(y) > MANY else 1.0


def _said(model: Model, x: Tensor, *, alike: bool = True) -> tuple[Tensor, dict[int, Tensor]]:
    """What a model says, and what the calls of modules inside of it say that could be its outputs.

    Those of as many numbers as the input has are networks. Heads on features, and stacks of scores, have to say mostly
    what the model says, unless it is not asked whether they are `alike`: else any layer of that width might be one.
    """
    said: dict[int, Tensor] = {}
    heads = set[int]()

    def note(call: int, module: nn.Module, given: Tensor, y: Tensor) -> None:
        if y.dim() == 2:
            said[call] = y.detach()
            heads.update([call] * (given[:1].numel() != x[:1].numel()))  # of a flattened input too

    def stacked(call: int, y: Sequence[Tensor]) -> None:
        said[call] = _voted(y).detach()
        heads.add(call)

    with torch.no_grad(), listening(note), Stacks(x.shape[1:], stacked):
        outputs = model(x).detach()
    fits = {call: y[: len(outputs)] for call, y in said.items() if y[: len(outputs)].shape == outputs.shape}
    return outputs, {call: y for call, y in fits.items() if not alike or call not in heads or _mostly(y, outputs)}


def _mostly(y: Tensor, outputs: Tensor) -> bool:
    """Whether more than half of the inputs are decided alike."""
    return bool((y.argmax(1) == outputs.argmax(1)).float().mean() > 0.5)
