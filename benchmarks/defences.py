"""What every defence and every detector is worth, against attacks that know it and that do not.

Three numbers a defence, on the same examples: the accuracy under attack without it, with it against the examples made
without it, and with it against its own adaptive attack (`sparring.evaluate.defended.face`). The attack is PGD on the
margin and on the cross-entropy, and Square after it where the defence's gradient is that of a stand-in. For detectors,
calibrated to 5 % false positives, the share that they notice of what fools the model, on two networks. The networks,
and what defences learn, come from the same examples. Rows are added to `results/defences.json` beside this file as
they are measured, so that a long table can be made in parts.

    python benchmarks/defences.py --data mnist [--examples 200] [--train 4000] [--only jpeg --only lid]
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from record import begin, last, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparring.data import first, load
from sparring.defences import Replacement, calibrated
from sparring.defences.learning import retrained
from sparring.evaluate.defended import Faced, climb, face
from sparring.evaluate.detection import Detection, detect
from sparring.networks import mlp, wong_cnn
from sparring.registry import Entry, members
from sparring.threats import Ball, parse
from sparring.training import standard
from sparring.types import Data, Learns

EPOCHS, STEPS, QUERIES = 6, 25, 1000
LEARNED_FROM = 2000
"""Examples that a detector learns from."""

CLEAN = 400
"""Clean examples after those that are attacked, on which detectors are calibrated."""


def striding(seed: int = 0) -> nn.Module:
    """Two strided convolutions and two linear layers, for CIFAR."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 24, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48 * 64, 100),
            nn.ReLU(),
            nn.Linear(100, 10),
        )


def flat(seed: int = 0) -> nn.Module:
    """One hidden layer, for CIFAR."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 10))


CASES: dict[str, tuple[str, dict[str, Callable[[], nn.Module]]]] = {
    "mnist": ("linf:0.2", {"wong_cnn": wong_cnn, "mlp": mlp}),
    "cifar10-jpeg": ("linf:4/255", {"two convolutions": striding, "one hidden layer": flat}),
}


def made(entry: Entry) -> Any:
    """A member with its own settings, but for the epochs."""
    return entry.make(**({"epochs": EPOCHS} if "epochs" in inspect.signature(entry.make).parameters else {}))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A data set with its threat: examples to learn from, and then `attacked` ones before those that calibrate."""

    name: str
    threat: Ball
    x: Tensor
    labels: Tensor
    held: Data
    attacked: int

    def trained(self, make: Callable[[], nn.Module]) -> nn.Module:
        """The network without a defence."""
        return retrained(make(), self.x, self.labels, standard, epochs=EPOCHS)

    def protect(self, called: str, make: Callable[[], nn.Module], wanted: Mapping[str, Entry]) -> Table:
        """The table of defences, for the network that is `called` so."""
        bare, data = self.trained(make), first(self.held, self.attacked)
        table = headed(
            f"{self.name}, {called}, {self.threat}, {len(data)} examples: accuracy under attack",
            *("defence", "clean, bare", "clean", "bare", "unaware", "adaptive", "seconds"),
        )
        for name, entry in wanted.items():
            started = time.perf_counter()
            one = made(entry)
            learned = one.fit(bare, self.x, self.labels) if isinstance(one, Learns) else one
            # A random defence would need Square's every answer averaged: there EOT's gradients have to do.
            queries = 0 if learned.differentiable or learned.draws > 1 else QUERIES
            found = face(bare, learned, data, self.threat, attack=climb(self.threat, steps=STEPS, queries=queries))
            facts = {"network": called, "replaces": isinstance(learned, Replacement)}
            self.note(["defences", name], found, facts)
            numbers = (found.clean, found.defended, found.bare, found.unaware, found.adaptive)
            enter(table, name, *(f"{one.estimate:.1%}" for one in numbers), since=started)
        return table

    def watch(self, called: str, make: Callable[[], nn.Module], wanted: Mapping[str, Entry]) -> Table:
        """The table of detectors, for the network that is `called` so."""
        bare, n = self.trained(make), self.attacked
        x, labels = self.held.take(range(len(self.held)))
        table = headed(
            f"{self.name}, {called}, {self.threat}: noticed of what fools the model, at 5 % false positives",
            *("detector", "fooled", "false positives", "area", "unaware", "adaptive", "seconds"),
        )
        for name, entry in wanted.items():
            started = time.perf_counter()
            detector = calibrated(made(entry).fit(bare, self.x[:LEARNED_FROM], self.labels[:LEARNED_FROM]), x[n:])
            found = detect(bare, detector, x[:n], labels[:n], self.threat)
            self.note(["detectors", called, name], found, {})
            shares = (found.false_positives.estimate, found.unaware.estimate, found.adaptive.estimate)
            false, unaware, adaptive = (f"{share:.1%}" for share in shares)
            enter(table, name, str(found.fooled), false, f"{found.auc:.3f}", unaware, adaptive, since=started)
        return table

    def note(self, place: list[str], found: Faced | Detection, facts: dict[str, Any]) -> None:
        """Enter a row into the file."""
        before = last("defences")
        whole = {name: before.get(name, {}) for name in CASES}
        here = whole[self.name]
        for name in place[:-1]:
            here = here.setdefault(name, {})
        numbers = {key: dumped(value) for key, value in vars(found).items()}
        here[place[-1]] = {**numbers, **facts, "threat": str(self.threat), "train": len(self.x)}
        save("defences", whole)


def headed(title: str, first: str, *rest: str) -> Table:
    """An empty table."""
    table = Table(title=title)
    table.add_column(first)
    for column in rest:
        table.add_column(column, justify="right")
    return table


def enter(table: Table, *cells: str, since: float) -> None:
    """A row, printed as it comes."""
    row = (*cells, f"{time.perf_counter() - since:.0f}")
    print(*row, sep="  ", flush=True)
    table.add_row(*row)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--data", choices=CASES, default="mnist")
    options.add_argument("--examples", type=int, default=200)
    options.add_argument("--train", type=int, default=4000)
    options.add_argument("--only", action="append", default=[], help="these defences and detectors alone")
    given = options.parse_args()
    begin()
    spec, networks = CASES[given.data]
    x, labels = load(given.data, split="train").take(range(given.train))
    held, threat = first(load(given.data), given.examples + CLEAN), parse(spec)
    assert isinstance(threat, Ball)
    bench = Bench(name=given.data, threat=threat, x=x, labels=labels, held=held, attacked=given.examples)
    defences, detectors = (
        {name: one for name, one in members(kind).items() if not given.only or name in given.only}
        for kind in ("defences", "detectors")
    )
    console = Console(width=130)
    if defences:
        console.print(bench.protect(*next(iter(networks.items())), defences))
    for network in networks.items() if detectors else ():
        console.print(bench.watch(*network, detectors))


def dumped(value: Any) -> Any:
    """Intervals and points as JSON."""
    if isinstance(value, tuple):
        return [{key: dumped(part) for key, part in vars(one).items()} for one in value]
    return value.model_dump() if hasattr(value, "model_dump") else value


if __name__ == "__main__":
    main()
