"""TensorFlow: `tf.function`, `tf.Module` and SavedModel folders, differentiated by `tf.GradientTape`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from sparring.errors import BadInput, line, require
from sparring.models.bridge import (
    Pullback,
    Unreadable,
    bridge,
    environment,
    in_batches_of,
    layout,
    ready,
    says_the_same,
)
from sparring.models.graphdef import Graph
from sparring.models.victim import Victim
from sparring.types import Model

KNOWN = re.compile(
    r"VarHandleOp|ReadVariableOp|VarIsInitializedOp|DisableCopyOnRead|Assign(Add|Sub)?VariableOp|ResourceGather(Nd)?"
    r"|StatefulPartitionedCall|While|If|Case|Assert|CudnnRNN(V2|V3)?|(Anonymous)?(Mutable)?(Dense)?HashTable(V2)?"
    r"|LookupTable(Find|Import|Export|Size)V2|Random(Uniform|UniformInt|StandardNormal|Gamma|Shuffle|PoissonV2)"
    r"|TruncatedNormal|Multinomial|Stateful(StandardNormalV2|TruncatedNormal|Uniform|UniformInt|RandomBinomial)"
)
"""Operations with a state that only compute: with variables, branches, loops, tables, random numbers."""

REACHING = re.compile(r"(?!ShardedFilename$).*(File|Dataset|Debug|PyFunc|XlaCustomCall|VocabRemapping).*")
"""Operations without a state that reach for files, other programs, or Python; ShardedFilename only names one."""

SAVING = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})
"""What every SavedModel has in two functions of its own, which nothing calls when it is loaded or run."""


def tensorflow() -> ModuleType:
    """TensorFlow, imported with its start-up messages down to warnings.

    Raises:
        BadInput: it is not installed.

    """
    with environment(TF_CPP_MIN_LOG_LEVEL="1"):
        return require("tensorflow", "tensorflow")


def function(f: Callable[[Any], Any], *, name: str | None = None) -> Victim:
    """A function of TensorFlow tensors, `(B, *shape)` to logits `(B, K)`, as a model with gradients."""
    graph = tensorflow().function(f, reduce_retracing=True)  # Python conditions on tensors become part of the graph
    call = crossing(lambda x: _single(graph(x)))
    title = str(name or getattr(f, "__name__", type(f).__name__))
    return Victim(call=call, access="gradients", framework="tensorflow", name=title)


def load(path: str | Path, *, trust: bool = False) -> Victim:
    """A SavedModel folder as a model with gradients: its serving signature, or its `__call__` where it has none.

    A graph with an operation that is not known to compute alone (files, printing, Python) is refused unless `trust`.

    Raises:
        BadInput: no SavedModel there, a graph that reaches for files, or one without a single input and output.

    """
    file = Path(path) / "saved_model.pb"
    if not file.is_file():
        raise BadInput(f"'{path}' has no saved_model.pb", "a SavedModel folder", "check the path")
    tf = tensorflow()
    if not trust and (reach := _reach(file)):
        raise BadInput(
            f"'{path}' reaches beyond the model ({', '.join(sorted(reach)[:5])})",
            "a graph that only computes",
            "pass --trust if you know who made it",
        )
    try:
        obj = tf.saved_model.load(str(path))
    except Exception as error:
        raise BadInput(
            f"'{path}' does not load ({line(error)[:160]})", "a whole SavedModel folder", "save it anew"
        ) from error
    victim = adopt(obj)
    if victim is None:
        raise BadInput(f"'{path}' cannot be called", "a serving signature or __call__", "save it with one")
    return victim


def adopt(obj: Any) -> Victim | None:
    """A `tf.function`, a callable `tf.Module` or a loaded SavedModel as a model; None for anything else.

    A module that takes `training` is called with `training=False`.

    Raises:
        BadInput: a signature with more than one input, or none.

    """
    tf = tensorflow()
    name = getattr(obj, "name", None) or getattr(obj, "__name__", None) or type(obj).__name__
    signatures = getattr(obj, "signatures", None)
    if isinstance(signatures, Mapping) and signatures:
        signature = signatures.get("serving_default") or next(iter(signatures.values()))
        return _signature(signature, type(obj).__name__, obj)
    if isinstance(obj, tf.types.experimental.ConcreteFunction) and not obj.structured_input_signature[0]:
        return _signature(obj, str(name), obj)
    if not callable(obj):
        return None
    takes = inspect.signature(obj).parameters if isinstance(obj, tf.Module) else {}
    f = (lambda x: obj(x, training=False)) if "training" in takes else obj
    floats = [v.dtype for v in getattr(obj, "variables", ()) if v.dtype.is_floating]
    graph = tf.function(f, reduce_retracing=True)
    call = crossing(lambda x: _single(graph(x)), floats[0] if floats else None)
    return Victim(call=call, access="gradients", framework="tensorflow", name=str(name))


def _signature(signature: Any, name: str, owner: Any) -> Victim:
    """A signature with one input, called by the input's name. It holds the variables of its owner weakly."""
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        names = ", ".join(sorted(inputs)) or "none"
        raise BadInput(f"a signature with the inputs {names}", "one input", "export the model with one")
    (key, spec), *_ = inputs.items()
    if not spec.dtype.is_floating:
        kind = spec.dtype.name
        raise BadInput(f"a signature of {kind} inputs", "floating point", "export it with float inputs")
    shape = None if spec.shape.rank is None else tuple(spec.shape)
    arrange, notes = layout(None if shape is None else shape[1:])
    kept = (signature, owner)
    call = crossing(lambda x: _single(kept[0](**{key: x})), spec.dtype)
    if shape and shape[0] is not None:
        call = in_batches_of(shape[0], call)
        notes = (
            *notes,
            f"saved for batches of exactly {shape[0]}: every batch is cut into such; export with None rows",
        )
    return Victim(call=lambda x: call(arrange(x)), access="gradients", framework="tensorflow", name=name, notes=notes)


