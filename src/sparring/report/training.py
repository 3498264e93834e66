"""What the report of a training says of its course."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparring.report.figures import DASHES, INK, MARKS, SERIES, styled
from sparring.report.page import Section
from sparring.report.words import seconds_text
from sparring.training.alarms import Alarm, Epoch
from sparring.training.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sparring.report.words import Language

SENTENCES = {
    "en": {
        "title": "The training",
        "text": "Objective {objective}, {epochs} epochs, {seconds}. {alarms}",
        "quiet": "No alarm was raised.",
        "caption": "Accuracy on {n} examples held out of training, as they are and under the attack of the validation.",
        "alt": "Clean and robust accuracy on examples held out, against the epoch.",
        "clean": "clean",
        "robust": "under attack",
        "epoch": "epoch",
        "accuracy": "accuracy",
    },
    "zh": {
        "title": "训练过程",
        "text": "目标函数 {objective}，{epochs} 轮，{seconds}。{alarms}",
        "quiet": "没有警报。",
        "caption": "留出的 {n} 个样本上的准确率：原样，以及在验证所用攻击下。",
        "alt": "留出样本上的干净准确率与鲁棒准确率随轮数的变化。",
        "clean": "干净",
        "robust": "攻击下",
        "epoch": "轮",
        "accuracy": "准确率",
    },
}


def section(
    settings: Settings, history: Sequence[Epoch], alarms: Sequence[Alarm], seconds: float, language: Language = "en"
) -> Section:
    """The objective, the cost, the alarms, and accuracy by epoch."""
    say = SENTENCES[language]
    measured = [epoch for epoch in history if epoch.clean is not None]
    first = {alarm.name: alarm for alarm in reversed(alarms)}  # those of the epochs after it say the same
    said = "\n\n".join(map(str, reversed(first.values()))) or say["quiet"]
    return Section(
        title=say["title"],
        text=say["text"].format(
            objective=settings.objective["name"],
            epochs=len(history),
            seconds=seconds_text(seconds),
            alarms=said,
        ),
        figure=curves(measured, say) if measured else None,
        caption=say["caption"].format(n=measured[-1].examples) if measured else "",
        alt=say["alt"],
        place="after",
    )


def curves(measured: Sequence[Epoch], say: dict[str, str]) -> Figure:
    """Clean and robust accuracy against the epoch, each named at its end."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with styled():
        figure = Figure(figsize=(4.8, 3.0), layout="constrained")
        axes = figure.subplots()
        at = [epoch.epoch for epoch in measured]
        for i, name in enumerate(("clean", "robust")):
            values = [float(getattr(epoch, name)) for epoch in measured]
            axes.plot(at, values, color=SERIES[i], linestyle=DASHES[i], marker=MARKS[i], markersize=3)
            axes.annotate(say[name], (at[-1], values[-1]), (6, 0), textcoords="offset points", va="center", color=INK)
        axes.set(xlabel=say["epoch"], ylabel=say["accuracy"], ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
