"""The field's first story, on the embedded digits: fool a network, measure it, train it to resist, measure again."""

from __future__ import annotations

import os
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparring.attacks import fgsm, pgd
from sparring.data import digits, first
from sparring.errors import BadInput
from sparring.evaluate import Result, audit
from sparring.evaluate.run import one_thread
from sparring.explain import explain
from sparring.goals import Untargeted
from sparring.networks import mlp
from sparring.streams import Streams
from sparring.threats import linf
from sparring.training import Event, Objective, Progress, adversarial, fit, inner_pgd, shifts, standard
from sparring.training.checkpoints import packed
from sparring.types import Attack, Data

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from sparring.report.page import Section
    from sparring.report.words import Language

THREAT = linf(0.1)
SEED = 0
STEPS = 20
"""Of the PGD that is shown; the audit decides by itself what it runs."""
EXPLAINED = 64
SHOWN = 5
INTERRUPTED = 130


def run(
    out: Path,
    console: Console,
    *,
    language: Language = "en",
    limit: int | None = None,
    epochs: int = 30,
    suite: str = "standard",
    workers: int | None = None,
) -> int:
    """Tell the whole story, and leave the report of it in `out`. Returns the exit status.

    `out` gets `report.html`, two pictures, and for each network, in `natural/` and `robust/`, what an audit leaves
    and the weights. All of it appears at the end: an interrupted demo (status 130) leaves nothing. The seeds are
    fixed: the same machine gives the same numbers. `limit` (the first examples only), fewer `epochs` and the suite
    `quick` make it shorter; `workers` are processes, one for each of two cores unless given.

    Raises:
        BadInput: `out` is a file, or cannot be written.

    """
    say = _Words(language)
    with _folder(out) as scratch:
        story = _Story(
            scratch,
            console,
            say,
            train=digits("train") if limit is None else first(digits("train"), limit),
            test=digits("test") if limit is None else first(digits("test"), limit),
            suite=suite,
            workers=workers or min(2, os.cpu_count() or 1),
        )
        try:
            with one_thread():  # so small a network is slower on two, and far slower where they are not both free
                story.tell(epochs)
        except KeyboardInterrupt:
            console.print(f"\n{say('stopped')}", highlight=False)
            return INTERRUPTED
        _move(scratch, out)
    story.end(out)
    return 0


@dataclass(frozen=True)
class _Words:
    """The sentences of one language, by their key."""

    language: Language

    def __call__(self, key: str, **facts: Any) -> str:
        return str(self.of(key)).format(**facts)

    def of(self, key: str) -> Any:
        """What stands in demo.toml."""
        return _sentences()[self.language][key]


@cache
def _sentences() -> dict[str, Any]:
    return tomllib.loads(resources.files("sparring").joinpath("demo.toml").read_text(encoding="utf-8"))


