"""A result on the terminal: the verdict and its reasons first, then the numbers and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparring.evaluate.result import Interval, Result
from sparring.report import derive
from sparring.report.words import outlook_text, p_text, passes_text, percent, seconds_text, threat_plain, words

STYLES = {
    "trusted": "bold green",
    "suspect": "bold yellow",
    "invalid": "bold red",
    "pass": "green",
    "warn": "yellow",
    "fail": "red",
    "skipped": "dim",
}
NOT_VALID = Text("not valid", style="red")


def show(result: Result, console: Console) -> None:
    """Print one result. Where the verdict is invalid no number of it is printed, only "not valid"."""
    examples = f", {result.examples} examples" if result.examples else ""
    asked = f"{task}, " if (task := result.settings.get("task")) else ""
    console.print(Text.assemble((result.name, "bold"), f"  {asked}{threat_plain(result)}{examples}"))
    _verdict(result, console)
    console.print()
    console.print(_numbers([result], [""]))
    if result.attacks:
        console.print()
        console.print(_attacks(result))
        if said := outlook_text(result, words()):
            console.print(Text(said))
    troubled = [check for check in result.checks if check.outcome != "pass"]
    passed = len(result.checks) - len(troubled)
    console.print()
    if troubled:
        table = _table("check", "outcome", "evidence", "threshold", "remedy")
        for check in sorted(troubled, key=lambda check: ("fail", "warn", "skipped").index(check.outcome)):
            outcome = Text(check.outcome, style=STYLES[check.outcome])
            table.add_row(Text(check.name), outcome, *map(Text, (check.evidence, check.threshold, check.remedy)))
        console.print(table)
    console.print(f"{passed} of {len(result.checks)} checks passed", highlight=False)


def compare(results: Sequence[Result], console: Console) -> None:
    """Print results side by side, and every two of them example by example."""
    for name, result in zip(derive.names(results), results, strict=True):
        console.print(Text(name, style="bold"), end="  ")
        _verdict(result, console)
    console.print()
    console.print(_numbers(results, derive.names(results)))
    for i, j in combinations(range(len(results)), 2):
        first, second = (derive.names(results)[k] for k in (i, j))
        found = derive.pair(results[i], results[j])
        if isinstance(found, str):
            said = OBSTACLES[found]
        else:
            said = (
                f"both kept {found.both}, only {first} {found.first}, only {second} {found.second}, "
                f"neither {found.neither}; McNemar exact p {p_text(found.p)}"
            )
        console.print(Text(f"{first} / {second}: {said}"))


OBSTACLES: dict[derive.Obstacle, str] = {
    "invalid": "not compared, a verdict is invalid",
    "threat": "not compared example by example, the threats differ",
    "examples": "not compared example by example, the examples differ",
}


def _verdict(result: Result, console: Console) -> None:
    console.print(Text(result.verdict.upper(), style=STYLES[result.verdict]))
    for reason in result.reasons:
        console.print(Text(f"  - {reason.replace('→', '->')}"))


def _numbers(results: Sequence[Result], names: Sequence[str]) -> Table:
    table = _table("", *names)
    table.show_header = any(names)
    for title, values in (
        ("clean accuracy", [result.clean_accuracy for result in results]),
        ("robust accuracy, at most", [result.robust_accuracy for result in results]),
        ("certified accuracy, at least", [result.certified_accuracy for result in results]),
    ):
        if any(value is not None for value in values):
            table.add_row(
                title, *(_interval(value, result, title) for value, result in zip(values, results, strict=True))
            )
    each = [(r.passes.forward + r.passes.backward) / max(r.examples, 1) for r in results]
    table.add_row("passes per example", *map(passes_text, each))
    table.add_row("time", *(seconds_text(result.seconds) for result in results))
    return table


def _interval(value: Interval | None, result: Result, title: str) -> Text:
    if result.verdict == "invalid":
        return NOT_VALID
    if value is None:
        return Text("not measured", style="dim")
    at, low, high = (percent(part, result.examples) for part in (value.estimate, value.low, value.high))
    doubt = "  in doubt" if result.verdict == "suspect" and not title.startswith("clean") else ""
    return Text.assemble((at, "bold"), f"  [{low}, {high}]", (doubt, STYLES["warn"]))


def _attacks(result: Result) -> Table:
    table = _table("attack")
    for title in ("broke", "robust accuracy", "forward", "backward", "seconds"):
        table.add_column(title, justify="right")
    valid, each = result.verdict != "invalid", max(result.examples, 1)
    for attack, left in zip(result.attacks, derive.standing(result)[1:], strict=True):
        table.add_row(
            Text(attack.name),
            Text(f"{attack.broke}/{attack.attacked}") if valid else NOT_VALID,
            Text(percent(left, result.examples)) if valid else NOT_VALID,
            passes_text(attack.forward / each),
            passes_text(attack.backward / each),
            f"{attack.seconds:.1f}",
        )
    table.caption = "passes per example, over all of them"
    table.caption_justify = "left"
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, highlight=False)
    for column in columns:
        table.add_column(Text(column))
    return table
