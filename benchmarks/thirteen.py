"""What audits say of the defences that adaptive attacks broke in 2020, beside plain PGD, AutoAttack and those attacks.

Tramèr et al. (2020) broke thirteen published defences by hand. Ten of them classify images: each is trained here on
digits (`published_defences.py`), and four parties say how many examples stand: PGD with 40 steps, as most of these
papers ran it; AutoAttack (torchattacks; its version for random models where the model is random); the published attack,
made by hand from what the model hides: PGD on the margin over the surrogate, 5 runs of 200 steps, and plain PGD before
it; and an audit that is told nothing. Every point is judged anew, a random model by the mean of 64 calls, and stands
inside of the threat. Rows are added to `results/thirteen.json` as they are measured.

    python benchmarks/thirteen.py [--examples 50] [--suite standard] [--only NAME ...] [--without-peer]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from published_defences import MODELS, Defended
from record import begin, last, save
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sparring.attacks import Restarts, pgd, pgd_cosine
from sparring.data import first, load
from sparring.errors import BadInput
from sparring.evaluate import audit
from sparring.evaluate.run import own_draws
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.streams import Streams
from sparring.types import Model
from sparring.views import eot

TRAIN, JUDGED, DRAWS = 10_000, 64, 20


def randomly(one: Defended) -> bool:
    """Whether the model is random."""
    x = torch.full((4, 1, 28, 28), 0.3)
    with torch.no_grad():
        return not torch.equal(one.model(x), one.model(x))


def standing(one: Defended, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which examples are right at `z`, or at `x` where an attack has left the threat, `(B,)` bool."""
    judge = eot(one.model, JUDGED) if randomly(one) else one.model
    z = torch.where(one.threat.contains(z, x).view(-1, 1, 1, 1), z, x)
    with torch.no_grad(), own_draws("judged"):
        return judge(z).argmax(1) == y


def plainly(one: Defended, x: Tensor, y: Tensor) -> Tensor:
    """What stands after plain PGD; all that is right where it finds no gradient."""
    try:
        with own_draws("plain"):
            z = pgd(one.threat, steps=40)(one.model, x, Untargeted(y), Streams.of(0, range(len(x))))
    except BadInput:
        z = x
    return standing(one, z, x, y) & standing(one, x, x, y)


def by_hand(one: Defended, x: Tensor, y: Tensor) -> Tensor:
    """What stands after the attack that knows the defence, run by run."""
    view: Model = eot(one.surrogate, one.draws) if one.draws > 1 else one.surrogate
    left = plainly(one, x, y)
    for run in range(5):
        rows = left.nonzero().flatten()
        if not len(rows):
            break
        with own_draws("by hand", run):
            attack = Restarts(attacks=(pgd_cosine(one.threat, steps=200, loss=margin),), times=1)
            z = attack(view, x[rows], Never(y[rows]), Streams.of(run, rows))
        left[rows] &= standing(one, z, x[rows], y[rows])
    return left


def theirs(one: Defended, x: Tensor, y: Tensor) -> Tensor | None:
    """What stands after AutoAttack; nothing where it ends in an error, or has no attack for the threat."""
    import torchattacks

    if one.threat.norm.name != "linf":
        return None
    version = "rand" if randomly(one) else "standard"
    left = standing(one, x, x, y)
    attack = torchattacks.AutoAttack(one.model, norm="Linf", eps=one.threat.eps, version=version, n_classes=10, seed=0)
    try:
        with own_draws("theirs"):
            z = attack(x, y)
    except RuntimeError:  # autograd's own: it asks for a gradient where there is none
        return None
    return left & standing(one, z, x, y)


def measured(name: str, given: argparse.Namespace, x: Tensor, y: Tensor) -> dict[str, Any]:
    """One defence, trained and attacked by all."""
    held = first(load("mnist"), given.examples)
    with own_draws("thirteen", name):
        one = MODELS[name](x, y)
    z, labels = held.take(range(given.examples))
    row: dict[str, Any] = {"threat": str(one.threat), "random": randomly(one)}
    row["clean"] = share(standing(one, z, z, labels))
    row["pgd"], row["by hand"] = share(plainly(one, z, labels)), share(by_hand(one, z, labels))
    if not given.without_peer:
        peer = theirs(one, z, labels)
        row["autoattack"] = None if peer is None else share(peer)
    started = time.process_time()
    result = audit(one.model, held, one.threat, suite=given.suite, name=name)
    return row | {
        "audit": result.robust_accuracy.estimate,
        "verdict": result.verdict,
        "reasons": list(result.reasons),
        "passes": round((result.passes.forward + result.passes.backward) / given.examples),
        "seconds": round(time.process_time() - started, 1),
    }


def share(of: Tensor) -> float:
    """As a number from 0 to 1."""
    return float(of.float().mean())


def table(rows: dict[str, dict[str, Any]]) -> Table:
    """All rows, as they are printed."""
    shown = Table("defence", "threat", "clean", "PGD", "AutoAttack", "by hand", "audit", "verdict", "passes")
    for name, row in rows.items():
        numbers = (row.get(key) for key in ("clean", "pgd", "autoattack", "by hand", "audit"))
        said = ("" if one is None else f"{one:.2f}" for one in numbers)
        shown.add_row(name, row["threat"], *said, row["verdict"], f"{row['passes']:,}")
    return shown


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--examples", type=int, default=50)
    options.add_argument("--suite", default="standard")
    options.add_argument("--only", nargs="*", choices=MODELS, help="these alone; the others stay as they were measured")
    options.add_argument("--without-peer", action="store_true", help="AutoAttack takes most of the time")
    given = options.parse_args()
    begin()
    x, y = load("mnist", split="train").take(range(TRAIN))
    before = last("thirteen").get("defences", {})
    for name in given.only or MODELS:
        before[name] = measured(name, given, x, y)
        print(name, before[name], flush=True)
        rows = {known: before[known] for known in MODELS if known in before}
        save("thirteen", {"examples": given.examples, "suite": given.suite, "defences": rows}, "torchattacks")
    Console(width=130).print(table(rows))


if __name__ == "__main__":
    main()
