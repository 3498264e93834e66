"""The picture of an audit of an assistant: what each attack takes over, and how its search came on."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sparring.domains.chat.result import Bout, Injection
from sparring.report.figures import FAINT, INK, SERIES, styled


def draw(result: Injection) -> Figure:
    """The share of the cases taken over by each attack; beside it the losses of the strongest search that sees some."""
    searches = [one for one in result.tried if any(bout.trace for bout in result.of(one.attack))]
    best = max(searches, key=lambda one: one.taken.estimate, default=None)
    with styled():
        figure = Figure(
            figsize=(4.8 if best is None else 8.4, 1.6 + 0.4 * max(len(result.tried), 5)), layout="constrained"
        )
        axes = figure.subplots(1, 1 if best is None else 2, squeeze=False)[0]
        _taken(axes[0], result)
        if best is not None:
            _losses(axes[1], [bout for bout in result.of(best.attack) if bout.trace], best.attack)
    return figure


def _taken(axes: Axes, result: Injection) -> None:
    """The share of each attack, with its interval."""
    for place, one in enumerate(reversed(result.tried)):
        axes.barh(place, one.taken.estimate, height=0.6, color=SERIES[0])
        axes.hlines(place, one.taken.low, one.taken.high, color=INK, lw=1.2)
    axes.set_yticks(range(len(result.tried)), [one.attack for one in reversed(result.tried)])
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.axvline(0, color=FAINT, lw=0.8)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"cases taken over, of {sum(not one.own for one in result.clean)}")


def _losses(axes: Axes, bouts: list[Bout], attack: str) -> None:
    """A line a case: the least loss so far over forward passes, ending in a dot where the assistant said it."""
    for bout in bouts:
        passes, losses = [one.passes for one in bout.trace], [one.loss for one in bout.trace]
        colour = SERIES[1] if bout.broke else SERIES[0]
        axes.step([*passes, bout.spent.forward], [*losses, losses[-1]], where="post", color=colour, lw=1)
        if bout.broke:
            axes.plot(passes[-1], losses[-1], "o", color=colour, markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"forward passes of {attack} (dot: said)")
    axes.set_ylabel("loss of what is wanted")
