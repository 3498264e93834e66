"""Who was in the ring: models, defences, data and attacks as short texts, so that a run is not resumed with others."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparring.models.victim import Victim
from sparring.threats import Ball
from sparring.types import Data


def digest(*tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of values, shapes and types."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        sha.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )  # NumPy has no bfloat16
    return sha.hexdigest()[:16]


def of_model(victim: Victim) -> str:
    """The parameters and buffers of a torch module; the name of any other model."""
    if victim.module is None:
        return f"{victim.framework}: {victim.name}"
    return f"{victim.framework}: {_state(victim.module)}"


def _state(module: nn.Module) -> str:
    return digest(*(value for value in module.state_dict().values() if isinstance(value, Tensor)))


def of_data(data: Data) -> str:
    """The name, the length, and the first and last example."""
    return f"{data.name}, {len(data)} examples, {digest(*data.take([0, len(data) - 1]))}"


def of_attack(attack: object) -> str:
    """The attack, or the defence, with all its settings: the same text in every process.

    Functions go by their names, modules by their parameters and buffers, and what has no text of its own by its class;
    with these the numbers and texts that were set on them.
    """
    if isinstance(attack, partial):
        settings = (f"{key}={of_attack(value)}" for key, value in attack.keywords.items())
        return f"{of_attack(attack.func)}({', '.join((*map(of_attack, attack.args), *settings))})"
    if isinstance(attack, tuple):
        return f"({', '.join(map(of_attack, attack))})"
    if isinstance(attack, Ball):
        return f"{attack} in {attack.low:g}..{attack.high:g}"
    if isinstance(attack, nn.Module):
        return f"{type(attack).__name__}({', '.join((*_plain(attack), _state(attack)))})"
    if is_dataclass(attack) and not isinstance(attack, type):
        settings = (f"{field.name}={of_attack(getattr(attack, field.name))}" for field in fields(attack))
        return f"{type(attack).__name__}({', '.join(settings)})"
    if type(attack).__repr__ is object.__repr__:  # which would say where it is in memory
        return f"{type(attack).__name__}({', '.join(_plain(attack))})"
    return str(getattr(attack, "__name__", repr(attack)))


def _plain(thing: object) -> list[str]:
    """The numbers and texts among its attributes; a module's mode is none of its settings."""
    known = getattr(thing, "__dict__", {}).items()
    return [f"{key}={value}" for key, value in known if isinstance(value, int | float | str) and key != "training"]
