"""Examples held out of training: how they are attacked while it goes on, and what a network is worth on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks import fgsm, pgd
from sparring.attacks.within import Within
from sparring.errors import BadInput
from sparring.goals import Untargeted
from sparring.models.victim import inference
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Data


def ten_steps(threat: Ball) -> Attack:
    """PGD in ten steps."""
    return pgd(threat, steps=10)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Examples held out of training, and the attack that they are put to after every so many epochs.

    `keep_best` returns the weights of the highest robust accuracy on them, and `patience` ends training after so many
    measurements without a higher one (early stopping: Rice et al., 2020). Measured are the weights that would be
    returned, and, for the alarms, those in training: about `2 (steps + 3)` passes an example. What the attack finds
    outside of the threat breaks nothing.

    Raises:
        BadInput: no examples, or an `every` or a `patience` below 1.
    """

    data: Data
    threat: Ball
    attack: Callable[[Ball], Attack] = ten_steps
    every: int = 1
    keep_best: bool = True
    patience: int | None = None

    def __post_init__(self) -> None:
        if not len(self.data):
            raise BadInput(
                f"no examples held out ({self.data.name})", "at least 1", "leave validation out, or give some"
            )
        for name, value in (("every", self.every), ("patience", self.patience)):
            if value is not None and value < 1:
                raise BadInput(f"{name} = {value}", "1 or more", f"give a larger {name}")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a network was worth on examples held out; the first of them, before and under attack."""

    clean: float
    robust: float
    single_step: float
    constant: float
    x: Tensor
    z: Tensor


def measure(
    network: nn.Module,
    *,
    validation: Validation,
    seed: int,
    device: torch.device,
    single_step: bool = False,
    batch: int = 250,
    shown: int = 16,
) -> Measured:
    """Accuracies on the examples held out: as they are, under attack and, where asked for, under a single step."""
    attack, step = Within(attack=validation.attack(validation.threat)), fgsm(validation.threat)
    right = torch.zeros(3, dtype=torch.float64)
    answers, pictures = [], []
    with inference(network):
        for start in range(0, len(validation.data), batch):
            rows = range(start, min(start + batch, len(validation.data)))
            x, labels = (part.to(device) for part in validation.data.take(rows))
            goal, rng = Untargeted(labels), Streams.of(seed, rows).at("validation")
            z = attack(network, x, goal, rng)
            points = [x, z, step(network, x, goal, rng)] if single_step else [x, z]
            with torch.no_grad():
                decided = [network(point).argmax(1) for point in points]
            right[: len(points)] += torch.stack([(one == labels).double().sum() for one in decided]).cpu()
            answers.append(decided[0].cpu())
            pictures.append((x, z))
    clean, robust, single = (right / len(validation.data)).tolist()
    counts = torch.cat(answers).bincount()
    x, z = pictures[0]
    constant = float(counts.max() / counts.sum())
    return Measured(clean=clean, robust=robust, single_step=single, constant=constant, x=x[:shown], z=z[:shown])
