"""What early stopping saves in randomised smoothing: radii, and samples, by votes and by distances.

A small network trained under Gaussian noise on MNIST, smoothed with the same noise. Every image gets all samples once;
each plan is then replayed on what it would have seen, so that all of them look at the same samples. By votes a sample
counts if it has the answer, by distances if it is known to be some way from another (`sparring.certify.slopes`). All
are compared with the votes of all samples, the radii of Cohen et al. (2019). "Best" is what no rule can go below that
counts votes: as if their shares were known, and samples were spent on the images where they bring the mean radius
furthest, up to 95 %. "Asked" is how `sparring certify` goes about it: only whether the radius reaches eps. Saturated
are images on which all votes agree: there the bound of votes after t samples is at best alpha^(1 / t), by any method.
Writes `results/smoothing.json` and `results/smoothing.svg` beside this file.

    python benchmarks/smoothing.py [--images 200] [--samples 100000] [--epochs 10]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from record import FOLDER, begin, digits, save
from rich.console import Console
from rich.table import Table
from scipy.special import ndtri
from torch import Tensor, nn

from sparring.certify import Slopes, slopes
from sparring.certify.smoothing import Asked, Nearly, Smoothing, answers, blocks, every_sample, exactly, noisy
from sparring.data import load
from sparring.networks import mlp
from sparring.report.figures import DASHES, SERIES, styled
from sparring.streams import Streams
from sparring.threats import l2
from sparring.training import fit
from sparring.training.objectives import gaussian

SIGMAS = (0.25, 0.5)
BASE = "votes, all samples"


def plans(sigma: float, samples: int, known: Slopes) -> dict[str, Smoothing]:
    """What is compared."""
    return {
        f"{kind}, {name}": Smoothing(sigma=sigma, n=samples, rule=rule, slopes=given)
        for kind, given in (("votes", None), ("distances", known))
        for name, rule in (("all samples", every_sample), ("within 5 %", Nearly(0.05)))
    }


def replayed(plan: Smoothing, answer: int, first: Tensor, others: Tensor) -> tuple[float, int]:
    """The radius that a plan would have given, 0 for an abstention, and the samples it would have taken."""
    reach, most = plan.rule.begin(plan.distances(first, answer), plan)
    reaching = (plan.distances(others, answer) >= reach).cumsum()
    for trials in np.cumsum([*blocks(most)]):
        low, done = plan.rule(int(reaching[trials - 1]), int(trials), reach, plan)
        if done:
            break
    return max(reach + plan.sigma * float(ndtri(low)), 0.0), len(first) + int(trials)


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
    """What each plan finds; and the radii of right answers, -1 for wrong ones and abstentions, for the curves."""
    started = time.perf_counter()
    network, (x, labels) = trained(sigma, epochs).eval(), digits(images)
    between = time.perf_counter()
    known = slopes(network, x[:8])
    bounded = time.perf_counter()
    compared = plans(sigma, samples, known)
    agreed, pairs = [], {name: [] for name in compared}
    right = []
    for i in range(images):
        rng = Streams.of(0, [i])
        with torch.no_grad():
            answer, first = compared[BASE].bet(network, x[i], rng)
            others = torch.cat([*noisy(network, x[i], sigma, samples, rng.at("bound"))])
        right.append(answer == int(labels[i]))
        agreed.append(int((answers(others) == answer).sum()))
        for name, plan in compared.items():
            pairs[name].append(replayed(plan, answer, first, others))
    spent = time.perf_counter() - bounded
    found: dict[str, Any] = {}
    radii = {}
    whole = np.array([radius for radius, _ in pairs[BASE]])
    some, all_agree = np.array(right) & (whole > 0), np.array(agreed) == samples
    all_taken = np.mean([taken for _, taken in pairs[BASE]])
    for name in compared:
        radius, taken = (np.array(part) for part in zip(*pairs[name], strict=True))
        radii[name] = np.where(np.array(right) & (radius > 0), radius, -1.0)
        ratio = radius[some] / whole[some]
        found[name] = {
            "mean radius": round(float(np.maximum(radii[name], 0).mean()), 4),
            "samples": round(float(taken.mean()), 1),
            "share of the samples": round(float(taken.mean() / all_taken), 4),
            "least radius, of that with all samples": round(float(ratio.min()), 4),
            "mean radius, of that with all samples": round(float(ratio.mean()), 4),
            "share of the samples, not saturated": round(float(taken[some & ~all_agree].mean() / all_taken), 4),
        }
    for eps in (sigma, 2 * sigma, 3 * sigma):
        for kind, given in (("votes", None), ("distances", known)):
            first = 1000 if given else 100  # as `sparring certify` has it
            plan = Smoothing(sigma=sigma, n0=first, n=samples, rule=Asked(eps), slopes=given)
            asked = plan(network, x, Streams.of(0, range(images)))
            found[f"{kind}, asked for {eps:g}"] = {
                "certified": int(asked.certified(labels, eps).sum()),
                "certified with all samples": int((radii[f"{kind}, all samples"] > eps).sum()),
                "samples": round(float(asked.samples.float().mean()), 1),
                "median samples": float(asked.samples.median()),
            }
    about = {
        "right": int(sum(right)),
        "saturated": int(all_agree.sum()),
        "best by votes": round(best(np.array(agreed)[some] / samples, compared[BASE]), 4),
        "steepest": round(known.greatest, 2),
    }
    seconds = {"training": between - started, "slopes": bounded - between, "sampling": spent}
    seconds = {name: round(one, 1) for name, one in seconds.items()}
    return {"sigma": sigma, **about, "seconds": seconds, "plans": found}, radii


def curves(radii: dict[float, dict[str, np.ndarray]]) -> Figure:
    """Certified accuracy against the radius, a line for each noise and plan."""
    with styled():
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for i, (sigma, plans) in enumerate(radii.items()):
            for j, (name, found) in enumerate(plans.items()):
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
    for column in ("sigma", "plan", "mean radius", "of all votes'", "least", "samples", "not saturated"):
        table.add_column(column, justify="right" if column != "plan" else "left")
    for sigma in SIGMAS:
        found, radii[sigma] = measure(sigma, given.images, given.samples, given.epochs)
        rows.append(found)
        for name, one in found["plans"].items():
            if "certified" in one:
                said = f"{one['certified']} certified, of {one['certified with all samples']}"
                table.add_row(f"{sigma:g}", name, said, "", "", f"{one['samples']:.0f}", "")
                continue
            cells = (
                one["mean radius"],
                *(one[f"{kind} radius, of that with all samples"] for kind in ("mean", "least")),
            )
            shares = (one["share of the samples"], one["share of the samples, not saturated"])
            table.add_row(f"{sigma:g}", name, *map(str, cells), *(f"{share:.1%}" for share in shares))
        table.add_row(f"{sigma:g}", "best, by votes", "", "0.95", "", f"{found['best by votes']:.1%}", "")
    Console(width=120).print(table)
    save("smoothing", {"settings": vars(given), "cases": rows})
    with styled():
        curves(radii).savefig(FOLDER / "smoothing.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
