"""How fast the outputs of a network can change, in L2: a bound for every pair of classes, that holds everywhere.

All differences `h(x) - h(x')` of a layer's values, for inputs one apart, lie in an ellipsoid, that of a matrix C:

    { C^(1/2) u : |u| <= 1 }

It begins as the unit ball, C = 1, and is walked through the network. A linear map W takes C to `W C W^T`. Units whose
slopes lie between 0 and 1 obey `d' (d - d') >= 0` each; for any weights `1 / T > 0` of these (Fazlyab et al., 2019)

    C' = T (2 T - C)^(-1) T        with 2 T - C positive definite

holds all d', layer by layer (Xu and Sivaranjani, 2024). T is what is chosen. In the end the difference of two logits
changes by `sqrt(C_cc - 2 C_cj + C_jj)` at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.certify.graph import Affine, Concat, Graph, Map, MaxPool, Rectifier, Sigmoid, Softplus, Sum, classes
from sparring.certify.reading import among, graph
from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.steps import adam
from sparring.types import Model

WIDEST = 1024
"""Values of a layer, at most: matrices of their square are inverted at every step."""

SLACK = 1e-6
"""Put on top, relative, for the rounding of the bounds themselves, in float64."""

CANCELLED = 1e-12
"""Put on top of the square of a difference, relative to the squares that it is of: what float64 rounds of these."""

LEAST = 1e-100
"""Squares are taken for this at least: of what is zero there is no logarithm."""

ROUNDED = 1e-4
"""Taken off a lead, relative to the largest score, for what float32 rounds in the network: a thousand of its units."""

BY_VOTES = "leave slopes out: smooth by votes alone"
"""What to do where there are none."""


@dataclass(frozen=True)
class Slopes:
    """How much `logit_c - logit_j` changes at most where the input moves by one in L2: `(K, K)`, any where c is j.

    Raises:
        BadInput: not a square of finite numbers above zero.
    """

    between: Tensor = field(repr=False, compare=False)
    greatest: float = field(init=False)

    def __post_init__(self) -> None:
        given = self.between.detach().double().cpu()
        square = given.dim() == 2 and given.shape[0] == given.shape[1] >= 2
        pairs = given[~torch.eye(len(given), dtype=torch.bool)] if square else given
        if not (square and bool((pairs.isfinite() & (pairs > 0)).all())):
            raise BadInput(
                f"slopes of shape {tuple(given.shape)}",
                "a finite number above zero for every two classes, (K, K)",
                "let sparring.certify.slopes find them",
            )
        object.__setattr__(self, "between", given)
        object.__setattr__(self, "greatest", float(pairs.max()))

    def __repr__(self) -> str:
        """To the digits that are the same with any number of threads: a run is known again by this."""
        return f"Slopes(greatest={self.greatest:.6g})"

    def distances(self, scores: Tensor, answer: int) -> Tensor:
        """How far inputs with these scores are from another answer at least, `(B,)` float64: below zero, unknown.

        Raises:
            BadInput: scores of more classes, or fewer, or of half precision.
        """
        if scores.dtype in {torch.float16, torch.bfloat16}:  # ROUNDED is less than what these lose
            raise BadInput(f"slopes for scores of {scores.dtype}", "float32", BY_VOTES)
        if scores.shape[1] != len(self.between):
            given = f"slopes of {len(self.between)} classes for scores of {scores.shape[1]}"
            raise BadInput(given, "slopes of the model that is called", "let sparring.certify.slopes find them")
        scores = scores.double().cpu()
        lead = scores[:, [answer]] - scores - ROUNDED * scores.abs().amax(1, keepdim=True)
        others = torch.arange(scores.shape[1]) != answer
        return (lead[:, others] / self.between[answer, others]).amin(1)


def slopes(model: Model | Graph, x: Tensor, *, steps: int = 60) -> Slopes:
    """Bounds of how fast differences of logits change, anywhere, for a network as certificates read it.

    `x`, `(B, *shape)`, are inputs like those to come. T begins as a ball's, and climbs down the geometric mean over all
    pairs by `steps` of Adam; any T gives bounds, and of each pair the least is kept. A step costs the inverse of a
    matrix as wide as each layer, and its gradient: the cube of the width.

    Raises:
        BadInput: what `sparring.certify.graph` refuses; a layer of more than 1024 values; scores of which float32
            rounds too much away, on `x` or between, or slopes that float64 cannot hold.
    """
    net = graph(model, x)
    count = classes(net)
    tried = torch.cat([x, among(x)])
    with inference(net.source), torch.no_grad():
        exact = net(tried)
        gap = float((exact - (net.source or net)(tried)).abs().max())
    if not gap <= ROUNDED / 2 * float(exact.abs().max()):
        raise BadInput(f"scores of which float32 rounds {gap:.1g} away", "less lost to rounding", BY_VOTES)
    widest = max(math.prod(net.size(k)) for k in range(len(net.nodes) + 1))
    if widest > WIDEST:
        raise BadInput(f"a layer of {widest} values", f"{WIDEST} at most", BY_VOTES)
    c, j = torch.triu_indices(count, count, 1)
    logs: dict[int, Tensor] = {}

    def ball(k: int, inside: Tensor) -> Tensor:
        logs[k] = _largest(inside).clamp(min=LEAST).log().repeat(len(inside)).requires_grad_()
        return logs[k].detach().exp()

    def squares(weigh: Weigh) -> Tensor:
        end = _ellipsoid(net, weigh)
        both = end[c, c] + end[j, j]
        return (both - 2 * end[c, j] + CANCELLED * both).clamp(min=LEAST)

    with torch.no_grad():
        least = squares(ball)
    if not bool(least.isfinite().all()):
        raise BadInput("slopes that float64 cannot hold", "a network of usual scale", BY_VOTES)
    if logs:
        rule, free = adam(0.03), [*logs.values()]
        states = [rule.init(one.detach()) for one in free]
        for step in range(steps):
            with torch.enable_grad():
                found = squares(lambda k, _: logs[k].exp())
                mean = found.log().mean()
            if not (mean.requires_grad and bool(found.isfinite().all())):
                break  # no T matters; or a step too far: 2 T - C is not positive definite
            least = torch.minimum(least, found.detach())
            gradients = torch.autograd.grad(mean, free, materialize_grads=True)  # zero for what the logits don't need
            for i, (one, gradient) in enumerate(zip(free, gradients, strict=True)):
                move, states[i] = rule.update(gradient, states[i], step)
                one.detach().sub_(move)
    between = torch.zeros(count, count, dtype=torch.float64)
    between[c, j] = between[j, c] = least.sqrt() * (1 + SLACK)
    return Slopes(between)


Weigh = Callable[[int, Tensor], Tensor]
"""T of the operation at a position, from C before it."""


def _ellipsoid(net: Graph, weigh: Weigh) -> Tensor:
    """C of the logits; not finite where a T is too small."""
    held = [torch.eye(math.prod(net.shape), dtype=torch.float64)]
    for k, node in enumerate(net.nodes, 1):
        op, before = node.op, [held[i] for i in node.inputs]
        shapes = [net.size(i) for i in node.inputs]
        match op:
            case Affine():
                inside = _through(op.forward, before[0], shapes[0]) + _rounded(op, before[0].detach(), shapes[0])
            case Sum():
                inside = _sum(before)
            case Concat():
                inside = _sum([_through(_placed(op, i, shapes), one, shapes[i]) for i, one in enumerate(before)])
            case Rectifier() | Softplus():
                inside = _bent(before[0], weigh(k, before[0]))
            case Sigmoid(width, scale):
                inside = (scale / width) ** 2 * _bent(before[0], weigh(k, before[0]))
            case MaxPool(kernel, stride):  # as long as its inputs, as often as windows overlap
                often = math.prod(math.ceil(size / apart) for size, apart in zip(kernel, stride, strict=True))
                inside = often * _largest(before[0]) * torch.eye(math.prod(node.shape), dtype=torch.float64)
        held.append(inside)
    return held[-1]


def _largest(inside: Tensor) -> Tensor:
    """The square of the longest semi-axis; infinite where there is none."""
    return torch.linalg.eigvalsh(inside)[-1] if bool(inside.isfinite().all()) else inside.new_tensor(math.inf)


def _through(linear: Map, inside: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`W C W^T`, of a linear map of examples of this shape."""
    half = linear(inside.view(-1, *shape)).flatten(1)
    return linear(half.T.reshape(-1, *shape)).flatten(1)


