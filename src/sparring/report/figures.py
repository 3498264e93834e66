"""The figures of the reports, as pure functions from results and pictures to Matplotlib figures."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from typing import ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from sparring.errors import BadInput
from sparring.evaluate.result import Result
from sparring.report import derive
from sparring.report.gallery import Picture, pixels, top
from sparring.report.words import NORMS, Words, percent, words

P = ParamSpec("P")

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours that colour-blind readers can tell apart (Okabe and Ito, 2008); lines differ in mark and dash as well."""
INK, FAINT, PAPER = "#24292f", "#d5d9de", "#fefefe"
MARKS = "osD^vP"
MARK, LETTER = 16.0, 6.0
"""How high a numbered mark is, and how wide its letters are, in points."""
_Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[_Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
SETTINGS = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelpad": 7,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "svg.hashsalt": "sparring",
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": INK,
    "xtick.major.size": 0,
    "ytick.color": INK,
    "ytick.major.size": 0,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of the reports, whatever matplotlibrc says: INK, FAINT, PAPER and SERIES follow dark mode."""
    with style.context(["default", SETTINGS]):
        yield


def _drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with styled():
            return draw(*args, **kwargs)

    return wrapper


@_drawn
def curve(results: Sequence[Result], language: Words | None = None) -> Figure:
    """Accuracy under attack against eps, a line per result, with the 95 % interval as a band at the audited eps.

    Where certificates were asked, a band reaches down to what they prove: the truth lies in it.

    Raises:
        BadInput: a verdict is invalid, or the norms differ: such lines do not belong on one axis.

    """
    say = language or words()
    _refuse_invalid(results)
    norms = {str(result.threat.get("norm", "")) for result in results}
    if len(norms) != 1:
        raise BadInput(f"norms {', '.join(sorted(norms))}", "one norm", "draw a curve for each norm")
    norm = norms.pop()
    figure, axes = _canvas(4.8, 3.3)
    points = [point.eps for result in results for point in result.curve]
    audited = [eps for eps in map(_eps, results) if eps is not None]
    span = max([*points, *audited, 1e-12])
    for i, result in enumerate(results):
        line = sorted(result.curve, key=lambda point: point.eps)
        colour = SERIES[i % len(SERIES)]
        axes.plot(
            [point.eps for point in line],
            [point.robust_accuracy for point in line],
            color=colour,
            linestyle=DASHES[i % len(DASHES)],
            marker=MARKS[i % len(MARKS)],
            markersize=4.5,
            label=f"{i}",
        )
        proved = [(point.eps, point.certified_accuracy) for point in line if point.certified_accuracy is not None]
        if proved:
            at, least = zip(*proved, strict=True)
            most = [point.robust_accuracy for point in line if point.certified_accuracy is not None]
            axes.plot(at, least, color=colour, lw=0.8, marker="|", markersize=5)
            axes.fill_between(at, least, most, color=colour, alpha=0.12, lw=0)
        eps = _eps(result)
        if eps is not None:
            interval, half = result.robust_accuracy, 0.018 * span
            axes.fill_between([eps - half, eps + half], interval.low, interval.high, color=colour, alpha=0.28, lw=0)
            axes.hlines([interval.low, interval.high], eps - half, eps + half, color=colour, lw=1.2)
    labelled = -span
    for eps in sorted(set(audited)):
        axes.axvline(eps, color=INK, lw=0.8, linestyle=(0, (2, 3)), zorder=0)
        if eps - labelled > 0.15 * span:  # nearer, one word would lie on the other
            axes.text(eps, 1.035, say["audited"], ha="center", va="bottom", fontsize=8.5)
            labelled = eps
    axes.set_xlim(-0.03 * span, 1.05 * span)
    axes.set_xlabel(say["curve_eps"].format(norm=NORMS.get(norm, norm)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=all(map(float.is_integer, points))))
    accuracy_axis(axes, say["curve_accuracy"])
    if len(results) > 1:
        _legend(axes, derive.names(results))
    return figure


@_drawn
def cost(result: Result, language: Words | None = None) -> Figure:
    """Robust accuracy against the passes spent per example: what each attack added, and its price.

    Numbers are the places of the attacks in the result, as the tables of reports count them. Stages too near to be
    told apart have one mark; rounds in which attacks take turns are one stretch of the line, and so are attempts at
    adaptive attacks.

    Raises:
        BadInput: the verdict is invalid.

    """
    say = language or words()
    _refuse_invalid([result])
    course = derive.course(result)
    spent, after = np.array([point.passes for point in course]), np.array([point.accuracy for point in course])
    start, *stops = derive.stops(result)
    stretches = {"rounds": say["cost_rounds"], "adaptive": say["cost_adaptive"]}
    figure, axes = _canvas(4.8, max(3.3, 0.6 + 0.21 * len(stops)))
    axes.plot(spent, after, color=SERIES[0], drawstyle="steps-post", lw=1.6)
    listed = [stop.attack if stop.kind == "stage" else stretches[stop.kind].format(count=stop.count) for stop in stops]
    entries = [
        say["titled"].format(title=_numbers(stop.rows), name=_short(name, 24))
        for stop, name in zip((start, *stops), (say["cost_start"], *listed), strict=True)
    ]
    box = axes.text(1.03, 0.98, "\n".join(entries), transform=axes.transAxes, va="top", ha="left", fontsize=8.5)
    box.set_linespacing(1.7)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.4)
    most = max(float(spent[-1]), 1.0)
    ticks = [0.0, *(10.0**k for k in range(int(np.ceil(np.log10(most))) + 1))]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlim(-0.25, most * 1.7)
    axes.set_xlabel(say["cost_passes"])
    accuracy_axis(axes, say["cost_accuracy"])
    _numbered(figure, axes, (start, *stops))
    return figure


def _numbered(figure: Figure, axes: Axes, stops: Sequence[derive.Stop]) -> None:
    """A mark for each stop with its numbers; one mark for those that would lie on each other."""
    with _any_font():
        figure.draw_without_rendering()  # it is the layout that says where points are
    points = [(stop.passes, stop.accuracy) for stop in stops]
    places = axes.transData.transform(points) * 72 / figure.dpi
    marks = list(zip(points, places, (stop.rows for stop in stops), strict=True))
    while (near := _first_overlap([(place, rows) for _, place, rows in marks])) is not None:
        (point, place, rows), (_, _, more) = marks[near : near + 2]
        marks[near : near + 2] = [(point, place, rows + more)]
    for point, _, rows in marks:
        style = {"boxstyle": "round,pad=0.35,rounding_size=0.8", "fc": PAPER, "ec": SERIES[0], "lw": 1.6}
        axes.annotate(
            _numbers(rows),
            point,
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            bbox=style,
            annotation_clip=False,
        )


def _numbers(rows: Sequence[int]) -> str:
    return f"{rows[0]}–{rows[-1]}" if len(rows) > 1 else "".join(map(str, rows))


def _first_overlap(marks: Sequence[tuple[NDArray[np.float64], Sequence[int]]]) -> int | None:
    """The first of two neighbouring marks that would lie on each other, if any do."""
    for k, ((here, some), (there, others)) in enumerate(pairwise(marks)):
        across, down = np.abs(here - there)
        room = sum(LETTER * len(_numbers(rows)) + 9 for rows in (some, others)) / 2
        if across < room and down < MARK:
            return k
    return None


@_drawn
def spans(result: Result, language: Words | None = None) -> Figure:
    """The bracket of every example, the weakest first: the least eps that breaks it lies in the band.

    Below the dotted line it is proved to stand, on the solid one it was broken; where nothing broke it the band goes
    on to the edge. Of more than 400 examples, every so many.

    Raises:
        BadInput: the verdict is invalid.

    """
    say = language or words()
    _refuse_invalid([result])
    found = derive.spans(result)
    some = np.array(found[:: max(math.ceil(len(found) / 400), 1)])
    edge = 1.08 * max([*some[np.isfinite(some)], *(point.eps for point in result.curve)])
    low, high = np.minimum(some, edge).T
    at = (np.arange(len(some)) + 0.5) / len(some)
    figure, axes = _canvas(4.8, 3.3)
    axes.fill_between(at, low, high, step="mid", color=SERIES[0], alpha=0.25, lw=0)
    axes.plot(at, np.where(high < edge, high, np.nan), color=SERIES[0], drawstyle="steps-mid", lw=1.6)
    axes.plot(at, low, color=SERIES[0], drawstyle="steps-mid", lw=1.0, linestyle=":")
    eps = _eps(result)
    if eps is not None:
        axes.axhline(eps, color=INK, lw=0.8, linestyle=(0, (2, 3)), zorder=0)
        axes.text(1.01, eps, say["audited"], ha="left", va="center", fontsize=8.5)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03 * edge, edge)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=all(point.eps.is_integer() for point in result.curve)))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(say["spans_examples"])
    norm = str(result.threat.get("norm", ""))
    axes.set_ylabel(say["curve_eps"].format(norm=NORMS.get(norm, norm)))
    return figure


@_drawn
def gallery(pictures: Sequence[Picture], classes: Sequence[str] = ()) -> Figure:
    """A row for each image: clean, adversarial, and their amplified difference, with the prediction above.

    Raises:
        BadInput: no picture, or one that is not an image of one or three channels.

    """
    if not pictures or any(picture.kind != "image" for picture in pictures):
        raise BadInput("a gallery without images", "inputs of 1 or 3 channels x H x W", "draw lines with `line`")
    figure = Figure(figsize=(5.4, 1.95 * len(pictures)), layout="constrained")
    grid = figure.subplots(len(pictures), 3, squeeze=False)
    for row, picture in zip(grid, pictures, strict=True):
        x, z, difference, factor = pixels(picture)
        titles = (_said(picture.clean, picture, classes), _said(picture.attacked, picture, classes), f"× {factor:g}")
        for axes, image, title in zip(row, (x, z, difference), titles, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(title, fontsize=9)
    return figure


@_drawn
def line(picture: Picture, language: Words | None = None) -> Figure:
    """An input that is no image: clean and adversarial over each other, and the difference on its own scale below."""
    say = language or words()
    figure = Figure(figsize=(5.4, 2.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 2]})
    x, z = (np.nan_to_num(part.astype(np.float64).reshape(-1)) for part in (picture.x, picture.z))
    _strip(upper, x, SERIES[0], "-", 3)
    _strip(upper, z, SERIES[1], (0, (4, 1.5)), 2)
    _strip(lower, z - x, INK, "-", 2)
    for axes in (upper, lower):
        axes.grid(visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.tick_params(labelsize=8)
    lower.axhline(0, color=FAINT, lw=0.8, zorder=0)
    lower.set_ylabel(say["difference_signal"], fontsize=8)
    handles = [Line2D([], [], color=SERIES[0]), Line2D([], [], color=SERIES[1], linestyle=(0, (4, 1.5)))]
    upper.legend(handles, [say["clean"], say["attacked"]], ncols=2, fontsize=8, loc=(0, 1))
    return figure


@contextmanager
def _any_font() -> Iterator[None]:
    """Whatever letters matplotlib's font has: the browser has its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg(figure: Figure, name: str) -> str:
    """A figure as an `<svg>` element to put inline: themed by the page's CSS variables, ids prefixed with `name`.

    Equal figures give equal text. Letters stay letters, so that they can be selected and read aloud.
    """
    out = io.StringIO()
    with styled(), _any_font():
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', lambda match: f"{match[1]}{name}-", text)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', text
    )
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    text = re.sub(r"font: ([^\"]*?px) [^;\"]*", r"font: \1 inherit", text)
    for colour, variable in _VARIABLES.items():
        text = re.sub(rf"(: ?){colour}\b", rf"\1var(--{variable}, {colour})", text)
    return text


