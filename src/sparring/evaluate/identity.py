"""Who was in the ring: models, defences, data and attacks as short texts, so that a run is not resumed with others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, CodeType, FunctionType

import torch
from torch import Tensor, nn

from sparring.digests import digest
from sparring.evaluate.run import home, own_draws
from sparring.evaluate.statistics import spread
from sparring.models.victim import Victim, inference
from sparring.threats import Ball
from sparring.types import Data

PROBES = 8
"""The examples on whose decisions models are told apart."""

READ = 2**26
"""Bytes of inputs that are read to tell data sets apart: all of them where there are no more."""

CHUNK = 256
"""Examples that are read at once."""


def of_model(victim: Victim, data: Data, *, steady: bool = True) -> str:
    """The layers, parameters and buffers of a torch module, else its name; if `steady`, some decisions as well.

    A model that was fitted anew has the name that it had before, and a forward pass shows in no layer. Costs one on
    `PROBES` examples.
    """
    who = victim.name if victim.module is None else _built(victim.module)
    if not steady:
        return f"{victim.framework}: {who}"
    try:
        with inference(victim), own_draws("identity"), torch.no_grad():
            said = digest(victim(data.take(range(min(PROBES, len(data))))[0].to(home(victim))).argmax(-1))
    except Exception:  # whatever the model raises: of such an audit the doctor says more
        said = "nothing"
    return f"{victim.framework}: {who}, deciding {said}"


def _state(module: nn.Module) -> str:
    """Its parameters and buffers, those too that no state dict has."""
    values = dict(module.named_buffers()) | module.state_dict()
    return digest(*(value for value in values.values() if isinstance(value, Tensor)))


def _built(module: nn.Module) -> str:
    """Its layers and how they were set, and what they hold."""
    layers = (
        f"{name} {type(part).__qualname__} {part.extra_repr()} {' '.join(_plain(part))}"
        for name, part in module.named_modules()
    )
    return f"{hashlib.sha256(chr(10).join(layers).encode()).hexdigest()[:16]} {_state(module)}"


def of_data(data: Data) -> str:
    """The name, the length, and the examples: as many of them, evenly spread, as 64 MB of inputs hold."""
    return f"{data.name}, {len(data)} examples, {digest(*(part for chunk in _read(data) for part in chunk))}"


def of_examples(data: Data) -> str:
    """The same inputs and labels, whatever they are called, and whichever shape a model wants them in."""
    return digest(*(part for x, labels in _read(data) for part in (x.flatten(1), labels)))


def copies(data: Data) -> tuple[int, int]:
    """How many inputs are those of an example before, and how many examples were read."""
    marks = [digest(row) for x, _ in _read(data) for row in x]
    return len(marks) - len(set(marks)), len(marks)


def _read(data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples that tell data sets apart, a few at once."""
    one = data.take([0])[0]
    rows = spread(len(data), max(2, READ // max(one.nbytes, 1)))
    return (data.take(rows[i : i + CHUNK]) for i in range(0, len(rows), CHUNK))


def of_attack(attack: object) -> str:
    """The attack, or the defence, with all its settings: the same text in every process.

    Functions go by their names, those without one by what they do, modules by their parameters and buffers, and what
    has no text of its own by its class; with these the numbers and texts that were set on them.
    """
    if isinstance(attack, partial):
        settings = (f"{key}={of_attack(value)}" for key, value in attack.keywords.items())
        return f"{of_attack(attack.func)}({', '.join((*map(of_attack, attack.args), *settings))})"
    if isinstance(attack, tuple):
        return f"({', '.join(map(of_attack, attack))})"
    if isinstance(attack, Ball):
        return attack.identity
    if isinstance(attack, nn.Module):
        return f"{type(attack).__name__}({', '.join((*_plain(attack), _state(attack)))})"
    if is_dataclass(attack) and not isinstance(attack, type):
        settings = (f"{field.name}={of_attack(getattr(attack, field.name))}" for field in fields(attack))
        return f"{type(attack).__name__}({', '.join(settings)})"
    if type(attack).__repr__ is object.__repr__:  # which would say where it is in memory
        return f"{type(attack).__name__}({', '.join(_plain(attack))})"
    if isinstance(attack, FunctionType) and attack.__name__ == "<lambda>":
        return f"lambda({_work(attack)})"
    return str(getattr(attack, "__name__", repr(attack)))


def _work(function: FunctionType) -> str:
    """What tells a function from another one: its instructions, and the values that it was made with."""
    made_with = (function.__defaults__, function.__kwdefaults__, *map(_content, function.__closure__ or ()))
    return hashlib.sha256(_value((function.__code__, *made_with)).encode()).hexdigest()[:16]


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:
        return "not filled yet"


def _value(value: object) -> str:
    """A value as a text that is the same in every process; what is no plain value by its name or type."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case Tensor():
            return digest(value)
        case nn.Module():
            return of_attack(value)
        case CodeType():
            return f"{value.co_code.hex()} {value.co_names} {_value(value.co_consts)}"
        case dict():
            return f"{{{', '.join(f'{_value(key)}: {_value(one)}' for key, one in value.items())}}}"
        case set() | frozenset():
            return f"{{{', '.join(sorted(map(_value, value)))}}}"
        case list() | tuple():
            return f"({', '.join(map(_value, value))})"
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _plain(thing: object) -> list[str]:
    """The numbers and texts among its attributes; a module's mode is none of its settings."""
    known = getattr(thing, "__dict__", {}).items()
    return [f"{key}={value}" for key, value in known if isinstance(value, int | float | str) and key != "training"]
