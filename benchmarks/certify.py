"""How many of the first 200 test digits are certified on the published network of Wong and Kolter, and how fast.

    SPARRING_DATA=... python benchmarks/certify.py [--count 200] [--methods crown branch-and-bound]

Linf 0.1, one thread, seconds of the processor. What branch and bound breaks is judged again here, so that the number
certified, the number broken and what is left open bracket the truth.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from record import begin, digits, published, save
from rich.console import Console
from rich.table import Table

from sparring.certify import BranchAndBound, graph
from sparring.registry import find
from sparring.threats import linf

THREAT = linf(0.1)
PEER = {"auto_LiRPA 0.7.1, CROWN": {"certified": 193, "seconds": 8.3}}
"""Measured from a checkout, as it has no release for this torch; on another day, on one core of the same kind."""


def measure(method: str, model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """What is certified among what is right, and broken for certain, and in how many seconds."""
    certificate, start = find("certificates", method).make(), time.process_time()
    net = graph(model, x[:1])
    right = (model(x).argmax(1) == labels).nonzero().flatten()
    found: dict[str, Any] = {"right": len(right)}
    if isinstance(certificate, BranchAndBound):
        answers = certificate.answers(net, x[right], labels[right], THREAT)
        found["certified"] = sum(answer.lower > 0 for answer in answers)
        broken = 0
        for i, answer in zip(right.tolist(), answers, strict=True):
            if answer.z is not None:
                inside = bool(THREAT.contains(answer.z, x[i : i + 1]).all())
                broken += inside and int(model(answer.z).argmax()) != int(labels[i])
        found["broken"] = broken
    else:
        found["certified"] = int((certificate(net, x[right], labels[right], THREAT) > 0).sum())
    return found | {"seconds": round(time.process_time() - start, 1)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--count", type=int, default=200)
    options.add_argument("--methods", nargs="+", default=["interval", "crown", "alpha-crown", "branch-and-bound"])
    given = options.parse_args()
    begin()
    model = published("wong_kolter_mnist_linf0.1.pth")
    x, labels = digits(given.count)
    found = {method: measure(method, model, x, labels) for method in given.methods}
    shown = Table(
        "", "right", "certified", "broken", "seconds", title=f"Wong and Kolter, {THREAT}, {given.count} digits"
    )
    for name, row in found.items():
        shown.add_row(name, *(str(row.get(key, "")) for key in ("right", "certified", "broken", "seconds")))
    Console().print(shown)
    if given.count == 200:
        save("certify", {"count": given.count, "threat": str(THREAT), "found": found, "peer": PEER})


if __name__ == "__main__":
    main()
