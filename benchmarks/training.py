"""What adversarial training costs on top of its passes, and what an epoch costs here and elsewhere, in one thread.

A step of training with PGD-k is k passes forward and backward to the inputs, and one to the weights. The limit is just
these, bare: no projection, no random start, no move; of the network as it comes, and laid out as the trainer does it
(`alike`), as Sparring's step is. (All contestants take the optimiser's step.) Then whole epochs
at equal settings: the trainer with averaged weights and all, ART's `AdversarialTrainerMadryPGD`, and the loop of MAIR:
torchattacks' PGD on the network in evaluation mode, then a step. Epochs are long enough for what a trainer does once
(copy the network, read the data) not to count. Contestants take turns in changing order, so that a busy machine slows
all alike. Writes `results/training.json` beside this file.

    python benchmarks/training.py [--rounds 9] [--steps 7] [--batch 128] [--examples 2048] [--only step]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from record import begin, last, save
from rich.console import Console
from rich.table import Table
from throughput import measure
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from sparring.allocator import keep_freed
from sparring.data.arrays import Arrays
from sparring.networks import slim_cnn, wong_cnn
from sparring.streams import Streams
from sparring.threats import linf
from sparring.training import adversarial, inner_pgd
from sparring.training.layout import channels_last, gradients_alike
from sparring.training.trainer import Trainer

PEERS = ("lightning-fabric", "torchattacks", "adversarial-robustness-toolbox")
NETWORKS: dict[str, Callable[[], nn.Module]] = {"wong_cnn": wong_cnn, "slim_cnn": slim_cnn}
THREAT = linf(0.3)
LIMIT = 1.05
"""The most that a step of training may cost, in bare passes."""

Rows = dict[str, dict[str, float]]
"""Numbers by network."""


def steps_of_training(make: Callable[[], nn.Module], batch: int, steps: int) -> dict[str, Callable[[], object]]:
    """One update of each contestant, the limits first."""
    x = Streams.of(0, range(batch)).uniform(1, 28, 28)
    labels, rng = torch.arange(batch) % 10, Streams.of(0, range(batch))

    def update(network: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Callable[[], object]:
        optimiser = Adam(network.parameters(), lr=1e-6)  # both networks stay what they are: untrained

        def once() -> None:
            optimiser.zero_grad()
            loss(network).backward()
            optimiser.step()

        return once

    def bare(network: nn.Module) -> Tensor:
        for _ in range(steps):
            z = x.detach().requires_grad_()
            torch.autograd.grad(functional.cross_entropy(network(z), labels, reduction="sum"), z)
        return functional.cross_entropy(network(x), labels)

    objective = adversarial(THREAT, partial(inner_pgd, steps=steps))

    def laid_out(loss: Callable[[nn.Module], Tensor]) -> Callable[[], object]:
        network = channels_last(make().train(), x[:1])
        once = update(network, loss)

        def within() -> None:
            with gradients_alike(network):
                once()

        return within

    return {
        "limit": update(make().train(), bare),
        "alike": laid_out(bare),
        "sparring": laid_out(lambda network: objective(network, x, labels, 1.0, rng)),
    }


def epochs(make: Callable[[], nn.Module], batch: int, steps: int, examples: int) -> dict[str, Callable[[], object]]:
    """One epoch of each contestant."""
    x = Streams.of(0, range(examples)).uniform(1, 28, 28)
    labels = torch.arange(examples) % 10
    data = Arrays("noise", x, labels)
    objective = adversarial(THREAT, partial(inner_pgd, steps=steps))
    size = 2.5 * THREAT.eps / steps

    def sparring() -> object:
        return Trainer(epochs=1, batch_size=batch, lr=1e-6, ramp=lambda progress: 1.0)(make(), data, objective)

    found: dict[str, Callable[[], object]] = {"sparring": sparring}
    try:
        import torchattacks

        def mair() -> None:
            network = make().train()
            optimiser = Adam(network.parameters(), lr=1e-6)
            attack = torchattacks.PGD(network, eps=THREAT.eps, alpha=size, steps=steps, random_start=True)
            for rows in torch.randperm(examples).split(batch):
                z = attack(x[rows], labels[rows])
                network.train()
                optimiser.zero_grad()
                functional.cross_entropy(network(z), labels[rows]).backward()
                optimiser.step()

        found["mair"] = mair
    except ImportError:
        pass
    try:
        from art.defences.trainer import AdversarialTrainerMadryPGD
        from art.estimators.classification import PyTorchClassifier

        inputs, targets = x.numpy(), functional.one_hot(labels, 10).float().numpy()

        def art() -> None:
            network = make()
            classifier = PyTorchClassifier(
                network,
                nn.CrossEntropyLoss(),
                (1, 28, 28),
                10,
                optimizer=Adam(network.parameters(), lr=1e-6),
                clip_values=(0, 1),
                device_type="cpu",
            )
            settings = {"eps": THREAT.eps, "eps_step": size, "max_iter": steps, "num_random_init": 1}
            trainer = AdversarialTrainerMadryPGD(classifier, nb_epochs=1, batch_size=batch, **settings)
            trainer.fit(inputs, targets)

        found["art"] = art
    except ImportError:
        pass
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--steps", type=int, default=7)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--examples", type=int, default=2048)
    options.add_argument(
        "--only", choices=["step", "epoch"], help="this alone; the other stays as it was measured last"
    )
    given = options.parse_args()
    begin()
    keep_freed()
    record = last("training") | {
        "settings": vars(given) | {"threads": 1, "eps": THREAT.eps, "limit": LIMIT},
        "measured": time.strftime("%Y-%m-%d"),
    }
    if given.only != "epoch":
        record["step"] = time_steps(given)
    if given.only != "step":
        record["epoch"], record["epoch_of_peers"] = time_epochs(given)
    save("training", record, *PEERS)


def time_steps(given: argparse.Namespace) -> Rows:
    """A step of both contestants on each network."""
    rows = {}
    table = Table(title=f"A step of training with PGD-{given.steps}, batch {given.batch}, one thread")
    for column in ("", "bare, seconds", "alike", "sparring", "times bare, median", "times alike", f"at most {LIMIT}"):
        table.add_column(column, justify="left" if not column else "right")
    for name, make in NETWORKS.items():
        seconds = measure(steps_of_training(make, given.batch, given.steps), 8 * given.rounds)
        best = {who: round(min(times), 4) for who, times in seconds.items()}
        shares = {
            limit: round(statistics.median(b / a for a, b in zip(seconds[limit], seconds["sparring"], strict=True)), 3)
            for limit in ("limit", "alike")
        }
        rows[name] = {"bare": best["limit"], "bare_alike": best["alike"], "sparring": best["sparring"]}
        rows[name] |= {"of_bare": shares["limit"], "of_bare_alike": shares["alike"]}
        cells = (f"{cell:.3f}" for cell in (*best.values(), *shares.values()))
        table.add_row(name, *cells, "yes" if shares["alike"] <= LIMIT else "no")
    Console().print(table)
    return rows


def time_epochs(given: argparse.Namespace) -> tuple[Rows, Rows]:
    """The seconds of an epoch of all contestants on each network, and Sparring's as shares of its peers'."""
    table = Table(title=f"An epoch of {given.examples} examples with PGD-{given.steps}: seconds, best of the rounds")
    contestants = {name: epochs(make, given.batch, given.steps, given.examples) for name, make in NETWORKS.items()}
    who = list(next(iter(contestants.values())))
    for column in ("", *who, *(f"of {peer}'s, median" for peer in who[1:])):
        table.add_column(column, justify="left" if not column else "right")
    whole, shares = {}, {}
    for name, timed in contestants.items():
        seconds = measure(timed, given.rounds)
        whole[name] = {one: round(min(times), 3) for one, times in seconds.items()}
        shares[name] = {
            peer: round(statistics.median(a / b for a, b in zip(seconds["sparring"], seconds[peer], strict=True)), 3)
            for peer in who[1:]
        }
        table.add_row(name, *(f"{cell:.2f}" for cell in (*whole[name].values(), *shares[name].values())))
    Console().print(table)
    return whole, shares


if __name__ == "__main__":
    main()
