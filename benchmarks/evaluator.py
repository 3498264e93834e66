"""Robust accuracy against passes and seconds: an audit by `standard`, and AutoAttack, in one run on one thread.

Two published networks of the field for MNIST at linf 0.3: Wong et al. (2020), and the SmallCNN of TRADES (Zhang et
al., 2019). Seconds are processor seconds of this one process, so that other work on the machine counts little. Those
of the audit hold everything: doctor, attacks, checks, curve. AutoAttack is that of torchattacks, whose passes are
counted on its way. Needs `SPARRING_DATA` with `mnist/mnist.npz` and `models/`. Writes `results/evaluator.json`; a run
of some networks keeps what the file says of the others.

    python benchmarks/evaluator.py [--limit wong=1000 --limit trades=500] [--suite standard] [--without-peer]
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from record import begin, last, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparring.data import first, load
from sparring.evaluate import audit
from sparring.models.loading import load as load_model
from sparring.threats import linf
from sparring.views import Counted

EPS = 0.3
NETWORKS = {
    "wong": ("sparring.networks:wong_cnn", "wong_fgsm_mnist_linf0.3.pth"),
    "trades": ("sparring.networks:small_cnn", "trades_smallcnn_mnist_linf0.3.pt"),
}


def network(name: str) -> Any:
    """The victim, with its published weights."""
    factory, weights = NETWORKS[name]
    return load_model(factory, weights=str(Path(os.environ["SPARRING_DATA"]) / "models" / weights))


def ours(name: str, limit: int, suite: str) -> dict[str, Any]:
    """A whole audit; and, on the way, how many passes its attacks took to come to each accuracy."""
    start = time.process_time()
    result = audit(network(name), first(load("mnist"), limit), linf(EPS), suite=suite, name=name)
    seconds = time.process_time() - start
    course = [
        {"passes": round(point.passes / limit, 1), "robust": round(point.standing / limit, 5)}
        for point in result.progress
    ]
    falls = [course[0], *(now for before, now in pairwise(course) if now["robust"] < before["robust"])]
    return {
        "robust": result.robust_accuracy.estimate,
        "verdict": result.verdict,
        "passes": round((result.passes.forward + result.passes.backward) / limit, 1),
        "passes_of_the_attacks": course[-1]["passes"],
        "seconds": round(seconds, 1),
        "course": falls,
    }


class Peer(nn.Module):
    """The network as AutoAttack is given it, with its passes counted."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.counted = Counted(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.counted(x)


def theirs(name: str, limit: int) -> dict[str, Any]:
    """AutoAttack, standard version, in batches of 100."""
    import torchattacks

    module = network(name).module
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    x, y = first(load("mnist"), limit).take(range(limit))
    peer = Peer(module.eval())
    start = time.process_time()
    attack = torchattacks.AutoAttack(peer, norm="Linf", eps=EPS, version="standard", n_classes=10, seed=0)
    standing = 0
    for i in range(0, limit, 100):
        z = attack(x[i : i + 100], y[i : i + 100])
        with torch.no_grad():
            standing += int((module(z).argmax(1) == y[i : i + 100]).sum())
    seconds = time.process_time() - start
    passes = (peer.counted.forward + peer.counted.backward) / limit
    return {"robust": standing / limit, "passes": round(passes, 1), "seconds": round(seconds, 1)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--limit", action="append", metavar="NETWORK=IMAGES")
    options.add_argument("--suite", default="standard")
    options.add_argument(
        "--without-peer", action="store_true", help="the audit alone: on 10,000, AutoAttack takes hours"
    )
    given = options.parse_args()
    begin()

    audit(network("wong"), first(load("mnist"), 64), linf(EPS), suite="quick")  # imports are not what is measured
    found = last("evaluator").get("runs", {})
    for spec in given.limit or ("wong=1000", "trades=500"):
        name, _, count = spec.partition("=")
        mine = ours(name, int(count), given.suite)
        run = {"network": name, "images": int(count), "suite": given.suite, "sparring": mine}
        if not given.without_peer:
            run["autoattack"] = theirs(name, int(count))
            run["times_faster"] = round(run["autoattack"]["seconds"] / mine["seconds"], 1)
        found[f"{name}, {count} images, {given.suite}"] = run
        record = {"settings": {"eps": EPS, "threads": 1}, "runs": dict(sorted(found.items()))}
        save("evaluator", record, "torchattacks")

    table = Table(title=f"MNIST, linf {EPS}, one thread")
    for column in (
        "",
        "robust",
        "passes an image",
        "seconds",
        "AutoAttack",
        "passes",
        "seconds",
        "times faster",
    ):
        table.add_column(column, justify="right" if column else "left")
    for label, run in found.items():
        mine, peer = run["sparring"], run.get("autoattack")
        other = (f"{peer['robust']:.2%}", f"{peer['passes']:,.0f}", f"{peer['seconds']:,.0f}") if peer else ("", "", "")
        table.add_row(
            label,
            f"{mine['robust']:.2%}",
            f"{mine['passes']:,.0f}",
            f"{mine['seconds']:,.0f}",
            *other,
            f"{run['times_faster']}" if peer else "",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
