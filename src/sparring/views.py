"""Views: functions model -> model. An attack on a view is an attack on what the view stands for.

A transfer attack is PGD on an ensemble of surrogates; an adaptive attack on a defence is PGD on the view that the
defence hands out. What a view changes in the outputs, the evaluator judges on the exact model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparring.streams import Streams
from sparring.types import Model

Transform = Callable[[Tensor], Tensor]
RandomTransform = Callable[[Tensor, Streams], Tensor]


class Counted:
    """The same model, with its passes counted: one example through it once is 1, forward or backward.

    A backward pass counts for the rows whose outputs are given a gradient: a row that has reached its goal asks for
    none, though it may travel along with the others.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.forward, self.backward = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        outputs = self.model(x)
        self.forward += len(x)
        if outputs.requires_grad:
            outputs.register_hook(self._count)  # type: ignore[no-untyped-call]
        return outputs

    def _count(self, gradient: Tensor) -> None:
        self.backward += int((gradient != 0).flatten(1).any(1).sum())


def steady(model: Model, least: int = 16) -> Model:
    """The same model, never called on fewer than `least` rows: the missing ones repeat the last.

    On one thread, torch's CPU kernels give a row the same bits whatever rows surround it, save in very small
    batches, for which they take other routes. Without those, no result depends on the batch size.
    """

    def view(x: Tensor) -> Tensor:
        short = least - len(x)
        return model(x) if short <= 0 else model(torch.cat([x, x[-1:].expand(short, *x.shape[1:])]))[: len(x)]

    return view


def preprocessed(model: Model, transform: Transform) -> Model:
    """The model behind a differentiable transform, as in `model(normalise(x))`."""
    return lambda x: model(transform(x))


def bpda(transform: Transform, surrogate: Transform = lambda x: x) -> Transform:
    """A transform whose gradient is that of a stand-in, the identity unless told (Athalye et al., 2018, section 4.1).

    `preprocessed(model, bpda(jpeg))` lets gradients through what has none.
    """

    def through(x: Tensor) -> Tensor:
        stand_in = surrogate(x)
        return stand_in + (transform(x) - stand_in).detach()

    return through


def randomised(model: Model, transform: RandomTransform, rng: Streams) -> Model:
    """The model behind a random transform, `model(transform(x, rng))`, drawn anew at every call.

    A draw is for the whole batch and depends on the count of calls alone, so that it is the same for a row whatever
    rows are beside it. Make a view for each run: the count belongs to it. `rng` has one row.
    """
    calls = itertools.count()

    def view(x: Tensor) -> Tensor:
        return model(transform(x, rng.at(next(calls))))

    return view


def eot(model: Model, draws: int) -> Model:
    """The mean outputs over `draws` calls of a random model: expectation over transformation.

    Athalye et al. (2018), section 4.2. Costs `draws` passes a pass.
    """
    if draws < 1:
        raise ValueError(f"eot needs one draw or more, not {draws}")

    def view(x: Tensor) -> Tensor:
        return torch.stack([model(x) for _ in range(draws)]).mean(0)

    return view


def ensemble(models: Sequence[Model], weights: Sequence[float] | None = None) -> Model:
    """The weighted mean of the logits of several models (Dong et al., 2018, section 3.4). Costs a pass of each."""
    shares = weights or [1 / len(models)] * len(models)

    def view(x: Tensor) -> Tensor:
        return torch.stack([share * model(x) for share, model in zip(shares, models, strict=True)]).sum(0)

    return view


def shrink_and_pad(x: Tensor, rng: Streams, *, smallest: float = 0.9, share: float = 0.5) -> Tensor:
    """With chance `share`, shrink images `(B, C, H, W)` to a random size and put them at a random place on black.

    Input diversity (Xie et al., 2019): `randomised(model, shrink_and_pad, rng)` gives gradients that transfer better.
    """
    coin, ratio, down, right = rng.uniform(4)[0].tolist()
    if coin >= share:
        return x
    height, width = x.shape[2:]
    scale = smallest + (1 - smallest) * ratio
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    top, left = int(down * (height - small[0] + 1)), int(right * (width - small[1] + 1))
    shrunk = functional.interpolate(x, size=small, mode="bilinear", align_corners=False)
    return functional.pad(shrunk, (left, width - small[1] - left, top, height - small[0] - top))
