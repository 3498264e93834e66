"""How many queries Square needs: ours and the peers', on the same images, at the same budget, over several seeds.

Counted outside the libraries, by what reaches the model: a library asks on about the rows that the proposal before did
not break, so the sizes of its batches are the curve of success against queries. The first look at the clean inputs is
a query. ART asks three times a proposal (does the point stand, what is its score, what is the new score): it is charged
for one, and what it really asks is in the column beside. Foolbox has no Square, and the peers none for L1. The sizes
are chosen so that the budget breaks about half of the images. Writes `results/square.json` beside this file.

    SPARRING_DATA=folder python benchmarks/square.py [--images 100] [--queries 1000] [--seeds 5]
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from record import begin, digits, installed, published, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparring.attacks import square
from sparring.goals import Untargeted
from sparring.streams import Streams
from sparring.threats import Ball, l1, l2, linf

CASES = {
    "wong_fgsm_mnist_linf0.3": (linf(0.315), l2(2.0), l1(8.0)),
    "wong_kolter_mnist_linf0.1": (linf(0.15), l2(1.75), l1(6.0)),
}
AT = (10, 30, 100, 300, 1000)
"""The numbers of queries at which the curve is written down."""


@dataclass(frozen=True)
class Case:
    """A network, inputs that it gets right, and what may be done to them."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: Ball


@dataclass(frozen=True)
class Run:
    """How many rows stood before each query, and after the last; what reached the model in all."""

    stood: list[int]
    passes: int


class Sizes(nn.Module):
    """The model, with the size of every batch that reaches it written down."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.sizes = model, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        self.sizes.append(len(x))
        outputs: Tensor = self.model(x)
        return outputs


def _run(case: Case, z: Tensor, sizes: list[int], queries: int, passes: int) -> Run:
    with torch.no_grad():
        left = int((case.model(z).argmax(1) == case.y).sum())
    return Run(sizes[:queries] + [left] * (queries + 1 - len(sizes[:queries])), passes)


def ours(case: Case, queries: int, seed: int) -> Run:
    """Sparring: a batch a query."""
    counted = Sizes(case.model)
    z = square(case.threat, queries=queries)(counted, case.x, Untargeted(case.y), Streams.of(seed, range(len(case.x))))
    return _run(case, z, counted.sizes, queries, sum(counted.sizes))


def torchattacks(case: Case, queries: int, seed: int) -> Run:
    """The clean inputs, the start, a batch a proposal, and one more batch for what is returned."""
    from torchattacks import Square

    counted = Sizes(case.model)
    norm = {"linf": "Linf", "l2": "L2"}[case.threat.norm.name]
    z = Square(counted, norm=norm, eps=case.threat.eps, n_queries=queries - 2, seed=seed)(case.x, case.y)
    return _run(case, z, counted.sizes[:-1], queries, sum(counted.sizes[:-1]))


def art(case: Case, queries: int, seed: int) -> Run:
    """The clean inputs twice, the start, and three batches a proposal, of which the last has the rows that stand."""
    from art.attacks.evasion import SquareAttack
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(seed)  # noqa: NPY002  (that is what it draws from)
    random.seed(seed)
    counted = Sizes(case.model)
    settings = {"input_shape": case.x.shape[1:], "nb_classes": 10, "clip_values": (0, 1), "device_type": "cpu"}
    classifier = PyTorchClassifier(counted, loss=nn.CrossEntropyLoss(), **settings)
    norm = {"linf": np.inf, "l2": 2}[case.threat.norm.name]
    attack = SquareAttack(
        classifier, norm=norm, eps=case.threat.eps, max_iter=queries - 2, batch_size=len(case.x), verbose=False
    )
    z = torch.from_numpy(attack.generate(case.x.numpy(), case.y.numpy()))
    clean, _, start, *proposals = counted.sizes
    return _run(case, z, [clean, start, *proposals[2::3]], queries, sum(counted.sizes))


PEERS: dict[str, Callable[..., Run]] = {"torchattacks": torchattacks, "art": art}


def summary(runs: list[Run], images: int, queries: int) -> dict[str, object]:
    """Over the seeds: success along the way, queries to success (the budget where there is none), and passes."""
    curve = np.array([run.stood for run in runs]) / images
    needed = [np.repeat(range(1, queries + 1), -np.diff(run.stood)).tolist() for run in runs]
    successes = [statistics.median(found) for found in needed if found]
    every = [sorted(found + [queries] * (images - len(found))) for found in needed]
    return {
        "success": round(1 - float(curve[:, -1].mean()), 4),
        "success_at": {str(k): round(1 - float(curve[:, k].mean()), 4) for k in AT if k <= queries},
        "mean_queries": round(float(curve[:, :queries].sum(1).mean()), 1),
        "median_queries": round(statistics.mean(statistics.median(row) for row in every), 1),
        "median_of_successes": round(statistics.mean(successes), 1) if successes else None,
        "passes": round(statistics.mean(run.passes for run in runs) / images, 1),
        "mean_queries_by_seed": [round(float(row[:queries].sum()), 1) for row in curve],
    }


def main() -> None:
    """Measure, print a table, write the figures."""
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--images", type=int, default=100)
    options.add_argument("--queries", type=int, default=1000)
    options.add_argument("--seeds", type=int, default=5)
    given = options.parse_args()
    begin()
    here = {
        name: ask
        for name, ask in PEERS.items()
        if installed({"art": "adversarial-robustness-toolbox"}.get(name, name)) is not None
    }

    table = Table(title=f"Square, {given.queries} queries, {given.images} digits, mean over {given.seeds} seeds")
    heads = ("network", "threat", "", "broken", *(f"at {k}" for k in AT[:-1]), "mean queries", "median", "passes")
    for head in heads:
        table.add_column(head, justify="right" if head in heads[3:] else "left")
    cases = []
    for network, threats in CASES.items():
        model = published(f"{network}.pth")
        x, y = digits(given.images, known_to=model)
        for threat in threats:
            asked = {"sparring": ours} | (here if threat.norm.name != "l1" else {})
            rows = {
                name: summary(
                    [ask(Case(model, x, y, threat), given.queries, seed) for seed in range(given.seeds)],
                    len(x),
                    given.queries,
                )
                for name, ask in asked.items()
            }
            cases.append({"network": network, "threat": str(threat), "contestants": rows})
            for name, row in rows.items():
                along = (f"{100 * share:.0f} %" for share in list(row["success_at"].values())[: len(AT) - 1])  # type: ignore[attr-defined]
                cells = (f"{row['mean_queries']}", f"{row['median_queries']}", f"{row['passes']}")
                table.add_row(network, str(threat), name, f"{100 * float(str(row['success'])):.1f} %", *along, *cells)
    Console(width=160).print(table)

    record = {
        "settings": vars(given),
        "cases": cases,
    }
    save("square", record, "torchattacks", "adversarial-robustness-toolbox")


if __name__ == "__main__":
    main()
