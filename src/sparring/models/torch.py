"""PyTorch: modules, exported programs, Hugging Face models, and the weights that go into them."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from sparring.errors import BadInput, line, require
from sparring.models.bridge import Unreadable, in_batches_of
from sparring.models.torch_rounding import rounds, shares_scales, straight
from sparring.models.torchscript import Script
from sparring.models.victim import Victim
from sparring.types import Model

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put in front of every name."""

CHECKPOINTS = ("state_dict", "model_state_dict", "model")
"""Where training scripts keep the state dict in a checkpoint."""

ANY = sys.maxsize
"""More rows than there can be."""

TRAINING: dict[Any, int] = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2}
"""Operations of an exported program that behave differently in train mode, and which argument says so."""


def function(f: Model, *, name: str | None = None) -> Victim:
    """A torch function, differentiable in its input, as a model with gradients: a lambda around a network, say."""
    title = str(name or getattr(f, "__name__", type(f).__name__))
    return Victim(call=f, access="gradients", framework="torch", name=title)


def adopt(obj: Any) -> Victim | None:
    """A torch module, an exported program or a Hugging Face model as it is; None for anything else.

    The module itself is called, in whatever mode it is in; outputs with `.logits` are unwrapped. A TorchScript module
    runs as it is where it is judged, and operation by operation where views and checks look inside. A module that
    `torch.ao` quantised has gradients that go straight through its rounding.
    """
    if isinstance(obj, ExportedProgram):
        return _exported(obj)
    if not isinstance(obj, nn.Module):
        return None
    if any(part.__module__.startswith("transformers.") for part in type(obj).__mro__):
        module: nn.Module = Logits(obj)
        return Victim(call=module, access="gradients", framework="transformers", name=type(obj).__name__, module=module)
    if rounds(obj):
        run: Model = partial(straight, obj)
        alone = shares_scales(obj)
        return Victim(
            call=in_batches_of(1, run, 1) if alone else run,
            access="gradients",
            framework="torch",
            name=type(obj).__name__,
            module=obj,
            rounds=True,
            notes=(
                "quantised: gradients go straight through its rounding",
                *(("run row by row: rows of a batch share scales",) if alone else ()),
            ),
        )
    kinds = {value.dtype for value in (*obj.parameters(), *obj.buffers()) if value.is_floating_point()}
    other = len(kinds) == 1 and kinds != {torch.float32}
    run = _script(obj) if isinstance(obj, torch.jit.ScriptModule) else obj
    call: Model = partial(_in_its_type, run, kinds.pop()) if other else run
    return Victim(call=call, access="gradients", framework="torch", name=type(obj).__name__, module=obj)


def _script(module: torch.jit.ScriptModule) -> Model:
    """A TorchScript module through which views can look, if its operations can be run from Python."""
    try:
        return Script(module)
    except Unreadable:
        return module


def _in_its_type(module: Model, kind: torch.dtype, x: Tensor) -> Tensor:
    """What a module of another float type says of `x`: of `x` in that type, if it refuses float32."""
    try:
        return module(x)
    except RuntimeError:
        return module(x.to(kind))


class Logits(nn.Module):
    """A Hugging Face model that returns its logits alone, from its main input alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.training = model.training  # a wrapper in another mode than its model would be reported as a mixture
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`."""
        outputs = self.model(**{self.model.main_input_name: x})
        if not hasattr(outputs, "logits"):
            raise BadInput(
                f"{type(self.model).__name__} returns no logits",
                "a model with a head",
                "load the ...For...Classification",
            )
        return outputs.logits  # type: ignore[no-any-return]


def _exported(program: ExportedProgram) -> Victim:
    """A program with one input, in batches of the sizes it was exported for if these were bounded."""
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    inputs = [n for n in placeholders if n.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise BadInput(f"an exported program with {len(inputs)} inputs", "one input", "export the model with one")
    if any(node.target in TRAINING and node.args[TRAINING[node.target]] is True for node in program.graph.nodes):
        raise BadInput("a program that was exported in train mode", "inference mode", "call eval() before export")
    shape, outputs = getattr(inputs[0].meta["val"], "shape", ()), program.graph_signature.user_outputs
    if not shape or len(outputs) != 1:
        found = f"{len(outputs)} outputs" if shape else "an input without a batch"
        raise BadInput(f"an exported program with {found}", "inputs (B, *shape) to logits (B, K)", "export one such")
    least, most = _rows(program, shape[0])
    module = program.module()
    if (least, most) == (0, ANY):
        return Victim(call=module, access="gradients", framework="torch.export", name="program", module=module)
    size = f"exactly {most}" if least == most else f"at least {least}" if most == ANY else f"{least} to {most}"
    return Victim(
        call=in_batches_of(most, module, least),
        access="gradients",
        framework="torch.export",
        name="program",
        notes=(f"exported for {size} rows: every batch is cut into such; export with a dynamic batch for speed",),
    )


def _rows(program: ExportedProgram, rows: Any) -> tuple[int, int]:
    """The fewest and the most rows that an exported program takes at once."""
    if isinstance(rows, int):
        return rows, rows
    known = program.range_constraints.get(rows.node.expr)
    if known is None:
        return 0, ANY
    least, most = (int(end) if end.is_Integer else ANY for end in (known.lower, known.upper))
    return least if least > 2 else 0, most  # torch counts from 2 where it was not told, and takes 1 and 0 all the same


def load(path: str | Path, *, trust: bool = False) -> Victim:
    """A `.pt2` program, a TorchScript `.ts` file or a pickled module: all of them only with `trust`.

    `torch.export.load` unpickles and evaluates parts of the archive, TorchScript can write files, and a pickle is a
    program: none of them can be read from a stranger. A state dict in a factory's network can.

    Raises:
        BadInput: no trust, not such a file, or a state dict without its network.

    """
    suffix = Path(path).suffix.lower()
    what = {".pt2": "an exported program, which torch unpickles", ".ts": "TorchScript, which can write files"}
    if not trust:
        if suffix not in what and isinstance(_read(path, trust=False), Mapping | list):
            raise _no_network(path)
        raise BadInput(
            f"'{path}' is {what.get(suffix, 'a pickle, which can run code')}",
            "weights and the code of the network (module:factory with --weights)",
            "pass --trust if you know who made it",
        )
    if suffix == ".ts":
        obj = _attempt(path, lambda: torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]
    elif suffix == ".pt2":
        obj = _attempt(path, lambda: torch.export.load(path))
    else:
        obj = _read(path, trust=True)
    if isinstance(obj, Mapping | list):
        raise _no_network(path)
    victim = adopt(obj)
    if victim is None:
        raise BadInput(f"'{path}' holds a {type(obj).__name__}", "a torch module", "save the module")
    return victim


def _no_network(path: str | Path) -> BadInput:
    return BadInput(
        f"'{path}' holds weights without their network", "the code of the network", "pass module:factory and --weights"
    )


def load_folder(path: str | Path) -> Victim:
    """A Hugging Face folder (`config.json`, `model.safetensors`) as a model; nothing is downloaded, no code is run.

    Raises:
        BadInput: an architecture that transformers does not have, or files that do not fit it.

    """
    transformers = require("transformers", "transformers")

    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

    def read() -> Any:
        config = transformers.AutoConfig.from_pretrained(str(path), **settings)
        family = getattr(transformers, config.architectures[0])
        return family.from_pretrained(str(path), use_safetensors=True, **settings)

    if "auto_map" in _attempt(path, lambda: json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))):
        do = "load it yourself, and hand over the model: module:factory"
        raise BadInput(f"'{path}' brings code of its own (auto_map in config.json)", "a network of transformers", do)

    victim = adopt(_attempt(path, read).eval())
    assert victim is not None
    return victim


