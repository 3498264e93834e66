"""How near the boundary is, and who finds it at equal passes: attacks for the smallest change, ours and the peers'.

Median distance to the nearest success on MNIST test images, for two published robust networks, four norms and several
budgets of passes (forward and backward, an image through the model once is one pass; all sides are counted by the same
view). A failure counts as infinitely far. Peers are adv-lib and Foolbox, with their defaults save for the number of
steps; where an attack searches, its steps are shared out over the rounds. Needs a folder with `mnist/mnist.npz` and
`models/` in SPARRING_DATA. Adds what it measured to `results/smallest.json` beside this file.

    python benchmarks/smallest.py [--count 100] [--budgets 50 100 200 400 1000] [--norms linf l2 l1 l0]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from record import begin, digits, last, published, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sparring.attacks import bisection, ddn, fmn, pdpgd, sigma_zero, smallest
from sparring.goals import Untargeted
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Model
from sparring.views import Counted

PEERS = ("adv-lib", "foolbox")
NETWORKS = {"Wong FGSM-RS 0.3": "wong_fgsm_mnist_linf0.3.pth", "Wong-Kolter 0.1": "wong_kolter_mnist_linf0.1.pth"}
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}
HINTS = {"linf": 1.0, "l2": 2.0, "l1": 10.0, "l0": 20.0}  # where bisection begins; APGD's begins at 1, too
RECOMMENDED = "sparring smallest"

Run = Callable[[Model, Tensor, Tensor], Tensor]
"""A model, inputs and labels to what the attack returns."""


def rounds_of(steps: int) -> tuple[int, int]:
    """For a search over sizes: how many rounds, and how many steps each."""
    rounds = min(10, max(3, steps // 10))
    return rounds, max(1, steps // rounds - 1)


def ours(norm: str, steps: int) -> dict[str, Run]:
    threat = Ball(NORMS[norm], HINTS[norm])
    rounds, each = rounds_of(steps)
    attacks: dict[str, Attack] = {"smallest": smallest(threat, steps=steps), "fmn": fmn(threat, steps=steps)}
    if norm == "linf":
        attacks["bisection"] = bisection(threat, steps=each, rounds=3 * rounds // 2)  # early exits pay for half as many
    if norm == "l2":
        attacks["ddn"] = ddn(threat, steps=steps)
    if norm in ("l1", "l0"):
        attacks["pdpgd"] = pdpgd(threat, steps=steps)
    if norm == "l0":
        attacks["sigma-zero"] = sigma_zero(threat, steps=steps)

    def run(attack: Attack, model: Model, x: Tensor, labels: Tensor) -> Tensor:
        return attack(model, x, Untargeted(labels), Streams.of(0, range(len(x))))

    return {f"sparring {name}": partial(run, attack) for name, attack in attacks.items()}


def from_adv_lib(module: str, name: str) -> Callable[..., Tensor]:
    """An attack of adv-lib, whose package cannot be imported as a whole without torchvision and visdom."""
    if "adv_lib.attacks" not in sys.modules:
        found = importlib.util.find_spec("adv_lib")
        if found is None or not found.submodule_search_locations:
            raise ImportError("adv-lib")
        package = types.ModuleType("adv_lib.attacks")
        package.__path__ = [str(Path(found.submodule_search_locations[0]) / "attacks")]
        logger = types.ModuleType("adv_lib.utils.visdom_logger")
        logger.VisdomLogger = object  # type: ignore[attr-defined]
        sys.modules |= {package.__name__: package, logger.__name__: logger}
    attack: Callable[..., Tensor] = getattr(import_module(f"adv_lib.attacks.{module}"), name)
    return attack


def adv_lib(norm: str, steps: int) -> dict[str, Run]:
    order, (rounds, each) = ORDERS[norm], rounds_of(steps)
    primal_dual = from_adv_lib("primal_dual_gradient_descent", "pdpgd")
    found = {"fmn": partial(from_adv_lib("fast_minimum_norm", "fmn"), norm=order, steps=steps)}
    if norm == "linf":
        apgd = partial(from_adv_lib("auto_pgd", "minimal_apgd"), norm=order, max_eps=1.0)
        search = {"binary_search_steps": rounds, "n_iter": each}
        found["apgd-ce bisection"] = partial(apgd, **search, loss_function="ce")
        found["apgd-dlr bisection"] = partial(apgd, **search, loss_function="dlr")
    if norm == "l2":
        found["ddn"] = partial(from_adv_lib("decoupled_direction_norm", "ddn"), steps=steps, levels=None)
    if norm != "linf":
        found["pdpgd"] = partial(
            primal_dual, norm=order, num_steps=steps, proximal_operator=23 if norm == "l0" else order
        )
    if norm == "l0":
        found["sigma-zero"] = partial(from_adv_lib("sigma_zero", "sigma_zero"), num_steps=steps)
    return {f"adv-lib {name}": attack for name, attack in found.items()}


class Wrapped(nn.Module):
    """A model as the module that Foolbox wants."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def foolbox(norm: str, steps: int) -> dict[str, Run]:
    """EAD alone: the others are the same algorithms as adv-lib's."""
    if norm not in ("l1", "l0"):
        return {}
    import foolbox

    def ead(model: Model, x: Tensor, labels: Tensor) -> Tensor:
        attack = foolbox.attacks.EADAttack(binary_search_steps=3, steps=max(1, steps // 5), decision_rule="L1")
        attack.initial_const = 1.0  # three rounds do not get from a thousandth to where EAD succeeds
        return attack.run(foolbox.PyTorchModel(Wrapped(model).eval(), bounds=(0, 1)), x, labels)

    return {"foolbox ead": ead}


def measure(run: Run, model: nn.Module, x: Tensor, labels: Tensor, norm: str) -> dict[str, float | None]:
    """The median distance and how many failed, at how many passes."""
    torch.manual_seed(0)
    counted, start = Counted(model), time.process_time()
    z = run(counted, x.clone(), labels.clone()).detach()
    seconds = time.process_time() - start
    with torch.no_grad():
        reached = (model(z).argmax(1) != labels) & ((z >= 0) & (z <= 1)).flatten(1).all(1)
    distance = torch.where(reached, NORMS[norm].size(z - x), torch.inf)
    median = distance.median().item()
    return {
        "median": round(median, 4) if median < torch.inf else None,
        "failed": int((~reached).sum()),
        "passes": round((counted.forward + counted.backward) / len(x), 1),
        "seconds": round(seconds, 2),
    }


def table(network: str, norm: str, curves: dict[str, dict[str, dict[str, float | None]]]) -> Table:
    shown = Table(title=f"{network}, {norm}: median distance (passes an image; failures)")
    budgets = list(next(iter(curves.values())))
    shown.add_column("")
    for budget in budgets:
        shown.add_column(f"{budget} passes", justify="right")
    for name, curve in curves.items():
        cells = [
            f"{'-' if row['median'] is None else format(row['median'], '.4g')} ({row['passes']:.0f}; {row['failed']})"
            for row in curve.values()
        ]
        shown.add_row(f"[bold]{name}[/]" if name == RECOMMENDED else name, *cells)
    return shown


def ahead(curves: dict[str, dict[str, dict[str, float | None]]]) -> dict[str, bool]:
    """For every budget, whether the recommended attack is at or below all peers."""
    result = {}
    for budget, row in curves[RECOMMENDED].items():
        peers = [curve[budget]["median"] for name, curve in curves.items() if not name.startswith("sparring")]
        best = min((float(median) for median in peers if median is not None), default=torch.inf)
        result[budget] = row["median"] is not None and row["median"] <= best
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--budgets", type=int, nargs="+", default=[50, 100, 200, 400, 1000])
    options.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    options.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    given = options.parse_args()
    begin()
    x, labels = digits(given.count)

    before = last("smallest")
    same = before.get("settings") == {"count": given.count, "budgets": given.budgets}
    curves = before["curves"] if same else {}
    for name in given.networks:
        model = published(NETWORKS[name])
        for norm in given.norms:
            found: dict[str, dict[str, dict[str, float | None]]] = {}
            for budget in given.budgets:
                steps = budget // 2
                for who, run in (ours(norm, steps) | adv_lib(norm, steps) | foolbox(norm, steps)).items():
                    found.setdefault(who, {})[str(budget)] = measure(run, model, x, labels, norm)
            curves.setdefault(name, {})[norm] = found
            Console().print(table(name, norm, found))
            Console().print(f"recommended at or below all peers: {ahead(found)}")

    record = {
        "settings": {"count": given.count, "budgets": given.budgets},
        "recommended": RECOMMENDED,
        "at_or_below_all_peers": {
            name: {norm: ahead(found) for norm, found in norms.items()} for name, norms in curves.items()
        },
        "curves": curves,
    }
    save("smallest", record, *PEERS)


if __name__ == "__main__":
    main()
