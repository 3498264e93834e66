"""How near attacks on the decision alone come with a number of questions: ours and the peers', on two robust networks.

The median, over images, of the distance of the nearest success within the first q questions, on the networks of Wong
and others for MNIST (in the folder that SPARRING_DATA names). Ours get q as their budget, and are judged by what they
return. Peers run under a model that counts, and are judged by the nearest success among all they asked about, returned
or not; the same point asked about again at once, as Foolbox does for the rows of a batch that wait for others, is not
counted. No peer has RayS: it is written down here as the authors published it. "Questions for the same" is how many
ours need for the distance of the peer at its last q. Adds to `results/decisions.json` beside this file.

    python benchmarks/decisions.py [--images 50] [--seeds 3] [--network NAME] [--only PART OF A NAME]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparring.attacks import boundary, geoda, hop_skip_jump, rays, sign_opt, surfree
from sparring.goals import Untargeted
from sparring.networks import wong_cnn
from sparring.streams import Streams
from sparring.threats import Ball, l2, linf

RESULT = Path(__file__).parent / "results" / "decisions.json"
MARKS = (250, 500, 1000, 2000, 4000)
NETWORKS = {
    "wong fgsm-rs, linf 0.3": "wong_fgsm_mnist_linf0.3.pth",
    "wong kolter, linf 0.1": "wong_kolter_mnist_linf0.1.pth",
}
THREATS = {"l2": l2(1.5), "linf": linf(0.3)}
OURS = {
    "l2": {
        "boundary": boundary,
        "hop-skip-jump": hop_skip_jump,
        "geoda": geoda,
        "surfree": surfree,
        "sign-opt": sign_opt,
    },
    "linf": {"hop-skip-jump": hop_skip_jump, "geoda": geoda, "rays": rays},
}
RIVALS = {
    "l2": {"hop-skip-jump": ("foolbox hop-skip-jump", "art hop-skip-jump"), "boundary": ("foolbox boundary",)},
    "linf": {"hop-skip-jump": ("foolbox hop-skip-jump", "art hop-skip-jump"), "rays": ("rays as published",)},
}
Distances = dict[int, Tensor]


class Spent(Exception):
    """Every row has asked as often as the last mark."""


class Witness(nn.Module):
    """The model, counting the questions about each row, and keeping the nearest success at every mark.

    It is asked about all rows in their order, once or several times over.
    """

    def __init__(self, model: nn.Module, x: Tensor, labels: Tensor, threat: Ball) -> None:
        super().__init__()
        self.model, self.x, self.labels, self.threat = model, x, labels, threat
        self.asked, self.nearest = torch.zeros(len(x)), torch.full((len(x),), torch.inf)
        self.last = torch.full_like(x, torch.nan)
        self.at = {mark: self.nearest for mark in MARKS}
        self.eval()

    def forward(self, z: Tensor) -> Tensor:
        """Outputs of `z`."""
        with torch.no_grad():
            outputs: Tensor = self.model(z.float())
        for points, answers in zip(z.split(len(self.x)), outputs.split(len(self.x)), strict=True):
            self.asked += (points != self.last).flatten(1).any(1)
            self.last = points.clone()
            reached = answers.argmax(1) != self.labels
            distance = torch.where(reached, self.threat.distance(points.float(), self.x), torch.inf)
            self.nearest = self.nearest.minimum(distance)
            for mark, known in self.at.items():
                self.at[mark] = torch.where(self.asked <= mark, self.nearest, known)
        if bool((self.asked >= MARKS[-1]).all()):
            raise Spent
        return outputs


def watch(attack: Callable[[Witness], object], witness: Witness) -> Distances:
    try:
        attack(witness)
    except Spent:
        pass
    return witness.at


def published_rays(model: nn.Module, x: Tensor, label: int) -> None:
    """RayS of Chen and Gu (2020), one row, as in their code: sizes are L2, and found by halving, to 0.001."""
    count, signs, size = x.numel(), torch.ones_like(x), math.inf

    def reached(size: float, signs: Tensor) -> bool:
        return int(model((x + size * signs / math.sqrt(count)).clamp(0, 1)).argmax(1)) != label

    level, block = 0, 0
    while True:
        width = -(-count // 2**level)
        first, last = block * width, min(count, (block + 1) * width)
        trial = signs.flatten().clone()
        trial[first:last] *= -1
        trial = trial.view_as(x)
        if reached(size, trial):
            low, high = 0.0, min(size, math.sqrt(count))
            while high - low > 1e-3:
                middle = (low + high) / 2
                low, high = (low, middle) if reached(middle, trial) else (middle, high)
            if high < size:
                size, signs = high, trial
        block += 1
        if block == 2**level or last == count:
            level, block = level + 1, 0


def ours(name: str, norm: str, model: nn.Module, x: Tensor, labels: Tensor, seed: int) -> Distances:
    threat, found = THREATS[norm], {}
    for mark in MARKS:
        attack = OURS[norm][name](threat, queries=mark)
        z = attack(model, x, Untargeted(labels), Streams.of(seed, range(len(x))))
        found[mark] = torch.where(model(z).argmax(1) != labels, threat.distance(z, x), torch.inf)
    return found


def foolbox_peer(name: str, norm: str, model: nn.Module, x: Tensor, labels: Tensor, seed: int) -> Distances:
    import foolbox

    make = {
        "foolbox hop-skip-jump": lambda: foolbox.attacks.HopSkipJumpAttack(constraint=norm, steps=1000),
        "foolbox boundary": foolbox.attacks.BoundaryAttack,
    }[name]
    torch.manual_seed(seed)
    witness = Witness(model, x, labels, THREATS[norm])
    return watch(lambda seen: make().run(foolbox.PyTorchModel(seen, bounds=(0, 1)), x, labels), witness)


def row_by_row(
    attack: Callable[[Witness], object], norm: str, model: nn.Module, x: Tensor, labels: Tensor
) -> Distances:
    """For peers that take a row at a time."""
    parts = [watch(attack, Witness(model, x[i : i + 1], labels[i : i + 1], THREATS[norm])) for i in range(len(x))]
    return {mark: torch.cat([part[mark] for part in parts]) for mark in MARKS}


def art_peer(name: str, norm: str, model: nn.Module, x: Tensor, labels: Tensor, seed: int) -> Distances:
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import PyTorchClassifier

    def attack(seen: Witness) -> None:
        loss, shape = nn.CrossEntropyLoss(), seen.x.shape[1:]
        classifier = PyTorchClassifier(seen, loss, shape, 10, clip_values=(0, 1), device_type="cpu")
        order = {"l2": 2, "linf": "inf"}[norm]
        HopSkipJump(classifier, norm=order, max_iter=1000, verbose=False).generate(seen.x.numpy(), seen.labels.numpy())

    np.random.seed(seed)  # noqa: NPY002  (ART draws from here)
    return row_by_row(attack, norm, model, x, labels)


def rays_peer(name: str, norm: str, model: nn.Module, x: Tensor, labels: Tensor, seed: int) -> Distances:
    return row_by_row(lambda seen: published_rays(seen, seen.x, int(seen.labels)), norm, model, x, labels)


PEERS = {"foolbox": foolbox_peer, "art": art_peer, "rays": rays_peer}


def network(name: str) -> nn.Module:
    weights = torch.load(
        Path(os.environ["SPARRING_DATA"]) / "models" / NETWORKS[name], weights_only=True, map_location="cpu"
    )
    model = wong_cnn()
    model.load_state_dict(weights.get("state_dict", [weights])[0])
    return model.eval().requires_grad_(False)


def digits(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """The first images of MNIST's test set that the network knows."""
    mnist = np.load(Path(os.environ["SPARRING_DATA"]) / "mnist" / "mnist.npz", allow_pickle=False)
    x = torch.from_numpy(mnist["x_test"][: 2 * count]).float().div(255).unsqueeze(1)
    labels = torch.from_numpy(mnist["y_test"][: 2 * count]).long()
    right = model(x).argmax(1) == labels
    return x[right][:count], labels[right][:count]


