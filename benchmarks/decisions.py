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
import contextlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from record import begin, digits, last, published, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparring.attacks import boundary, geoda, hop_skip_jump, rays, sign_opt, surfree
from sparring.goals import Untargeted
from sparring.streams import Streams
from sparring.threats import l2, linf

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


@dataclass(frozen=True)
class Bout:
    """What everybody attacks."""

    norm: str
    model: nn.Module
    x: Tensor
    labels: Tensor


class Spent(Exception):
    """Every row has asked as often as the last mark."""


class Witness(nn.Module):
    """The model, counting the questions about each row, and keeping the nearest success at every mark.

    It is asked about all rows in their order, once or several times over.
    """

    def __init__(self, bout: Bout) -> None:
        super().__init__()
        self.model, self.x, self.labels, self.threat = bout.model, bout.x, bout.labels, THREATS[bout.norm]
        self.asked, self.nearest = torch.zeros(len(bout.x)), torch.full((len(bout.x),), torch.inf)
        self.last = bout.x.clone()
        self.at = dict.fromkeys(MARKS, self.nearest)
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


def watch(attack: Callable[[], object], witness: Witness) -> Distances:
    with contextlib.suppress(Spent):
        attack()
    return witness.at


def published_rays(model: Witness, x: Tensor, labels: Tensor) -> None:
    """RayS as in the code of Chen and Gu (2020): sizes are L2, and found by halving all the way, to 0.001.

    A row that does not ask hands in its last point again.
    """
    (rows, count), image = x.flatten(1).shape, x.shape
    signs, size = torch.ones(rows, count), torch.full((rows,), torch.inf)

    def reached(size: Tensor, signs: Tensor, asking: Tensor) -> Tensor:
        z = (x + (size[:, None] * signs / math.sqrt(count)).view(image)).clamp(0, 1)
        return asking & (model(torch.where(asking[:, None, None, None], z, model.last)).argmax(1) != labels)

    level, block = 0, 0
    while True:
        width = -(-count // 2**level)
        first, last = block * width, min(count, (block + 1) * width)
        trial = signs.clone()
        trial[:, first:last] *= -1
        better = reached(size, trial, torch.ones(rows, dtype=torch.bool))
        low, high = torch.zeros(rows), torch.where(better, size.clamp(max=math.sqrt(count)), 0.0)
        while bool((asking := high - low > 1e-3).any()):
            middle = (low + high) / 2
            hit = reached(middle, trial, asking)
            low, high = torch.where(asking & ~hit, middle, low), torch.where(hit, middle, high)
        better &= high < size
        size, signs = torch.where(better, high, size), torch.where(better[:, None], trial, signs)
        block += 1
        if block == 2**level or last == count:
            level, block = level + 1, 0


def ours(name: str, bout: Bout, seed: int) -> Distances:
    threat, found = THREATS[bout.norm], {}
    for mark in MARKS:
        attack, rng = OURS[bout.norm][name](threat, queries=mark), Streams.of(seed, range(len(bout.x)))
        z = attack(bout.model, bout.x, Untargeted(bout.labels), rng)
        reached = bout.model(z).argmax(1) != bout.labels
        found[mark] = torch.where(reached, threat.distance(z, bout.x), torch.inf)
    return found


def foolbox_peer(name: str, bout: Bout, seed: int) -> Distances:
    import foolbox

    attack = {
        "foolbox hop-skip-jump": lambda: foolbox.attacks.HopSkipJumpAttack(constraint=bout.norm, steps=1000),
        "foolbox boundary": foolbox.attacks.BoundaryAttack,
    }[name]()
    torch.manual_seed(seed)
    witness = Witness(bout)
    return watch(lambda: attack.run(foolbox.PyTorchModel(witness, bounds=(0, 1)), bout.x, bout.labels), witness)


def art_peer(name: str, bout: Bout, seed: int) -> Distances:
    """It takes a row at a time."""
    from art.attacks.evasion import HopSkipJump
    from art.estimators.classification import PyTorchClassifier

    np.random.seed(seed)  # noqa: NPY002  (ART draws from here)
    parts = []
    for x, label in zip(bout.x, bout.labels, strict=True):
        witness = Witness(replace(bout, x=x[None], labels=label[None]))
        loss, box = nn.CrossEntropyLoss(), (0, 1)
        classifier = PyTorchClassifier(witness, loss, x.shape, 10, clip_values=box, device_type="cpu")
        order = {"l2": 2, "linf": "inf"}[bout.norm]
        attack = HopSkipJump(classifier, norm=order, max_iter=1000, verbose=False)
        parts.append(watch(partial(attack.generate, x[None].numpy(), label[None].numpy()), witness))
    return {mark: torch.cat([part[mark] for part in parts]) for mark in MARKS}


def rays_peer(name: str, bout: Bout, seed: int) -> Distances:
    witness = Witness(bout)
    return watch(lambda: published_rays(witness, bout.x, bout.labels), witness)


PACKAGES = ("foolbox", "adversarial-robustness-toolbox")
PEERS = {"foolbox": foolbox_peer, "art": art_peer, "rays": rays_peer}


def questions_for(distance: float, medians: dict[str, float]) -> float | None:
    """How many questions it takes to come as near, between the marks as a power of their number; None: too many."""
    points = [(int(mark), median) for mark, median in medians.items()]
    if points[0][1] <= distance:
        return points[0][0]
    for (few, far), (many, near) in pairwise(points):
        if near <= distance:
            share = math.log(far / distance) / math.log(far / near) if math.isfinite(far) else 1.0
            return few * (many / few) ** share
    return None


def compare(measured: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """For every peer: the share of its questions that ours needs for the same distance, and ours over its distance."""
    rows = []
    for norm, pairs in RIVALS.items():
        for name, peers in pairs.items():
            for peer in peers:
                mine, its = measured.get(norm, {}).get(name), measured.get(norm, {}).get(peer)
                if mine and its:
                    questions = questions_for(its[str(MARKS[-1])], mine)
                    row = {"norm": norm, "ours": name, "peer": peer}
                    row["questions_for_the_same"] = None if questions is None else round(questions / MARKS[-1], 3)
                    row["distance_over_the_peers"] = {str(q): round(mine[str(q)] / its[str(q)], 3) for q in MARKS}
                    rows.append(row)
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--images", type=int, default=50)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--network", choices=list(NETWORKS), action="append")
    options.add_argument("--only", default="", help="contestants whose NORM NAME contains this")
    given = options.parse_args()
    begin()
    record = last("decisions") or {"networks": {}}
    for chosen in given.network or NETWORKS:
        model = published(NETWORKS[chosen])
        x, labels = digits(given.images, known_to=model)
        kept = record["networks"].setdefault(chosen, {"images": len(x), "seeds": {}, "medians": {}})
        for norm in THREATS:
            rivals = [peer for peers in RIVALS[norm].values() for peer in peers]
            for name in [*OURS[norm], *rivals]:
                if given.only not in f"{norm} {name}":
                    continue
                run = ours if name in OURS[norm] else PEERS[name.split()[0]]
                seeds = 1 if "rays" in name else given.seeds  # RayS hardly draws
                start, bout = time.process_time(), Bout(norm, model, x, labels)
                found = [run(name, bout, seed) for seed in range(seeds)]
                kept["seeds"][f"{norm} {name}"] = seeds
                kept["medians"].setdefault(norm, {})[name] = {
                    str(mark): round(statistics.mean(each[mark].median().item() for each in found), 4) for mark in MARKS
                }
                print(f"{chosen}: {norm} {name}, {time.process_time() - start:.0f} s", flush=True)
                save("decisions", record, *PACKAGES)
        kept["against_peers"] = compare(kept["medians"])
        show(chosen, kept)
    save("decisions", record, *PACKAGES)


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
        needs = "more than all" if share is None else f"{share:.0%}"
        print(f"{row['norm']} {row['ours']}: {needs} of the questions of {row['peer']} for the same distance")


if __name__ == "__main__":
    main()
