"""ONNX files: imported to a torch.fx graph, and trusted with gradients only after agreeing with onnxruntime.

`onnx_recorder` writes the graph; `onnx_operators` translates operators, `onnx_rounding` those that quantise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from sparring.errors import BadInput, require
from sparring.models import function
from sparring.models.onnx_operators import OPERATORS, kept
from sparring.models.onnx_recorder import Missing, Op, Recorder, Value
from sparring.models.onnx_rounding import levels
from sparring.models.victim import Victim
from sparring.types import Model
from sparring.views import stand

TOLERANCE = 1e-4
"""Largest difference from onnxruntime, relative to the largest output, with which an import is trusted."""

LEVELS_APART = 0.05
"""The same of a quantised network, of which the graph gives the gradients alone: the mean of both, as levels differ."""

DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that set their scale by all rows of a batch."""

SIZES = (2, 3)
"""The two batch sizes at which a file is read; a number in the graph is `slope * batch + offset` between them."""


def load(path: str | Path, *, check: Tensor | None = None) -> Victim:
    """Attack the model in an `.onnx` file, with gradients where every operator is covered.

    The graph is imported to torch and compared with onnxruntime on random inputs in several batch sizes, and on `check`
    where given (real inputs `(B, *shape)`; needed when the file leaves more than the batch size open). If an operator
    is missing or the two disagree by more than 1e-4 of the largest output, the victim gives scores by onnxruntime alone
    and `notes` says why. A batch size that the file fixes is made free where its operators allow, which the comparison
    shows; elsewhere the model is run in batches of that size. `module` is a `torch.fx.GraphModule`. A model of several
    outputs is attacked by its first of floating point.

    Of a quantised network the outputs are onnxruntime's, to the last bit, the gradients those of the graph, straight
    through each rounding (BPDA; Athalye et al., 2018, section 4.1). It has no `module`; gradients cost a run of both.

    Raises:
        BadInput: no such file, not a valid ONNX file, missing weights, or not one input of floating point.

    """
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path} is not a file", "an .onnx file", "check the path")
    try:
        proto = onnx.load(path, load_external_data=False)
    except Exception:  # protobuf's errors share no parent
        raise BadInput(f"{path} is not ONNX or is cut short", "a whole ONNX file", "export the model again") from None
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:  # the checker and the file system each raise their own
        raise BadInput(
            f"the weights of {path} cannot be read: {first_line(error)}",
            "its weight files beside it",
            "copy them there or export the model again",
        ) from None
    return victim(proto, lambda options: runtime.InferenceSession(path, options), name=path.stem, check=check)


def adopt(obj: Any, *, check: Tensor | None = None) -> Victim:
    """Attack an `onnx.ModelProto`, its bytes, or an `onnxruntime.InferenceSession`; the last by its scores alone.

    Raises:
        BadInput: none of these, or what `load` refuses.

    """
    onnx, runtime = require("onnx", "onnx"), require("onnxruntime", "onnx")
    if isinstance(obj, runtime.InferenceSession):
        return Reference.of(obj).victim("session", "no gradients: a session is closed; load its file instead")
    if isinstance(obj, bytes):
        try:
            obj = onnx.load_from_string(obj)
        except Exception:
            raise BadInput(
                "bytes that are not ONNX or are cut short", "a serialised model", "export the model again"
            ) from None
    if not isinstance(obj, onnx.ModelProto):
        raise BadInput(f"an object of type {type(obj).__name__}", "an onnx.ModelProto", "pass the model or load(path)")
    return victim(
        obj,
        lambda options: runtime.InferenceSession(obj.SerializeToString(), options),
        name=obj.graph.name or "onnx",
        check=check,
    )


