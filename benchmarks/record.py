"""What the benchmarks share: quiet peers, the networks and digits of several of them, and the file of results.

Results lie in `results/NAME.json` beside this file, each with the machine and the versions that they were measured on.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data import load
from sparring.evaluate import Result
from sparring.networks import wong_cnn

FOLDER = Path(__file__).parent / "results"


def begin() -> None:
    """One thread, and no word of the peers' own warnings."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def installed(package: str) -> str | None:
    """Its version, if it is there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def last(name: str) -> dict[str, Any]:
    """What was written when this was measured last; nothing before."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def save(name: str, found: dict[str, Any], *peers: str) -> None:
    """Write what was found, and where."""
    about = {
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {package: installed(package) for package in ("torch", "sparring", *peers)},
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")


def told(found: Result) -> dict[str, Any]:
    """What a record keeps of an audit."""
    proved = found.certified_accuracy
    return {
        "clean": found.clean_accuracy.estimate,
        "robust": found.robust_accuracy.estimate,
        "certified": None if proved is None else proved.estimate,
        "verdict": found.verdict,
        "reasons": found.reasons,
        "passes": (found.passes.forward + found.passes.backward) / found.examples,
    }


def published(weights: str) -> nn.Module:
    """The small convolutional network with published weights, a file in `models/` of `SPARRING_DATA`."""
    model = wong_cnn()
    state = torch.load(Path(os.environ["SPARRING_DATA"]) / "models" / weights, weights_only=True, map_location="cpu")
    state = state.get("state_dict", state)
    model.load_state_dict(state[0] if isinstance(state, list) else state)
    return model.eval().requires_grad_(False)


def digits(count: int, known_to: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """The first digits of MNIST's test set, or the first that a network gets right."""
    if known_to is None:
        return load("mnist").take(range(count))
    x, labels = load("mnist").take(range(2 * count))
    right = (known_to(x).argmax(1) == labels).nonzero().flatten()[:count]
    return x[right], labels[right]
