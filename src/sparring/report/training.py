"""What the report of a training says of its course."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparring.report.figures import DASHES, INK, MARKS, SERIES, accuracy_axis, styled
from sparring.report.page import Section
from sparring.report.phrases import phrases
from sparring.report.words import seconds_text, words
from sparring.training.alarms import Alarm, Epoch
from sparring.training.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparring.report.words import Language, Words

PRECISIONS = {"32": "float32", "bf16-mixed": "bfloat16"}
"""By the names that settings have for them; a training that is done has chosen one, whatever "auto" was."""


def section(
    settings: Settings, history: Sequence[Epoch], alarms: Sequence[Alarm], seconds: float, language: Language = "en"
) -> Section:
    """The objective, the cost, the alarms, and accuracy by epoch."""
    say = words(language)
    measured = [epoch for epoch in history if epoch.clean is not None]
    first = {alarm.name: alarm for alarm in reversed(alarms)}  # those of the epochs after it say the same
    tell = phrases(language)
    said = "\n\n".join(tell(str(alarm)) for alarm in reversed(first.values())) or say["training_quiet"]
    return Section(
        title=say["training_title"],
        text=say["training_text"].format(
            objective=settings.objective["name"],
            epochs=len(history),
            precision=PRECISIONS[settings.precision],
            seconds=seconds_text(seconds),
            alarms=said,
        ),
        figure=curves(measured, say) if measured else None,
        caption=say["training_caption"].format(n=measured[-1].examples) if measured else "",
        alt=say["training_alt"],
        place="after",
    )


def curves(measured: Sequence[Epoch], say: Words) -> Figure:
    """Clean and robust accuracy against the epoch, each named at its end."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with styled():
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        at = [epoch.epoch for epoch in measured]
        lines = (("clean", say["training_clean"]), ("robust", say["training_robust"]))
        for i, (name, said) in enumerate(lines):
            values = [float(getattr(epoch, name)) for epoch in measured]
            axes.plot(at, values, color=SERIES[i], linestyle=DASHES[i], marker=MARKS[i], markersize=3)
            axes.annotate(said, (at[-1], values[-1]), (6, 0), textcoords="offset points", va="center", color=INK)
        axes.set_xlabel(say["training_epoch"])
        accuracy_axis(axes, say["training_accuracy"])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