def png(figure: Figure, dpi: int = 144) -> bytes:
    """A figure as PNG bytes; equal figures give equal bytes."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


_VARIABLES = {colour: f"series-{i + 1}" for i, colour in enumerate(SERIES)} | {
    INK: "ink",
    FAINT: "line",
    PAPER: "card",
}


def _refuse_invalid(results: Sequence[Result]) -> None:
    for result in results:
        if result.verdict == "invalid":
            raise BadInput(f"an invalid result ({result.name})", "numbers that mean something", "read its reasons")


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def accuracy_axis(axes: Axes, label: str) -> None:
    """An axis from 0 to 100 %, on which every accuracy of a report stands."""
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylabel(label)
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)


def _legend(axes: Axes, names: Sequence[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    left, right = names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :]
    columns = 1 if max(map(len, left)) + max(map(len, right)) > 36 else 2
    legend = axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1.1), ncols=columns, borderaxespad=0)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_short(name, 48))  # not as labels: Matplotlib drops those that begin with an underscore


def _strip(axes: Axes, values: NDArray[np.float64], colour: str, dash: _Dash, zorder: float) -> None:
    """A line; past 1200 points the envelope of equal stretches, so that no peak is lost."""
    if len(values) <= 1200:
        mark = "o" if len(values) <= 40 else ""
        axes.plot(values, color=colour, lw=1.2, linestyle=dash, marker=mark, markersize=3, zorder=zorder)
        return
    edges = np.linspace(0, len(values), 401).astype(int)[:-1]
    low, high = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
    axes.fill_between(edges, low, high, color=colour, lw=1, zorder=zorder)


def _said(probabilities: Sequence[float], picture: Picture, classes: Sequence[str]) -> str:
    if not len(probabilities):
        return ""
    if picture.measured:
        return f"{picture.measured}  {probabilities[0]:.3g}"
    best, p = top(probabilities, picture.label)[0]
    return f"{classes[best] if best < len(classes) else best}  {percent(p)}"


def _eps(result: Result) -> float | None:
    eps = result.threat.get("eps")
    return None if eps is None or isinstance(eps, str) else float(eps)


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
