"""The command line: one function a command, each a few lines on top of the library."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sparring import __version__
from sparring.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from sparring.evaluate.run import Watch
    from sparring.threats import Ball
    from sparring.types import Data

Function = Callable[..., Any]

INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command line. Status 0: fine; 1: a gate failed; 2: wrong use or bad input, said in one line."""
    try:
        status = cli.main(standalone_mode=False)
    except (BadInput, click.ClickException) as error:
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"sparring: {' '.join(text.split())}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("sparring: stopped; add --resume to the same command to go on", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sparring")
def cli() -> None:
    """Find out how robust a model really is, and make it more robust."""


def _options(*options: Function) -> Function:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


MODEL = _options(
    click.argument("model"),
    click.option("--weights", metavar="FILE", help="A state dict to load into what the factory returned."),
    click.option("--trust", is_flag=True, help="Run code that is hidden in the file (pickles). Only if you made it."),
)
DATA = _options(
    click.option("--data", required=True, metavar="DATA", help="A name (digits, mnist), .npz, folder, .csv, factory."),
    click.option("--split", default="test", show_default=True, help="Which part of a named data set."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N examples."),
)
THREAT = _options(
    click.option("--threat", required=True, metavar="NORM:EPS", help="linf:8/255, l2:0.5, l1:10, l0:20."),
    click.option("--bounds", nargs=2, type=float, default=(0.0, 1.0), show_default=True, help="Range of the inputs."),
)
RUN = _options(
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--batch-size", type=click.IntRange(min=1), help="Chosen by free memory unless given."),
    click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."),
    click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out."),
)


@cli.command()
@MODEL
@DATA
@THREAT
@click.option("--budget", default="standard", show_default=True, help="Which suite of attacks: quick or standard.")
@RUN
@click.option("--out", type=Path, default=Path("sparring-audit"), show_default=True, help="The folder of the run.")
@click.option("--fail-under", type=click.FloatRange(0, 1), help="Status 1 if robust accuracy is lower, or in doubt.")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of the report.")
def audit(**given: Any) -> int:
    """Attack MODEL, and say how robust it is, with a verdict. Ends with a report."""
    from sparring import report
    from sparring.evaluate import audit as run
    from sparring.report.derive import gate
    from sparring.report.terminal import show

    victim, data, threat = _victim(given), _data(given), _threat(given)
    console, out = _console(), given["out"]
    with _watch(console) as watch:
        result = run(
            victim,
            data,
            threat,
            suite=given["budget"],
            seed=given["seed"],
            batch_size=given["batch_size"],
            workers=given["workers"],
            out=out,
            resume=given["resume"],
            command=_command("audit", given),
            watch=watch,
        )
    found, pictures = report.read(out)
    page = report.write(out, [found], {found.name: pictures}, language=given["language"])
    show(result, console)
    console.print(f"\nreport: {page}", highlight=False)
    missed = gate(result, given["fail_under"]) if given["fail_under"] is not None else None
    if missed:
        console.print(missed, style="red")
    return int(missed is not None or result.verdict == "invalid")


@cli.command()
@MODEL
@DATA
@THREAT
def doctor(**given: Any) -> int:
    """Look over the set-up of MODEL, data and threat, without attacking. Status 1 if no number could be believed."""
    from rich.table import Table

    from sparring.evaluate import examine, judge

    found = examine(_victim(given), _data(given), _threat(given))
    table = Table("check", "outcome", "what was seen", "what to do", box=None, pad_edge=False)
    styles = {"pass": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}
    for check in found.checks:
        table.add_row(check.name, f"[{styles[check.outcome]}]{check.outcome}[/]", check.evidence, check.remedy)
    console = _console()
    console.print(table)
    verdict, _ = judge(found.checks)
    healthy = "the set-up is sound" if verdict == "trusted" else f"an audit of this would be {verdict}"
    console.print(f"\n{healthy}", highlight=False)
    return int(found.invalid)


@cli.command()
@MODEL
@DATA
@THREAT
@click.option("--attack", "name", required=True, metavar="NAME", help="See: sparring list attacks.")
@RUN
@click.option("--out", type=Path, required=True, help="The folder for adversarial.npz.")
def attack(**given: Any) -> int:
    """Run one attack on MODEL, and keep the adversarial examples."""
    from sparring.evaluate.collect import collect
    from sparring.evaluate.suites import Stage
    from sparring.registry import find

    entry, victim, data, threat = find("attacks", given["name"]), _victim(given), _data(given), _threat(given)
    if threat.norm.name not in entry.norms:
        raise BadInput(f"{entry.name} on {threat}", f"a norm of {', '.join(entry.norms)}", "choose another attack")
    if entry.needs == "gradients" and victim.access != "gradients":
        raise BadInput(f"{entry.name} on a model that gives {victim.access}", "gradients", "choose a black-box attack")
    with _watch(_console()) as watch:
        found = collect(
            victim,
            data,
            Stage(entry.name, entry.make(threat), entry.family),
            threat,
            given["out"],
            seed=given["seed"],
            batch_size=given["batch_size"],
            workers=given["workers"],
            resume=given["resume"],
            watch=watch,
        )
    attacked = found.examples - found.already_wrong
    click.echo(f"{entry.name} on {threat}: broke {len(found.broken)} of {attacked} examples that the model gets right")
    click.echo(f"{found.survive_storage} of them survive storage in 8 bits")
    passes = f"{found.cost.forward / max(attacked, 1):.1f} forward and {found.cost.backward / max(attacked, 1):.1f}"
    click.echo(f"{passes} backward passes an example, {found.cost.seconds:.1f} s")
    click.echo(f"written: {found.file}")
    return 0


@cli.command()
@click.argument("first", type=Path)
@click.argument("second", type=Path)
def compare(first: Path, second: Path) -> int:
    """Compare two results example by example. Status 1 if the second is less robust than chance explains."""
    from sparring.evaluate import Result
    from sparring.report.derive import Pair, pair
    from sparring.report.terminal import compare as show

    results = [Result.load(first), Result.load(second)]
    show(results, _console())
    found = pair(*results)
    if not isinstance(found, Pair):
        return 0
    worse = results[1].robust_accuracy.estimate < results[0].robust_accuracy.estimate
    return int(worse and found.p < 0.05)


@cli.command()
@click.argument("folder", type=Path)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
def report(folder: Path, language: Any) -> None:
    """Write FOLDER/report.html again, of the result in FOLDER, or of those in its subfolders side by side."""
    from sparring import report as reports

    inside = [folder] if (folder / "result.json").exists() else sorted(p.parent for p in folder.glob("*/result.json"))
    if not inside:
        raise BadInput(f"no result.json in {folder}", "the folder of an audit", "run: sparring audit ... --out FOLDER")
    found = [reports.read(place) for place in inside]
    galleries = {result.name: pictures for result, pictures in found}
    page = reports.write(folder, [result for result, _ in found], galleries, language=language)
    click.echo(f"report: {page}")


@cli.command("list")
@click.argument("kind", type=click.Choice(["attacks", "threats", "suites", "datasets", "models"]))
def list_(kind: str) -> None:
    """List what there is: attacks, threats, suites, datasets, models."""
    _LISTS[kind](_console())


@cli.command()
@click.option("--out", type=Path, default=Path("sparring-demo"), show_default=True, help="The folder of the report.")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
def demo(out: Path, language: Any) -> int:
    """The field's first story on real digits: fool a network, measure it, train it to resist, measure again."""
    from sparring.demo import run

    return run(out, _console(), language=language)


def _victim(given: dict[str, Any]) -> Any:
    from sparring.models.loading import load

    return load(given["model"], weights=given["weights"], trust=given["trust"])


def _data(given: dict[str, Any]) -> Data:
    from sparring.data import first, load

    data = load(given["data"], split=given["split"])
    return data if given["limit"] is None else first(data, given["limit"])


def _threat(given: dict[str, Any]) -> Ball:
    from sparring.threats import parse

    low, high = given["bounds"]
    return parse(given["threat"], low=low, high=high)


def _command(name: str, given: dict[str, Any]) -> str:
    """The command that gives this result again, without the options that change nothing in it."""
    words = ["sparring", name, given["model"], "--data", given["data"], "--threat", given["threat"]]
    words += ["--budget", given["budget"], "--seed", str(given["seed"])]
    words += [word for key in ("weights", "limit") if given[key] is not None for word in (f"--{key}", str(given[key]))]
    words += ["--split", given["split"]] if given["split"] != "test" else []
    words += ["--bounds", *map(str, given["bounds"])] if given["bounds"] != (0.0, 1.0) else []
    words += ["--trust"] if given["trust"] else []
    return shlex.join(words)


def _console() -> Console:
    from rich.console import Console

    return Console()


@contextmanager
def _watch(console: Console) -> Iterator[Watch]:
    """A progress bar for each stage on a terminal; elsewhere a line for each that is done."""
    if not console.is_terminal:

        def tell(stage: str, done: int, total: int) -> None:
            if done == total:
                click.echo(f"{stage}: {total} examples", err=True)

        yield tell
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            task = tasks.get(stage)
            if task is None:
                task = tasks[stage] = progress.add_task(stage, total=total)
            progress.update(task, completed=done)

        yield show


def _list_attacks(console: Console) -> None:
    from sparring.registry import members

    rows = [(e.name, e.family, e.needs, " ".join(e.norms), e.passes, e.summary) for e in members("attacks").values()]
    _print(console, ("attack", "family", "needs", "norms", "passes", "what it does"), rows)


def _list_threats(console: Console) -> None:
    from sparring import threats

    makers = (threats.linf, threats.l2, threats.l1, threats.l0)
    _print(console, ("threat", "what it allows"), [(f"{m.__name__}:EPS", str(m.__doc__)) for m in makers])


def _list_suites(console: Console) -> None:
    from sparring.evaluate.suites import SUITES

    rows = [(name, str(make.__doc__).split("\n")[0]) for name, make in SUITES.items()]
    _print(console, ("suite", "what it is for"), rows)


def _list_datasets(console: Console) -> None:
    from sparring.data import DATASETS

    _print(console, ("data set", "what it is"), [(name, loader.description) for name, loader in DATASETS.items()])


def _list_models(console: Console) -> None:
    from sparring.models.capabilities import CAPABILITIES

    rows = [(row.framework, row.loaded, row.access) for row in CAPABILITIES]
    _print(console, ("framework", "how it is handed over", "what an attacker gets"), rows)


_LISTS: dict[str, Callable[[Console], None]] = {
    "attacks": _list_attacks,
    "threats": _list_threats,
    "suites": _list_suites,
    "datasets": _list_datasets,
    "models": _list_models,
}


def _print(console: Console, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
