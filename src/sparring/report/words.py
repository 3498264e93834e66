"""How numbers and words are said, in every language of the reports."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

from sparring.evaluate.result import Result

Language = Literal["en", "zh"]
Words = Mapping[str, str]

NORMS = {"linf": "ℓ∞", "l2": "ℓ₂", "l1": "ℓ₁", "l0": "ℓ₀"}


def outlook_text(result: Result, say: Words) -> str:
    """What more effort would change, in a sentence; empty where no rounds were fought."""
    seen = result.outlook
    if seen is None or result.verdict == "invalid":
        return ""
    each = max(result.examples, 1)
    more = min(math.floor(seen.examples), result.examples)
    passes = passes_text(seen.passes / each)
    return say["outlook"].format(passes=passes, late=seen.broke_late, examples=result.examples, more=more)


def name_text(result: Result, say: Words) -> str:
    """What was audited: a model, and the defence that it is behind."""
    if result.defence is None:
        return result.name
    behind = words()["behind"], say["behind"]
    before, after = (part.format(defence=result.defence.name) for part in behind)
    return result.name.replace(before, after)


@cache
def words(language: Language = "en") -> Words:
    """Every word that the page and its figures say, by its key in words.toml."""
    text = resources.files("sparring.report").joinpath("words.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text)[language])


def percent(fraction: float, examples: int = 100) -> str:
    """A fraction as percent: one digit, or two where more than 1000 examples make the second one mean something."""
    return f"{100 * fraction:.{2 if examples > 1000 else 1}f}%"


def eps_text(eps: float) -> str:
    """An eps in input units; 8/255 for what is plainly a number of grey levels."""
    levels = eps * 255
    if math.isfinite(levels) and round(levels) and abs(levels - round(levels)) < 1e-6 and round(eps, 4) != eps:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def threat_text(result: Result, say: Words | None = None) -> str:
    """The threat in one line: the norm and how far, and whatever else it is made of."""
    return _threat(result, NORMS, "≤", say or words())


def threat_plain(result: Result) -> str:
    """The threat in one line of ASCII, for terminals."""
    return _threat(result, {}, "<=", words())


def passes_text(passes: float) -> str:
    """A number of passes per example: short, and never rounded to nothing."""
    if passes == int(passes) or passes >= 100:
        return f"{passes:,.0f}"
    return f"{passes:.1f}" if passes >= 0.1 else "< 0.1"


def seconds_text(seconds: float) -> str:
    """A time: seconds, from two minutes on minutes."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def p_text(p: float) -> str:
    """A p-value: two digits, `< 0.0001` where more would be noise."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _threat(result: Result, symbols: Mapping[str, str], within: str, say: Words) -> str:
    threat = {name: _value(value) for name, value in result.threat.items()}
    norm, eps = threat.pop("norm", ""), threat.pop("eps", "")
    head = symbols.get(norm, norm) + (f" {within} {eps}" if eps else "")
    if {"low", "high"} <= threat.keys():
        head += say["threat_range"].format(low=threat.pop("low"), high=threat.pop("high"))
    return say["comma"].join([head.strip()] * bool(head) + [f"{name} {value}" for name, value in threat.items()])


def _value(value: str | float) -> str:
    return value if isinstance(value, str) else eps_text(value)
