"""How often each check is wrong: audits of the zoo, with false alarms on sound models and misses on broken ones.

Prints a table, writes `results/checks.json` beside this file, and fills in docs/en/checks.md and docs/zh/checks.md.
The published robust networks take part where `SPARRING_DATA` has them.

    python benchmarks/checks.py [--examples 100] [--suite quick] [--only NAME ...] [--pages]
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sparring.evaluate import rates
from sparring.zoo import find, specimens

HERE = Path(__file__).parent
RESULT = HERE / "results" / "checks.json"
PAGES = [HERE.parent / "docs" / language / "checks.md" for language in ("en", "zh")]
BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def show(rows: rates.Rows) -> None:
    """Print a table."""
    head, *body = rows
    table = Table(*head)
    for row in body:
        table.add_row(*row)
    Console().print(table)


def fill(report: dict[str, Any]) -> None:
    """Write the tables into the pages."""
    reference = runpy.run_path(str(HERE.parent / "tools" / "reference.py"))
    blocks = {"asked": rates.asked(), "wrong": rates.wrong(report), "seen": rates.seen(report)}
    for page in PAGES:

        def block(match: re.Match[str], chinese: bool = page.parent.name == "zh") -> str:
            head, *body = blocks[match[2]]
            text = reference["table"](head, body)
            return f"{match[1]}\n{reference['translated'](text) if chinese else text}\n{match[3]}"

        page.write_text(BLOCK.sub(block, page.read_text(encoding="utf-8")), encoding="utf-8")


def tell(one: rates.Trial) -> None:
    """A line a specimen."""
    missed = f"; MISSED: {', '.join(one.missed)}" if one.missed else ""
    wrong = f" (not {one.expected})" if one.verdict != one.expected else ""
    fired = ", ".join(one.fired) or "none"
    print(
        f"{one.seconds:6.1f} s  {one.kind:6}  {one.specimen}: {one.verdict}{wrong}; fired: {fired}{missed}", flush=True
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--suite", default="quick")
    options.add_argument("--only", nargs="*", help="these specimens alone; nothing is written")
    options.add_argument("--pages", action="store_true", help="fill in the pages from the last measurement")
    given = options.parse_args()
    if given.pages:
        fill(json.loads(RESULT.read_text(encoding="utf-8")))
        return
    zoo = [find(name) for name in given.only] if given.only else specimens()
    trials = rates.measure(
        zoo,
        examples=given.examples,
        suite=given.suite,
        watch=tell,
    )
    report = rates.report(trials, suite=given.suite, examples=given.examples)
    show(rates.wrong(report))
    print(report["totals"])
    if not given.only:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        fill(report)


if __name__ == "__main__":
    main()