class _Story:
    """The steps, each of which says what it does, does it, and says what came of it."""

    def __init__(
        self, folder: Path, console: Console, say: _Words, *, train: Data, test: Data, suite: str, workers: int
    ) -> None:
        self.folder, self.console, self.say = folder, console, say
        self.train, self.test, self.suite, self.workers = train, test, suite, workers
        self.x, self.labels = test.take(range(len(test)))
        self.started, self.step = time.perf_counter(), 0
        self.results: list[Result] = []

    def tell(self, epochs: int) -> None:
        """The whole story."""
        self.console.print(f"[bold]{self.say('title')}[/]\n", highlight=False)
        self.next("train", n=len(self.train))
        natural = self.fit("natural", standard, max(1, epochs // 3))

        self.next("attack", eps=THREAT.eps, steps=STEPS)
        attacked = self.attack(natural)

        self.next("audit")
        self.audit("natural", natural)

        self.next("harden")
        robust = self.fit("robust", adversarial(THREAT, partial(inner_pgd, steps=3)), epochs)

        self.next("again")
        self.audit("robust", robust)

        self.next("explain")
        explained = self.explain(natural, robust)
        self.report([attacked, explained])

    def next(self, key: str, **facts: Any) -> None:
        """Say what the next step is."""
        self.step += 1
        self.console.print(f"[bold]{self.say('step', i=self.step, n=6)}[/] {self.say(key, **facts)}", highlight=False)

    def came(self, key: str, **facts: Any) -> None:
        """Say what came of it."""
        self.console.print(f"    [green]{self.say(key, **facts)}[/]\n", highlight=False)

    def right(self, network: nn.Module, x: Tensor) -> Tensor:
        """Which of the test digits a network gets right."""
        return _decisions(network, x) == self.labels

    def fit(self, name: str, objective: Objective, epochs: int) -> nn.Module:
        """Train; both networks start from the same weights and see the same digits."""
        started = time.perf_counter()
        with _bar(self.console) as show:

            def told(now: Event) -> None:
                if isinstance(now, Progress):
                    show(self.say("epoch", epoch=now.epoch, epochs=now.epochs), now.step, now.steps)

            network = fit(
                mlp(SEED), self.train, objective, epochs=epochs, lr=1e-2, augment=shifts(1), seed=SEED, watch=told
            )
        (self.folder / name).mkdir()
        (self.folder / name / "weights.pt").write_bytes(packed(network.state_dict()))
        right = int(self.right(network, self.x).sum())
        self.came("trained", right=right, n=len(self.test), seconds=time.perf_counter() - started)
        return network

    def attack(self, network: nn.Module) -> Section:
        """FGSM and PGD against every test digit, and a picture of one of each class."""
        from sparring.report import figures
        from sparring.report.page import Section

        z = [self.x, *(self.search(attack, network) for attack in (fgsm(THREAT), pgd(THREAT, steps=STEPS)))]
        right = [self.right(network, part) for part in z]
        facts = dict(zip(("clean", "fgsm", "pgd"), (int(part.sum()) for part in right), strict=True))
        self.came("attacked", n=len(self.test), **facts)

        rows = _one_of_each(self.labels, right[0])
        images = [part[rows] for part in z]
        decisions = [_decisions(network, part) for part in images]
        picture = _examples(images, decisions, _Words("en").of("rows"))
        (self.folder / "adversarial.png").write_bytes(figures.png(picture))
        return Section(
            title=self.say("section_attack"),
            text=self.say("section_attack_text", eps=THREAT.eps, steps=STEPS, n=len(self.test), **facts),
            figure=_examples(images, decisions, self.say.of("rows")),
            caption=self.say("section_attack_caption"),
            alt=self.say("section_attack_alt"),
            place="after",
        )

    def search(self, attack: Attack, network: nn.Module) -> Tensor:
        """Every test digit under attack."""
        return attack(network, self.x, Untargeted(self.labels), Streams.of(SEED, range(len(self.x))))

    def audit(self, name: str, network: nn.Module) -> None:
        """An audit, as `sparring audit` does it."""
        from sparring.report.words import percent, words

        with _bar(self.console) as show:
            result = audit(
                network,
                self.test,
                THREAT,
                suite=self.suite,
                seed=SEED,
                workers=self.workers,
                out=self.folder / name,
                name=self.say(name),
                command="sparring demo",
                watch=show,
            )
        self.results.append(result)
        self.came(
            "audited",
            clean=percent(result.clean_accuracy.estimate, result.examples),
            robust=percent(result.robust_accuracy.estimate, result.examples),
            verdict=words(self.say.language)[result.verdict],
            seconds=result.seconds,
        )

    def explain(self, natural: nn.Module, robust: nn.Module) -> Section:
        """Attributions of the first digits that both networks get right, each attacked by PGD on itself."""
        from sparring.explain.figure import draw
        from sparring.report import figures
        from sparring.report.page import Section

        rows = (self.right(natural, self.x) & self.right(robust, self.x)).nonzero().flatten()[:EXPLAINED]
        networks, attack = {"natural": natural, "robust": robust}, pgd(THREAT, steps=STEPS)
        found = {
            name: explain(network, self.x[rows], self.search(attack, network)[rows], self.labels[rows])
            for name, network in networks.items()
        }
        varied = _one_of_each(self.labels[rows], torch.ones_like(rows, dtype=torch.bool))[:SHOWN]
        cosines = {name: float(part.cosine.mean()) for name, part in found.items()}
        overlaps = {f"{name}_overlap": float(part.overlap.mean()) for name, part in found.items()}
        self.came("explained", n=len(rows), **cosines)

        def picture(say: _Words) -> Figure:
            shown = [replace(part[varied], name=say(name)) for name, part in found.items()]
            with figures.styled():
                return draw(shown, columns=say.of("columns"))

        (self.folder / "attributions.png").write_bytes(figures.png(picture(_Words("en"))))
        return Section(
            title=self.say("section_explain"),
            text=self.say("section_explain_text", n=len(rows), **cosines, **overlaps),
            figure=picture(self.say),
            caption=self.say("section_explain_caption"),
            alt=self.say("section_explain_alt"),
            place="after",
        )

    def report(self, sections: Sequence[Section]) -> None:
        """One page with both networks side by side."""
        from sparring import report

        pictures = {result.name: report.read(self.folder / name)[1] for name, result in self.named()}
        title, language = self.say("title"), self.say.language
        report.write(self.folder, self.results, pictures, title=title, sections=sections, language=language)

    def named(self) -> Iterator[tuple[str, Result]]:
        """The results with the folders that they lie in."""
        yield from zip(("natural", "robust"), self.results, strict=True)

    def end(self, out: Path) -> None:
        """The numbers side by side, and where everything lies."""
        from rich.table import Table

        from sparring.report.words import percent, seconds_text, words

        word = words(self.say.language)
        table = Table(
            self.say("table_network"), word["clean_accuracy"], word["robust_accuracy"], word["summary"], "", box=None
        )
        for result in self.results:
            shown = [
                f"{percent(part.estimate, result.examples)}  [dim]{percent(part.low)}–{percent(part.high)}[/]"
                for part in (result.clean_accuracy, result.robust_accuracy)
            ]
            table.add_row(result.name, *shown, word[result.verdict], seconds_text(result.seconds))
        self.console.print(table)
        plain = partial(self.console.print, highlight=False, soft_wrap=True)
        plain(f"\n{self.say('report', path=out / 'report.html')}")
        plain(self.say("pictures", files=f"{out / 'adversarial.png'}, {out / 'attributions.png'}"))
        command = f"sparring audit sparring.networks:mlp --weights {out / 'robust' / 'weights.pt'}"
        plain(self.say("next", command=f"{command} --data digits --threat {THREAT}"))
        plain(self.say("total", seconds=time.perf_counter() - self.started))


def _decisions(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x).argmax(1)  # type: ignore[no-any-return]


def _one_of_each(labels: Tensor, eligible: Tensor) -> Tensor:
    """The place of the first eligible example of each class."""
    places = (eligible & (labels == k) for k in range(10))
    return torch.tensor([int(place.nonzero()[0]) for place in places if bool(place.any())])


def _examples(images: Sequence[Tensor], decisions: Sequence[Tensor], rows: Sequence[str]) -> Figure:
    """Images in rows, each with the network's answer above it, wrong answers in orange."""
    from matplotlib.figure import Figure

    from sparring.report.figures import INK, SERIES, styled

    with styled():
        figure = Figure(figsize=(0.85 * len(images[0]) + 0.6, 1.05 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(images[0]), squeeze=False)
        for row, title, shown, said in zip(grid, rows, images, decisions, strict=True):
            for axes, image, answer, truth in zip(row, shown, said.tolist(), decisions[0].tolist(), strict=True):
                axes.imshow(image[0].numpy(), cmap="gray", vmin=0, vmax=1)
                axes.set_title(str(answer), fontsize=9, pad=2, color=INK if answer == truth else SERIES[1])
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            row[0].set_ylabel(title, fontsize=9)
    return figure


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, nothing elsewhere: told what is done, how far, of how much."""
    if not console.is_terminal:
        yield lambda stage, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("    {task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)


@contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that vanishes, whatever happens."""
    if out.exists() and not out.is_dir():
        raise BadInput(f"'{out}' is a file", "a folder", "give another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise BadInput(f"'{out}' cannot be written ({error.strerror})", "a folder", "give another --out") from error
    with scratch as folder:
        yield Path(folder)


def _move(scratch: Path, out: Path) -> None:
    """Put every file in its place, each in one move."""
    for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
        place = out / file.relative_to(scratch)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