@torch.inference_mode(False)  # else an import inside `no_grad` would seem to have no gradients
@torch.random.fork_rng(devices=())  # torch's layers draw their weights before they are given the file's
def victim(proto: Any, start: Callable[[Any], Any], *, name: str, check: Tensor | None) -> Victim:
    """Import, compare, and fall back to onnxruntime when either fails."""
    import onnxruntime

    if not proto.graph.node:
        raise BadInput(f"{name} has no operators", "a model", "export the model again")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = start(options)
    except Exception as error:  # onnxruntime's errors share no parent
        raise BadInput(
            f"{name} is refused by onnxruntime: {first_line(error)}", "a valid ONNX model", "export the model again"
        ) from None
    reference = Reference.of(session)
    shape = reference.shape if check is None else tuple(check.shape[1:])
    if None in shape:
        why = f"no gradients: the file leaves the size of its input open, {reference.shown}"
        return reference.victim(name, f"{why}; hand over an example of the data")
    if check is not None and not reference.admits(shape):
        raise BadInput(f"inputs of shape {shape}", f"{name} takes {reference.shown}", "pass inputs of that shape")
    declared = reference.batch
    if declared is None and any(node.op_type in DYNAMIC for node in proto.graph.node):
        reference = replace(
            reference, batch=1, notes=(*reference.notes, "run row by row: rows of a batch share scales")
        )
    reference = reference.tried(name, [int(size or 1) for size in shape])

    # First with the batch size free; then, where the file fixes it, as it is fixed.
    attempts: list[int | None] = [None] if reference.batch is None else [None, reference.batch]
    for fixed in attempts:
        try:
            module = graph(proto, shape, reference, fixed)
        except Missing as reason:
            complaint = str(reason)
            continue
        except Exception as error:  # an operator used in a way that its translation did not foresee
            complaint = f"the import failed: {first_line(error)}"
            continue
        call: Model = module if fixed is None else partial(in_batches, module, size=fixed)
        rounds, tried = any(node.target is levels for node in module.graph.nodes), probes(shape, fixed, check)
        complaint, worst = disagreement(call, reference, tried, rounds=rounds)
        if complaint and any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
            # Where weights alone are quantised, onnxruntime may round what they meet as well.
            rounds, (complaint, worst) = True, disagreement(call, reference, tried, rounds=True)
        if not complaint:
            notes = [f"imported from ONNX; differs from onnxruntime by at most {worst:.1g} of the largest output"]
            if rounds:
                call = Straight(call, reference)
                notes = [f"quantised: scores by onnxruntime, gradients straight through its rounding, {worst:.1%} off"]
            if declared is not None:
                size = f"the file fixes the batch size at {declared}"
                notes.append(f"{size}; made free" if fixed is None else f"{size}, and so it is run")
            return Victim(
                call=call,
                access="gradients",
                framework="onnx",
                name=name,
                module=None if rounds else module,
                probabilities=ends_in_softmax(proto, reference.output),
                rounds=rounds,
                notes=(*notes, *reference.notes),
            )
    return reference.victim(name, f"no gradients: {complaint}", ends_in_softmax(proto, reference.output))


# --- onnxruntime, the judge