def _single(outputs: Any) -> Any:
    """The one tensor among the outputs, or the one that is called logits."""
    if isinstance(outputs, Mapping):
        outputs = [outputs["logits"]] if "logits" in outputs else list(outputs.values())
    if isinstance(outputs, list | tuple):
        if len(outputs) != 1:
            raise BadInput(f"{len(outputs)} outputs", "one, or one named 'logits'", "export the logits alone")
        return outputs[0]
    return outputs


def crossing(f: Callable[[Any], Any], dtype: Any = None) -> Model:
    """A TensorFlow function as a torch function, traced for any number of rows; floating inputs become `dtype`."""
    tf = tensorflow()
    # The first new batch size traces once more, with the number of rows left open, and is the last one to do so.
    graph = tf.function(f, reduce_retracing=True, autograph=False)

    def give(x: Tensor) -> Any:
        a = to_tensorflow(x)
        return tf.cast(a, dtype) if dtype is not None and a.dtype != dtype else a

    def values(x: Tensor) -> Tensor:
        return to_torch(graph(give(x)))

    def vjp(x: Tensor) -> tuple[Tensor, Pullback]:
        a = give(x)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(a)
            y = graph(a)

        def back(g: Tensor) -> Tensor:
            slope = tape.gradient(y, a, output_gradients=to_tensorflow(g), unconnected_gradients="zero")
            return to_torch(tf.convert_to_tensor(slope))

        return to_torch(y), back

    kind = torch.float32 if dtype is None else getattr(torch, dtype.name)
    graphs: dict[tuple[int, ...], Model | None] = {}

    def read(x: Tensor) -> Model | None:
        try:
            found = Graph(graph.get_concrete_function(tf.TensorSpec([None, *x.shape[1:]], dtype or tf.float32)))
        except Exception:  # it may refuse to be frozen, or a number of rows that is left open
            return None
        return found if says_the_same(found, x, values(ready(x))) else None

    def steps(x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():  # who counts calls is to count those of the graph
            z, shape = x.to(kind), x.shape[1:]
            run = graphs[shape] if shape in graphs else graphs.setdefault(shape, read(z))
        if run is None:
            raise Unreadable("a graph that torch cannot run")
        return run(z)

    return bridge(values, vjp, framework="tensorflow", steps=steps)


def to_tensorflow(x: Tensor) -> Any:
    """The same memory as a TensorFlow tensor, by DLPack. `x` must be aligned: see `bridge.ALIGNMENT`."""
    return tensorflow().experimental.dlpack.from_dlpack(x.__dlpack__())


def to_torch(y: Any) -> Tensor:
    """The same memory as a torch tensor, by DLPack."""
    return from_dlpack(y)


def _reach(file: Path) -> frozenset[str]:
    """The operations in the graphs and functions of a saved_model.pb that are not known to compute alone."""
    proto = require("tensorflow.core.protobuf.saved_model_pb2", "tensorflow").SavedModel()
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:
        raise BadInput(f"'{file}' does not parse", "a SavedModel", "save it anew") from error
    return frozenset(name for meta in proto.meta_graphs for name in _reaching(meta))


def _reaching(meta: Any) -> Iterator[str]:
    registry = require("tensorflow.python.framework.op_def_registry", "tensorflow")
    saving = _saving(meta)
    for home, node in _nodes(meta):
        known = registry.get(node.op)
        computes = KNOWN.fullmatch(node.op) if known and known.is_stateful else not REACHING.fullmatch(node.op)
        if known is None or not (computes or (node.op in SAVING and home in saving)):
            yield node.op


def _nodes(meta: Any) -> Iterator[tuple[str, Any]]:
    """Every node, with the name of the function that it is in; empty for the graph itself."""
    yield from (("", node) for node in meta.graph_def.node)
    for function in meta.graph_def.library.function:
        yield from ((function.signature.name, node) for node in function.node_def)


def _saving(meta: Any) -> frozenset[str]:
    """The functions that save and restore, unless something else can call them."""
    ends = {meta.saver_def.save_tensor_name.partition(":")[0], meta.saver_def.restore_op_name}
    calls = [(home == "" and node.name in ends, _called(node)) for home, node in _nodes(meta)]
    named = {name for saver, names in calls if saver for name in names}
    others = {name for saver, names in calls if not saver for name in names}
    return frozenset(named - others - set(meta.object_graph_def.concrete_functions))


def _called(node: Any) -> set[str]:
    """The functions that a node names."""
    held = [one for value in node.attr.values() for one in (value.func, *value.list.func)]
    return {one.name for one in held if one.name}
