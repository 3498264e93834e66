"""The learning rate over a training: `(optimizer, steps) -> scheduler`, one step of it an update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from sparring.errors import BadInput
from sparring.limits import below_one, not_negative

Rate = Callable[[Optimizer, int], LRScheduler]


def one_cycle(*, warmup: float = 0.4, momentum: tuple[float, float] | None = (0.85, 0.95)) -> Rate:
    """Up during the share `warmup` of the updates, then down to zero, along cosines (Smith and Topin, 2018).

    The momentum, or Adam's first beta, goes the other way between the two of `momentum`, whatever the optimiser was
    given; with None it stays as given. An optimiser without momentum just gets the rate.

    Raises:
        BadInput: `warmup` is no share, or `momentum` no two of them, the lower first.
    """
    below_one(warmup=warmup)
    low, high = (0.0, 0.0) if momentum is None else _range("momentum", momentum)

    def rate(optimizer: Optimizer, steps: int) -> LRScheduler:
        highest = [float(group["lr"]) for group in optimizer.param_groups]
        total = max(steps, 2)
        share = float(warmup) if warmup * total != 1 else 0.999 * warmup  # torch divides by `warmup * total - 1`
        return OneCycleLR(
            optimizer,
            max_lr=highest,
            total_steps=total,
            pct_start=share,
            cycle_momentum=momentum is not None and _has_momentum(optimizer),
            base_momentum=low,
            max_momentum=high,
        )

    return rate


def flat(*, warmup: float = 0.0) -> Rate:
    """The same all along."""
    return _shaped(lambda share: 1.0, warmup)


def cosine(*, warmup: float = 0.0) -> Rate:
    """Down to zero along half a cosine, without restarts (Loshchilov and Hutter, 2017)."""
    return _shaped(lambda share: (1 + math.cos(math.pi * share)) / 2, warmup)


def piecewise(*, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1, warmup: float = 0.0) -> Rate:
    """Times `factor` at each of these shares of the training (He et al., 2016; Rice et al., 2020)."""
    for share in at:
        below_one(at=share)
    not_negative(factor=factor)
    return _shaped(lambda share: factor ** sum(share >= drop for drop in at), warmup)


RATES: dict[str, Callable[..., Rate]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "piecewise": piecewise,
    "flat": flat,
}


def _shaped(shape: Callable[[float], float], warmup: float) -> Rate:
    """A rate of this shape over the share done, after it has climbed linearly for the share `warmup`."""
    below_one(warmup=warmup)

    def rate(optimizer: Optimizer, steps: int) -> LRScheduler:
        def factor(step: int) -> float:
            share = step / steps
            return shape(share) * (min(1.0, (step + 1) / (warmup * steps)) if warmup else 1.0)

        return LambdaLR(optimizer, factor)

    return rate


def _has_momentum(optimizer: Optimizer) -> bool:
    """Whether there is a momentum to move: an SGD or RMSprop whose momentum is 0 has none."""
    return "betas" in optimizer.defaults or bool(optimizer.defaults.get("momentum"))


def _range(name: str, given: Any) -> tuple[float, float]:
    """Two shares, the lower first."""
    pair = list(given) if isinstance(given, list | tuple) else []
    if len(pair) != 2 or not all(isinstance(one, int | float) for one in pair) or not 0 <= pair[0] <= pair[1] < 1:
        raise BadInput(f"{name} {given}", "two shares below 1, the lower first", "write for example [0.85, 0.95]")
    return float(pair[0]), float(pair[1])
