"""Cases: conversations with a place for text from outside, and what the attacker wants to hear."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparring.errors import BadInput, line

Conversation = list[dict[str, str]]
"""Turns in order, each with a `role` (system, user, assistant) and its `content`."""

ATTACK, DOCUMENT = "{attack}", "{document}"
FIELDS = ("message", "wanted", "document", "system", "name")
NEED = f"message (with the place {ATTACK}) and wanted; document, system and name if you like"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A conversation with one place, `{attack}`, for the attacker's text, and the words that are to come out of it.

    The place is in the user's message. Where it is in a document that the message quotes (a web page, a mail), that is
    given by itself, and the message says `{document}` where it goes: defences that mark what comes from outside mark
    the document. Without one the attacker's text alone is what comes from outside.

    Raises:
        BadInput: no such place, more than one, or nothing wanted.
    """

    message: str
    wanted: str
    document: str | None = None
    system: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        named = f"case {self.name!r}" if self.name else "a case"
        for part, place, text in (
            ("message", ATTACK if self.document is None else DOCUMENT, self.message),
            *(() if self.document is None else (("document", ATTACK, self.document),)),
        ):
            if text.count(place) != 1:
                given = f"{named} whose {part} has {place} {text.count(place)} times"
                raise BadInput(given, f"{place} once", f"write {place} where it goes")
        if not self.wanted.strip():
            raise BadInput(f"{named} in which nothing is wanted", "the words to be said", "fill in wanted")

    def outside(self, text: str) -> str:
        """What comes from outside once the attacker's text is in its place: the document, or the text alone."""
        return text if self.document is None else filled(self.document, ATTACK, text)

    def written(self, text: str) -> str:
        """The user's message with the attacker's text in its place."""
        place = ATTACK if self.document is None else DOCUMENT
        return filled(self.message, place, self.outside(text))

    def conversation(self, text: str) -> Conversation:
        """What the assistant is given."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.written(text)}]


def filled(template: str, place: str, text: str) -> str:
    """A template with a text in its one place; braces in the text are letters like any other."""
    before, _, after = template.partition(place)
    return before + text + after


def read(path: Path | str) -> list[Case]:
    """The cases in a `.jsonl` (one object a line) or `.csv` (a head that names the fields) file.

    Raises:
        BadInput: no such file, another format, a field that is missing or unknown, two cases of one name; says where.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise BadInput(f"cannot read '{path}' ({line(error)})", "a .jsonl or .csv file of cases", "check it") from None
    if path.suffix.lower() not in READERS:
        raise BadInput(f"'{path}' as cases", "a .jsonl or .csv file", "name it so")
    rows = READERS[path.suffix.lower()](text, path)
    cases = [_case(row, f"'{path}', case {i}", i) for i, row in enumerate(rows, 1)]
    if not cases:
        raise BadInput(f"'{path}' without cases", "one at least", NEED)
    name, count = Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        raise BadInput(f"'{path}' with {count} cases called {name!r}", "names that differ", "rename them")
    return cases


def _objects(text: str, path: Path) -> list[Any]:
    rows = []
    for number, written in enumerate(text.splitlines(), 1):
        if written.strip():
            try:
                rows.append(json.loads(written))
            except ValueError as error:
                given = f"'{path}', line {number}, is no JSON ({line(error)})"
                raise BadInput(given, "one object a line", "correct it") from None
    return rows


def _table(text: str, path: Path) -> list[Any]:
    return [{key: value for key, value in row.items() if value} for row in csv.DictReader(io.StringIO(text))]


READERS = {".jsonl": _objects, ".csv": _table}


def _case(row: object, where: str, number: int) -> Case:
    if not isinstance(row, Mapping):
        raise BadInput(f"{where} is a {type(row).__name__}", f"an object with {NEED}", "correct it")
    for key, value in row.items():
        if key not in FIELDS:
            raise BadInput(f"{where} has a field {key!r}", f"some of {', '.join(FIELDS)}", "leave it out")
        if not isinstance(value, str):
            raise BadInput(f"{where} has a {type(value).__name__} as {key}", "text", "put it in quotes")
    if missing := [key for key in ("message", "wanted") if not row.get(key)]:
        raise BadInput(f"{where} without {missing[0]}", NEED, "fill it in")
    try:
        return Case(**{"name": str(number)} | dict(row))
    except BadInput as error:
        raise BadInput(f"{where}: {error.given}", error.need, error.do) from None


def named(cases: Sequence[Case]) -> list[str]:
    """What reports call them: their names, or their numbers from 1."""
    return [case.name or str(i) for i, case in enumerate(cases, 1)]
