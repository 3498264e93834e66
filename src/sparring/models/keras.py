"""Keras 3 on each of its backends: torch directly, JAX and TensorFlow through the bridge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sparring.errors import BadInput, line, require
from sparring.models.bridge import environment, layout
from sparring.models.victim import Victim
from sparring.types import Model


def backend() -> AbstractContextManager[None]:
    """Let Keras choose torch if it is first imported meanwhile and KERAS_BACKEND is not set."""
    return environment(KERAS_BACKEND="torch", TF_CPP_MIN_LOG_LEVEL="1")


def keras() -> ModuleType:
    """Keras, on the backend that it already has, that KERAS_BACKEND names, or on torch.

    Raises:
        BadInput: Keras is not installed.

    """
    with backend():
        return require("keras", "keras")


def load(path: str | Path, *, trust: bool = False) -> Victim:
    """A `.keras` file as a model with gradients, read in Keras's safe mode unless `trust`.

    Raises:
        BadInput: not a readable file, Python code in it (a Lambda layer), or a layer that is not registered.

    """
    k = keras()
    try:
        model = k.saving.load_model(str(path), compile=False, safe_mode=not trust)  # trusted by the user
        return adopt_or_refuse(model, path)
    except BadInput:
        raise
    except Exception as error:
        said = line(error)
        if "safe_mode" in said or "unsafe" in said:
            raise BadInput(
                f"'{path}' brings code or files of its own (a Lambda layer, say)",
                "a model without",
                "pass --trust if you know who made it",
            ) from error
        raise BadInput(
            f"'{path}' does not load ({said[:160]})", "a .keras file with known layers", "build it in a factory"
        ) from error


def adopt_or_refuse(model: object, path: str | Path) -> Victim:
    """The model that a file held."""
    victim = adopt(model)
    if victim is None:
        raise BadInput(f"'{path}' holds a {type(model).__name__}", "a keras.Model", "save the model itself")
    return victim


def load_weights(model: Any, path: str | Path) -> None:
    """Load a `.weights.h5` file into a built Keras model.

    Raises:
        BadInput: the file does not fit.

    """
    try:
        model.load_weights(str(path))
    except Exception as error:
        said = line(error)
        raise BadInput(
            f"'{path}' does not fit {type(model).__name__} ({said[:160]})",
            "the weights of this network",
            "pass the file that was saved from it",
        ) from error


def adopt(obj: Any) -> Victim | None:
    """A Keras model in inference mode, its inputs in the shape the data has; None for anything else.

    A final softmax or sigmoid is left out, exactly, where the model's graph shows a Dense, Activation or Softmax
    layer at its end; one sigmoid unit `l` becomes the two logits `(0, l)`. Where it is there but cannot be left out,
    `probabilities` is set. The model in hand is not changed, and weights that change later are seen. Keras reads
    `training=False` from the call, not from the torch module's mode, so the victim hands out no `module`.

    Raises:
        BadInput: a model with several inputs or outputs, or on JAX one that was never built.

    """
    k = keras()
    if not isinstance(obj, k.Model):
        return None
    inputs, outputs = getattr(obj, "inputs", None) or [], getattr(obj, "outputs", None) or []
    if inputs and (len(inputs) != 1 or len(outputs) != 1):
        raise BadInput(
            f"a Keras model with {len(inputs)} inputs and {len(outputs)} outputs", "one of each", "wrap it in a factory"
        )
    arrange, notes = layout(tuple(inputs[0].shape[1:]) if inputs else None)
    forward, probabilities, said = _logits(k, obj) if inputs else (_whole(obj), False, ())
    call = _crossing(k, obj, forward)
    trainee = Trainee(obj) if k.backend.backend() == "torch" else None
    return Victim(
        call=lambda x: call(arrange(x)),
        access="gradients",
        framework=f"keras on {k.backend.backend()}",
        name=obj.name,
        trainee=trainee,
        probabilities=probabilities,
        notes=(*notes, *said),
    )


class Trainee(nn.Module):
    """A Keras model on the torch backend as torch trains it: its logits, in the mode that the module is in.

    Its state goes by the order of the variables: their names, which Keras counts up, differ from copy to copy.
    """

    model: Any

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.variables = nn.ParameterList([variable.value for variable in model.variables])
        object.__setattr__(self, "model", model)  # not as a part, whose names would enter the state
        inputs = getattr(model, "inputs", None) or []
        arrange, _ = layout(tuple(inputs[0].shape[1:]) if inputs else None)
        logits, _, _ = _logits(keras(), model) if inputs else (_whole(model), False, ())
        self.arrange, self.logits = arrange, logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`."""
        return self.logits(self.arrange(x), training=self.training)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Trainee:
        """Around a copy of the model: the way to the logits belongs to its layers."""
        twin = Trainee(copy.deepcopy(self.model, memo))
        twin.train(self.training)
        return twin


def _whole(model: Any) -> Callable[..., Any]:
    return lambda x, training=False: model(x, training=training)


def _ending(k: ModuleType, model: Any) -> tuple[Any, Any, str | None]:
    """The last layer of a model's graph, what goes into it, and the name of its activation if that is a probability."""
    last, node, _ = model.outputs[0]._keras_history
    if getattr(last, "outputs", None):  # a model inside the model
        return last, None, _ending(k, last)[2]
    known = {k.activations.softmax: "softmax", k.activations.sigmoid: "sigmoid"}
    activation = "softmax" if isinstance(last, k.layers.Softmax) else known.get(getattr(last, "activation", None))
    return last, last._inbound_nodes[node].input_tensors[0], activation


def _logits(k: ModuleType, model: Any) -> tuple[Callable[..., Any], bool, tuple[str, ...]]:
    """The model up to its last activation, whether its outputs are still probabilities, and what to say of it."""
    last, before, activation = _ending(k, model)
    if activation is None:
        return _whole(model), False, ()
    dense = type(last) is k.layers.Dense and last.quantization_mode is None
    if not dense and type(last) not in {k.layers.Activation, k.layers.Softmax}:
        return _whole(model), True, (f"ends in a {activation} that could not be left out: outputs are probabilities",)

    trunk, ops = k.Model(model.inputs, before), k.ops
    binary = activation == "sigmoid" and model.outputs[0].shape[-1] == 1

    def forward(x: Any, training: bool = False) -> Any:
        h = trunk(x, training=training)
        if dense:  # as Dense.call has it
            h = ops.matmul(h, last.kernel)
            h = h if last.bias is None else ops.add(h, last.bias)
        return ops.concatenate([ops.zeros_like(h), h], axis=-1) if binary else h

    note = f"its final {activation} is left out: outputs are logits"
    return forward, False, (f"{note}, (0, l) for the one unit l" if binary else note,)


def _crossing(k: ModuleType, model: Any, forward: Callable[[Any], Any]) -> Model:
    """A function in Keras's own operations as a torch function, whatever the backend."""
    name = k.backend.backend()
    if name == "torch":
        return forward
    if name == "tensorflow":
        from sparring.models import tensorflow

        return tensorflow.crossing(forward)
    if name != "jax":
        raise BadInput(f"Keras on {name}", "torch, jax or tensorflow", "set KERAS_BACKEND to one of them")
    from sparring.models import jax

    if not model.built:  # weights made while JAX traces would be traces, and stay in the model
        raise BadInput(f"the Keras model {model.name} without weights", "a built one", "call it once on an example")
    variables = model.variables

    def apply(weights: Any, x: Any) -> Any:
        with k.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            return forward(x)

    return jax.crossing(apply, lambda: [variable.value for variable in variables])
