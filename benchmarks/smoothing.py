"""What early stopping saves in randomised smoothing: radii, and samples, with and without it.

A small network trained under Gaussian noise on MNIST, smoothed with the same noise. Every image gets all samples once;
each rule is then replayed on the counts that it would have seen, so that all of them look at the same votes. "Best" is
what no rule can go below: as if the shares of votes were known, and samples were spent on the images where they bring
the mean radius furthest, up to 95 % of that with all samples. "Asked" is how `sparring certify` goes about it: only
whether the radius reaches eps. Saturated are images on which all votes agree: there the bound after t samples is at
best alpha^(1 / t), by any method, and its radius grows with every one. Writes `results/smoothing.json` and
`results/smoothing.svg` beside this file.

    python benchmarks/smoothing.py [--images 200] [--samples 100000] [--epochs 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from record import FOLDER, begin, digits, save
from rich.console import Console
from rich.table import Table
from scipy.special import ndtri
from torch import nn

from sparring.certify.smoothing import Asked, Nearly, Rule, Smoothing, every_sample, exactly
from sparring.data import load
from sparring.networks import mlp
from sparring.report.figures import DASHES, SERIES, styled
from sparring.streams import Streams
from sparring.threats import l2
from sparring.training import fit
from sparring.training.objectives import gaussian

SIGMAS = (0.25, 0.5)
RULES: dict[str, Rule] = {"all samples": every_sample, "within 5 %": Nearly(0.05), "within 12 %": Nearly(0.12)}


@dataclass
class Recorder:
    """A rule that wants every sample, and keeps the counts that it was shown: of the first, then after every block."""

    first: list[tuple[int, int]] = field(default_factory=list)
    counts: list[list[tuple[int, int]]] = field(default_factory=list)

    def most(self, successes: int, trials: int, plan: Smoothing) -> int:
        """As `Rule`."""
        self.first.append((successes, trials))
        self.counts.append([])
        return plan.n

    def __call__(self, successes: int, trials: int, plan: Smoothing) -> tuple[float, bool]:
        """As `Rule`."""
        self.counts[-1].append((successes, trials))
        return 1.0, False  # never an abstention: the answer is wanted


def replayed(
    rule: Rule, first: tuple[int, int], counts: Sequence[tuple[int, int]], plan: Smoothing
) -> tuple[float, int]:
    """The radius that a rule would have given, 0 for an abstention, and the samples it would have taken."""
    most = rule.most(*first, plan)
    for successes, trials in counts:
        low, done = rule(successes, trials, plan)
        if done or trials >= most:
            break
    return plan.sigma * float(ndtri(low)) if low > 0.5 else 0.0, first[1] + trials


def best(shares: np.ndarray, plan: Smoothing, wanted: float = 0.95) -> float:
    """The least mean share of the samples with which the mean radius can be `wanted` of that with all of them."""
    ends = np.unique(np.geomspace(100, plan.n, 400).astype(int))
    low = exactly(shares[:, None] * ends, ends, plan.alpha)
    radii = np.where(low > 0.5, ndtri(low), 0.0)
    goal = wanted * radii[:, -1].mean()
    prices = np.geomspace(1e-9, 1, 400)  # radii less samples at a price: the dearer, the fewer are worth it
    for price in prices[::-1]:
        chosen = (radii - price * ends).argmax(1)
        if radii[np.arange(len(radii)), chosen].mean() >= goal:
            return float(ends[chosen].mean() / plan.n)
    return 1.0


def trained(sigma: float, epochs: int) -> nn.Module:
    """The network to be smoothed."""
    return fit(mlp(), load("mnist", split="train"), gaussian(l2(sigma), sigma=sigma), epochs=epochs)


def measure(sigma: float, images: int, samples: int, epochs: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What each rule finds; and the radii of right answers, -1 for wrong ones and abstentions, for the curves."""
    started = time.perf_counter()
    network, (x, labels) = trained(sigma, epochs), digits(images)
    between = time.perf_counter()
    recorder = Recorder()
    plan = Smoothing(sigma=sigma, n=samples, rule=recorder)
    answers = plan(network, x, Streams.of(0, range(images))).answer
    spent = time.perf_counter() - between
    right = (answers == labels).numpy()
    all_agree = np.array([counts[-1][0] == counts[-1][1] for counts in recorder.counts])
    all_taken = np.array([trials for _, trials in recorder.first]).mean() + samples
    found: dict[str, Any] = {}
    radii = {}
    for name, rule in RULES.items():
        pairs = [replayed(rule, *seen, plan) for seen in zip(recorder.first, recorder.counts, strict=True)]
        radius, taken = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
        radii[name] = np.where(right & (radius > 0), radius, -1.0)
        whole = radii["all samples"]
        some = whole > 0
        ratio = radius[some] / whole[some]
        open_ = some & ~all_agree
        found[name] = {
            "mean radius": round(float(np.maximum(radii[name], 0).mean()), 4),
            "samples": round(float(taken.mean()), 1),
            "share of the samples": round(float(taken.mean() / all_taken), 4),
            "least radius, of that with all samples": round(float(ratio.min()), 4),
            "mean radius, of that with all samples": round(float(ratio.mean()), 4),
            "share of the samples, not saturated": round(float(taken[open_].mean() / all_taken), 4),
            "median share, not saturated": round(float(np.median(taken[open_]) / all_taken), 4),
        }
    for eps in (sigma, 2 * sigma, 3 * sigma):
        asked = Smoothing(sigma=sigma, n0=100, n=samples, rule=Asked(eps))(network, x, Streams.of(0, range(images)))
        found[f"asked for {eps:g}"] = {
            "certified": int(asked.certified(labels, eps).sum()),
            "certified with all samples": int((radii["all samples"] > eps).sum()),
            "samples": round(float(asked.samples.float().mean()), 1),
            "median samples": float(asked.samples.median()),
        }
    shares = np.array([counts[-1][0] for counts in recorder.counts])[radii["all samples"] > 0] / samples
    about = {"right": int(right.sum()), "saturated": int(all_agree.sum()), "best": round(best(shares, plan), 4)}
    seconds = {"training": round(between - started, 1), "sampling": round(spent, 1)}
    return {"sigma": sigma, **about, "seconds": seconds, "rules": found}, radii


