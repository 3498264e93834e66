"""`sparring inject`: in how many conversations does text from outside take an assistant over?"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sparring.domains.recommenders.commands import SHARE
from sparring.errors import BadInput
from sparring.going_on import going_on

if TYPE_CHECKING:
    from rich.console import Console

    from sparring.domains.chat.assistant import Assistant
    from sparring.domains.chat.attacks import Make
    from sparring.domains.chat.cases import Case
    from sparring.domains.chat.defended import Worth
    from sparring.domains.chat.result import Injection
    from sparring.domains.chat.threats import Suffix

LEFT = ("result.json", "inject.png", "journal.jsonl", "defence.json")
"""What a run leaves in its folder."""

LONG = 60
"""Letters of a text that a table shows."""


@click.command()
@click.argument("cases")
@click.option(
    "--model", required=True, metavar="MODEL", help="A folder of transformers, a .gguf or .toml file, or file.py:name."
)
@click.option(
    "--threat", default="suffix:20", show_default=True, help="suffix:TOKENS or characters:COUNT; :ascii behind it."
)
@click.option(
    "--attack", "attacks", multiple=True, metavar="NAME", help="genetic, random-search, gcg; or file.py:factory."
)
@click.option("--learn", metavar="FILE", help="Other cases, on which gcg learns one text for all: universal.")
@click.option("--steps", type=click.IntRange(min=1), help="Of each attack. [default: its own]")
@click.option("--candidates", type=click.IntRange(min=1), help="Texts that gcg tries in a step. [default: 512]")
@click.option("--judge", default="begins", show_default=True, help="begins, contains, equals; or file.py:function.")
@click.option("--defence", metavar="NAME", help="Measure it too: perplexity, delimiting, datamarking, smooth-llm.")
@click.option("--clean", type=Path, metavar="FILE", help="Documents, one a line, by which perplexity is set.")
@click.option("--longest", type=click.IntRange(min=1), default=48, show_default=True, help="Tokens of an answer.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N cases.")
@click.option("--device", default="cpu", show_default=True, help="Where a language model runs: cpu, cuda, mps.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out.")
@click.option("--fail-over", type=SHARE, help="Status 1 if more cases are taken over than this, or it is in doubt.")
@click.option("-o", "--out", type=Path, help="The folder for result.json and inject.png.")
def inject(**given: Any) -> int:
    """Put text before an assistant, and see if it obeys.

    CASES is a .jsonl or .csv file: message, with {attack} where the attacker's text goes, and wanted, the words that
    are to come out; if you like document (then message has {document}), system and name. The model may be a function of
    your own: (conversations) -> answers. Without --attack the strongest is taken that the model lets one run. With
    --defence three numbers are measured: without it, with it against who does not know it, and against who does.
    """
    from sparring.cli import GATE, _console, _folder
    from sparring.domains.chat.cases import read
    from sparring.domains.chat.goals import judge
    from sparring.domains.chat.loading import load
    from sparring.domains.chat.threats import suffix
    from sparring.progress import watching

    if given["resume"] and given["out"] is None:
        raise BadInput("--resume without --out", "the folder of the run", "add --out DIR")
    out = None if given["out"] is None else _folder(given["out"], *LEFT)
    cases, threat = read(given["cases"])[: given["limit"]], suffix(given["threat"])
    shared = {"judge": judge(given["judge"]), "seed": given["seed"], "resume": given["resume"]}
    model = load(given["model"], device=given["device"], longest=given["longest"])
    with going_on(out), watching(unit="steps") as watch:
        result, found = measured(given, model, cases, threat, out=out, command=_command(given), watch=watch, **shared)
    show(result, _console())
    if found is not None:
        show(found[1], _console())
        click.echo(said(found[0], given["defence"]))
    if out is not None:
        from sparring.domains.chat.figure import draw
        from sparring.report.figures import png

        (out / "inject.png").write_bytes(png(draw(result)))
        click.echo(f"written: {out / 'result.json'}, {out / 'inject.png'}")
        if found is not None:
            found[0].save(out / "defence.json")
    deployed = result if found is None else found[1]
    missed = gate(deployed, given["fail_over"])
    if missed:
        click.echo(missed)
    return GATE if missed or deployed.verdict == "invalid" else 0


def measured(
    given: dict[str, Any], model: Assistant, cases: list[Case], threat: Suffix, *, out: Path | None, **shared: Any
) -> tuple[Injection, tuple[Worth, Injection] | None]:
    """The audit of the assistant, and what the defence is worth that was asked for."""
    from sparring.domains.chat.attacks import ATTACKS, attack, fits, strongest
    from sparring.domains.chat.audit import audit
    from sparring.domains.chat.defended import worth

    def attacks(names: Sequence[str], of: Assistant) -> dict[str, Make]:
        return {name: fitted(attack(name, of, threat), given) for name in names or [strongest(of, threat)]}

    bare = attacks(given["attacks"], model)
    if given["learn"] is not None:
        bare["universal"] = universal(given, model, cases, threat)
    defended = defended_by(given, model)
    result = audit(model, cases, threat, attacks=bare, out=out, name=given["model"], **shared)
    if defended is None:
        return result, None
    fitting = [name for name in given["attacks"] if ":" in name or fits(ATTACKS[name], defended, threat)]
    place = None if out is None else out / "defended"
    known = attacks(fitting, defended)
    return result, worth(defended, result, cases, threat, attacks=known, out=place, **shared)


def universal(given: dict[str, Any], model: Assistant, cases: list[Case], threat: Suffix) -> Make:
    """The attack that writes the same in every case, as it was learned on others."""
    from sparring.domains.chat.attacks import attack
    from sparring.domains.chat.cases import read
    from sparring.domains.chat.universal import Fixed, learned

    others = read(given["learn"])
    if {case.message + (case.document or "") for case in others} & {
        case.message + (case.document or "") for case in cases
    }:
        need = "other conversations than those that are audited"
        raise BadInput(f"--learn {given['learn']}, which has some of the cases", need, "split them")
    gcg: Any = fitted(attack("gcg", model, threat), given)(threat)
    click.echo(f"learning on {len(others)} cases", err=True)
    return partial(Fixed, text=learned(model, others, gcg, seed=given["seed"]))


def fitted(make: Make, given: dict[str, Any]) -> Make:
    """The factory of an attack with those of the settings that it has."""
    known: set[str] = {field.name for field in fields(make)} if is_dataclass(make) else set()
    return partial(make, **{key: given[key] for key in ("steps", "candidates") if key in known and given[key]})


def defended_by(given: dict[str, Any], model: Assistant) -> Assistant | None:
    """The assistant behind the defence that was asked for."""
    from sparring.domains.chat.defended import defend
    from sparring.errors import line

    if given["defence"] is None:
        if given["clean"] is not None:
            raise BadInput("--clean without --defence", "the defence that it is for", "add --defence perplexity")
        return None
    try:
        clean = "" if given["clean"] is None else given["clean"].read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        what = f"cannot read '{given['clean']}' ({line(error)})"
        raise BadInput(what, "documents, one a line", "check --clean") from None
    return defend(given["defence"], model, [row for row in clean.splitlines() if row.strip()])


def said(found: Worth, name: str) -> str:
    """The three numbers of a defence, and what it costs where nobody attacks."""
    rows = (
        (f"without {name}", found.bare),
        ("with it, against an attack that does not know it", found.unaware),
        ("with it, against one that does", found.adaptive),
        ("answers that it changes where nobody attacks", found.changed),
    )
    return "\n".join(f"{what}: {one.estimate:.1%} ({one.low:.1%} to {one.high:.1%})" for what, one in rows)


def gate(result: Injection, most: float | None) -> str | None:
    """Why the result does not pass; None where it does, or nothing was asked."""
    if most is None:
        return None
    if result.verdict != "trusted":
        return f"the gate is not passed: the verdict is {result.verdict}"
    worst = result.taken.estimate
    return (
        f"the gate is not passed: {worst:.1%} of the cases are taken over, more than {most:.1%}"
        if worst > most
        else None
    )


def show(result: Injection, console: Console) -> None:
    """Print the answer: the verdict with its reasons, what each attack did, and an example."""
    from rich.table import Table
    from rich.text import Text

    from sparring.report.terminal import STYLES

    console.print(Text.assemble((result.assistant, "bold"), f"  {len(result.clean)} cases, {result.threat}"))
    console.print(Text.assemble((result.verdict, STYLES[result.verdict]), f": {'; '.join(result.reasons)}"))
    if result.verdict == "invalid":
        return
    table = Table("attack", "taken over", "95 %", "passes", "answers", "seconds", box=None, pad_edge=False)
    for one in result.tried:
        table.add_row(
            one.attack,
            f"{one.taken.estimate:.1%}",
            f"{one.taken.low:.1%} to {one.taken.high:.1%}",
            f"{one.spent.forward + one.spent.backward:,}",
            f"{one.spent.answers:,}",
            f"{one.seconds:.0f}",
            style="bold" if one is result.strongest else "",
        )
    console.print()
    console.print(table)
    found = [bout for bout in result.of(result.strongest.attack) if bout.broke]
    if found:
        shown = found[0].text if len(found[0].text) <= LONG else f"{found[0].text[:LONG]}..."
        console.print(f"\ncase {found[0].case}, {found[0].attack}: {shown!r}", highlight=False, markup=False)
        console.print(f"answer: {found[0].answer[:LONG]!r}", highlight=False, markup=False)
    share = result.taken
    console.print(
        f"\ntaken over in {share.estimate:.1%} of the cases at least ({share.low:.1%} to {share.high:.1%})",
        highlight=False,
    )


def _command(given: dict[str, Any]) -> str:
    """The command that gives this result again."""
    words = ["sparring", "inject", given["cases"], "--model", given["model"], "--threat", given["threat"]]
    words += [word for one in given["attacks"] for word in ("--attack", one)]
    for key in ("learn", "steps", "candidates", "judge", "defence", "clean", "longest", "limit", "seed"):
        words += [f"--{key}", str(given[key])] if given[key] is not None else []
    return shlex.join(words)