def load_weights(module: nn.Module, path: str | Path, *, trust: bool = False) -> None:
    """Load a state dict from a `.safetensors`, `.pt` or `.pth` file into a module, and put it into eval mode.

    Takes a bare state dict, a checkpoint that holds one, a list with one, and names as DataParallel, `torch.compile`
    and Lightning write them. A pickled module gives its weights only with `trust`.

    Raises:
        BadInput: no such file, a pickle, no state dict in it, or one of another network: the first names that differ.

    """
    own = module.state_dict()
    state = _named_as(own, _state(_read(path, trust=trust), path))
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(
            f"'{path}' does not fit {type(module).__name__} ({_difference(own, state) or line(error)[:160]})",
            "the state dict of this network",
            "pass the weights that were saved from it, or the factory they belong to",
        ) from error
    module.eval()


def _read(path: str | Path, *, trust: bool) -> Any:
    """What a file of weights holds, on the CPU."""
    if not Path(path).is_file():
        raise BadInput(f"no file '{path}'", "a .pt, .pth or .safetensors file", "check the path")
    if Path(path).suffix.lower() == ".safetensors":
        safetensors = require("safetensors.torch", "safetensors")
        return _attempt(path, lambda: safetensors.load_file(str(path), device="cpu"))
    try:
        read = partial(torch.load, path, map_location="cpu", weights_only=not trust)  # trusted by the user
        return _attempt(path, read)
    except pickle.UnpicklingError as error:
        if trust or not _is_pickle(Path(path)):
            raise _damaged(path, error) from error
        raise BadInput(
            f"'{path}' is a pickle of more than tensors (a whole module?) and reading it would run its code",
            "a state dict",
            "save module.state_dict() instead, or pass --trust if you know who made it",
        ) from None


def _attempt(path: str | Path, read: Any) -> Any:
    """Read a file, or say in one line that it is damaged."""
    try:
        return read()
    except (pickle.UnpicklingError, BadInput):
        raise
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> BadInput:
    first = str(error).strip().split("\n")[0]  # torch goes on with advice about arguments of its own
    given = f"'{path}' does not load ({type(error).__name__}: {first[:160]})"
    return BadInput(given, "a whole file of weights", "save it anew")


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as pickles do, or as the archives that torch puts them in."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"\x80", b"PK\x03\x04"))


def _state(loaded: Any, path: str | Path) -> dict[str, Any]:
    """The state dict inside what a file held."""
    if isinstance(loaded, list | tuple) and len(loaded) == 1:
        loaded = loaded[0]
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in CHECKPOINTS if isinstance(loaded.get(key), Mapping | nn.Module)), loaded)
    if isinstance(loaded, nn.Module):
        loaded = loaded.state_dict()
    if isinstance(loaded, dict) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        return loaded  # as it is: torch reads the version of each layer from an attribute of it
    held = f"a {type(loaded).__name__}"
    if isinstance(loaded, Mapping):
        held = f"a dict of {_some(list(loaded))}" if loaded else "an empty dict"
    raise BadInput(f"'{path}' holds {held}", "a state dict (names to tensors)", "save module.state_dict()")


def _named_as(own: Mapping[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """The state dict without the prefixes of wrappers that the module does not have."""

    def wrapper() -> str | None:
        return next((p for p in WRAPPERS if all(n.startswith(p) for n in state) and not _starts(own, p)), None)

    while prefix := wrapper():
        consume_prefix_in_state_dict_if_present(state, prefix)
    return state


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _difference(own: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """How two state dicts differ, in words."""
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and isinstance(own[name], Tensor) and state[name].shape != own[name].shape
    ]
    kinds = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": shapes,
    }
    return "; ".join(f"{kind} {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: list[Any], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest
