"""The mnist_fc benchmark of VNN-COMP 2022, with its time limits: how many of its 90 questions are answered.

    SPARRING_DATA=... python benchmarks/vnncomp.py [--only x2] [--most 60] [--clock cpu]

Reads `vnncomp/mnist_fc` of SPARRING_DATA: the networks, the properties, `instances.csv` with the limits, and the
verdicts that the competition's tools agreed on. Every answer is written down at once; a second run goes on where the
first one stopped, and asks again what timed out below its limit. A counterexample counts where onnxruntime confirms
it. With `--clock cpu` limits and times are in seconds of the processor, one thread, for a machine that does other
things as well.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from record import begin, last, save

from sparring.certify import BranchAndBound
from sparring.certify.vnnlib import confirmed, load, read, solve

PEERS = {"alpha-beta-CROWN (GPU)": 84, "MN-BaB": 71, "VeriNet": 71, "Debona": 66, "nnenum": 59, "PeregriNN": 38}
"""What tools of 2022 answered, counted in the published results of the competition."""


def answered(folder: Path, network: str, asked: str, seconds: float, clock: str) -> dict[str, Any]:
    """The answer to one question, and the time it took."""
    tick = {"wall": time.monotonic, "cpu": time.process_time}[clock]
    start = tick()
    victim, shape = load(folder / network)
    prop = read(folder / asked)
    how = BranchAndBound(seconds=seconds - (tick() - start) - 1, clock=tick)
    found = solve(victim, shape, prop, how)
    row = {"verdict": found.verdict, "parts": found.parts, "seconds": round(tick() - start, 1), "limit": seconds}
    if found.verdict == "sat":
        row["confirmed"] = confirmed(folder / network, prop, found)
    return row


def summary(rows: dict[str, dict[str, Any]], consensus: dict[str, Any]) -> dict[str, Any]:
    """How many are answered, by network and in all, and which contradict the competition's tools."""
    solved = {name: row for name, row in rows.items() if row["verdict"] != "timeout" and row.get("confirmed", True)}
    against = [
        name for name, row in solved.items() if (known := consensus[name]["consensus"]) and row["verdict"] not in known
    ]
    return {
        "asked": len(rows),
        "solved": len(solved),
        "by_network": dict(Counter(f"{name.split('.')[0][-2:]} {row['verdict']}" for name, row in solved.items())),
        "in_disagreement": against,
        "peers": PEERS,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--only", default="", help="names of questions that hold this, as x2 or 0.03")
    options.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    options.add_argument("--most", type=float, default=300.0, help="seconds for a question, below its limit")
    given = options.parse_args()
    begin()
    folder = Path(os.environ["SPARRING_DATA"]) / "vnncomp" / "mnist_fc"
    consensus = json.loads((folder / "consensus_vnncomp2022.json").read_text(encoding="utf-8"))
    before = last("vnncomp")
    rows = before.get("questions", {}) if before.get("clock") == given.clock else {}
    questions = list(csv.reader((folder / "instances.csv").read_text(encoding="utf-8").splitlines()))
    for network, asked, seconds in sorted(questions, key=lambda row: "0.05" in row[1]):
        name = f"{Path(network).name}|{Path(asked).name}"
        limit = min(float(seconds), given.most)
        done = name in rows and (rows[name]["verdict"] != "timeout" or rows[name]["limit"] >= limit)
        if given.only not in name or name not in consensus or done:
            continue
        rows[name] = answered(folder, network, asked, limit, given.clock)
        print(name, rows[name], "tools:", consensus[name]["consensus"], flush=True)
        save("vnncomp", {"clock": given.clock, "summary": summary(rows, consensus), "questions": rows}, "onnxruntime")
    print(summary(rows, consensus))


if __name__ == "__main__":
    main()
