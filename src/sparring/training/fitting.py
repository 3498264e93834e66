"""Settings from a file for a factory: refused in one line where it does not take them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from sparring.errors import BadInput
from sparring.spelling import hint

KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
}
"""Types that TOML has, by their names in a signature."""

PLAIN = (bool, int, float, str, list, tuple, dict)
"""What text can say."""

TABLES = frozenset({"list", "tuple", "dict", "Sequence", "Mapping"})
"""Types that hold others."""

PARTS = re.compile(rf"(?:Sequence|list|tuple)\[({'|'.join(KINDS)})\b")
"""What a type that holds plain ones says of them."""

ANYTHING = frozenset({"Any", "object", "_empty", "<class 'inspect._empty'>"})
"""What a signature says where it says nothing of the type."""


def settings_of(make: Callable[..., Any]) -> dict[str, Parameter]:
    """The settings of a factory: its parameters that have a default, with their types by name, however it writes them.

    Raises:
        TypeError, ValueError: it does not say, as some that are not written in Python.
    """
    return {
        name: one.replace(
            annotation=one.annotation.__name__ if isinstance(one.annotation, type) else str(one.annotation)
        )
        for name, one in signature(make).parameters.items()
        if one.default is not Parameter.empty
    }


def fits(place: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    """Refuse values for settings that are not `known`, or of another type, and those in a list that are.

    Raises:
        BadInput: one of them; `place` says where it stands.
    """
    for name, value in given.items():
        if name not in known:
            need = f"one of {', '.join(known)}" if known else "no settings"
            raise BadInput(f"the setting '{place}.{name}'", need, hint(name, known, "leave it out"))
        if known[name].default is None and not isinstance(value, PLAIN):
            continue  # made in Python
        kinds = _kinds(known[name])
        if not kinds:
            raise BadInput(
                f"{place}.{name} = {value!r}", "what only Python can make", "leave it out, or say it in Python"
            )
        kind = " | ".join(kinds)
        parts = PARTS.match(kind)
        if parts and isinstance(value, str | dict):
            raise BadInput(f"{place}.{name} = {value!r}", "a list", "give another value")
        if parts and isinstance(value, list | tuple):
            each = known[name].replace(annotation=parts[1], default=())
            rows = {str(row): one for row, one in enumerate(value)}
            fits(f"{place}.{name}", dict.fromkeys(rows, each), rows)
        types, said = KINDS.get(kind, ((type(value),), ""))
        if not isinstance(value, types) or isinstance(value, bool) > (bool in types):  # a bool is an int to Python
            raise BadInput(f"{place}.{name} = {value!r}", said, "give another value")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{place}.{name} = {value:g}", "a finite number", "give another value")
        if callable(known[name].default) and not callable(value):
            raise BadInput(f"{place}.{name} = {value!r}", "a function", "leave it out, or say it in Python")


def counted(place: str, known: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    """Refuse counts below 1, of what is `known` to be a whole number: an attack of no steps would break nothing.

    Raises:
        BadInput: one of them; `place` says where it stands.
    """
    for name, value in given.items():
        if name in known and known[name].annotation == "int" and isinstance(value, int) and value < 1:
            raise BadInput(f"{place}.{name} = {value}", "1 or more", "give another value")


def _kinds(one: Parameter) -> list[str]:
    """The types that a parameter takes, by name; of one that is None unless it is given, those alone that text can say.

    `Gallery | None` leaves nothing, `int | None` is `int`.
    """
    said = str(one.annotation).removeprefix("typing.")
    if one.default is not None:
        return [said]
    said = said.removeprefix("Optional[").removesuffix("]") if said.startswith("Optional[") else said
    heads = {kind: kind.partition("[")[0].rpartition(".")[2] for kind in said.split(" | ") if kind != "None"}
    return [kind for kind, head in heads.items() if head in KINDS or head in TABLES or kind in ANYTHING]
