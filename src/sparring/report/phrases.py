"""Sentences that audits and trainings write in English, in the language of a report.

A result stays what it is, whatever its reader speaks: reasons and evidence are looked up when a page is written, in
phrases.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from string import Formatter
from types import MappingProxyType
from typing import Any

from sparring.report.words import Language

Tell = Callable[[str], str]
"""A sentence in English, in the language of the report."""

JOINTS = {" → ": " → ", ": ": "：", "; ": "；", ", ": "，"}
"""What sentences are put together with, and what stands there in Chinese. Older results say `: ` for the arrow."""

NAME = re.compile(r"[\w.-]+(?: ?%)?")
"""Names and numbers are the same in every language."""


@dataclass(frozen=True)
class Phrase:
    """A sentence with places for names and numbers, and the same sentence in another language."""

    pattern: re.Pattern[str]
    said: str
    fixed: int
    """Characters that are not a place."""

    @classmethod
    def of(cls, english: str, said: str) -> Phrase:
        """The phrase of a line of phrases.toml: `{name}` is a place, `{Name}` one for whole sentences."""
        parts = list(Formatter().parse(english))
        pattern = "".join(re.escape(text) + (_place(name) if name else "") for text, name, *_ in parts)
        return cls(re.compile(pattern), said, sum(len(text) for text, *_ in parts))


def _place(name: str) -> str:
    return rf"(?P<{name}>{'.' if name[0].isupper() else '(?:(?![:;] | → ).)'}+?)"


def phrases(language: Language = "en") -> Tell:
    """How a report in this language says what was written in English; as it is, where nobody has said how."""
    if language == "en":
        return str
    book = _book(language)

    @cache
    def known(sentence: str) -> str | None:
        """A sentence that is known in parts with a joint between them, or as a whole; else nothing."""
        for joint, other in JOINTS.items():
            for at in re.finditer(re.escape(joint), sentence):
                left, right = known(sentence[: at.start()]), known(sentence[at.end() :])
                if left is not None and right is not None:
                    return left + other + right
        for phrase in book:
            if match := phrase.pattern.fullmatch(sentence):
                return phrase.said.format_map({name: tell(value) for name, value in match.groupdict().items()})
        return sentence if NAME.fullmatch(sentence) else None

    def tell(sentence: str) -> str:
        said = known(sentence)
        return sentence if said is None else said

    return tell


@cache
def sentences(language: Language) -> Mapping[str, str]:
    """What phrases.toml says in a language, by what it is in English."""
    return MappingProxyType(_file()[language])


@cache
def earlier(language: Language) -> Mapping[str, str]:
    """The same of what is said no longer, and stands in results that were stored."""
    return MappingProxyType(_file()["earlier"][language])


def _file() -> dict[str, Any]:
    return tomllib.loads(resources.files("sparring.report").joinpath("phrases.toml").read_text(encoding="utf-8"))


@cache
def _book(language: Language) -> tuple[Phrase, ...]:
    """All phrases of a language, the most particular first."""
    found = (Phrase.of(english, said) for english, said in {**earlier(language), **sentences(language)}.items())
    return tuple(sorted(found, key=lambda phrase: -phrase.fixed))
