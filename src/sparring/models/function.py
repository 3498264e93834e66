"""Any Python callable as a model: its scores, or its decisions alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sparring.errors import BadInput
from sparring.models.victim import Victim

Takes = Literal["numpy", "torch"]
"""What the callable is handed: a float32 numpy array on the CPU, or the detached torch tensor where it is."""


def scores(
    f: Callable[[Any], Any],
    *,
    name: str | None = None,
    takes: Takes = "numpy",
    framework: str = "function",
    probabilities: bool = False,
    notes: tuple[str, ...] = (),
) -> Victim:
    """Attack a function that answers with one score a class: `f((B, *shape)) -> (B, K)`, higher is likelier.

    `f` may be slow, remote, stateful or written in anything: it is called with a whole batch and never differentiated.

    Raises:
        BadInput: when called, if what `f` returns is not a row of numbers for every example.

    """
    title = name or called(f)

    def call(x: Tensor) -> Tensor:
        out = answer(f, x, takes, title)
        if out.ndim < 2 or len(out) != len(x) or out.is_complex():
            raise BadInput(
                f"{title} answered {len(x)} examples with an array of shape {tuple(out.shape)}",
                "scores of shape (examples, classes)",
                "return one score a class; for decisions use sparring.models.function.labels, for numbers that are no "
                "scores sparring.models.function.answers",
            )
        return out.to(dtype=torch.float32, device=x.device)

    return Victim(call=call, access="scores", framework=framework, name=title, probabilities=probabilities, notes=notes)


def answers(
    f: Callable[[Any], Any],
    *,
    name: str | None = None,
    takes: Takes = "numpy",
    framework: str = "function",
    notes: tuple[str, ...] = (),
) -> Victim:
    """Attack a function whose answers are no classes: `f((B, *shape)) -> (B,)` or `(B, *any)`, for a task of its kind.

    What the numbers mean is said by the task (`sparring.tasks`): values, label maps, vectors.

    Raises:
        BadInput: when called, if what `f` returns are no numbers, as many rows of them as there are examples.
    """
    title = name or called(f)

    def call(x: Tensor) -> Tensor:
        out = answer(f, x, takes, title)
        if out.ndim < 1 or len(out) != len(x) or out.is_complex():
            given = f"{title} answered {len(x)} examples with an array of shape {tuple(out.shape)}"
            raise BadInput(given, "numbers for every example", "return one row an example")
        return out.to(dtype=torch.float32, device=x.device)

    return Victim(call=call, access="scores", framework=framework, name=title, notes=notes)


def labels(
    f: Callable[[Any], Any],
    *,
    classes: int,
    name: str | None = None,
    takes: Takes = "numpy",
    framework: str = "function",
    notes: tuple[str, ...] = (),
) -> Victim:
    """Attack a function that tells its decision alone: `f((B, *shape)) -> (B,)` whole numbers in `0 .. classes - 1`.

    The victim's outputs are one-hot, `(B, classes)`.

    Raises:
        BadInput: when called, if what `f` returns is not one label in that range for every example.

    """
    title = name or called(f)
    if classes < 2:
        raise BadInput(f"{title} with classes={classes}", "at least two classes", "pass the number of classes")

    def call(x: Tensor) -> Tensor:
        out = answer(f, x, takes, title)
        if out.shape == (len(x), 1):
            out = out.flatten()
        if not out.is_floating_point() and not out.is_complex():
            out = out.long()  # torch rounds and compares no unsigned numbers, and no truths
        if out.shape != (len(x),) or out.is_complex() or not bool((out == out.round()).all()):
            raise BadInput(
                f"{title} answered {len(x)} examples with an array of shape {tuple(out.shape)}",
                "one whole-numbered label an example, shape (examples,)",
                "return labels; for scores use sparring.models.function.scores",
            )
        if len(x) and not bool(((out >= 0) & (out < classes)).all()):
            raise BadInput(
                f"{title} answered with labels from {out.min().item():g} to {out.max().item():g}",
                f"labels from 0 to {classes - 1}",
                "count labels from 0, or pass the right number of classes",
            )
        return one_hot(out.long(), classes).to(dtype=torch.float32, device=x.device)

    return Victim(call=call, access="labels", framework=framework, name=title, notes=notes)


def adopt(obj: Callable[[Any], Any]) -> Victim:
    """Attack any callable on numpy arrays `(B, *shape)` that returns scores `(B, K)`, by its scores.

    Raises:
        BadInput: `obj` cannot be called.

    """
    if not callable(obj):
        raise BadInput(
            f"an object of type {type(obj).__name__}",
            "a function from inputs (B, *shape) to scores (B, K)",
            "wrap the model in a function",
        )
    return scores(obj)


def answer(f: Callable[[Any], Any], x: Tensor, takes: Takes, title: str) -> Tensor:
    """Call `f` on a batch without letting it touch the caller's tensor or its graph, or its own answer later on."""
    with torch.no_grad():
        given = x.detach().clone() if takes == "torch" else x.detach().to("cpu", torch.float32, copy=True).numpy()
        out = f(given)
    if isinstance(out, Tensor):
        return out.detach().clone()
    try:
        array = np.asarray(out)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError, RuntimeError):  # the last for tensors in a list that have gradients
        raise BadInput(
            f"{title} answered with {type(out).__name__}", "an array of numbers", "return a numpy array or a tensor"
        ) from None


def called(f: object) -> str:
    """Return what to call it in reports."""
    return str(getattr(f, "__qualname__", None) or type(f).__name__)
