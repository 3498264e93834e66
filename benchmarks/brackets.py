"""Brackets of three networks side by side: what is proved, what is broken, and what is open between the two.

A network trained as usual, one trained on attacks and one trained to be certified meet the first test digits at linf
0.1, audited with certificates up to branch and bound, and without. What is proved is not attacked again, so that an
audit may even end sooner for it. Training comes first, and takes some minutes. Leaves a folder for each network and
their page in `--out`, and writes `results/brackets.json` beside this file. Seconds are the processor's, in one thread;
branch and bound takes up to ten of the clock's for an example.

    SPARRING_DATA=... python benchmarks/brackets.py [--count 200] [--out sparring-brackets]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import begin, save
from rich.console import Console
from rich.table import Table
from torch import nn

from sparring import report
from sparring.data import first, load
from sparring.evaluate import audit
from sparring.evaluate.result import Result
from sparring.networks import certified_cnn, mlp
from sparring.threats import linf
from sparring.training import adversarial, fit, standard
from sparring.training.objectives import ibp
from sparring.types import Data

THREAT = linf(0.1)
CERTIFY = "branch-and-bound"


def natural(train: Data) -> nn.Module:
    """One hidden layer, right on the data and on nothing else."""
    return fit(mlp(), train, standard, epochs=4)


def adversarially_trained(train: Data) -> nn.Module:
    """The same, right on what PGD makes of the data."""
    return fit(mlp(), train, adversarial(THREAT.at(0.105)), epochs=8)


def certified(train: Data) -> nn.Module:
    """Two convolutions, right on all of a box by intervals: a larger one than is asked for, and fewer digits."""
    network = certified_cnn(width=8, hidden=100)
    return fit(network, first(train, 20_000), ibp(THREAT.at(0.15)), epochs=10, clip=10.0)


NETWORKS: dict[str, Callable[[Data], nn.Module]] = {
    "natural": natural,
    "adversarially trained": adversarially_trained,
    "certified": certified,
}


def timed(network: nn.Module, data: Data, **settings: Any) -> tuple[Result, float]:
    """An audit, and the seconds of the processor that it took."""
    start = time.process_time()
    return audit(network, data, THREAT, **settings), time.process_time() - start


def measure(name: str, network: nn.Module, data: Data, folder: Path) -> dict[str, Any]:
    """Both ends of the bracket in examples, what lies between, and what an audit costs without and with proofs."""
    plain, without = timed(network, data, name=name)
    result, together = timed(network, data, name=name, certify=CERTIFY, out=folder)
    right = [one for one in result.per_example if one.clean == one.label]
    return {
        "right": len(right),
        "broken": sum(one.broken_by is not None for one in right),
        "certified": sum(bool(one.certified) for one in right),
        "open": sum(one.broken_by is None and not one.certified for one in right),
        "curve": [one.model_dump() for one in result.curve],
        "broken without certificates": sum(one.broken_by is not None for one in plain.per_example),
        "passes": {"without": plain.passes.model_dump(), "with": result.passes.model_dump()},
        "seconds": {"without": round(without, 1), "with": round(together, 1)},
    }


def page(folder: Path) -> Path:
    """The report of all of them, side by side."""
    results, pictures = zip(*(report.read(folder / name) for name in NETWORKS), strict=True)
    return report.write(folder, results, dict(zip(NETWORKS, pictures, strict=True)), title="Brackets")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--out", type=Path, default=Path("sparring-brackets"))
    given = options.parse_args()
    begin()
    train, data = load("mnist", split="train"), first(load("mnist"), given.count)
    shown = Table(
        *("", "right", "broken", "certified", "open", "seconds, attacks alone", "seconds, with proofs"),
        title=f"Brackets, {THREAT}, {given.count} digits",
    )
    found: dict[str, Any] = {}
    for name, make in NETWORKS.items():
        found[name] = row = measure(name, make(train), data, given.out / name)
        counts = (row[key] for key in ("right", "broken", "certified", "open"))
        shown.add_row(name, *map(str, (*counts, row["seconds"]["without"], row["seconds"]["with"])))
    Console(width=120).print(shown)
    print(f"report: {page(given.out)}")
    save("brackets", {"count": given.count, "threat": str(THREAT), "certify": CERTIFY, "found": found})


if __name__ == "__main__":
    main()
