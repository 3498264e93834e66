"""Views: functions model -> model. An attack on a view is an attack on what the view stands for.

A transfer attack is PGD on an ensemble of surrogates; an adaptive attack on a defence is PGD on the view that the
defence hands out. What a view changes in the outputs, the evaluator judges on the exact model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

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


def smoothed(model: Model, beta: float = 25.0, temperature: float = 0.0) -> Model:
    """The same outputs, another pullback: ReLU passes `sigmoid(beta x)` of a gradient, where its own is 0 or 1.

    Robust networks stall gradient attacks where inactive units pass nothing (smoothed backward passes were proposed
    for transfer by Wang et al., 2023). With `temperature`, max-pooling too shares its gradient over the window, by
    `softmax(temperature x)`. Works on any torch model that calls the functions of torch, modules included; anything
    else comes through unchanged.
    """

    def view(x: Tensor) -> Tensor:
        with _Smooth(beta, temperature):
            return model(x)

    return view


class _SmoothReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.beta = beta
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * torch.sigmoid(ctx.beta * x), None


class _Smooth(TorchFunctionMode):
    """While active, ReLU and max-pooling go forward as ever, and backward smoothly."""

    RELU = (functional.relu, functional.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
    POOL = (functional.max_pool2d, torch.max_pool2d)

    def __init__(self, beta: float, temperature: float) -> None:
        super().__init__()
        self.beta, self.temperature = beta, temperature

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.RELU and torch.is_grad_enabled():
            return _SmoothReLU.apply(args[0], self.beta)  # type: ignore[no-untyped-call]
        if func in self.POOL and self.temperature and torch.is_grad_enabled():
            return bpda(lambda x: func(x, *args[1:], **kwargs), self._soft_pool(args, kwargs))(args[0])
        return func(*args, **kwargs)

    def _soft_pool(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Transform:
        """The mean of each window, weighted by softmax: `mean(x e^(t x)) / mean(e^(t x))`."""
        window = dict(zip(("kernel_size", "stride", "padding"), args[1:], strict=False)) | {
            key: value for key, value in kwargs.items() if key in ("kernel_size", "stride", "padding")
        }

        def pool(x: Tensor) -> Tensor:
            weight = torch.exp(
                self.temperature * (x - x.detach().amax((2, 3), keepdim=True)).clamp(min=-60 / self.temperature)
            )
            total = functional.avg_pool2d(weight, **window)
            return functional.avg_pool2d(weight * x, **window) / total.clamp(min=1e-30)

        return pool
