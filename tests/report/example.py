"""A realistic result and gallery, made by code: 200 digits, three attacks, every number consistent with every other."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import beta

from sparring.evaluate.result import (
    AttackRecord,
    Check,
    CurvePoint,
    Example,
    Interval,
    Passes,
    Result,
)
from sparring.report.gallery import Gallery, Picture, confidence

EPS = 0.1
ATTACKS = (
    # name, config, passes forward and backward per attacked example, seconds, share of the breakable examples it takes
    ("fgsm", "PGD(threat=Ball(linf, 0.1), steps=1)", 2, 1, 0.4, 0.55),
    ("pgd", "PGD(threat=Ball(linf, 0.1), loss=cross_entropy, steps=40, restarts=5)", 201, 200, 9.7, 0.85),
    ("apgd-dlr", "APGD(threat=Ball(linf, 0.1), loss=dlr, steps=100)", 101, 100, 6.1, 1.0),
    ("square", "Square(threat=Ball(linf, 0.1), queries=5000)", 5000, 0, 48.3, 1.0),
)
CHECKS = (
    ("input-range", "pass", "inputs lie in [0, 1], bounds are [0, 1]", "", "inside the bounds"),
    ("gradients-nonzero", "pass", "0 of 200 examples with a zero gradient", "", "at most 1%"),
    ("finite-differences", "pass", "cosine 0.9998 between autograd and central differences", "", "at least 0.9"),
    ("falls-to-chance", "pass", "0.0% at eps 0.5", "", "at most chance + 5 points"),
    ("monotone-curve", "pass", "accuracy never rises as eps grows", "", "no rise"),
    ("black-box", "pass", "square broke 0 that white-box attacks left", "", "at most 0.5%"),
    ("more-steps", "skipped", "the budget was spent", "audit with --budget thorough", "less than 0.5 points"),
)


def interval(count: int, examples: int) -> Interval:
    low = beta.ppf(0.025, count, examples - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, examples - count) if count < examples else 1.0
    return Interval(estimate=count / examples, low=float(low), high=float(high))


def result(
    name: str = "adversarially trained",
    *,
    examples: int = 200,
    clean: float = 0.965,
    tolerance: float = 0.15,
    certified: bool = True,
    seed: int = 0,
    **changes: Any,
) -> Result:
    """Every example has an eps at which it falls, drawn around `tolerance`; all numbers follow from those."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, examples)
    right = rng.permutation(examples) < round(clean * examples)
    falls_at = tolerance * np.exp(0.45 * rng.standard_normal(examples))
    draws = rng.random(examples)
    edges = [share for *_, share in ATTACKS]
    rows, attacks, left = [], [], int(right.sum())
    for i in range(examples):
        broken = bool(right[i] and falls_at[i] <= EPS)
        by = next(name for (name, *_), edge in zip(ATTACKS, edges, strict=True) if draws[i] <= edge) if broken else None
        rows.append(
            Example(
                index=i,
                label=int(labels[i]),
                clean=int(labels[i]) if right[i] else int((labels[i] + 3) % 10),
                broken_by=by,
                distance=round(float(falls_at[i]), 4) if broken else None,
                certified=bool(right[i] and falls_at[i] > 2 * EPS) if certified else None,
            )
        )
    for attack, config, forward, backward, seconds, _ in ATTACKS:
        broke = sum(row.broken_by == attack for row in rows)
        attacks.append(
            AttackRecord(
                name=attack,
                config=config,
                broke=broke,
                attacked=left,
                forward=forward * left,
                backward=backward * left,
                seconds=seconds,
            )
        )
        left -= broke
    values: dict[str, Any] = {
        "verdict": "trusted",
        "reasons": (),
        "name": name,
        "command": f"sparring audit digits.py:network --data digits --threat linf:0.1 --budget standard "
        f"--limit {examples} --seed {seed}",
        "examples": examples,
        "threat": {"norm": "linf", "eps": EPS, "low": 0.0, "high": 1.0},
        "clean_accuracy": interval(int(right.sum()), examples),
        "robust_accuracy": interval(left, examples),
        "certified_accuracy": interval(sum(bool(row.certified) for row in rows), examples) if certified else None,
        "curve": tuple(
            CurvePoint(eps=eps, robust_accuracy=float((right & (falls_at > eps)).mean()))
            for eps in (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4)
        ),
        "checks": tuple(
            Check(name=n, outcome=o, evidence=e, remedy=r, threshold=t)  # type: ignore[arg-type]
            for n, o, e, r, t in CHECKS
        ),
        "attacks": tuple(attacks),
        "passes": Passes(forward=sum(a.forward for a in attacks), backward=sum(a.backward for a in attacks)),
        "seconds": sum(a.seconds for a in attacks),
        "seed": seed,
        "settings": {
            "suite": "standard",
            "model": "784-128-10 multilayer perceptron",
            "framework": "torch",
            "access": "gradients",
            "data": "digits (test)",
            "batch_size": 256,
            "workers": 1,
            "classes": ",".join(map(str, range(10))),
        },
        "environment": {
            "sparring": "0.1.0",
            "python": "3.11.2",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "platform": "Linux x86_64",
            "device": "cpu",
            "threads": "1",
        },
        "per_example": tuple(rows),
    }
    return Result(**(values | changes))


def natural() -> Result:
    """The network before adversarial training: it hardly stands."""
    return result("natural", clean=0.955, tolerance=0.045, certified=False)


def suspect() -> Result:
    """A defence that hides its gradient: the black-box attack beats the others."""
    failed = Check(
        name="black-box",
        outcome="fail",
        evidence="square broke 31 of 158 examples that every white-box attack had left standing",
        threshold="at most 0.5%",
        remedy="attack the view that the defence hands out (BPDA), or audit with --budget thorough",
    )
    warned = Check(
        name="more-steps",
        outcome="warn",
        evidence="400 steps break 1.0 points more than 100",
        threshold="less than 0.5 points",
        remedy="audit with --budget thorough",
    )
    honest = result()
    checks = (*(check for check in honest.checks if check.name not in ("black-box", "more-steps")), failed, warned)
    return result(
        "bit-depth reduction",
        verdict="suspect",
        reasons=(f"black-box: {failed.evidence}", f"more-steps: {warned.evidence}"),
        checks=checks,
    )


def invalid() -> Result:
    """A model that rounds inside: every gradient is zero."""
    failed = Check(
        name="gradients-nonzero",
        outcome="fail",
        evidence="200 of 200 examples have a gradient of exactly zero",
        threshold="at most 1%",
        remedy="find the operation that stops the gradient (rounding, argmax, detach) and attack a BPDA view",
        serious="invalid",
    )
    return result(
        "rounds inside",
        verdict="invalid",
        reasons=(f"gradients-nonzero: {failed.evidence}",),
        checks=(failed, *(check for check in result().checks if check.name != failed.name)),
    )


def gallery(seed: int = 0, count: int = 6, shape: tuple[int, ...] = (1, 28, 28)) -> Gallery:
    """Blobs in place of digits, moved by a random sign pattern of size EPS."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(count):
        x = _blobs(rng, shape)
        z = np.clip(x + EPS * np.sign(rng.standard_normal(shape)), 0, 1).astype(np.float32)
        label = int(rng.integers(0, 10))
        clean, attacked = rng.standard_normal(10), rng.standard_normal(10)
        clean[label] += 6
        attacked[(label + 5) % 10] += 4
        attacked[label] += 2
        pictures.append(Picture(i, label, confidence(clean), confidence(attacked), x, z))
    return tuple(pictures)


def _blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    if len(shape) != 3:
        t = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
        return (0.5 + 0.35 * np.sin(2 * np.pi * (3 + rng.integers(4)) * t) * np.exp(-2 * t)).astype(np.float32)
    height, width = np.mgrid[0 : 1 : shape[1] * 1j, 0 : 1 : shape[2] * 1j]
    out = np.zeros(shape)
    for channel in out:
        for _ in range(4):
            row, column, size = *rng.uniform(0.25, 0.75, 2), rng.uniform(0.05, 0.14)
            channel += np.exp(-((height - row) ** 2 + (width - column) ** 2) / (2 * size**2))
    return np.clip(out, 0, 1).astype(np.float32)
