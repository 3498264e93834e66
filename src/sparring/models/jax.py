"""JAX and Flax: any function `x -> logits`, differentiated by `jax.vjp`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from sparring.errors import BadInput, require
from sparring.models.bridge import Pullback, Unreadable, bridge, pad, ready, says_the_same
from sparring.models.jaxpr import Program
from sparring.models.victim import Victim
from sparring.types import Model


def function(f: Callable[[Any], Any], *, name: str | None = None) -> Victim:
    """A function of JAX arrays, `(B, *shape)` to logits `(B, K)`, as a model with gradients.

    For a plain Python function, a lambda around `model.apply(params, x)`, which cannot be told apart from a function
    of NumPy arrays. It must be pure, as for `jax.jit`. The arrays it closes over are read when it is compiled.
    Compiled once for every power of two of rows: a batch is padded to the next one with its last row.
    """
    return Victim(
        call=crossing(lambda _, x: f(x), lambda: ()),
        access="gradients",
        framework="jax",
        name=str(name or getattr(f, "__name__", type(f).__name__)),
    )


def adopt(obj: object) -> Victim | None:
    """A jitted function, a Flax NNX module or a bound Flax Linen module as a model; None for anything else.

    An NNX module is merged into a copy in `eval()` mode inside, and its weights are read anew at every call; the
    module in hand is never changed. A Linen module is called without further arguments: where it takes `train` or
    random streams, wrap the call that you mean by `function`.
    """
    roots = {part.__module__.partition(".")[0] for part in type(obj).__mro__}
    if "flax" in roots:
        return _flax(obj)
    return function(obj) if callable(obj) else None


def _flax(obj: Any) -> Victim | None:
    name = type(obj).__name__
    if hasattr(obj, "unbind"):  # Linen
        if obj.scope is None:
            raise BadInput(
                f"the Flax module {name} without its variables", "a bound one", "hand over module.bind(vars)"
            )
        module, variables = obj.unbind()
        call = crossing(module.apply, lambda: variables)
        return Victim(call=call, access="gradients", framework="flax", name=name)
    nnx = require("flax.nnx", "jax")
    if not isinstance(obj, nnx.Module) or not callable(obj):
        return None
    graph, _ = nnx.split(obj)

    def apply(state: Any, x: Any) -> Any:
        copy = nnx.merge(graph, state)
        copy.eval()
        return copy(x)

    return Victim(call=crossing(apply, lambda: nnx.state(obj)), access="gradients", framework="flax", name=name)


def crossing(apply: Callable[[Any, Any], Any], weights: Callable[[], Any]) -> Model:
    """The JAX function `apply(weights(), x)` as a torch function, compiled once for every power of two of rows.

    `weights` is asked at every call, so that a model which is being trained is seen as it is now; handing them in
    as arguments also spares a copy of them into every compiled function.
    """
    jax = require("jax", "jax")

    def single(weights: Any, x: Any) -> Any:
        y = apply(weights, x)
        if not hasattr(y, "shape"):
            raise BadInput(f"a JAX function that returns {type(y).__name__}", "one array (B, K)", "return the logits")
        return y

    forward = jax.jit(single)
    linear = jax.jit(lambda weights, x: jax.vjp(functools.partial(single, weights), x))
    transpose = jax.jit(lambda pullback, g: pullback(g)[0])

    def values(x: Tensor) -> Tensor:
        return to_torch(forward(weights(), to_jax(pad(x, bucket(len(x))))))[: len(x)]

    def vjp(x: Tensor) -> tuple[Tensor, Pullback]:
        rows, size = len(x), bucket(len(x))
        y, pullback = linear(weights(), to_jax(pad(x, size)))

        def back(g: Tensor) -> Tensor:
            whole = g if rows == size else torch.cat([g, g.new_zeros(size - rows, *g.shape[1:])])
            return to_torch(transpose(pullback, to_jax(whole)))[:rows]

        return to_torch(y)[:rows], back

    programs: dict[tuple[int, ...], Model | None] = {}

    def program(x: Tensor) -> Model | None:
        run = Program(jax.make_jaxpr(single)(weights(), to_jax(ready(x))))
        found: Model = lambda z: run(*jax.tree_util.tree_leaves(weights()), z, device=z.device)[0]  # noqa: E731
        return found if says_the_same(found, x, values(ready(x))) else None

    def steps(x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():  # who counts calls is to count those of the program
            z = pad(x.float(), bucket(len(x)))
            run = programs[z.shape] if z.shape in programs else programs.setdefault(z.shape, program(z))
        if run is None:
            raise Unreadable("a program that torch cannot run")
        outputs = run(z)
        with torch._C.DisableTorchFunction():
            return outputs[: len(x)]

    return bridge(values, vjp, framework="jax", steps=steps)


def bucket(rows: int) -> int:
    """The next power of two: a run in which broken examples leave compiles a handful of sizes, not hundreds."""
    return 1 << max(rows - 1, 0).bit_length()


def to_jax(x: Tensor) -> Any:
    """The same memory as a JAX array, by DLPack."""
    return require("jax", "jax").dlpack.from_dlpack(x)


def to_torch(y: Any) -> Tensor:
    """The same memory as a torch tensor, by DLPack, once JAX has finished writing it."""
    return from_dlpack(y.block_until_ready())
