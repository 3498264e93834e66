"""Every model that can be in hand or in a file, as a victim."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.errors import BadInput, line, require
from sparring.factories import build
from sparring.models.victim import Victim

ADAPTERS = {
    "keras": "keras",  # before torch: on that backend a Keras model is both
    "transformers": "torch",
    "torch": "torch",
    "tf_keras": "tensorflow",
    "tensorflow": "tensorflow",
    "flax": "jax",
    "jax": "jax",
    "jaxlib": "jax",
    "xgboost": "boosted",  # before sklearn: their classifiers are both
    "lightgbm": "boosted",
    "sklearn": "sklearn",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "sparring.models.endpoint": "endpoint",
}
"""Where a class was defined (package or module) to the adapter that knows it. Nothing is imported to find out."""


def adopt(model: object, *, name: str | None = None, example: Tensor | None = None) -> Victim:
    """Make a victim of a model of any framework: a module, an estimator, a booster, a graph, a function.

    Told by the packages in which its classes were defined. A plain Python function could be of any framework: it
    is called with NumPy arrays and gives scores (with torch tensors, if it takes an `example` `(1, *shape)` so alone),
    unless it turns that into a torch tensor with gradients, or is wrapped by `sparring.models.torch.function`,
    `sparring.models.jax.function` or `sparring.models.tensorflow.function`, which give gradients.

    Raises:
        BadInput: nothing that can be called, or what the adapter refuses.

    """
    if isinstance(model, Victim):
        victim: Victim | None = model
    else:
        victim = next((found for adapter in _adapters(model) if (found := adapter(model)) is not None), None)
    if victim is None:
        raise BadInput(
            f"an object of type {type(model).__name__}",
            "a model, or a function x -> scores",
            "see `sparring list models`",
        )
    if victim.framework == "function" and example is not None and not isinstance(model, Victim):
        said = _answer(model, example.clone().requires_grad_())
        if isinstance(said, Tensor) and said.requires_grad:
            victim = _adapter("torch").function(model)
        elif said is not None and _answer(model, example.detach().cpu().numpy().copy()) is None:
            victim = _adapter("function").scores(model, takes="torch")
    return victim if name is None else replace(victim, name=name)


def _answer(f: Any, given: object) -> Any:
    """What a function of unknown origin says of an input; nothing where it refuses it.

    It is called with torch's random numbers kept. Networks inside of it are in the mode that they are in: one in
    train mode takes the example into its running statistics, as it would with any call.
    """
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), torch.inference_mode(False):
            return f(given)
    except Exception:
        return None  # what is wrong with it will be said when it is used


def _adapters(model: object) -> list[Callable[[Any], Victim | None]]:
    """The adapters to ask, the most particular first."""
    made = model.func if isinstance(model, functools.partial) else model
    homes = {part.__module__ for part in type(made).__mro__}
    packages = homes | {home.partition(".")[0] for home in homes}
    names = dict.fromkeys(adapter for package, adapter in ADAPTERS.items() if package in packages)
    return [_adapter(name).adopt for name in (*names, *(["function"] if callable(model) else []))]


def _adapter(name: str) -> Any:
    return importlib.import_module(f"sparring.models.{name}")


def load(spec: str, *, weights: str | None = None, trust: bool = False, example: Tensor | None = None) -> Victim:
    """Make a victim of what a command line names.

    `spec` is `package.module:factory` or `path/to/file.py:factory`; a file `.onnx`, `.keras`, `.skops`, a booster's
    own file, `.pt2`; a TensorFlow SavedModel or Hugging Face folder; `http(s)://...` or the `.toml` / `.json` that
    describes an endpoint. `weights` go into what a factory returned, which then is in eval mode; without them a
    factory's network stays in the mode in which it came. Code that is named by `spec` runs; code that is hidden in
    a file (pickle, joblib, a Lambda layer, TorchScript, `.pt2`) runs only with `trust`. An ONNX file is compared with
    onnxruntime on the `example` `(B, *shape)` too, and needs one where it leaves the size of its input open.

    Raises:
        BadInput: a file, module or name that is not there; an unknown ending; weights of another network; a pickle.

    """
    return replace(_load(spec, weights, example, trust=trust), source=(spec, weights, trust, example))


def _load(spec: str, weights: str | None, example: Tensor | None, *, trust: bool) -> Victim:
    path = Path(spec)
    url = spec.startswith(("http://", "https://"))
    reader = None if url else FOLDER if path.is_dir() else FILES.get(path.suffix.lower())
    if (url or reader) and weights is not None:
        raise BadInput(f"--weights with '{spec}'", "module:factory to load them into", "leave --weights out")
    if url:
        return _adapter("endpoint").load(spec)  # type: ignore[no-any-return]
    if reader is not None:
        if not path.exists():
            raise BadInput(f"no file '{spec}'", "a model file", "check the path")
        return replace(reader(path, trust, example), name=path.name)
    if path.suffix == ".py" and path.is_file():
        raise BadInput(f"'{spec}', a file of Python", "a function in it that returns the model", f"write {spec}:NAME")
    if ":" not in spec:
        known = ", ".join(FILES)
        missing = f"'{spec}' ends in no known way" if path.exists() else f"no file '{spec}'"
        raise BadInput(missing, f"a file {known}, or module:factory", "check the path or write a factory")
    return adopt(_with_weights(_made(spec), weights, spec, trust=trust), name=spec)


def _made(spec: str) -> object:
    """What a factory returns. One that imports Keras gets it on torch where TensorFlow, its own default, is missing."""
    from sparring.models.keras import backend

    if importlib.util.find_spec("tensorflow") is not None:
        return build(spec)
    with backend():
        return build(spec)


def _with_weights(model: object, weights: str | None, spec: str, *, trust: bool) -> object:
    """The model with the weights loaded into it."""
    if weights is None:
        return model
    if not Path(weights).is_file():
        raise BadInput(f"no file '{weights}'", "a file of weights", "check --weights")
    if weights.endswith(".h5"):
        _adapter("keras").load_weights(model, weights)
    elif isinstance(network := model[0] if isinstance(model, tuple) and model else model, nn.Module):
        _adapter("torch").load_weights(network, weights, trust=trust)
    else:
        raise BadInput(
            f"--weights for the {type(model).__name__} of '{spec}'", "a torch module or a Keras model", "leave it out"
        )
    return model


Reader = Callable[[Path, bool, Tensor | None], Victim]
"""Given the path, whether it is trusted, and an example of the data where there is one."""


def _folder(path: Path, trust: bool, _: Tensor | None) -> Victim:
    if (path / "config.json").is_file():
        return _adapter("torch").load_folder(path)  # type: ignore[no-any-return]
    return _adapter("tensorflow").load(path, trust=trust)  # type: ignore[no-any-return]


def made(spec: str, *, weights: str | None = None, trust: bool = False) -> object:
    """What a command line names, as it is: what a factory returned, or the estimator in a `.skops` or a pickle.

    Raises:
        BadInput: as `load`, and for files of other kinds.
    """
    path = Path(spec)
    if path.is_file() and path.suffix.lower() == ".skops":
        return _adapter("sklearn").read(path, trust=trust)
    if path.is_file() and FILES.get(path.suffix.lower()) is _pickled:
        return _unpickled(path, trust)
    if ":" not in spec or spec.startswith(("http://", "https://")):
        raise BadInput(f"'{spec}'", "module:factory, or a .skops file", "write a factory")
    return _with_weights(_made(spec), weights, spec, trust=trust)


def _pickled(path: Path, trust: bool, _: Tensor | None) -> Victim:
    return adopt(_unpickled(path, trust))


def _unpickled(path: Path, trust: bool) -> object:
    if not trust:
        raise BadInput(
            f"'{path}' is a pickle, which runs whatever code its maker put into it",
            "a .skops, .onnx or other safe file",
            "convert it, or pass --trust if you know who made it",
        )
    import pickle

    try:
        with path.open("rb") as file:
            joblib = path.suffix.lower() == ".joblib"
            read = require("joblib", "sklearn").load if joblib else pickle.load  # trusted by the user
            model: object = read(file)
    except BadInput:
        raise
    except Exception as error:
        said = line(error)[:160]
        raise BadInput(f"'{path}' does not load ({said})", "a whole pickle of a model", "save it anew") from error
    return model


def _by(adapter: str) -> Reader:
    return lambda path, trust, _: _adapter(adapter).load(path, trust=trust)


def _safely(adapter: str) -> Reader:
    """Formats that hold no code, so that trust changes nothing."""
    return lambda path, *_: _adapter(adapter).load(path)


def _onnx(path: Path, _: bool, example: Tensor | None) -> Victim:
    return _adapter("onnx").load(path, check=example)  # type: ignore[no-any-return]


def _json(path: Path, *_: object) -> Victim:
    """An XGBoost model or the description of an endpoint."""
    with path.open(encoding="utf-8", errors="replace") as file:
        booster = '"learner"' in file.read(4096)
    return _adapter("boosted" if booster else "endpoint").load(path)  # type: ignore[no-any-return]


FOLDER = _folder
FILES: dict[str, Reader] = {
    ".onnx": _onnx,
    ".keras": _by("keras"),
    ".skops": _by("sklearn"),
    ".ubj": _safely("boosted"),
    ".txt": _safely("boosted"),
    ".toml": _safely("endpoint"),
    ".json": _json,
    ".pt2": _by("torch"),
    ".ts": _by("torch"),
    ".pt": _by("torch"),
    ".pth": _by("torch"),
    ".pkl": _pickled,
    ".pickle": _pickled,
    ".joblib": _pickled,
}
"""What a file's name ends in, to what reads it."""