def questions_for(distance: float, medians: dict[str, float]) -> float:
    """How many questions it takes to come as near, between the marks as a power of their number."""
    points = [(int(mark), median) for mark, median in medians.items()]
    if points[0][1] <= distance:
        return points[0][0]
    for (few, far), (many, near) in pairwise(points):
        if near <= distance:
            share = math.log(far / distance) / math.log(far / near) if math.isfinite(far) else 1.0
            return few * (many / few) ** share
    return math.inf


def compare(measured: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """For every peer: the share of its questions that ours needs for the same distance, and ours over its distance."""
    rows = []
    for norm, pairs in RIVALS.items():
        for name, peers in pairs.items():
            for peer in peers:
                mine, its = measured.get(norm, {}).get(name), measured.get(norm, {}).get(peer)
                if mine and its:
                    last = str(MARKS[-1])
                    rows.append(
                        {
                            "norm": norm,
                            "ours": name,
                            "peer": peer,
                            "questions_for_the_same": round(questions_for(its[last], mine) / MARKS[-1], 3),
                            "distance_over_the_peers": {str(q): round(mine[str(q)] / its[str(q)], 3) for q in MARKS},
                        }
                    )
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--images", type=int, default=50)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--network", choices=list(NETWORKS), action="append")
    options.add_argument("--only", default="", help="contestants whose NORM NAME contains this")
    given = options.parse_args()
    warnings.simplefilter("ignore")  # the peers' own
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    record = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"networks": {}}
    for chosen in given.network or NETWORKS:
        model = network(chosen)
        x, labels = digits(model, given.images)
        measured = record["networks"].setdefault(chosen, {"medians": {}})["medians"]
        for norm in THREATS:
            rivals = [peer for peers in RIVALS[norm].values() for peer in peers]
            for name in [*OURS[norm], *rivals]:
                if given.only not in f"{norm} {name}":
                    continue
                run = ours if name in OURS[norm] else PEERS[name.split()[0]]
                start = time.process_time()
                found = [
                    run(name, norm, model, x, labels, seed) for seed in range(1 if "rays" in name else given.seeds)
                ]
                measured.setdefault(norm, {})[name] = {
                    str(mark): round(statistics.mean(each[mark].median().item() for each in found), 4) for mark in MARKS
                }
                print(f"{chosen}: {norm} {name}, {time.process_time() - start:.0f} s", flush=True)
        record["networks"][chosen]["against_peers"] = compare(measured)
        show(chosen, record["networks"][chosen])
    record |= {
        "settings": {"images": given.images, "seeds": given.seeds, "marks": MARKS, "rays": "one seed: it hardly draws"},
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
        "versions": {p: version(p) for p in ("torch", "sparring", "foolbox", "adversarial-robustness-toolbox")},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def show(name: str, found: dict[str, object]) -> None:
    table = Table(title=f"{name}: median distance by number of questions")
    for column in ("norm", "attack", *map(str, MARKS)):
        table.add_column(column, justify="right" if column.isdigit() else "left")
    for norm, rows in found["medians"].items():
        for attack, medians in rows.items():
            table.add_row(norm, attack, *(f"{medians[str(mark)]:.3f}" for mark in MARKS))
    Console().print(table)
    for row in found["against_peers"]:
        share = row["questions_for_the_same"]
        Console().print(
            f"{row['norm']} {row['ours']}: {share:.0%} of the questions of {row['peer']} for the same distance"
        )


if __name__ == "__main__":
    main()