def _rounded(op: Affine, inside: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What float64 rounds of `W C W^T`, at most: entries of these sizes are below the sums of their rows on a diagonal.

    It matters where a layer cancels what is large in the one before.
    """
    sizes = _through(op.size, inside.abs(), shape)
    return torch.diag(op.terms * torch.finfo(sizes.dtype).eps * sizes.sum(1))


def _bent(inside: Tensor, t: Tensor) -> Tensor:
    """`T (2 T - C)^(-1) T`."""
    factor, failed = torch.linalg.cholesky_ex(torch.diag(2 * t) - inside)
    return t.unsqueeze(1) * torch.cholesky_inverse(factor) * t if not failed else torch.full_like(inside, torch.nan)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    """An ellipsoid around the sums of any members of these: of least trace."""
    sizes = [part.trace().clamp(min=LEAST).sqrt() for part in parts]
    whole = torch.stack(sizes).sum()
    return torch.stack([whole / size * part for size, part in zip(sizes, parts, strict=True)]).sum(0)


def _placed(op: Concat, i: int, shapes: Sequence[tuple[int, ...]]) -> Map:
    """The linear map that puts one input of a concatenation in its place, among zeros."""
    return lambda h: op(*(h if at == i else h.new_zeros(len(h), *shape) for at, shape in enumerate(shapes)))
