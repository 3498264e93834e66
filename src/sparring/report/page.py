"""One offline page from one result or several side by side: the verdict first, then everything it rests on."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from sparring.evaluate.result import AttackRecord, Check, Example, Interval, Result
from sparring.evaluate.statistics import clopper_pearson
from sparring.report import derive, figures
from sparring.report.gallery import Gallery, Picture, Pixels, pixels, top
from sparring.report.phrases import Tell, phrases
from sparring.report.words import (
    Language,
    Words,
    eps_text,
    name_text,
    outlook_text,
    p_text,
    passes_text,
    percent,
    seconds_text,
    threat_text,
    words,
)

LARGEST = 512
"""Pixels a side: larger pictures are scaled down, so that the page stays one that can be mailed."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page in the author's own words: a title, paragraphs (blank lines between them) and a figure.

    The figure is a Matplotlib figure (put inline, in the page's colours), the text of an SVG, or the bytes of a PNG;
    `alt` describes it to those who cannot see it. What stands in back-ticks is code; nothing is read as HTML.
    """

    title: str
    text: str = ""
    figure: Figure | str | bytes | None = None
    caption: str = ""
    alt: str = ""
    place: Literal["before", "after"] = "before"
    """Before the verdicts or after the results."""


def page(
    results: Sequence[Result],
    galleries: Mapping[str, Gallery],
    *,
    title: str,
    sections: Sequence[Section] = (),
    language: Language = "en",
) -> str:
    """The whole report as one HTML text: no script, nothing fetched, the same text for the same input.

    `galleries` maps the names of results (`derive.names` where two carry the same) to their pictures. Where a
    verdict is invalid no number of that result is shown.
    """
    say, tell = words(language), phrases(language)
    results = derive.told_apart(results)
    pictures = [galleries.get(result.name, ()) for result in results]
    results = [result.model_copy(update={"name": name_text(result, say)}) for result in results]
    valid = [result for result in results if result.verdict != "invalid"]
    environment = Environment(
        loader=PackageLoader("sparring.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        w=say,
        tell=lambda sentence: _coded(tell(sentence)),
        coded=_coded,
        title=title,
        bouts=[
            _bout(result, f"r{i}", gallery, say, tell)
            for i, (result, gallery) in enumerate(zip(results, pictures, strict=True))
        ],
        curves=_curves(valid, say),
        undrawn=say["comma"].join(result.name for result in results if result.verdict == "invalid"),
        pairs=[_pair(first, second, say) for first, second in combinations(results, 2)],
        settings=_side_by_side(
            [{"threat": threat_text(r, say), "seed": r.seed} | _counted(r) | r.settings | _named(r) for r in results]
        ),
        environment=_side_by_side([result.environment for result in results]),
        before=[_section(section, f"b{i}") for i, section in enumerate(sections) if section.place == "before"],
        after=[_section(section, f"a{i}") for i, section in enumerate(sections) if section.place == "after"],
        version=results[0].environment.get("sparring", "") if results else "",
    )


@dataclass(frozen=True)
class _Tile:
    title: str
    note: str
    value: str
    interval: str
    bar: tuple[float, float, float] | None
    """Low, estimate and high in percent."""
    doubtful: bool = False


@dataclass(frozen=True)
class _Attack:
    record: AttackRecord
    broke: str
    after: str
    forward: str
    backward: str


@dataclass(frozen=True)
class _Guess:
    name: str
    confidence: str
    width: float
    true: bool


@dataclass(frozen=True)
class _Panel:
    title: str
    source: str
    """A data: URI."""
    alt: str
    pixelated: bool
    guesses: tuple[_Guess, ...]


@dataclass(frozen=True)
class _Card:
    index: int
    label: str
    fate: str
    panels: tuple[_Panel, ...]
    line: Markup
    alt: str
    text: Markup


@dataclass(frozen=True)
class _Bout:
    """One result, in the words of the page."""

    result: Result
    key: str
    name: str
    threat: str
    valid: bool
    tiles: tuple[_Tile, ...]
    fates: tuple[tuple[str, str, int], ...]
    """Kind, words, count."""
    cost: Markup
    outlook: str
    spans: Markup
    attacks: tuple[_Attack, ...]
    passes: str
    forward: str
    backward: str
    time: str
    checks: tuple[Check, ...]
    counts: str
    cards: tuple[_Card, ...]


def _bout(result: Result, key: str, gallery: Gallery, say: Words, tell: Tell) -> _Bout:
    valid, n = result.verdict != "invalid", result.examples
    each = max(n, 1)
    counts = derive.fates(result)
    after = derive.standing(result)[1:]
    outcomes = {outcome: sum(check.outcome == outcome for check in result.checks) for outcome in _ORDER}
    return _Bout(
        result=result,
        key=key,
        name=result.name,
        threat=threat_text(result, say),
        valid=valid,
        tiles=_tiles(result, say),
        fates=tuple(
            (kind, say[f"fate_{kind}"], count)
            for kind, count in (
                ("certified", counts.certified),
                ("stood", counts.stood),
                ("broken", counts.broken),
                ("wrong", counts.wrong),
            )
            if count
        ),
        cost=Markup(figures.svg(figures.cost(result, say), f"cost-{key}") if valid and result.attacks else ""),  # noqa: S704
        outlook=outlook_text(result, say),
        spans=Markup(figures.svg(figures.spans(result, say), f"spans-{key}") if valid and _bracketed(result) else ""),  # noqa: S704
        attacks=tuple(
            _Attack(
                record=attack,
                broke=f"{attack.broke} / {attack.attacked}" if valid else say["not_valid"],
                after=percent(left, n) if valid else say["not_valid"],
                forward=passes_text(attack.forward / each),
                backward=passes_text(attack.backward / each),
            )
            for attack, left in zip(result.attacks, after, strict=True)
        ),
        passes=passes_text((result.passes.forward + result.passes.backward) / each),
        forward=passes_text(result.passes.forward / each),
        backward=passes_text(result.passes.backward / each),
        time=seconds_text(result.seconds),
        checks=tuple(sorted(result.checks, key=lambda check: _ORDER.index(check.outcome))),
        counts=say["checks_count"].format(**outcomes),
        cards=tuple(_card(picture, result, f"g-{key}-{j}", say, tell) for j, picture in enumerate(gallery)),
    )


def _bracketed(result: Result) -> bool:
    return any(row.proved is not None for row in result.per_example)


_ORDER = ("fail", "warn", "skipped", "pass")


def _tiles(result: Result, say: Words) -> tuple[_Tile, ...]:
    """The accuracies; for a defence also what the model is worth without it, and against whoever does not know it."""
    valid, count = result.verdict != "invalid", result.examples
    clean, robust, certified = result.clean_accuracy, result.robust_accuracy, result.certified_accuracy
    if result.defence is None:
        shown = {"clean": clean, "robust": robust, "certified": certified}
    else:
        bare, unaware = (
            None if share is None else clopper_pearson(round(share * count), count)
            for share in (result.defence.bare, result.defence.unaware)
        )
        shown = {"clean": clean, "bare": bare, "unaware": unaware, "adaptive": robust, "certified": certified}
    return tuple(
        _tile(
            say[f"{kind}_accuracy"],
            say[f"{kind}_note"],
            value if valid else None,
            count,
            say,
            missing=say["not_measured" if valid and kind == "certified" else "not_valid"],
            doubtful=result.verdict == "suspect" and kind in {"robust", "adaptive", "certified"},
        )
        for kind, value in shown.items()
    )


def _tile(
    title: str, note: str, value: Interval | None, count: int, say: Words, *, missing: str, doubtful: bool
) -> _Tile:
    if value is None:
        return _Tile(title, "", missing, "", None)
    low, at, high = (percent(part, count) for part in (value.low, value.estimate, value.high))
    bar = (round(100 * value.low, 2), round(100 * value.estimate, 2), round(100 * value.high, 2))
    return _Tile(title, note, at, say["interval"].format(low=low, high=high), bar, doubtful)


def _curves(results: Sequence[Result], say: Words) -> list[tuple[Markup, str]]:
    """A figure for each norm, with its description; only of results that are valid and have a curve."""
    drawn = [result for result in results if result.curve]
    norms = dict.fromkeys(str(result.threat.get("norm", "")) for result in drawn)
    out = []
    for i, norm in enumerate(norms):
        same = [result for result in drawn if str(result.threat.get("norm", "")) == norm]
        names = derive.names(same)
        points = say["semicolon"].join(
            say["titled"].format(
                title=name,
                name=say["comma"].join(f"eps {eps_text(p.eps)} {percent(p.robust_accuracy)}" for p in result.curve),
            )
            for name, result in zip(names, same, strict=True)
        )
        alt = say["curve_alt"].format(names=say["comma"].join(names), points=points)
        out.append((Markup(figures.svg(figures.curve(same, say), f"curve{i}")), alt))  # noqa: S704
    return out


def _pair(first: Result, second: Result, say: Words) -> tuple[str, str, tuple[str, ...]]:
    """Heading, obstacle, cells."""
    heading = say["pair"].format(first=first.name, second=second.name)
    found = derive.pair(first, second)
    if isinstance(found, str):
        return heading, say[f"pair_{found}"], ()
    return heading, "", (*map(str, (found.both, found.first, found.second, found.neither)), p_text(found.p))


def _side_by_side(tables: Sequence[Mapping[str, object]]) -> list[tuple[str, list[str]]]:
    """Rows of every key in any table, in order of first appearance."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [(key, [_cell(table.get(key)) for table in tables]) for key in keys]


def _counted(result: Result) -> dict[str, int]:
    return {"examples": result.examples} if result.examples else {}


def _named(result: Result) -> dict[str, str]:
    """The classes, as a reader wants them."""
    known = derive.classes(result)
    return {"classes": ", ".join(known)} if known else {}


def _coded(text: str) -> Markup:
    """Text as it is, but for what stands in back-ticks: that is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  (escaped before)


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _card(picture: Picture, result: Result, name: str, say: Words, tell: Tell) -> _Card:
    labels = derive.classes(result)
    row = next((row for row in result.per_example if row.index == picture.index), None)
    clean, attacked = (_guesses(part, picture, labels, tell) for part in (picture.clean, picture.attacked))
    says = [guesses[0].name if guesses else "" for guesses in (clean, attacked)]
    label = "" if picture.measured else say["label"].format(label=_class(picture.label, labels))
    if picture.kind != "image":
        panels = tuple(
            _Panel(say[which], "", "", False, guesses) for which, guesses in (("clean", clean), ("attacked", attacked))
        )
        heads = picture.index, label, _fate(row, say), panels
        if picture.words is not None:
            return _Card(*heads, Markup(), "", _edited(*picture.words))
        drawn = Markup(figures.svg(figures.line(picture, say), name))  # noqa: S704
        alt = say["signal_alt"].format(index=picture.index, clean=says[0], attacked=says[1])
        return _Card(*heads, drawn, alt, Markup())
    x, z, difference, factor = pixels(picture)
    pixelated = max(x.shape[:2]) <= 96
    shown = tuple(
        _Panel(
            say[which],
            _uri(_png(image), "image/png"),
            say["picture_alt"].format(
                index=picture.index, which=say[which], label=word, confidence=guesses[0].confidence if guesses else ""
            ),
            pixelated,
            guesses,
        )
        for which, image, guesses, word in (("clean", x, clean, says[0]), ("attacked", z, attacked, says[1]))
    )
    change = _Panel(
        say["difference"].format(factor=f"{factor:g}"),
        _uri(_png(difference), "image/png"),
        say["difference_alt"].format(index=picture.index, factor=f"{factor:g}"),
        pixelated,
        (),
    )
    return _Card(picture.index, label, _fate(row, say), (*shown, change), Markup(), "", Markup())


def _edited(before: Sequence[str], after: Sequence[str]) -> Markup:
    """A text, with the words that were replaced beside what stands in their place."""
    parts = []
    for old, new in zip(before, after, strict=True):
        space, word = new[: len(new) - len(new.lstrip())], new.lstrip()
        parts.append(
            escape(new) if old == new else Markup("{}<del>{}</del> <ins>{}</ins>").format(space, old.strip(), word)
        )
    return Markup("").join(parts)


def _fate(row: Example | None, say: Words) -> str:
    if row is None:
        return ""
    if row.broken_by is not None:
        parts = [say["broken_by"].format(attack=row.broken_by)]
        if row.distance is not None:
            parts.append(say["distance"].format(distance=f"{row.distance:.3g}"))
        if row.proved:
            parts.append(say["proved"].format(proved=f"{row.proved:.3g}"))
        return " · ".join(parts)
    return say["stood"] if row.clean == row.label else say["wrong"]


def _guesses(said: Sequence[float], picture: Picture, labels: Sequence[str], tell: Tell) -> tuple[_Guess, ...]:
    """The likeliest classes; or the number that was measured, which has no bar."""
    if picture.measured:
        return tuple(_Guess(tell(picture.measured), f"{number:.3g}", 0.0, False) for number in said)
    return tuple(
        _Guess(_class(k, labels), percent(p) if math.isfinite(p) else "NaN", _width(p), k == picture.label)
        for k, p in top(said, picture.label)
    )


def _class(k: int, labels: Sequence[str]) -> str:
    return labels[k] if 0 <= k < len(labels) else str(k)


def _width(p: float) -> float:
    return round(100 * min(max(p, 0.0), 1.0), 1) if math.isfinite(p) else 0.0


@dataclass(frozen=True)
class _Drawn:
    section: Section
    paragraphs: tuple[str, ...]
    inline: Markup
    source: str


def _section(section: Section, name: str) -> _Drawn:
    figure = section.figure
    paragraphs = tuple(part.strip() for part in section.text.split("\n\n") if part.strip())
    inline = Markup(figures.svg(figure, name)) if isinstance(figure, Figure) else Markup()  # noqa: S704
    source = ""
    if isinstance(figure, str):
        source = _uri(figure.encode(), "image/svg+xml")  # as an image: whatever script is in it does not run
    elif isinstance(figure, bytes):
        source = _uri(figure, "image/png")
    return _Drawn(section, paragraphs, inline, source)


def _png(image: Pixels) -> bytes:
    picture = Image.fromarray(image)
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