@dataclass(frozen=True)
class Reference:
    """The file as onnxruntime runs it: one input of floating point, one output."""

    session: Any
    input: str
    output: str
    dtype: np.dtype[Any]
    batch: int | None
    shape: tuple[int | None, ...]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, session: Any) -> Reference:
        """Find the input and the output.

        Raises:
            BadInput: not one input of floating point with a batch dimension, or no output of floating point.

        """
        kinds = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16"}
        given = session.get_inputs()
        shown = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in given)
        if len(given) != 1 or given[0].type not in kinds or not given[0].shape:
            raise BadInput(f"an ONNX model of inputs {shown}", "one input of floating point", "export one of that kind")
        outputs = [out for out in session.get_outputs() if out.type in kinds]
        if not outputs:
            shown = ", ".join(f"{out.name}: {out.type}" for out in session.get_outputs())
            raise BadInput(
                f"an ONNX model of outputs {shown}",
                "a tensor of scores",
                "export scores (for scikit-learn: zipmap=False)",
            )
        others = [out.name for out in session.get_outputs() if out.name != outputs[0].name]
        batch, *shape = [size if isinstance(size, int) and size > 0 else None for size in given[0].shape]
        return cls(
            session=session,
            input=given[0].name,
            output=outputs[0].name,
            dtype=np.dtype(kinds[given[0].type]),
            batch=batch,
            shape=tuple(shape),
            notes=(f"attacked by output {outputs[0].name}, not by {', '.join(others)}",) if others else (),
        )

    @property
    def shown(self) -> str:
        """The shape of the input, for people."""
        return f"(batch, {', '.join('?' if size is None else str(size) for size in self.shape)})"

    def admits(self, shape: Sequence[int | None]) -> bool:
        """Whether an input of this shape fits."""
        return len(shape) == len(self.shape) and all(
            mine in (None, theirs) for mine, theirs in zip(self.shape, shape, strict=True)
        )

    def run(self, x: np.ndarray) -> np.ndarray:
        """Run `(B, *shape)`."""
        return np.asarray(self.session.run([self.output], {self.input: x.astype(self.dtype)})[0])

    def tried(self, name: str, shape: Sequence[int]) -> Reference:
        """The same, run row by row where its operators take one row alone whatever the file declares.

        Raises:
            BadInput: onnxruntime cannot run it.

        """
        said = ""
        for size in (5, 1) if self.batch is None else (self.batch,):
            try:
                self.run(np.zeros((size, *shape), np.float32))
            except Exception as error:  # onnxruntime's errors share no parent
                said = first_line(error)
            else:
                alone = self.batch is None and size == 1
                return replace(self, batch=1, notes=(*self.notes, "takes one row at a time")) if alone else self
        raise BadInput(f"{name} fails in onnxruntime: {said}", "a model that runs there", "export the model again")

    def scores(self, x: Tensor) -> Tensor:
        """Run `(B, *shape)` at any batch size."""

        def run(part: Tensor) -> Tensor:
            return torch.from_numpy(self.run(part.numpy())).float()

        x = x.detach().cpu()
        return run(x) if self.batch is None else in_batches(run, x, self.batch)

    def victim(self, name: str, why: str, probabilities: bool = False) -> Victim:
        """Attack it by its scores alone."""
        return function.scores(
            self.scores,
            name=name,
            takes="torch",
            framework="onnx",
            probabilities=probabilities,
            notes=(why, "scores by onnxruntime", *self.notes),
        )


@dataclass(frozen=True)
class Straight:
    """A quantised network: the outputs of onnxruntime, with the gradients of its graph."""

    graph: Model
    reference: Reference

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs of `x`."""
        with torch._C.DisableTorchFunction():  # what runs elsewhere is nobody's to watch: its gradients are the graph's
            said = self.reference.scores(x).to(x.device)
        return stand(said, self.graph(x)) if torch.is_grad_enabled() and x.requires_grad else said


def in_batches(model: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Run a model that knows one batch size on any number of rows; the last row fills the last batch up.

    Raises:
        BadInput: the outputs have no batch dimension, so that they cannot be told apart.

    """
    rows = []
    for part in torch.split(x, size) if len(x) else (x.new_zeros(1, *x.shape[1:]),):
        out = model(torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])]))
        if out.shape[:1] != (size,):
            raise BadInput(
                f"a model that gives outputs of shape {tuple(out.shape)} for a batch of {size}",
                "one row of outputs an example",
                "export the model with a batch dimension",
            )
        rows.append(out[: len(part)])
    return torch.cat(rows)[: len(x)]


def probes(shape: Sequence[int | None], fixed: int | None, check: Tensor | None) -> list[Tensor]:
    """Return batches to compare on: in the unit box, around zero, of sizes that the import has not seen, real ones."""
    rng = torch.Generator().manual_seed(0)
    sizes = (1, 5) if fixed is None else (fixed, fixed + 1)
    sides = [int(size or 1) for size in shape]
    draws = ((torch.rand, sizes[0]), (torch.rand, sizes[1]), (torch.randn, sizes[1]))
    batches = [draw(size, *sides, generator=rng, dtype=torch.float32) for draw, size in draws]
    return batches if check is None else [*batches, check.detach().float().cpu()[:32]]


