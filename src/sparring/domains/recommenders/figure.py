"""The picture of an audit of a recommender: what each attack wins, who would notice, and how few would do."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sparring.domains.recommenders.result import Needed, Promotion, Tried
from sparring.report.figures import FAINT, INK, SERIES, styled


def draw(result: Promotion) -> Figure:
    """A row of two panels for each item; below them, where it was asked for, the search for the fewest fake users."""
    rows = len(result.items) + (result.needed is not None)
    count = len(result.tried) // max(len(result.items), 1)
    with styled():
        figure = Figure(figsize=(8.4, 1.2 + rows * (0.7 + 0.3 * max(count, 5))), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False)
        for (left, right), item in zip(grid, result.items, strict=False):
            tried = [one for one in result.tried if one.item == item]
            _reached(left, tried, result.top)
            _caught(right, tried)
        if result.needed is not None:
            _search(grid[-1][0], result.needed, result.top)
            grid[-1][1].set_axis_off()
    return figure


def _reached(axes: Axes, tried: list[Tried], top: int) -> None:
    """The share of the users each attack reaches, with its interval; a line where the item was before."""
    for place, one in enumerate(reversed(tried)):
        axes.barh(place, one.attacked.estimate, height=0.6, color=SERIES[0])
        axes.hlines(place, one.attacked.low, one.attacked.high, color=INK, lw=1.2)
    axes.axvline(tried[0].clean.estimate, color=SERIES[1], linestyle=(0, (3, 2)))
    _named(axes, tried)
    axes.set_xlabel(f"users with item {tried[0].item} in their top {top} (dashed: before)")


def _caught(axes: Axes, tried: list[Tried]) -> None:
    """The share of the fake users that the best detector catches, and its name."""
    for place, one in enumerate(reversed(tried)):
        best = max(one.suspicion, key=lambda found: (found.caught, found.auc))
        axes.barh(place, best.caught, height=0.6, color=SERIES[2])
        axes.text(best.caught + 0.02, place, best.detector, va="center", fontsize=8.5)
    _named(axes, tried)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("fake users that the best detector catches")


def _named(axes: Axes, tried: list[Tried]) -> None:
    axes.set_yticks(range(len(tried)), [one.attack for one in reversed(tried)])
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.axvline(0, color=FAINT, lw=0.8)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _search(axes: Axes, needed: Needed, top: int) -> None:
    """What was tried on the way to the fewest."""
    counts, shares = zip(*needed.tries, strict=True)
    axes.plot(counts, shares, color=SERIES[0], marker="o", markersize=4.5)
    axes.axhline(needed.wanted, color=SERIES[1], linestyle=(0, (3, 2)))
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"fake users, {needed.attack} (dashed: wanted)")
    axes.set_ylabel(f"top {top}, item {needed.item}")
