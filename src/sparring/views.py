"""Views: functions model -> model. An attack on a view is an attack on what the view stands for.

A transfer attack is PGD on an ensemble of surrogates; an adaptive attack on a defence is PGD on the view that the
defence hands out. What a view changes in the outputs, the evaluator judges on the exact model.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sparring.errors import BadInput
from sparring.functions import called
from sparring.search import slope
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
        self.backward += int((gradient != 0).reshape(len(gradient), -1).any(1).sum())


def steady(model: Model, least: int = 16) -> Model:
    """The same model, never called on fewer than `least` rows: the missing ones repeat the last.

    On one thread, torch's CPU kernels give a row the same bits whatever rows surround it, save in very small
    batches, for which they take other routes. Without those, no result depends on the batch size.
    """

    def view(x: Tensor) -> Tensor:
        if not 0 < len(x) < least:
            return model(x)
        with torch._C.DisableTorchFunction():  # who counts the calls inside of a model is to count these alone
            filled = torch.cat([x, x[-1:].expand(least - len(x), *x.shape[1:])])
        outputs = model(filled)
        with torch._C.DisableTorchFunction():
            return outputs[: len(x)]

    return view


def logarithms(model: Model) -> Model:
    """The view of a model of probabilities through which attacks climb: their gradients do not vanish."""
    return lambda x: log_probabilities(model(x))


def log_probabilities(p: Tensor) -> Tensor:
    """The logarithms of probabilities, finite where one is zero."""
    return p.clamp(min=torch.finfo(torch.float32).tiny).log()


def preprocessed(model: Model, transform: Transform) -> Model:
    """The model behind a differentiable transform, as in `model(normalise(x))`."""
    return lambda x: model(transform(x))


class _Stand(torch.autograd.Function):
    """The value of one tensor with the gradient of another, to the last bit; in models that call `torch.vmap` too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, soft: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def stand(value: Tensor, soft: Tensor) -> Tensor:
    """The value of one tensor with the gradient of another, to the last bit."""
    with torch._C.DisableTorchFunction():  # under `mended` no other `detach` cuts anything off
        alone = value.detach()
    stood: Tensor = _Stand.apply(alone, soft.to(value.dtype))  # type: ignore[no-untyped-call]
    return stood


def unchanged(x: Tensor, *rng: Streams) -> Tensor:
    """`x` itself: the stand-in of a transform that changes little."""
    return x


def bpda(transform: Callable[..., Tensor], surrogate: Callable[..., Tensor] = unchanged) -> Callable[..., Tensor]:
    """A transform whose gradient is that of a stand-in, the identity unless told (Athalye et al., 2018, section 4.1).

    `preprocessed(model, bpda(jpeg))` lets gradients through what has none. The values are the transform's own, to the
    last bit. Random transforms have random stand-ins, with the same draws.
    """
    return partial(_bypassed, transform, surrogate)


def _bypassed(transform: Callable[..., Tensor], surrogate: Callable[..., Tensor], x: Tensor, *rng: Streams) -> Tensor:
    with torch.no_grad():
        value = transform(x, *rng)
    return stand(value, surrogate(x, *rng)) if torch.is_grad_enabled() else value


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
        return mean([model(x) for _ in range(draws)])

    return view


def mean(drawn: Sequence[Tensor]) -> Tensor:
    """The mean of tensors, added up in order: that over a stack rounds a number by where it stands in the batch."""
    return _sum(drawn) / len(drawn)


def log_mean(logarithms: Sequence[Tensor]) -> Tensor:
    """The logarithm of the mean of what has these logarithms."""
    return torch.stack(tuple(logarithms)).logsumexp(0) - math.log(len(logarithms))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


def ensemble(models: Sequence[Model], weights: Sequence[float] | None = None) -> Model:
    """The weighted mean of the logits of several models (Dong et al., 2018, section 3.4). Costs a pass of each."""
    shares = weights or [1 / len(models)] * len(models)

    def view(x: Tensor) -> Tensor:
        return _sum([share * model(x) for share, model in zip(shares, models, strict=True)])

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
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, beta: float) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.beta = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * torch.sigmoid(ctx.beta * x), None


class _SmoothPool(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, temperature: float, window: dict[str, Any]) -> Tensor:
        pooled: Tensor = functional.max_pool2d(x, **window)
        return pooled

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.temperature, ctx.window = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x, pooled), (g,) = ctx.saved_tensors, gradients
        kernel, padding, dilation = (
            _pair(ctx.window.get(name, usual)) for name, usual in (("kernel_size", 1), ("padding", 0), ("dilation", 1))
        )
        stride = _pair(ctx.window.get("stride") or kernel)
        whole = tuple(n * k for n, k in zip(g.shape[-2:], kernel, strict=True)) == tuple(x.shape[-2:])
        if whole and stride == kernel:
            return _shared_tiles(x, pooled, g, ctx.temperature), None, None
        return _shared(x, g, ctx.temperature, kernel, stride, padding, dilation), None, None


Pair = tuple[int, int]


