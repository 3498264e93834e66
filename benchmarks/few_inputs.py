"""Networks of few inputs, as tables have them: branch and bound with and without halving inputs, and Marabou.

    python benchmarks/few_inputs.py [--seconds 60]

Networks of six layers of 50 ReLUs learn the first columns of data sets of scikit-learn. Of three rows of each it is
asked whether their class stays the same within shares of the least change that PGD finds: 0.7 and 0.9. One thread,
seconds of the processor; each class is a question of its own to Marabou (2.0, a verifier by splits on signs and linear
programs), and at most `--seconds` are given for a row, to Marabou of the clock: it needs a core of its own to have as
many. Where two tools answer, they have to agree.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import begin, installed, save
from rich.console import Console
from rich.table import Table
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

from sparring.attacks import pgd
from sparring.certify import BranchAndBound
from sparring.goals import Untargeted
from sparring.streams import Streams
from sparring.threats import Ball, linf

TABLES = {"diabetes": 10, "breast_cancer": 10, "wine": 13}
"""Data sets, and how many of their columns."""

HALVING, SIGNS = "halving inputs", "signs alone"


def learned(name: str, columns: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and what it gets right, every column from 0 to 1; numbers are five classes of equal size."""
    table = getattr(datasets, f"load_{name}")()
    x, y = torch.tensor(table.data[:, :columns]).float(), torch.tensor(table.target)
    x = (x - x.amin(0)) / (x.amax(0) - x.amin(0))
    labels = torch.bucketize(y, y.quantile(torch.linspace(0.2, 0.8, 4).to(y))) if y.is_floating_point() else y
    torch.manual_seed(0)
    sizes = [columns, *[50] * 6]
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(50, int(labels.max()) + 1))
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(300):
        for some in torch.randperm(len(x)).split(64):
            adam.zero_grad()
            functional.cross_entropy(net(x[some]), labels[some]).backward()
            adam.step()
    net.eval().requires_grad_(False)
    right = net(x).argmax(1) == labels
    return net, x[right], labels[right]


def least(net: nn.Module, x: Tensor, label: Tensor) -> float:
    """The least eps at which PGD changes the class, to a five-hundredth."""
    low, high, starts = 0.0, 1.0, 20
    goal = Untargeted(label.expand(starts))
    for _ in range(9):
        eps = (low + high) / 2
        z = pgd(linf(eps), steps=40)(net, x.expand(starts, -1), goal, Streams.of(0, range(starts)))
        low, high = (low, eps) if bool(goal.reached(net(z)).any()) else (eps, high)
    return high


def asked() -> Iterator[tuple[str, nn.Module, Tensor, Tensor, Ball]]:
    """All questions: a name, the network, a row and its class, and the threat."""
    for name, columns in TABLES.items():
        net, x, labels = learned(name, columns)
        for i in range(0, len(x), len(x) // 3)[:3]:
            near = least(net, x[i : i + 1], labels[i : i + 1])
            for share in (0.7, 0.9):
                yield f"{name} {i}, {share}", net, x[i : i + 1], labels[i : i + 1], linf(share * near)


def ours(how: BranchAndBound, net: nn.Module, x: Tensor, label: Tensor, threat: Ball) -> dict[str, Any]:
    """What branch and bound answers."""
    start = time.process_time()
    (answer,) = how.answers(net, x, label, threat)
    return {"answer": answer.status, "parts": answer.parts, "seconds": round(time.process_time() - start, 2)}


def marabou(seconds: float, net: nn.Module, x: Tensor, label: Tensor, threat: Ball) -> dict[str, Any]:
    """What Marabou answers, class by class."""
    from maraboupy import Marabou

    start, open_ = time.process_time(), False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, (x,), str(path), dynamo=False, opset_version=13)
        for other in range(net(x).shape[1]):
            if other == int(label):
                continue
            query = Marabou.read_onnx(str(path))
            for variable, value in zip(query.inputVars[0].flatten(), x[0].tolist(), strict=True):
                query.setLowerBound(variable, max(value - threat.eps, 0.0))
                query.setUpperBound(variable, min(value + threat.eps, 1.0))
            outputs = query.outputVars[0].flatten()
            query.addInequality([outputs[int(label)], outputs[other]], [1.0, -1.0], 0.0)
            left = max(1, round(seconds - (time.process_time() - start)))
            said = query.solve(options=Marabou.createOptions(verbosity=0, timeoutInSeconds=left), verbose=False)[0]
            open_ = open_ or said not in {"sat", "unsat"}
            if said == "sat":
                return {"answer": "broken", "seconds": round(time.process_time() - start, 2)}
            if time.process_time() - start > seconds:
                open_ = True  # classes may be left that nobody asked about
                break
    answer = "unknown" if open_ else "certified"
    return {"answer": answer, "seconds": round(time.process_time() - start, 2)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--seconds", type=float, default=60.0, help="for a row, at most")
    given = options.parse_args()
    begin()
    shown = Table("question", HALVING, SIGNS, "Marabou", title="Seconds of the processor")
    rows: dict[str, dict[str, Any]] = {}
    halving = BranchAndBound(seconds=given.seconds, clock=time.process_time)
    signs = replace(halving, inputs=0)
    for name, *question in asked():
        found = {HALVING: ours(halving, *question), SIGNS: ours(signs, *question)}
        if installed("maraboupy"):
            found["Marabou"] = marabou(given.seconds, *question)
        answers = {one["answer"] for one in found.values()} - {"unknown"}
        assert len(answers) <= 1, (name, found)
        rows[name] = found
        shown.add_row(name, *(f"{one['answer']} {one['seconds']:.1f}" for one in found.values()))
        print(name, found, flush=True)
    tools = list(next(iter(rows.values())))
    summary = {
        tool: {
            "decided": sum(row[tool]["answer"] != "unknown" for row in rows.values()),
            "seconds": round(sum(row[tool]["seconds"] for row in rows.values()), 1),
        }
        for tool in tools
    }
    Console().print(shown, summary)
    settings = {"seconds": given.seconds, "asked": len(rows)}
    save("few_inputs", settings | {"summary": summary, "questions": rows}, "maraboupy")


if __name__ == "__main__":
    main()
