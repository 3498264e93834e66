"""How often each check is wrong: audits of the zoo, with false alarms on sound models and misses on broken ones.

Prints a table, writes `results/checks.json` beside this file, and fills in docs/en/checks.md and docs/zh/checks.md.
The published robust networks take part where `SPARRING_DATA` has them.

    python benchmarks/checks.py [--examples 100] [--suite quick] [--only NAME ...] [--defences] [--pages]
"""

from __future__ import annotations

import argparse
import json
import re
import runpy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sparring.attacks import pgd
from sparring.errors import BadInput
from sparring.evaluate import audit, rates
from sparring.evaluate.adaptive import adaptive
from sparring.evaluate.run import own_draws
from sparring.goals import Untargeted
from sparring.streams import Streams
from sparring.threats import linf
from sparring.zoo import find, specimens
from sparring.zoo.specimens import some_digits

HERE = Path(__file__).parent
RESULT = HERE / "results" / "checks.json"
PAGES = [HERE.parent / "docs" / language / "checks.md" for language in ("en", "zh")]
DEFENCES = ("input rounding", "detach", "random resize", "temperature")
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
    blocks = {
        "asked": rates.asked(),
        "wrong": rates.wrong(report),
        "seen": rates.seen(report),
        "defences": fallen(report),
    }
    for page in PAGES:

        def block(match: re.Match[str], chinese: bool = page.parent.name == "zh") -> str:
            head, *body = blocks[match[2]]
            text = reference["table"](head, body)
            return f"{match[1]}\n{reference['translated'](text) if chinese else text}\n{match[3]}"

        page.write_text(BLOCK.sub(block, page.read_text(encoding="utf-8")), encoding="utf-8")


def defended(name: str, *, count: int = 60, eps: float = 0.15) -> dict[str, Any]:
    """What plain PGD says of a defence, and an audit, and the adaptive search alone."""
    model, (x, y), threat = find(name).make(), some_digits(count), linf(eps)

    def standing(z: torch.Tensor) -> float:
        """Accuracy of the mean of 32 calls."""
        with torch.no_grad(), own_draws("judged"):
            outputs = torch.stack([model(z) for _ in range(32)]).mean(0)
        return int((outputs.argmax(1) == y).sum()) / count

    try:
        with own_draws("attacked"):
            plain = standing(pgd(threat)(model, x, Untargeted(y), Streams.of(0, range(count))))
    except BadInput:
        plain = None
    found, searched = audit(model, (x, y), threat, suite="quick"), adaptive(model, x, y, threat)
    mine = [a for a in (*found.attacks, *found.stages) if a.name.startswith(("adaptive", "survey"))]
    return {
        "defence": name,
        "examples": count,
        "eps": eps,
        "clean": standing(x),
        "pgd": plain,
        "audit": found.robust_accuracy.estimate,
        "verdict": found.verdict,
        "audit, passes an example": round((found.passes.forward + found.passes.backward) / count),
        "of these adaptive": round(sum(a.forward + a.backward for a in mine) / count),
        "search": standing(searched.z),
        "search, passes an example": round(searched.passes / count),
        "plan": [str(one) for one in searched.plan],
    }


def fallen(report: dict[str, Any]) -> rates.Rows:
    """A table of what plain PGD and the adaptive search say of defences."""
    rows: rates.Rows = [("defence", "clean", "plain PGD", "audit, `quick`", "passes an example", "search alone")]
    for one in report["defences"]:
        plain = "finds no gradient" if one["pgd"] is None else f"{one['pgd']:.2f}"
        passes = f"{one['audit, passes an example']:,}, {one['of these adaptive']:,} of them adaptive"
        said = f"{one['audit']:.2f}, {one['verdict']}"
        rows.append((one["defence"], f"{one['clean']:.2f}", plain, said, passes, f"{one['search']:.2f}"))
    return rows


def before(settings: dict[str, Any]) -> dict[str, rates.Trial]:
    """What was measured last, by specimen, if it was with these settings."""
    last = json.loads(RESULT.read_text(encoding="utf-8"))
    if last["settings"] != settings:
        raise SystemExit(f"{RESULT} was measured with {last['settings']}: measure all again")
    kept = {field.name for field in fields(rates.Trial)}
    rows = ({key: row[key] for key in row if key in kept} for row in last["specimens"])
    return {
        row["specimen"]: rates.Trial(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
        for row in rows
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--suite", default="quick")
    options.add_argument("--only", nargs="*", help="these specimens alone; the others stay as they were measured")
    options.add_argument("--defences", action="store_true", help="measure the defences alone again")
    options.add_argument("--pages", action="store_true", help="fill in the pages from the last measurement")
    given = options.parse_args()
    if given.pages or given.defences:
        report = json.loads(RESULT.read_text(encoding="utf-8"))
        if given.defences:
            report["defences"] = [defended(name) for name in DEFENCES]
            RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        fill(report)
        return
    settings = {"suite": given.suite, "examples": given.examples}
    known = before(settings) if given.only else {}
    zoo = [find(name) for name in given.only] if given.only else specimens()
    measured = rates.measure(
        zoo, examples=given.examples, suite=given.suite, watch=lambda trial: print(trial, flush=True)
    )
    known |= {trial.specimen: trial for trial in measured}
    report = rates.report(tuple(known.values()), **settings)
    last = json.loads(RESULT.read_text(encoding="utf-8")).get("defences") if RESULT.exists() else None
    report["defences"] = last if given.only and last else [defended(name) for name in DEFENCES]
    show(rates.wrong(report))
    print(report["totals"])
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    fill(report)


if __name__ == "__main__":
    main()