def curves(radii: dict[float, dict[str, np.ndarray]]) -> Figure:
    """Certified accuracy against the radius, a line for each noise and rule."""
    with styled():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for i, (sigma, rules) in enumerate(radii.items()):
            for j, (name, found) in enumerate(rules.items()):
                at = np.linspace(0, 4.2 * sigma, 300)
                accuracy = [(found > r).mean() for r in at]
                label = f"sigma {sigma:g}, {name}"
                axes.plot(at, accuracy, color=SERIES[i], linestyle=DASHES[j], lw=1.6, label=label)
        axes.set_xlabel("radius (L2)")
        axes.set_ylabel("certified accuracy")
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(fontsize=8)
    return figure


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--images", type=int, default=200)
    options.add_argument("--samples", type=int, default=100_000)
    options.add_argument("--epochs", type=int, default=10)
    given = options.parse_args()
    begin()
    rows, radii = [], {}
    table = Table(title=f"Smoothing, {given.images} images of MNIST, up to {given.samples} samples")
    for column in ("sigma", "rule", "mean radius", "of all samples'", "least", "samples", "not saturated"):
        table.add_column(column, justify="right" if column != "rule" else "left")
    for sigma in SIGMAS:
        found, radii[sigma] = measure(sigma, given.images, given.samples, given.epochs)
        rows.append(found)
        for name in RULES:
            one = found["rules"][name]
            cells = (
                one["mean radius"],
                *(one[f"{kind} radius, of that with all samples"] for kind in ("mean", "least")),
            )
            shares = (one["share of the samples"], one["share of the samples, not saturated"])
            table.add_row(f"{sigma:g}", name, *map(str, cells), *(f"{share:.1%}" for share in shares))
        table.add_row(f"{sigma:g}", "best", "", "0.95", "", f"{found['best']:.1%}", "")
        for name, one in found["rules"].items():
            if name.startswith("asked"):
                said = f"{one['certified']} certified ({one['certified with all samples']} with all samples)"
                table.add_row(f"{sigma:g}", name, said, "", "", f"{one['samples']:.0f}", "")
    Console(width=120).print(table)
    save("smoothing", {"settings": vars(given), "cases": rows})
    with styled():
        curves(radii).savefig(FOLDER / "smoothing.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
