"""How much of the machine an attack turns into passes: 40 steps of PGD in one thread, ours and the peers', in one run.

The limit is a bare loop of as many forward and backward passes with a sign step after each: no projection, no random
start, nothing judged. (Sparring also judges the first and the last point: two forward passes more.) Contestants take
turns in changing order, so that a busy machine slows all alike. Early exit is shown for what it is worth on a network
that breaks at once, which this untrained one does. Writes `results/throughput.json` beside this file.

    python benchmarks/throughput.py [--rounds 15] [--steps 40] [--batch 64]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from record import begin, save
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from sparring.allocator import keep_freed
from sparring.attacks import PGD, Grid, pgd
from sparring.goals import Never, Untargeted
from sparring.steps import ascent, chain, scale
from sparring.streams import Streams
from sparring.threats import linf

PEERS = ("foolbox", "torchattacks", "adversarial-robustness-toolbox")
EPS = 8 / 255


def small_cnn() -> nn.Module:
    """Three convolutions and a linear layer: small enough for overhead to show."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(4096, 10)).eval()


def contestants(model: nn.Module, x: Tensor, labels: Tensor, steps: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name: the limit first."""
    size = 4 * EPS / steps

    def limit() -> Tensor:
        z = x
        for _ in range(steps):
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(model(z), labels, reduction="sum"), z)
            # a full step, unprojected, would soon saturate the softmax, whose tiny numbers the processor is slow at
            z = z.detach() + 1e-3 * size * gradient.sign()
        return z

    threat = linf(EPS)
    attack = PGD(threat=threat, step=chain(ascent(threat.norm), scale(size)), steps=steps)
    rng = Streams.of(0, range(len(x)))
    sizes = tuple(EPS * k / 4 for k in (1, 2, 3, 4, 5))
    grid = Grid(make=partial(pgd, steps=steps), ball=threat, sizes=sizes)
    return {
        "limit": limit,
        "sparring": lambda: attack(model, x, Never(labels), rng),
        "sparring, early exit": lambda: attack(model, x, Untargeted(labels), rng),
        "sparring, 5 eps values": lambda: grid(model, x, Untargeted(labels), rng),
        **peers(model, x, labels, steps, size),
    }


def peers(model: nn.Module, x: Tensor, labels: Tensor, steps: int, size: float) -> dict[str, Callable[[], object]]:
    """The same attack in other libraries, where they are installed."""
    found: dict[str, Callable[[], object]] = {}
    try:
        import foolbox

        attack = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps, random_start=True)
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
        found["foolbox"] = lambda: attack.run(wrapped, x, labels, epsilon=EPS)
    except ImportError:
        pass
    try:
        import torchattacks

        pgd = torchattacks.PGD(model, eps=EPS, alpha=size, steps=steps, random_start=True)
        found["torchattacks"] = lambda: pgd(x, labels)
    except ImportError:
        pass
    try:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), x.shape[1:], 10, clip_values=(0, 1), device_type="cpu"
        )
        settings = {"eps": EPS, "eps_step": size, "max_iter": steps, "num_random_init": 1, "batch_size": len(x)}
        art = ProjectedGradientDescent(classifier, **settings, verbose=False)
        inputs, targets = x.numpy(), labels.numpy()
        found["art"] = lambda: art.generate(inputs, targets)
    except ImportError:
        pass
    return found


def measure(timed: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every contestant in every round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    for round_ in range(rounds + 1):
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            start = time.process_time()
            timed[name]()
            if round_:
                seconds[name].append(time.process_time() - start)
    return seconds


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--steps", type=int, default=40)
    options.add_argument("--batch", type=int, default=64)
    given = options.parse_args()
    begin()
    keep_freed()

    model = small_cnn()
    x = Streams.of(0, range(given.batch)).uniform(3, 32, 32)
    with torch.no_grad():
        labels = model(x).argmax(1)
    seconds = measure(contestants(model, x, labels, given.steps), given.rounds)
    rows = {
        name: {
            "seconds": round(min(times), 4),
            "of_the_limit": round(statistics.median(a / b for a, b in zip(seconds["limit"], times, strict=True)), 3),
            "best_of_the_limit": round(min(seconds["limit"]) / min(times), 3),
        }
        for name, times in seconds.items()
    }
    table = Table(title=f"PGD, {given.steps} steps, batch of {given.batch} x 3 x 32 x 32, one thread")
    for column in ("", "seconds, best", "limit / time, median of rounds", "limit / time, best of each"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in rows.items():
        table.add_row(name, f"{row['seconds']:.3f}", f"{row['of_the_limit']:.2f}", f"{row['best_of_the_limit']:.2f}")
    Console().print(table)

    record = {
        "settings": vars(given) | {"threads": 1, "eps": EPS},
        "contestants": rows,
    }
    save("throughput", record, *PEERS)


if __name__ == "__main__":
    main()
