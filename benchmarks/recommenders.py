"""What fake users do to recommenders that learn from MovieLens-100k: every attack, two items, three trainings.

For each recommender and number of fake users, an audit as `sparring promote` does it: items of little and of middle
popularity, the last rating of each user held out. One recommender is also audited behind the filter that leaves out
those whom PCA suspects. MovieLens-100k is not handed on: see `sparring.domains.recommenders.reading.movielens`.

    python benchmarks/recommenders.py [--ratings ml-100k] [--only mf] [--seeds 3]
"""

from __future__ import annotations

import argparse
from typing import Any

from record import begin, last, save
from rich.console import Console
from rich.table import Table

from sparring.domains.recommenders.audit import audit, strata
from sparring.domains.recommenders.commands import defended
from sparring.domains.recommenders.interactions import Interactions, as_implicit, leave_last_out
from sparring.domains.recommenders.models import recommender
from sparring.domains.recommenders.reading import load
from sparring.domains.recommenders.result import Promotion
from sparring.domains.recommenders.threats import fake_users

CASES = (
    ("mf", "", "5%"),
    ("mf", "", "1%"),
    ("ease", "", "5%"),
    ("mf", "pca:5%", "5%"),
    ("user-knn", "", "5%"),
    ("item-knn", "", "5%"),
    ("wrmf", "", "5%"),
    ("bpr", "", "5%"),
)
"""Recommender, filter before it, fake users."""


def measure(name: str, filtered: str, fakes: str, data: Interactions, seeds: int) -> Promotion:
    """An audit with everything that fits."""
    model, implicit = recommender(name)
    data = as_implicit(data) if implicit else data
    model = defended(model, filtered) if filtered else model
    items, named = strata(leave_last_out(data)[0])[:2], f"{name} {filtered}".strip()
    return audit(model, data, fake_users(fakes, data), items=items, seeds=seeds, name=named)


def row(one: Any) -> dict[str, Any]:
    """What is kept of an attack: its numbers, and what each detector catches."""
    kept = {"attack": one.attack, "item": one.item, "ratings": one.ratings, "eligible": one.eligible}
    kept["clean"], kept["attacked"] = round(one.clean.estimate, 4), round(one.attacked.estimate, 4)
    for key in ("uplift", "shift"):
        value = getattr(one, key)
        kept[key] = None if value is None else [round(x, 4) for x in (value.estimate, value.low, value.high)]
    kept["percentile"] = [round(one.clean_percentile, 4), round(one.percentile, 4)]
    kept["by_seed"] = [round(x, 4) for x in one.by_seed]
    kept["service"] = {key: value and round(value, 4) for key, value in one.service.model_dump().items()}
    kept["caught"] = {found.detector: round(found.caught, 3) for found in one.suspicion}
    kept["auc"] = {found.detector: round(found.auc, 3) for found in one.suspicion}
    return kept


def show(found: Promotion) -> None:
    """A table of one audit."""
    share = f"{found.threat['share']:.1%}"
    table = Table(title=f"{found.recommender}, {share} fake users: {found.verdict}, {found.seconds:.0f} s")
    for column in ("attack", "item", "ratings", "before", "after", "stars", "stands at", "pca catches"):
        table.add_column(column, justify="right")
    for one in (*found.control, *found.tried):
        table.add_row(
            one.attack,
            one.item,
            str(one.ratings),
            f"{one.clean.estimate:.1%}",
            f"{one.attacked.estimate:.1%}",
            "" if one.shift is None else f"{one.shift.estimate:+.2f}",
            f"{one.percentile:.1%}",
            f"{one.suspicion[0].caught:.0%}",
        )
    Console(width=110).print(table)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--ratings", default="ml-100k")
    options.add_argument("--only", choices=sorted({name for name, _, _ in CASES}))
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    begin()
    data = load(given.ratings)
    cases = last("recommenders").get("cases", {})
    for name, filtered, fakes in CASES:
        if given.only not in (None, name):
            continue
        found = measure(name, filtered, fakes, data, given.seeds)
        show(found)
        cases[f"{found.recommender}, {fakes}"] = {
            "verdict": found.verdict,
            "reasons": found.reasons,
            "warned": [check.evidence for check in found.checks if check.outcome == "warn"],
            "threat": found.threat,
            "service": found.clean.model_dump(),
            "seconds": found.seconds,
            "rows": [row(one) for one in (*found.control, *found.tried)],
        }
        settings = {"seeds": given.seeds, "users": data.shape[0], "items": data.shape[1], "ratings": len(data.users)}
        save("recommenders", {"settings": settings, "cases": cases})


if __name__ == "__main__":
    main()
