"""A model in hand: what can be called, what it lets an attacker have, and where it came from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import checkpoint
from torch.utils.checkpoint import CheckpointFunction

from sparring.errors import BadInput
from sparring.types import Access, Model


@dataclass(frozen=True, kw_only=True)
class Victim:
    """The model under attack, as a torch callable, whatever framework it was written in.

    `call` maps inputs `(B, *shape)` float32 to outputs `(B, K)`: logits where the model has them. With `access`
    "gradients" it is differentiable in its input; with "scores" it gives values only; with "labels" it gives
    one-hot decisions `(B, K)`. `module` is the torch module behind it, where there is one: explanations and
    certificates walk it; `trainee` is what training takes, where that is another one. `probabilities` says that the
    outputs are known to be probabilities, `rounds` that they are rounded on the way, past which gradients go straight
    (a quantised network). `source` is what `sparring.models.load` was given (spec, weights, trust,
    example): such a victim travels to a worker process by name.
    """

    call: Model
    access: Access
    framework: str
    name: str
    module: nn.Module | None = None
    trainee: nn.Module | None = None
    probabilities: bool = False
    rounds: bool = False
    notes: tuple[str, ...] = ()
    source: tuple[str, str | None, bool, Tensor | None] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        return self.call(x)

    def __reduce__(self) -> tuple[object, ...]:
        """Send the recipe of a model that was loaded, the object itself where it was handed over."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.source is None:
            return _made, (state,)
        return _loaded, (self.source, {key: state[key] for key in ("access", "name", "probabilities")})


def _made(state: dict[str, Any]) -> Victim:
    return Victim(**state)


def _loaded(source: tuple[str, str | None, bool, Tensor | None], changes: dict[str, Any]) -> Victim:
    from sparring.models.loading import load

    spec, weights, trust, example = source
    return replace(load(spec, weights=weights, trust=trust, example=example), **changes)


@contextmanager
def frozen(model: object) -> Iterator[None]:
    """Let the weights of the torch module behind a model ask for no gradient meanwhile."""
    module = model.module if isinstance(model, Victim) else model
    weights = list(module.parameters()) if isinstance(module, nn.Module) else []
    weights = [p for p in weights if p.requires_grad and not is_lazy(p)]  # lazy ones are made by the first call
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


@contextmanager
def inference(model: object) -> Iterator[None]:
    """Put the torch module behind a model into inference mode, and give every submodule its own mode back."""
    module = model.module if isinstance(model, Victim) else model
    if not isinstance(module, nn.Module):
        yield
        return
    modes = {part: part.training for part in module.modules() if hasattr(part, "training")}  # frozen TorchScript: none
    for part, training in modes.items():
        if training:  # to set what is set already takes as long, and training asks for this at every update
            part.training = False
    try:
        yield
    finally:
        for part, training in modes.items():
            if part.training != training:
                part.training = training


@contextmanager
def as_written() -> Iterator[None]:
    """Run what `torch.compile` made as it was written, and parts that are checkpointed straight on.

    Compiled anew under each view, a network takes minutes. And what a checkpoint computes again on the way back, no
    view would hear: it would miss what the view did, or fail over it.
    """
    compiled = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext(), _straight_on():
        yield


@contextmanager
def _straight_on() -> Iterator[None]:
    kept = [(CheckpointFunction, "apply", _at_once), (checkpoint, "_checkpoint_without_reentrant_generator", _no_more)]
    own = [getattr(place, name) for place, name, _ in kept]
    if own[1] is _no_more:  # one call inside of another
        yield
        return
    for place, name, function in kept:
        setattr(place, name, function)
    try:
        yield
    finally:
        for (place, name, _), function in zip(kept, own, strict=True):
            setattr(place, name, function)


def _at_once(run: Callable[..., Any], preserve: bool, *given: Any) -> Any:
    return run(*given)


def _no_more(*given: Any, **kwargs: Any) -> Iterator[None]:
    yield


@contextmanager
def unwritten(model: object) -> Iterator[None]:
    """Give the torch module behind a model its buffers back as they were: some count their calls, or what they saw.

    And weights that had no gradient have none: a model that runs a backward pass of its own leaves some.
    """
    module = model.module if isinstance(model, Victim) else model
    kept: list[tuple[nn.Module, str, Tensor, Tensor]] = []
    bare: list[Tensor] = []
    if isinstance(module, nn.Module):
        bare += [weight for weight in module.parameters() if weight.grad is None]
        for part in module.modules():
            own = part.named_buffers(recurse=False)
            kept += [(part, name, buffer, buffer.detach().clone()) for name, buffer in own if not is_lazy(buffer)]
    try:
        yield
    finally:
        for weight in bare:
            weight.grad = None
        with torch.no_grad():
            for part, name, buffer, value in kept:
                if getattr(part, name, None) is not buffer:  # another tensor was put in its place
                    setattr(part, name, buffer)
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def scores(model: Model, x: Tensor) -> Tensor:
    """A score a class, `(B, K)` of two classes or more.

    Raises:
        BadInput: other outputs.
    """
    found = model(x)
    if found.dim() != 2 or found.shape[1] < 2:
        raise BadInput(f"outputs of shape {tuple(found.shape)}", "a score a class (B, K)", "run: sparring doctor")
    return found


def are_probabilities(outputs: Tensor) -> bool:
    """Whether these outputs `(B, K)` are shares of all classes, and no logits."""
    return bool((outputs >= 0).all()) and bool(((outputs.sum(1) - 1).abs() < 1e-3).all())
