"""The command line: one function a command, each a few lines on top of the library."""

from __future__ import annotations

import io
import math
import os
import shlex
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource

from sparring import __version__
from sparring.allocator import keep_freed
from sparring.domains.chat.commands import inject
from sparring.domains.recommenders.commands import promote
from sparring.errors import BadInput, named
from sparring.going_on import Stopped, going_on
from sparring.progress import learning, watching
from sparring.tables import TABLES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sparring.domains.text.threats import Rewrites
    from sparring.evaluate import Result
    from sparring.models.victim import Victim
    from sparring.registry import Entry
    from sparring.threats import Ball
    from sparring.types import Boxed, Data

Function = Callable[..., Any]

GATE, REFUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141
PICTURED = 24
"""Rows of a picture of attributions: many more take minutes to lay out, and nobody looks at them."""

AUDITED = ("ledger.sqlite", "result.json", "gallery.npz", "report.html")
"""What an audit leaves in its folder."""

WORDED = "write for example --threat typos:2"
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where rich would fold at 80."""


def main() -> NoReturn:
    """Run the command line. Status 0: fine; 1: a gate failed; 2: wrong use or bad input, said in one line."""
    keep_freed()
    _open_streams()
    try:
        status = cli.main(prog_name="sparring", standalone_mode=False)
    except BadInput as error:
        _leave(str(error), REFUSED)
    except Stopped as error:
        _leave(error.format_message(), INTERRUPTED)
    except click.UsageError as error:
        said, asked = error.format_message(), [word for word in sys.argv[1:2] if word in cli.commands]
        command = error.ctx.command_path if error.ctx is not None else " ".join(["sparring", *asked])
        _leave(f"{said}{'' if said[-1:] in '.?' else '.'} Run: {command} --help", REFUSED)
    except click.ClickException as error:
        _leave(error.format_message(), REFUSED)
    except click.Abort:
        _leave("stopped", INTERRUPTED)
    except sqlite3.Error as error:
        _leave(f"the ledger of the run cannot be used ({error}); check the space on the disk", REFUSED)
    except OSError as error:
        place = f"'{error.filename}' cannot be used" if error.filename else "the system refused"
        _leave(f"{place} ({error.strerror or error}); check the path, and the space on the disk", REFUSED)
    except SystemExit:  # click and rich leave so, with the status of a gate, where nobody reads on, as in `| head`
        sys.exit(UNREAD)
    sys.exit(status if isinstance(status, int) else 0)


def _open_streams() -> None:
    """Let no print fail: one that is closed (`>&-`) leads nowhere, and letters that an encoding lacks become `?`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # so that no file gets the number of one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (for as long as we run)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _leave(message: str, status: int) -> NoReturn:
    click.echo(f"sparring: {' '.join(message.split())}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="sparring")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find out how robust a model really is, and make it more robust."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


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
    click.option("--device", default="cpu", show_default=True, help="Where a torch model runs: cpu, cuda, mps."),
)
DATA = _options(
    click.option(
        "--data",
        required=True,
        metavar="DATA",
        help="A name (digits, mnist), .npz, folder, .csv, .tsv, factory.",
    ),
    click.option("--split", metavar="NAME", help="Which part of data that have several. [default: test]"),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N examples."),
)
BOUNDS = click.option(
    "--bounds", nargs=2, type=float, default=(0.0, 1.0), show_default=True, help="Range of the inputs."
)
THREAT = _options(
    click.option(
        "--threat", required=True, metavar="NORM:EPS", help="linf:8/255, l2:0.5, l0:20, patch:0.02, snr:30, typos:2."
    ),
    BOUNDS,
)
THREAT_IF_ANY = _options(
    click.option("--threat", metavar="NORM:EPS", help="As for an audit. [default: linf, 8/255 of the range]"), BOUNDS
)
TASK = click.option(
    "--task", metavar="TASK", help="What MODEL is asked, if not a class: segmentation:0.5, regression:TOLERANCE, ..."
)
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
RUN = _options(
    SEED,
    click.option("--batch-size", type=click.IntRange(min=1), help="Chosen by free memory unless given."),
    click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes."),
    click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out."),
)


