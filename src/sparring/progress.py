"""What a run says of itself on the way: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sparring.evaluate.run import Watch
    from sparring.models.endpoint import Client
    from sparring.models.victim import Victim

SOON = 60.0
"""Seconds after which a line says how many queries an endpoint has had, where there is no terminal."""


@contextmanager
def watching(victim: Victim | None = None, *, unit: str = "examples") -> Iterator[Watch]:
    """A progress bar for each stage, where errors go to a terminal; elsewhere a line for each that is done.

    For an endpoint, first what bounds its queries, and then how many it has had so far.
    """
    from rich.console import Console

    client = _client(victim)
    console = Console(stderr=True)
    if not console.is_terminal:

        def tell(stage: str, done: int, total: int) -> None:
            if done == total:
                click.echo(f"{stage}: {total} {unit}{_so_far(client)}", err=True)

        with _said_now_and_then(client):
            yield tell
        return

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Queries(ProgressColumn):
        """Drawn anew ten times a second, within a batch too."""

        def render(self, task: object) -> Text:
            return Text(_so_far(client).removeprefix(", "))

    columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), Queries())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            task = tasks.get(stage)
            if task is None:
                task = tasks[stage] = progress.add_task(stage, total=total)
            progress.update(task, completed=done)

        yield show


def _so_far(client: Client | None) -> str:
    """How many queries an endpoint has had; nothing for any other model."""
    return "" if client is None else f", {client.spent:,} queries so far"


def _client(victim: Victim | None) -> Client | None:
    """What counts the queries of an endpoint; says first what bounds them, since no suite does beforehand."""
    if victim is None or victim.framework != "http":
        return None
    client: Client = victim.call  # type: ignore[assignment]
    queries = client.endpoint.queries
    bound = "nothing bounds them: set queries in its description" if queries is None else f"{queries:,} at most"
    click.echo(f"{victim.name}: how many queries this takes is not known beforehand; {bound}", err=True)
    return client


@contextmanager
def _said_now_and_then(client: Client | None) -> Iterator[None]:
    """Meanwhile a line says once in a while how many queries an endpoint has had, however long a batch takes."""
    if client is None:
        yield
        return
    ended = Event()

    def say() -> None:
        while not ended.wait(SOON):
            click.echo(f"{client.endpoint.name}{_so_far(client)}", err=True)

    speaker = Thread(target=say, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join()


@contextmanager
def learning() -> Iterator[Callable[[Any], None]]:
    """Training as a bar with the accuracies beside it, where errors go to a terminal; elsewhere a line an epoch."""
    from rich.console import Console

    from sparring.training.alarms import Alarm, Epoch
    from sparring.training.trainer import Looked, Progress, Resumed

    def accuracies(epoch: Epoch) -> str:
        if epoch.clean is None or epoch.robust is None:
            return ""
        return f"clean {epoch.clean:.1%}, robust {epoch.robust:.1%}"

    console = Console(stderr=True)
    if not console.is_terminal:

        def say(event: Any) -> None:
            match event:
                case Looked(epoch=epoch):
                    said = ", ".join(part for part in (f"loss {epoch.loss:.4f}", accuracies(epoch)) if part)
                    click.echo(f"epoch {epoch.epoch}: {said} ({epoch.seconds:.0f} s)", err=True)
                case Resumed(step=step):
                    click.echo(f"goes on after update {step}", err=True)
                case Alarm():
                    click.echo(f"ALARM {event}", err=True)

        yield say
        return

    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("[bold]{task.fields[accuracies]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=None, epoch="", loss="", accuracies="")

        def show(event: Any) -> None:
            match event:
                case Progress() as now:
                    bar.update(
                        task,
                        completed=now.step,
                        total=now.steps,
                        epoch=f"{now.epoch}/{now.epochs}",
                        loss=f"{now.loss:.3f}",
                    )
                    if now.step == now.steps:
                        bar.stop()
                case Looked(epoch=epoch) if accuracies(epoch):
                    bar.update(task, accuracies=accuracies(epoch))
                case Alarm():
                    bar.console.print(Text(f"ALARM {event}", "bold red"))

        yield show
