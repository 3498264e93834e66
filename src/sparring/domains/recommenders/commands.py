"""`sparring promote`: how many fake users push an item, and would anybody notice?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparring.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from sparring.domains.recommenders.result import Promotion, Tried


class Portion(click.ParamType[float]):
    """A share, as 50% or 0.5."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        """The share as a number from 0 to 1."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is no share: write for example 50% or 0.5", param, context)
        return share


SHARE = Portion()


@click.command()
@click.argument("ratings")
@click.option(
    "--item", "items", multiple=True, metavar="NAME", help="As the file calls it; again for more. [default: three]"
)
@click.option(
    "--recommender", required=True, metavar="NAME", help="user-knn, item-knn, mf, ease, ...; or file.py:factory."
)
@click.option(
    "--fake-users", "fakes", default="5%", show_default=True, help="How many at most: 47, or a share of the real."
)
@click.option(
    "--ratings-each", type=click.IntRange(min=1), help="Of a fake user, at most. [default: as the median user]"
)
@click.option(
    "--attack", "attacks", multiple=True, metavar="NAME", help="This one, beside random. [default: all that fit]"
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="How long lists are.")
@click.option("--down", is_flag=True, help="Push the item out of the lists instead.")
@click.option("--reach", type=SHARE, help="Look for the fewest fake users that reach so many users, as 50%.")
@click.option(
    "--implicit", is_flag=True, help="Take ratings as things that were looked at; else as the recommender wants."
)
@click.option("--at-least", type=float, help="With implicit feedback: only ratings of so many stars.")
@click.option("--filter", "filtered", metavar="DETECTOR[:SHARE]", help="Defend: leave the most suspect out, as pca:5%.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--fail-over", type=SHARE, help="Status 1 if an attack wins more users than this, or it is in doubt.")
@click.option("-o", "--out", type=Path, help="The folder for result.json and promote.png.")
def promote(**given: Any) -> int:
    """Push an item with fake users, and count who sees it.

    RATINGS is a file: u.data or ratings.csv of MovieLens, .inter of RecBole, any .csv with columns of users and items;
    or ml-100k, where that is installed. The recommender is trained anew for every attack. One of your own is a factory
    () -> (data, rng) -> scores (users, items).
    """
    from sparring.cli import GATE, _console, _folder
    from sparring.domains.recommenders.attacks import UNINFORMED, attack, fitting
    from sparring.domains.recommenders.audit import audit
    from sparring.domains.recommenders.interactions import as_implicit
    from sparring.domains.recommenders.models import recommender
    from sparring.domains.recommenders.reading import load
    from sparring.domains.recommenders.threats import fake_users
    from sparring.progress import watching

    out = None if given["out"] is None else _folder(given["out"], "result.json", "promote.png")
    model, wants = recommender(given["recommender"])
    data, sign = load(given["ratings"]), -1 if given["down"] else 1
    if given["at_least"] is not None and not (given["implicit"] or wants):
        need = "implicit feedback"
        raise BadInput(f"--at-least with {given['recommender']}", need, "add --implicit, or leave it out")
    if given["implicit"] or wants:
        data = as_implicit(data, at_least=given["at_least"])
    elif data.implicit:
        need = "ratings of more than one kind"
        raise BadInput(f"{given['recommender']} on implicit feedback", need, "choose ease, wrmf, bpr or item-cosine")
    if given["filtered"] is not None:
        model = defended(model, given["filtered"])
    items = [data.item(name) for name in given["items"]] or None
    names = dict.fromkeys([*([UNINFORMED] if given["attacks"] else fitting(data, sign)), *given["attacks"]])
    with watching(unit="trainings") as watch:
        result = audit(
            model,
            data,
            fake_users(given["fakes"], data, ratings=given["ratings_each"]),
            items=items,
            attacks={name: attack(name, data, sign) for name in names},
            top=given["top"],
            sign=sign,
            reach=given["reach"],
            seeds=given["seeds"],
            seed=given["seed"],
            name=given["recommender"] + (f" behind {given['filtered']}" if given["filtered"] else ""),
            command=_command(given),
            watch=watch,
        )
    show(result, _console())
    if out is not None:
        from sparring.domains.recommenders.figure import draw
        from sparring.report.figures import png

        result.save(out / "result.json")
        (out / "promote.png").write_bytes(png(draw(result)))
        click.echo(f"written: {out / 'result.json'}, {out / 'promote.png'}")
    missed = gate(result, given["fail_over"])
    if missed:
        click.echo(missed)
    return GATE if missed or result.verdict == "invalid" else 0