def _share(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse what is no share (a range of click's own lets NaN through)."""
    if value is not None and not 0 <= value <= 1:
        raise click.BadParameter(f"{value:g} is not a number from 0 to 1.")
    return value


@cli.command()
@MODEL
@DATA
@THREAT
@TASK
@click.option(
    "--budget", default="standard", show_default=True, help="Which suite of attacks: quick, standard or thorough."
)
@click.option(
    "--passes", type=click.IntRange(0), help="Passes an example for the rounds of attacks, instead of the suite's."
)
@RUN
@click.option(
    "-o", "--out", type=Path, default=Path("sparring-audit"), show_default=True, help="The folder of the run."
)
@click.option("--certify", metavar="NAME", help="Prove what stands, too, by certificates up to this one: alpha-crown.")
@click.option("--fail-under", type=float, callback=_share, help="Status 1 if robust accuracy is lower, or in doubt.")
@click.option("--defence", metavar="NAME", help="Put it before MODEL, and attack both through the view it hands out.")
@click.option(
    "--train",
    metavar="DATA",
    help="What a defence that learns is trained on; the data's own training part, if it has one.",
)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of the report.")
def audit(**given: Any) -> int:
    """Attack MODEL, and say how robust it is, with a verdict. Ends with a report."""
    from sparring import report
    from sparring.evaluate import audit as run
    from sparring.report.terminal import show

    out = _folder(given["out"], *AUDITED)
    victim, data, threat = _bout(given)
    if given["certify"] is not None and given["defence"] is not None:
        raise BadInput("--certify with --defence", "one of them", "certificates are for networks that torch sees whole")
    if given["task"] is not None and given["defence"] is not None:
        raise BadInput("--task with --defence", "one of them", "defences are for classifiers: put it into MODEL")
    if given["train"] is not None and given["defence"] is None:
        raise BadInput("--train without --defence", "a defence that learns", "see: sparring list defences")
    judge = partial(run, certify=given["certify"]) if given["defence"] is None else _defended(given)
    with _resumable(out), watching(victim) as watch:
        result = judge(
            victim,
            data,
            threat,
            suite=given["budget"],
            passes=given["passes"],
            seed=given["seed"],
            batch_size=given["batch_size"],
            workers=given["workers"],
            out=out,
            resume=given["resume"],
            command=_command("audit", given),
            watch=watch,
        )
    show(result, _console())
    found, pictures = report.read(out)
    page = report.write(out, [found], {found.name: pictures}, language=given["language"])
    click.echo(f"\nreport: {page}")
    missed = _gate(result, given["fail_under"])
    if missed:
        click.echo(missed)
    return GATE if missed or result.verdict == "invalid" else 0


@cli.command()
@MODEL
@DATA
@THREAT_IF_ANY
@TASK
def doctor(**given: Any) -> int:
    """Look over model, data and threat before any attack.

    Status 1 if no number that an audit of them gave could be believed.
    """
    from rich.text import Text

    from sparring.evaluate import examine, judge
    from sparring.report.terminal import STYLES

    found = examine(*_bout(given))
    rows: list[tuple[str | Text, ...]] = []
    for check in found.checks:
        remedy = f"; {check.remedy}" if check.outcome != "pass" and check.remedy else ""
        rows.append((check.name, Text(check.outcome, STYLES[check.outcome]), check.evidence + remedy))
    _print(_console(), ("check", "outcome", "what was seen, and what to do"), rows)
    verdict, _ = judge(found.checks)
    click.echo("\nthe set-up is sound" if verdict == "trusted" else f"\nan audit of this would be {verdict}")
    return GATE if found.invalid else 0


@cli.command()
@MODEL
@DATA
@THREAT
@TASK
@click.option("--attack", "name", required=True, metavar="NAME", help="sparring list attacks; or file.py:factory.")
@click.option("--set", "assigned", multiple=True, metavar="KEY=VALUE", help="A setting of the attack, as steps=100.")
@RUN
@click.option("-o", "--out", type=Path, required=True, help="The folder for adversarial.npz and attack.json.")
def attack(**given: Any) -> int:
    """Run one attack on MODEL, and keep the adversarial examples.

    Takes any threat: sparring list threats. An attack that has to learn does so from the first 500 examples. One of
    your own is a factory (threat) -> Attack, as file.py:factory or package.module:factory.
    """
    from sparring.evaluate.collect import chosen, collect

    entry = _entry(given)
    settings = chosen(entry, _settings(given["assigned"]))
    out = _folder(given["out"], "ledger.sqlite", "adversarial.npz", "attack.json")
    victim, data, threat = _fighters(given)
    with _resumable(out), watching(victim) as watch:
        found = collect(
            victim,
            data,
            entry,
            threat,
            out,
            settings=settings,
            seed=given["seed"],
            batch_size=given["batch_size"],
            workers=given["workers"],
            resume=given["resume"],
            watch=watch,
        )
    attacked = found.right_before
    if found.learned_from:
        passes = f"{found.learning.forward:,} forward and {found.learning.backward:,} backward passes"
        click.echo(f"{entry.name} learned from the first {found.learned_from} examples: {passes}")
    click.echo(f"{entry.name} on {threat}: broke {len(found.broken)} of {attacked} examples that the model gets right")
    if found.texts is None:
        bits = 8 if getattr(data, "stored", None) is None else 16
        click.echo(f"{found.survive_storage} of them survive storage in {bits} bits")
    if found.rejected and entry.aims == "smallest perturbation":
        click.echo(f"{found.rejected} of its finds are outside of the threat: it looks for the nearest, however far")
    elif found.rejected:
        click.echo(f"{found.rejected} claims were rejected: outside of the threat or of the bounds")
    passes = f"{found.cost.forward / max(attacked, 1):.1f} forward and {found.cost.backward / max(attacked, 1):.1f}"
    click.echo(f"{passes} backward passes an example, {found.cost.seconds:.1f} s")
    click.echo(f"written: {', '.join(map(str, filter(None, (found.file, found.texts, found.record))))}")
    return 0


@cli.command()
@MODEL
@DATA
@THREAT_IF_ANY
@click.option("--method", default="integrated-gradients", show_default=True, help="How to attribute; occlusion, ...")
@SEED
@click.option("-o", "--out", type=Path, required=True, help="The folder for attributions.png and stability.csv.")
def explain(**given: Any) -> None:
    """Show what MODEL looks at, before and under attack.

    Eight examples unless --limit says otherwise; the picture has the first 24, the table all. The stability of an
    explanation is the cosine between the attributions of the model's decision before and under attack: 1 where it
    still looks at the same.
    """
    from dataclasses import replace

    from sparring.evaluate.collect import strike
    from sparring.explain import explain as attributed
    from sparring.explain.figure import draw
    from sparring.report.figures import png

    out = _folder(given["out"], "attributions.png", "stability.csv")
    victim, data, threat = _bout({**given, "limit": given["limit"] or 8})
    x, z, decided = strike(victim, data, threat, seed=given["seed"])
    found = attributed(victim, x, z, decided, method=given["method"])
    span = threat.high - threat.low
    shown = replace(found, x=(x - threat.low) / span, z=(z - threat.low) / span)[:PICTURED]
    picture = png(draw([shown], classes=data.classes))

    head = ("example", "label", "clean", "attacked", "cosine", "overlap")
    _, labels = data.take(range(len(x)))
    columns = (*(part.tolist() for part in (labels, *found.decisions)), found.cosine.tolist(), found.overlap.tolist())
    rows = [
        (str(i), *map(str, whole), f"{cosine:.4f}", f"{overlap:.4f}")
        for i, (*whole, cosine, overlap) in enumerate(zip(*columns, strict=True))
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "attributions.png").write_bytes(picture)
    (out / "stability.csv").write_text("".join(",".join(row) + "\n" for row in (head, *rows)), encoding="utf-8")
    _print(_console(), head, rows)
    click.echo(f"\nwithin {threat} attributions keep a cosine of {float(found.cosine.mean()):.3f} on average")
    click.echo(f"written: {out / 'attributions.png'}, {out / 'stability.csv'}")


@cli.command()
@click.argument("model", required=False)
@click.option("--recipe", metavar="NAME", help="Settings to begin with: a name (sparring list recipes) or a TOML file.")
@click.option("--data", metavar="DATA", help="A name (digits, mnist), .npz, folder, .csv, factory.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N examples.")
@click.option("--threat", metavar="NORM:EPS", help="What to be robust to: linf:8/255, l2:0.5, l1:10, l0:20, snr:30.")
@click.option("--bounds", nargs=2, type=float, help="Range of the inputs. [default: 0 1]")
@click.option("--method", metavar="NAME", help="The objective: adversarial, trades, mart, ... [default: adversarial]")
@click.option("--epochs", type=click.IntRange(min=1), help="Times through the data.")
@click.option("--set", "assigned", multiple=True, metavar="KEY=VALUE", help="Any setting, as optimiser.lr=0.01.")
@click.option("--weights", metavar="FILE", help="A state dict to start from.")
@click.option("--trust", is_flag=True, help="Run code that is hidden in the file (pickles). Only if you made it.")
@click.option("--device", metavar="DEVICE", help="Where to train: cpu, cuda, mps. [default: cpu]")
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, one a device.")
@click.option("--seed", type=int, help="Of everything random. [default: 0]")
@click.option("--budget", metavar="SUITE", help="Of the audit at the end: standard, quick, thorough or none.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out.")
@click.option("--tensorboard", is_flag=True, help="Write a log for TensorBoard into --out.")
@click.option(
    "-o", "--out", type=Path, default=Path("sparring-train"), show_default=True, help="The folder of the run."
)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of the report.")
def train(**given: Any) -> int:
    """Train MODEL to resist, and have it audited before and after.

    Any torch network or Keras model on torch. Leaves weights.pt, train.toml, history.csv, result.json and a report.
    """
    from sparring.hardening import train as run
    from sparring.training.hardware import Hardware
    from sparring.training.settings import layers

    out = _folder(given["out"], *AUDITED, "weights.pt", "train.toml", "history.csv")
    with _resumable(out), learning() as told, watching() as watch:
        done = run(
            recipe=given["recipe"],
            out=out,
            resume=given["resume"],
            trust=given["trust"],
            hardware=Hardware(device=given["device"], devices=given["devices"]),
            log=given["tensorboard"],
            language=given["language"],
            watch=told,
            audited=watch,
            command=_again(given),
            **layers(given, given["assigned"]),
        )
    if not done.course.first:
        return 0
    if done.after is not None:
        from sparring.report.terminal import compare, show

        if len(done.compared) > 1:
            compare(done.compared, _console())
        else:
            show(done.after, _console())
        click.echo(f"\nreport: {done.report}")
    click.echo(f"weights: {done.weights}")
    return GATE if done.after is not None and done.after.verdict == "invalid" else 0


USED_BY = {
    "seconds": "branch-and-bound",
    "sigma": "smoothing",
    "samples": "smoothing",
    "masks": "patch-cleanser",
    "fill": "patch-cleanser",
}
"""Options of `certify` that a single method has."""


@cli.command()
@MODEL
@click.argument("asked", metavar="[PROPERTY]", required=False, type=Path)
@click.option("--data", metavar="DATA", help="As for an audit; or a PROPERTY in its place.")
@click.option("--split", metavar="NAME", help="Which part of data that have several. [default: test]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N examples.")
@click.option("--threat", metavar="NORM:EPS", help="As for an audit.")
@BOUNDS
@click.option("--method", default="crown", show_default=True, help="See: sparring list certificates.")
@click.option(
    "--seconds", type=float, default=10.0, show_default=True, help="An example, for branch-and-bound; or the PROPERTY."
)
@click.option("--sigma", type=float, default=0.25, show_default=True, help="Of the noise, for --method smoothing.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Noisy copies of an input, at most.",
)
@click.option(
    "--masks", type=click.IntRange(min=1), default=6, show_default=True, help="Along a side, for patch-cleanser."
)
@click.option("--fill", type=float, default=0.0, show_default=True, help="What masks are filled with.")
@click.option("-o", "--out", type=Path, help="The folder of the run: what is done, and proofs.json.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run in --out.")
def certify(**given: Any) -> None:
    """Prove which answers of MODEL no input can change.

    Counts the examples for which no input within the threat changes the answer.

    For torch networks and imported ONNX files, on the CPU. What is not certified may still be robust. Two methods are
    for any classifier, and certify a model that is made of it: smoothing, in L2, by what most of its answers under
    noise are, and patch-cleanser by what it answers with parts of an image hidden.

    With a PROPERTY, a .vnnlib file on an .onnx file, prints unsat, timeout, or sat and a counterexample.
    """
    from sparring.certify.smoothing import Smoothing
    from sparring.domains.text.threats import rewriting
    from sparring.evaluate.proofs import prove, with_slopes
    from sparring.registry import find

    context = click.get_current_context()
    written = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if given["asked"] is not None:
        from sparring.certify.vnnlib import answer

        if idle := sorted(f"--{name}" for name in written - {"model", "asked", "seconds"}):
            raise BadInput(f"{', '.join(idle)} with a PROPERTY", "no more than --seconds", "leave it out")
        click.echo(answer(Path(given["model"]), given["asked"], given["seconds"]))
        return
    for name in ("data", "threat"):
        if given[name] is None:
            raise click.UsageError(f"Missing option '--{name}', or a PROPERTY.", click.get_current_context())
    if given["resume"] and given["out"] is None:
        raise BadInput("--resume without --out", "the folder of the run to go on with", "add --out")
    out = None if given["out"] is None else _folder(given["out"], "ledger.sqlite", "proofs.json")
    for name, method in USED_BY.items():
        if name in written and given["method"] != method:
            raise BadInput(
                f"--{name} with --method {given['method']}", f"--method {method}", f"add that, or leave --{name} out"
            )
    entry = find("certificates", given["method"])
    worded = rewriting(given["threat"])
    threat: Any = _threat(given) if worded is None else worded
    if str(threat).partition(":")[0] not in entry.kinds:
        fitting = f"a threat of {', '.join(entry.kinds)}"
        raise BadInput(f"{entry.name} within {threat}", fitting, "see: sparring list certificates")
    settings = {name: given[name] for name, method in USED_BY.items() if method == entry.name}
    how = entry.make(threat, **settings) if entry.needs == "labels" else entry.make(**settings)
    victim, data, threat = (*_met(given), threat) if worded is None else _read(given, worded)
    how = with_slopes(how, victim, data) if isinstance(how, Smoothing) else how
    said = f"smoothing, {how.counts}" if isinstance(how, Smoothing) else entry.name
    with _resumable(out), watching(victim) as watch:
        found = prove(victim, data, threat, how, out=out, resume=given["resume"], watch=watch)
    share = found.certified_accuracy
    click.echo(f"{found.right} of {found.examples} examples are classified correctly")
    click.echo(f"{found.certified} of them cannot be changed within {threat}: {said}")
    if found.broken is not None:
        click.echo(f"{found.broken} are changed by an attack, {found.right - found.certified - found.broken} are open")
    click.echo(f"certified accuracy {share.estimate:.1%}, from {share.low:.1%} to {share.high:.1%} with 95% confidence")
    if out is not None:
        click.echo(f"written: {out / 'proofs.json'}")


@cli.command()
@click.argument("first", type=Path)
@click.argument("second", type=Path)
def compare(first: Path, second: Path) -> int:
    """Compare two results example by example.

    FIRST and SECOND are the folders of two audits, or the result.json in each.

    Status 1 if the second is less robust than chance explains, or one of them is invalid.
    """
    from sparring.evaluate import Result
    from sparring.report.derive import Pair, pair, told_apart
    from sparring.report.terminal import compare as show

    files = [place / "result.json" if place.is_dir() else place for place in (first, second)]
    results = told_apart([Result.load(file) for file in files], [first, second])
    show(results, _console())
    found = pair(*results)
    if isinstance(found, Pair):
        worse = results[1].robust_accuracy.estimate < results[0].robust_accuracy.estimate
        return GATE if worse and found.p < 0.05 else 0
    if found == "invalid":
        return GATE
    raise BadInput(f"{first} and {second} differ in their {found}", f"the same {found} in both", "audit both alike")


@cli.command()
@click.argument("folder", type=Path)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option("--junit", type=Path, metavar="FILE", help="Also write the checks as JUnit XML, for a CI service.")
@click.option("--sarif", type=Path, metavar="FILE", help="Also write the checks as SARIF 2.1.0, for a code host.")
@click.option("--fail-under", type=float, callback=_share, help="Status 1 if robust accuracy is lower, or in doubt.")
def report(folder: Path, language: Any, junit: Path | None, sarif: Path | None, fail_under: float | None) -> int:
    """Write the report of a finished audit again.

    FOLDER/report.html shows the result in FOLDER, or those in its subfolders side by side.
    """
    from sparring import report as reports
    from sparring.report.derive import names, told_apart
    from sparring.report.junit import junit as as_junit
    from sparring.report.sarif import sarif as as_sarif

    inside = [folder] if (folder / "result.json").exists() else sorted(p.parent for p in folder.glob("*/result.json"))
    if not inside:
        raise BadInput(f"no result.json in {folder}", "the folder of an audit", "run: sparring audit ... --out FOLDER")
    found = [reports.read(place) for place in inside]
    results = told_apart([result for result, _ in found], inside)
    galleries = dict(zip(names(results), (pictures for _, pictures in found), strict=True))
    page = reports.write(_folder(folder, "report.html"), results, galleries, language=language)
    click.echo(f"report: {page}")
    if junit is not None:
        junit.write_text(as_junit(results, fail_under), encoding="utf-8")
        click.echo(f"junit: {junit}")
    if sarif is not None:
        place = inside[0] / "result.json" if len(inside) == 1 else folder
        sarif.write_text(as_sarif(results, place.as_posix()), encoding="utf-8")
        click.echo(f"sarif: {sarif}")
    missed = {name: said for name, one in zip(names(results), results, strict=True) if (said := _gate(one, fail_under))}
    for name, said in missed.items():
        click.echo(f"{name}: {said}")
    return GATE if missed else 0


@cli.command("list", help=f"Print what there is to choose from.\n\nKIND is one of {', '.join(TABLES)}.")
@click.argument("kind", metavar="KIND", type=click.Choice(tuple(TABLES)))
def list_(kind: str) -> None:
    """Print what there is to choose from."""
    table = TABLES[kind]
    _print(_console(), table.head, table.rows())


@cli.command()
@click.option("--only", multiple=True, metavar="NAME", help="This specimen alone; give it again for more of them.")
@click.option("--budget", default="quick", show_default=True, help="Which suite of attacks: quick, standard, thorough.")
@click.option("--limit", type=click.IntRange(min=10), default=100, show_default=True, help="Examples for each model.")
@SEED
def zoo(only: Sequence[str], budget: str, limit: int, seed: int) -> int:
    """Measure the checks on models whose faults are known.

    Minutes for all of them. Status 1 if a sound model sets off a check, or if a broken one gets past its own.
    """
    from sparring.evaluate import rates
    from sparring.zoo import find, specimens

    some = [find(name) for name in only] or specimens()
    trials = rates.measure(
        some, examples=limit, suite=budget, seed=seed, watch=lambda trial: click.echo(str(trial), err=True)
    )
    found = rates.report(trials)
    head, *rows = rates.wrong(found)
    _print(_console(), head, [row for row in rows if not only or set(row[1:]) != {rates.NEVER}])
    click.echo("\n" + ", ".join(f"{name}: {count}" for name, count in found["totals"].items()))
    return GATE if any(found["totals"][name] for name in rates.FAULTS) else 0


@cli.command()
@click.option(
    "-o", "--out", type=Path, default=Path("sparring-demo"), show_default=True, help="The folder of the report."
)
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
def demo(out: Path, language: Any) -> int:
    """See the whole story on real digits.

    A network is fooled, measured, trained to resist, and measured again.
    """
    out = _folder(out, "report.html", "adversarial.png", "attributions.png")
    from sparring.demo import run

    return run(out, _console(), language=language)


cli.add_command(promote)
cli.add_command(inject)


def _bout(given: dict[str, Any]) -> tuple[Victim, Data, Ball]:
    """Model, data and a threat that is the ball of a norm, a patch, or words replaced in texts."""
    from sparring.threats import Ball

    victim, data, threat = _fighters(given)
    if not isinstance(threat, Ball):
        need = "a norm (linf, l2, l1 or l0), patch, snr, or words to replace (typos, ...)"
        raise BadInput(f"threat {threat}", need, "use sparring attack, which takes any threat")
    return victim, data, threat


def _fighters(given: dict[str, Any]) -> tuple[Victim, Data, Boxed]:
    """Model, data and threat. Texts are numbered with what their words may become, and the model reads them out."""
    from sparring.domains.text.threats import rewriting

    words = rewriting(given["threat"] or "")
    if words is not None:
        return _read(given, words)
    threat = _threat(given)
    return *_met(given), threat


def _read(given: dict[str, Any], threat: Rewrites) -> tuple[Victim, Data, Ball]:
    """A model of texts, texts, and how their words are replaced."""
    from sparring.domains.text.reader import load
    from sparring.evaluate.given import met

    if (device := given.get("device", "cpu")) != "cpu":
        raise BadInput(f"--device {device} for a model of texts", "cpu", "let the factory place the model")
    model = load(given["model"], weights=given["weights"], trust=given["trust"])
    return met(model, _examples(given), threat, limit=given["limit"], name=given["model"])


def _defended(given: dict[str, Any]) -> Callable[..., Result]:
    """What audits a model with the defence that was asked for, and prints the three numbers."""
    from sparring.evaluate.defended import audit_defence, chosen
    from sparring.types import Defence

    learns = not isinstance(chosen(given["defence"]), Defence)
    if given["train"] is not None and not learns:
        raise BadInput(f"--train for {given['defence']}", "a defence that learns", "leave --train out")
    train = _lessons(given) if learns else None

    def run(victim: Victim, data: Data, threat: Ball, **settings: Any) -> Result:
        found = audit_defence(victim, given["defence"], data, threat, train=train, **settings)
        numbers = found.adaptive.defence
        assert numbers is not None
        for said, share in (
            (f"without {found.name}, under attack", numbers.bare),
            ("with it, against an attack that does not know it", numbers.unaware),
            ("with it, against one that does", numbers.adaptive),
        ):
            click.echo(f"{said}: {'not valid' if share is None else f'{share:.1%}'}")
        click.echo()
        return found.adaptive

    return run


def _lessons(given: dict[str, Any]) -> Data:
    """What a defence learns from: never the audited examples, which a source without splits would give again."""
    from sparring.data import load
    from sparring.evaluate.identity import of_data

    audited, taught = _examples(given), load(given["train"] or given["data"], split="train")
    if of_data(audited).partition(", ")[2] == of_data(taught).partition(", ")[2]:  # by whatever names
        need = "other data to train it on"
        raise BadInput("a defence that learns, and data without a training part", need, "give --train DATA")
    return taught


def _entry(given: dict[str, Any]) -> Entry:
    """The attack that was asked for, by its name or as a factory of one's own."""
    from sparring.registry import attack

    entry = attack(given["name"])
    if ":" in given["name"] and given["workers"] > 1:
        need = "one worker: its code does not travel"
        raise BadInput(f"--workers {given['workers']} with {given['name']}", need, "leave --workers out")
    return entry


def _settings(assigned: Sequence[str]) -> dict[str, Any]:
    """What every `--set` says; the last one of a name counts."""
    from sparring.training.settings import assigned as said

    try:
        return {key: value for text in assigned for key, value in said(text).items()}
    except BadInput as error:
        raise BadInput(error.given, error.need, "write for example --set steps=100") from None


def _threat(given: dict[str, Any]) -> Boxed:
    """What the attacker may do, within the bounds of the inputs."""
    from sparring.threats import linf, parse
    from sparring.types import Boxed

    low, high = given["bounds"]
    if not -math.inf < low < high < math.inf:
        raise BadInput(f"--bounds {low:g} {high:g}", "two numbers, low < high", "give the range of valid inputs")
    if given["threat"] is None:
        return linf(8 / 255 * (high - low), low=low, high=high)
    try:
        threat: object = parse(given["threat"], low=low, high=high)
    except BadInput:
        raise
    except Exception as error:  # the code of a threat of one's own
        need = "a factory (size, *, low, high) -> Threat"
        raise BadInput(f"threat {given['threat']!r} raised {named(error)}", need, "mend it") from error
    if not isinstance(threat, Boxed):
        what = f"threat {given['threat']!r} is a {type(threat).__name__}"
        raise BadInput(what, "contains, distance, low and high", "let its factory return them")
    return threat


def _met(given: dict[str, Any]) -> tuple[Victim, Data]:
    """Model and data, once they have met: data of another shape than the model's is refused here."""
    from sparring.data import first
    from sparring.data.texts import whole
    from sparring.evaluate.run import one_budget
    from sparring.models.loading import load

    data = _examples(given)
    if whole(data) is not None:
        raise BadInput(f"{given['threat'] or 'linf'} on {data.name}, which are texts", "words to replace", WORDED)
    data = data if given["limit"] is None else first(data, given["limit"])
    example = data.take([0])[0] if len(data) else None
    found = load(given["model"], weights=given["weights"], trust=given["trust"], example=example)
    one_budget(found, given.get("workers", 1))  # before it is asked for the first time
    victim = _placed(found, given)
    _introduce(victim, data)
    return victim, data


def _examples(given: dict[str, Any]) -> Data:
    """The data that were asked for; a split only of what has splits."""
    from sparring.data import load, load_split

    if given.get("task") is not None:
        from sparring.data.asked import load_for
        from sparring.tasks import parse

        return load_for(given["data"], parse(given["task"]), given["split"])
    return load(given["data"]) if given["split"] is None else load_split(given["data"], given["split"])


def _placed(victim: Victim, given: dict[str, Any]) -> Victim:
    """The model on the device that was asked for."""
    import torch

    device = given["device"]
    if device == "cpu":
        return victim
    if victim.module is None:
        raise BadInput(f"--device for {victim.framework}", "a torch model", "leave --device out")
    if given.get("workers", 1) > 1:
        raise BadInput(f"--workers with --device {device}", "one worker on a device", "leave --workers out")
    try:
        torch.zeros(1, device=device).item()  # which `meta` has not
        victim.module.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"--device {device} ({error})", "a device that torch has here", "use cpu") from error
    return victim


def _introduce(victim: Victim, data: Data) -> None:
    """Show the model one example, forward and backward, so that what it cannot take is said in one line."""
    import torch

    from sparring.evaluate.run import home
    from sparring.models.victim import inference

    x, _ = data.take([0])
    x = x.to(home(victim)).requires_grad_(victim.access == "gradients")
    what = f"inputs of shape {tuple(x.shape[1:])} from {data.name}"
    try:
        with inference(victim):
            outputs: object = victim(x)
            if isinstance(outputs, torch.Tensor) and outputs.requires_grad:
                torch.autograd.grad(outputs.sum(), x, allow_unused=True)
    except (BadInput, OSError):
        raise
    except Exception as error:
        raise BadInput(
            f"{victim.name} raised {named(error)[:300]} on {what}",
            "data that the model takes",
            "check that they belong together; reshape the inputs, or cast them, in the factory",
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise BadInput(
            f"{victim.name} returns a {type(outputs).__name__} for {what}",
            "one tensor of logits (B, K)",
            "let the factory return a model that gives the logits alone",
        )


def _folder(out: Path, *files: str) -> Path:
    """Refuse a folder in which these files cannot be written, before anything is computed for them."""
    place = next(place for place in (out, *out.parents) if place.exists())
    if not place.is_dir():
        raise BadInput(f"'{place}' is a file", "a folder to write to", "choose another one")
    if not os.access(place, os.W_OK | os.X_OK):
        raise BadInput(f"'{place}' cannot be written", "a folder to write to", "choose another one")
    taken = [out / name for name in files if (out / name).is_dir()]
    if taken:
        raise BadInput(f"'{taken[0]}' is a folder", "a file to write there", "move it, or choose another --out")
    return out


def _gate(result: Result, fail_under: float | None) -> str | None:
    """Why the result does not pass; None where it does, or nothing was asked."""
    from sparring.report.derive import gate

    return None if fail_under is None else gate(result, fail_under)


def _resumable(out: Path | None) -> AbstractContextManager[None]:
    """`going_on`, for runs that keep ledgers: they have begun with their first batch."""
    before = _unfinished(out)
    return going_on(out, lambda: _unfinished(out) != before)


def _unfinished(out: Path | None) -> dict[Path, int]:
    """The batches in each ledger of a run that has not come to its end; of one that is damaged, none."""
    found: dict[Path, int] = {}
    for path in [] if out is None else [out / "ledger.sqlite", *out.glob("*/ledger.sqlite")]:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with suppress(sqlite3.Error, TypeError), closing(sqlite3.connect(address, uri=True)) as base:
            finished, batches = base.execute("SELECT finished, (SELECT COUNT(*) FROM bouts) FROM run").fetchone()
            found |= {path: batches} if batches and not finished else {}
    return found


def _command(name: str, given: dict[str, Any]) -> str:
    """The command that gives this result again, without the options that change nothing in it."""
    words = ["sparring", name, given["model"], "--data", given["data"], "--threat", given["threat"]]
    words += ["--budget", given["budget"], "--seed", str(given["seed"])]
    for key in ("weights", "task", "limit", "passes", "certify"):
        words += [f"--{key}", str(given[key])] if given[key] is not None else []
    words += ["--split", given["split"]] if given["split"] not in (None, "test") else []
    words += ["--bounds", *map(str, given["bounds"])] if given["bounds"] != (0.0, 1.0) else []
    words += ["--trust"] if given["trust"] else []
    for key in ("defence", "train"):
        words += [f"--{key}", given[key]] if given[key] is not None else []
    return shlex.join(words)


def _again(given: dict[str, Any]) -> str:
    """The command of a training, without the options that change nothing in its result."""
    words = ["sparring", "train", *([given["model"]] if given["model"] else [])]
    for key in ("recipe", "data", "limit", "threat", "method", "epochs", "weights", "seed", "budget"):
        words += [f"--{key}", str(given[key])] if given[key] is not None else []
    words += ["--bounds", *map(str, given["bounds"])] if given["bounds"] else []
    words += [word for one in given["assigned"] for word in ("--set", one)]
    return shlex.join(words)


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def _print(console: Console, head: tuple[str, ...], rows: Sequence[tuple[str | Text, ...]]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name, no_wrap=True) for name in head[:-1]), head[-1], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console.print(table)
