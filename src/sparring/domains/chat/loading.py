"""Assistants of every kind: a folder or a file of transformers, a pair, a pipeline, a function, a service."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from torch import nn

from sparring.domains.chat.assistant import Assistant
from sparring.domains.chat.endpoint import load as load_endpoint
from sparring.domains.chat.function import Answering
from sparring.domains.chat.language_model import LONGEST, LanguageModel
from sparring.errors import BadInput, named, require
from sparring.factories import build, locate

NEED = "a folder of transformers, a .gguf or .toml file, or file.py:factory"


def adopt(model: Any, *, name: str | None = None, longest: int = LONGEST) -> Assistant:
    """An assistant of what is in hand.

    A pair (network, tokenizer) or a pipeline of transformers gives gradients, a function of a list of conversations to
    a list of answers gives its answers. What is an assistant already stays as it is.

    Raises:
        BadInput: something else.
    """
    if hasattr(model, "answers") and hasattr(model, "access"):
        return model  # type: ignore[no-any-return]
    network, tokenizer = getattr(model, "model", None), getattr(model, "tokenizer", None)
    if isinstance(model, tuple) and len(model) == 2:
        network, tokenizer = model
    if network is not None and tokenizer is not None:
        return LanguageModel(network, tokenizer, name=name, longest=longest)
    if not callable(model):
        need = "a pair (network, tokenizer), a pipeline, or a function of conversations to answers"
        raise BadInput(f"a {type(model).__name__} as an assistant", need, "wrap it in one")
    return Answering(model, name or str(getattr(model, "__qualname__", type(model).__name__)))


def load(spec: str, *, device: str = "cpu", longest: int = LONGEST) -> Assistant:
    """What a command line names: a folder of transformers, a `.gguf` file, the `.toml` of a service, or a factory.

    `file.py:name` is a factory without arguments, or with one (the conversations), which then is the assistant. Nothing
    is downloaded, and no code runs but that of a factory.

    Raises:
        BadInput: none of these, or one that does not load.
    """
    path = Path(spec)
    if path.suffix == ".toml":
        return load_endpoint(path)
    if path.is_dir() or path.suffix == ".gguf":
        return _language_model(path, device, longest)
    if ":" not in spec or spec.startswith(("http://", "https://")):
        raise BadInput(f"'{spec}' as an assistant", NEED, "write for example ./my-model")
    made = locate(spec)
    if callable(made) and _takes_conversations(made):
        return adopt(made, name=spec)
    return adopt(build(spec), name=spec, longest=longest)


def _takes_conversations(made: Any) -> bool:
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)


def _language_model(path: Path, device: str, longest: int) -> LanguageModel:
    transformers = require("transformers", "transformers")
    folder = path
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.suffix == ".gguf":
        if not path.is_file():
            raise BadInput(f"no file '{path}'", "a .gguf file", "check the path")
        for module in ("gguf", "accelerate"):
            require(module, "gguf")
        folder, settings = path.parent, {**settings, "gguf_file": path.name}
    elif not (path / "config.json").is_file():
        raise BadInput(f"'{path}' without config.json", "a folder of transformers", "check the path")
    elif "auto_map" in json.loads((path / "config.json").read_text(encoding="utf-8")):
        do = "load it yourself, and hand over (network, tokenizer): file.py:factory"
        raise BadInput(f"'{path}' brings code of its own (auto_map in config.json)", "a network of transformers", do)
    weights = {} if path.suffix == ".gguf" else {"use_safetensors": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **settings)
        network = transformers.AutoModelForCausalLM.from_pretrained(str(folder), **weights, **settings)
        nn.Module.to(network, device)  # transformers has one of its own, which refuses what came out of 4 bits
        if device == "cpu":
            nn.Module.float(network)  # halves are slow there
    except Exception as error:  # transformers, safetensors and torch each raise their own
        raise BadInput(
            f"'{path}' does not load ({named(error)[:200]})", "a causal language model", "check it"
        ) from error
    return LanguageModel(network.eval(), tokenizer, name=path.name, longest=longest)