def defended(model: Any, spec: str) -> Any:
    """The recommender behind the filter that was asked for, as `pca` or `pca:5%`."""
    from sparring.domains.recommenders.detectors import DETECTORS
    from sparring.domains.recommenders.filtering import Filtered
    from sparring.spelling import hint

    name, _, share = spec.partition(":")
    if name not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise BadInput(f"--filter {spec}", f"one of {known}", hint(name, DETECTORS, "add a share, as in pca:5%"))
    part = SHARE.convert(share or "5%", None, None)
    return Filtered(recommender=model, detector=DETECTORS[name], share=part)


def gate(result: Promotion, most: float | None) -> str | None:
    """Why the result does not pass; None where it does, or nothing was asked."""
    if most is None:
        return None
    if result.verdict != "trusted":
        return f"the gate is not passed: the verdict is {result.verdict}"
    worst = max(result.sign * result.strongest(item).uplift.estimate for item in result.items)
    return f"the gate is not passed: {worst:.1%} of the users are won, more than {most:.1%}" if worst > most else None


def show(result: Promotion, console: Console) -> None:
    """Print the answer: a table for each item, the verdict with its reasons, and how few would do."""
    from rich.table import Table
    from rich.text import Text

    from sparring.report.terminal import STYLES

    users = "{users} fake users ({share:.1%}) with {ratings} ratings each".format(**result.threat)
    console.print(Text.assemble((result.recommender, "bold"), f"  {users}"))
    console.print(Text.assemble((result.verdict, STYLES[result.verdict]), f": {'; '.join(result.reasons)}"))
    if result.verdict == "invalid":
        return
    head = ("attack", "users", "95 %", "change", "stars", "stands at", "noticed by")
    for item in result.items:
        every = [one for one in (*result.control, *result.tried) if one.item == item]
        console.print(
            f"\nitem {item}, rated by {every[0].ratings}; in the top {result.top} of {every[0].clean.estimate:.1%} of "
            f"{every[0].eligible} users, stands at {every[0].clean_percentile:.0%}",
            highlight=False,
        )
        table = Table(*head, box=None, pad_edge=False)
        for one in every:
            table.add_row(*_row(one), style="bold" if one is result.strongest(item) else "")
        console.print(table)
    console.print(f"\n{answer(result)}", highlight=False)


def _row(one: Tried) -> tuple[str, ...]:
    best = max(one.suspicion, key=lambda found: (found.caught, found.auc))
    return (
        one.attack,
        f"{one.attacked.estimate:.1%}",
        f"{one.attacked.low:.1%} to {one.attacked.high:.1%}",
        f"{one.uplift.estimate:+.1%}",
        "" if one.shift is None else f"{one.shift.estimate:+.2f}",
        f"{one.percentile:.0%}",
        f"{best.detector}: {best.caught:.0%}",
    )


def answer(result: Promotion) -> str:
    """The operator's question, answered."""
    needed, where = result.needed, f"the top {result.top}"
    verb = "put item {} into" if result.sign > 0 else "keep item {} out of"
    if needed is None:
        best = result.strongest(result.items[0])
        share = best.attacked.estimate if result.sign > 0 else 1 - best.attacked.estimate
        doing = verb.format(best.item)
        return f"{result.threat['users']} fake users {doing} {where} of {share:.1%} of the users ({best.attack})"
    doing = f"{verb.format(needed.item)} {where} of {needed.wanted:.0%} of the users"
    if needed.users is None:
        return f"{result.threat['users']} fake users do not {doing} ({needed.attack}: {needed.reached:.1%})"
    few = f"{needed.users} fake users ({needed.share:.1%})"
    return f"{few} {doing} ({needed.attack}; {needed.reached:.1%} over all trainings)"


def _command(given: dict[str, Any]) -> str:
    """The command that gives this result again."""
    words = [
        "sparring",
        "promote",
        given["ratings"],
        "--recommender",
        given["recommender"],
        "--fake-users",
        given["fakes"],
    ]
    for option, key in (("--item", "items"), ("--attack", "attacks")):
        words += [word for one in given[key] for word in (option, one)]
    for key in ("ratings_each", "top", "reach", "at_least", "filtered", "seeds", "seed"):
        option = "--filter" if key == "filtered" else f"--{key.replace('_', '-')}"
        words += [option, str(given[key])] if given[key] is not None else []
    words += [f"--{key}" for key in ("down", "implicit") if given[key]]
    return shlex.join(words)