def disagreement(
    model: Callable[[Tensor], Tensor], reference: Reference, batches: list[Tensor], *, rounds: bool = False
) -> tuple[str, float]:
    """Say how a model differs from onnxruntime, "" where it does not; and the largest difference, relative.

    Of one that rounds the mean difference, relative to the mean.
    """
    worst, bound, size_of = 0.0, LEVELS_APART if rounds else TOLERANCE, torch.mean if rounds else torch.amax
    for x in batches:
        want = reference.scores(x)
        given = x.clone().requires_grad_()
        try:
            got = model(given)
        except Exception as error:  # whatever an operator raises at a batch size that does not suit it
            return f"the imported graph fails on a batch of {len(x)}: {first_line(error)}", worst
        if not got.requires_grad:
            return "the output does not depend on the input by operators that have a gradient", worst
        got = got.detach()
        if got.shape != want.shape:
            return f"the imported graph gives {tuple(got.shape)} where onnxruntime gives {tuple(want.shape)}", worst
        same = (got == want) | (got.isnan() & want.isnan())
        difference = torch.where(same, 0.0, (got - want).abs())
        finite = want[want.isfinite()]
        size = float(size_of(finite.abs())) if finite.numel() else 0.0
        relative = float(size_of(difference)) / max(size, 1e-6) if difference.numel() else 0.0
        worst = max(worst, relative)
        if not relative <= bound:
            of = "mean" if rounds else "largest"
            return f"the imported graph differs from onnxruntime by {relative:.1g} of the {of} output", worst
    return "", worst


def ends_in_softmax(proto: Any, output: str) -> bool:
    """Whether the outputs are documented to be probabilities."""
    made_by = {name: node for node in proto.graph.node for name in node.output}
    node = made_by.get(output)
    while node is not None and node.op_type in {"Identity", "Cast"}:
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- the import


def known_as(node: Any) -> str:
    """The kind of a node, with its domain where that is not ONNX's own."""
    return str(node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}")


@torch.no_grad()
def graph(proto: Any, shape: Sequence[int | None], reference: Reference, fixed: int | None) -> fx.GraphModule:
    """Write the torch graph of a file for inputs `(B, *shape)`; `fixed` keeps the batch size that the file fixes.

    Raises:
        Missing: an operator that is not covered.

    """
    import onnx

    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    opset = next((entry.version for entry in proto.opset_import if entry.domain in {"", "ai.onnx"}), 1)
    for node in proto.graph.node:
        if known_as(node) not in OPERATORS:
            raise Missing(f"operator {known_as(node)} is not covered")
    if opset < 7:
        raise Missing(f"opset {opset} is not covered (7 and later are)")

    sizes = SIZES if fixed is None else (fixed, fixed)
    r = Recorder(sizes=sizes, fixed=reference.batch)
    r.input = r.graph.placeholder("x")
    rng = torch.Generator().manual_seed(1)
    rows = torch.rand(max(sizes), *(int(size or 1) for size in shape), generator=rng, dtype=torch.float32)
    x = Value(r.input, (rows[: sizes[0]], rows[: sizes[1]]))
    if reference.dtype != np.float32:
        x = r.method("to", x, torch.from_numpy(np.empty(0, reference.dtype)).dtype)
    values: dict[str, Value] = {reference.input: x}
    for tensor in proto.graph.initializer:
        values[tensor.name] = kept(tensor, tensor.name)
    if proto.graph.sparse_initializer:
        raise Missing("sparse weights are not covered")
    uses = Counter(name for node in proto.graph.node for name in node.input)
    uses.update(out.name for out in proto.graph.output)
    last = {name: i for i, node in enumerate(proto.graph.node) for name in node.input}

    for i, node in enumerate(proto.graph.node):
        op = Op(
            kind=node.op_type,
            name=node.name or (node.output[0] if not node.output[0].isdigit() else ""),
            opset=opset,
            attributes={entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute},
            outputs=tuple(node.output),
            uses=tuple(uses[name] for name in node.input),
        )
        results = OPERATORS[known_as(node)](r, op, *(values[name] if name else None for name in node.input))
        results = results if isinstance(results, tuple) else (results,)
        if any(uses[name] for name in node.output[len(results) :] if name):
            raise op.lacks("a second output")
        values.update(zip(node.output, results, strict=False))
        for name in node.input:  # what nobody reads any more need not be kept
            if last[name] == i and name != reference.output and name:
                values.pop(name, None)

    y = values[reference.output]
    if reference.dtype != np.float32 and not y.known:
        y = r.method("to", y, torch.float32)
    r.graph.output(r.argument(y))
    module = fx.GraphModule(r.root, r.graph, class_name="Imported").eval()
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module
