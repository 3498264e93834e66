"""What callers from Python hand over: a data set, or what becomes one; a threat, or the text of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sparring.data import Arrays, agreed, first, load
from sparring.errors import BadInput
from sparring.threats import Ball, parse
from sparring.types import Boxed, Data

Examples = Data | tuple[Tensor, Tensor] | str
"""A data set; inputs `(N, *shape)` with labels `(N,)`; or what the command line takes, a name or a path."""


def examples(data: Examples, limit: int | None = None) -> Data:
    """The data set, or the first of its examples.

    Raises:
        BadInput: something else, or what `sparring.data.load` refuses.
    """
    if isinstance(data, str):
        found: Data = load(data)
    elif isinstance(data, tuple) and len(data) == 2:
        found = Arrays("data", *data)
    elif isinstance(data, Data):
        found = agreed(data) if len(data) else data
    else:
        raise BadInput(
            f"a {type(data).__name__} for the data",
            "a pair (inputs, labels), a data set, or the name of one",
            "write (x, y), or load(...) of sparring.data",
        )
    return found if limit is None else first(found, limit)


def ball(threat: Boxed | str) -> Ball:
    """The threat, a ball of a norm.

    Raises:
        BadInput: something else, or what `sparring.threats.parse` refuses.
    """
    found = parse(threat) if isinstance(threat, str) else threat
    if not isinstance(found, Ball):
        given = f"{threat!r} for the threat" if isinstance(threat, str | float | int) else f"a {type(threat).__name__}"
        need = "a ball of a norm, or a patch"
        raise BadInput(given, need, "write linf(8 / 255), of sparring.threats, or 'linf:8/255'")
    return found


@contextmanager
def with_gradients() -> Iterator[None]:
    """Whatever mode the caller is in: an evaluation script is often under `torch.no_grad`, and attacks need slopes."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