def _shared_tiles(x: Tensor, pooled: Tensor, g: Tensor, temperature: float) -> Tensor:
    """The gradient of each window, shared over it, where windows are tiles."""
    (height, width), (down, across) = pooled.shape[-2:], (x.shape[i] // pooled.shape[i] for i in (-2, -1))
    tiles = x.reshape(-1, height, down, width, across)
    share = (tiles - pooled.reshape(-1, height, 1, width, 1)).mul_(temperature).exp_()
    return share.mul_(g.reshape(-1, height, 1, width, 1) / share.sum((2, 4), keepdim=True)).view_as(x)


def _shared(  # noqa: PLR0917  (those of the pooling)
    x: Tensor, g: Tensor, temperature: float, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """The gradient of each window, shared over it, and added up where windows overlap."""
    spans = zip(g.shape[-2:], stride, dilation, kernel, strict=True)
    reach = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in spans]
    after = [max(r - n - p, 0) for r, n, p in zip(reach, x.shape[-2:], padding, strict=True)]
    frame = (padding[1], after[1], padding[0], after[0])
    padded = functional.pad(x.reshape(-1, 1, *x.shape[-2:]), frame, value=-torch.inf)
    columns = functional.unfold(padded, kernel, dilation=dilation, stride=stride)
    shares = (temperature * columns).softmax(1) * g.reshape(len(columns), 1, -1)
    spread = functional.fold(shares, padded.shape[2:], kernel, dilation=dilation, stride=stride)
    return functional.pad(spread, [-side for side in frame]).view_as(x)


def _pair(size: int | Sequence[int]) -> Pair:
    first, second = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return first, second


class _Smooth(TorchFunctionMode):
    """While active, ReLU and max-pooling go forward as ever, and backward smoothly."""

    WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(self, beta: float, temperature: float) -> None:
        super().__init__()
        self.beta, self.temperature = beta, temperature

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, called(func)
        if name in ("relu", "relu_") and torch.is_grad_enabled():
            given = dict(zip(("input", "inplace"), args, strict=False)) | kwargs
            return self._relu(**{"inplace": name == "relu_"} | given)
        if name == "max_pool2d" and self.temperature and torch.is_grad_enabled():
            return self._pool(**dict(zip(("input", *self.WINDOW), args, strict=False)) | kwargs)
        return func(*args, **kwargs)

    def _relu(self, input: Tensor, inplace: bool) -> Any:  # noqa: A002  (torch's own name)
        if not inplace:
            return _SmoothReLU.apply(input, self.beta)  # type: ignore[no-untyped-call]
        # What comes after may read the input again, as residual blocks do: it is to hold what ReLU leaves there.
        return input.copy_(_SmoothReLU.apply(input.clone(), self.beta))  # type: ignore[no-untyped-call]

    def _pool(self, input: Tensor, **window: Any) -> Any:  # noqa: A002  (torch's own name)
        return _SmoothPool.apply(input, self.temperature, window)  # type: ignore[no-untyped-call]


class settled(partial[Any]):  # noqa: N801  (reads as the function it settles)
    """A function with some of its settings filled in by name, equal to any other with the same, as attacks must be.

    `settled(blurred, size=7)` is a view, `settled(faded, by=2.0)` a random transform.
    """

    def __eq__(self, other: object) -> bool:
        """The same function, with the same settings."""
        return isinstance(other, settled) and (self.func, self.keywords) == (other.func, other.keywords)

    def __hash__(self) -> int:
        return hash((self.func, frozenset(self.keywords.items())))

    def __repr__(self) -> str:
        """The call, in words: the same in every process."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.keywords.items())
        return f"{self.func.__name__}({settings})"


def pulled(model: Model, change: Callable[[Tensor, Tensor], Tensor]) -> Model:
    """The same outputs, another pullback: the input's gradient `g` at `x` becomes `change(g, x)`."""

    def view(x: Tensor) -> Tensor:
        point = x.view_as(x)
        if point.requires_grad:
            point.register_hook(lambda g: change(g, x.detach()))  # type: ignore[no-untyped-call]
        return model(point)

    return view


def blurred(model: Model, *, size: int = 7) -> Model:
    """The same outputs, gradients blurred by a Gaussian window of `size` pixels, three deviations to its edge.

    The mean gradient of the image's shifted copies, weighted by how little they are shifted (Dong et al., 2019,
    section 3.2), in one pass. Images `(B, C, H, W)`; beyond them gradients are zero. `size` is odd.
    """
    if size < 1 or size % 2 == 0:
        raise BadInput(f"a window of {size} pixels", "an odd number, one or more", "give the blur another size")
    bell = [math.exp(-0.5 * (6 * k / (size - 1) - 3) ** 2) if size > 1 else 1.0 for k in range(size)]
    edge = size // 2

    def smooth(g: Tensor, _: Tensor) -> Tensor:
        # By sums of shifted rows and columns: a convolution's rounding would depend on the batch.
        height, width = g.shape[2:]
        for padding, axis, length in (((0, 0, edge, edge), 2, height), ((edge, edge), 3, width)):
            wide = functional.pad(g, padding)
            g = sum((share / sum(bell) * wide.narrow(axis, k, length) for k, share in enumerate(bell)), 0 * g)
        return g

    return pulled(model, smooth)


def boxed(model: Model, *, low: float = 0.0, high: float = 1.0) -> Model:
    """The same outputs, gradients without what leads out of the box: coordinates at a bound that would pass it.

    For steps that choose coordinates: those that cannot move are no choice (Tramer and Boneh, 2019). The pullback is
    taken for one of a loss that climbs.
    """

    def inward(g: Tensor, x: Tensor) -> Tensor:
        return g.masked_fill(((x <= low) & (g < 0)) | ((x >= high) & (g > 0)), 0)

    return pulled(model, inward)


def shrink_each(x: Tensor, rng: Streams, *, smallest: float = 0.9, black: float = 0.0) -> Tensor:
    """Shrink every image of `(B, C, H, W)` to a random size of its own, and put it at a random place on black.

    Input diversity (Xie et al., 2019), drawn for each row, as attacks need it; `shrink_and_pad` draws for the batch.
    """
    ratio, down, right = rng.uniform(3, device=x.device).to(x.dtype).unbind(1)
    scale = smallest + (1 - smallest) * ratio
    grids, insides = [], []
    for length, place in ((x.shape[2], down), (x.shape[3], right)):
        small = (length * scale).round().clamp(min=1)
        first = (place * (length - small + 1)).floor()
        at = torch.arange(length, device=x.device) - first.unsqueeze(1)  # where a pixel lies in the small image
        small = small.unsqueeze(1)
        grids.append((2 * at + 1) / small - 1)
        insides.append((at >= 0) & (at < small))
    grid = torch.stack(
        [grids[1].unsqueeze(1).expand(-1, x.shape[2], -1), grids[0].unsqueeze(2).expand(-1, -1, x.shape[3])], 3
    )
    shrunk = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    inside = (insides[0].unsqueeze(2) & insides[1].unsqueeze(1)).unsqueeze(1)
    return torch.where(inside, shrunk, black)


def eot_until(model: Model, *, draws: int = 8, most: int = 64, agree: float = 0.8) -> Model:
    """The mean outputs over `draws` calls of a random model, and gradients over as many as their noise asks for.

    Expectation over transformation (Athalye et al., 2018) whose pullback draws until the means of two independent
    halves of the draws, in every row, are at a cosine of `agree` (0.8: about 0.94 between their mean and the truth,
    where the noise has no direction), or `most` draws are spent; their number doubles, and rows that agree draw no
    more. Costs `draws` forward and 2 to `draws` backward passes, then up to `most - draws` of both. A model without
    noise agrees at once.
    """
    if not 2 <= draws <= most:
        raise BadInput(f"{draws} draws of at most {most}", "two or more, and no more than that", "give other draws")

    def view(x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return eot(model, draws)(x)
        outputs: Tensor = _Expected.apply(x, model, draws, (most, agree))  # type: ignore[no-untyped-call]
        return outputs

    return view


class _Expected(torch.autograd.Function):
    """The mean of a random model's outputs; its pullback draws as often as two halves disagree."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Model, draws: int, until: tuple[int, float]) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            ctx.drawn = [model(point) for _ in range(draws)]
        ctx.point, ctx.model, (ctx.most, ctx.agree) = point, model, until
        middle = mean([outputs.detach() for outputs in ctx.drawn])
        if not all(outputs.requires_grad for outputs in ctx.drawn):
            ctx.mark_non_differentiable(middle)
        return middle

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        point, weight, open_rows = ctx.point, gradients[0], torch.arange(len(ctx.point), device=ctx.point.device)
        halves, spent, drawn = torch.zeros(2, *point.shape).to(point), torch.ones(len(point)).to(point), 0
        while len(open_rows) and drawn < ctx.most:
            until = min(max(2, 2 * drawn), ctx.most)
            for k in range(drawn, until):
                halves[k % 2, open_rows] += _Expected.pull(ctx, k, weight, open_rows)
            drawn = until
            spent[open_rows] = drawn
            one, other = halves[:, open_rows].flatten(2).double()
            sizes = (one.square().sum(1) * other.square().sum(1)).sqrt()
            open_rows = open_rows[(one * other).sum(1) < ctx.agree * sizes]  # where both are zero, no draw would help
        return halves.sum(0) / spent.view(-1, *[1] * (point.dim() - 1)), None, None, None

    @staticmethod
    def pull(ctx: Any, k: int, weight: Tensor, open_rows: Tensor) -> Tensor:
        """The gradient of draw `k` in the open rows: one of those that the outputs are made of, or another."""
        with torch.enable_grad():
            if k < len(ctx.drawn):
                chosen = torch.zeros_like(weight).index_copy_(0, open_rows, weight[open_rows])
                gradient = slope(ctx.drawn[k], ctx.point, chosen)[open_rows]
            else:
                point = ctx.point.detach()[open_rows].requires_grad_()
                gradient = slope(ctx.model(point), point, weight[open_rows])
        return gradient
