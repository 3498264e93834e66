"""A model that reads texts, as one that reads rows of numbered words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.data.lexicon import Lexicon
from sparring.domains.text.opened import opened
from sparring.domains.text.tokenised import Tokenised
from sparring.errors import BadInput, named, require
from sparring.models.function import answer, called, labels, scores
from sparring.models.loading import made
from sparring.models.victim import Victim

Read = Callable[[list[str]], Any]
"""Texts to scores `(n, K)`, higher is likelier, or to labels `(n,)`."""


@dataclass(frozen=True)
class Reader:
    """Reads rows of numbered words `(B, length)` out to a model, each text once."""

    model: Read
    lexicon: Lexicon

    def __call__(self, x: Tensor) -> Any:
        """What the model says of them, as a tensor or an array."""
        texts, rows = self.lexicon.different(x)
        said = answer(lambda _: self.model(texts), x, "torch", called(self.model))
        return said[rows] if said.ndim and len(said) == len(texts) != len(x) else said


@dataclass(frozen=True)
class Estimator:
    """A classifier of scikit-learn, or a pipeline of it that takes texts: scores that do not saturate, where it can."""

    model: Any

    def __call__(self, texts: list[str]) -> Any:
        """Its decision function, or its probabilities."""
        if not hasattr(self.model, "decision_function"):
            return self.model.predict_proba(texts)
        said = torch.as_tensor(self.model.decision_function(texts))
        return torch.stack([-said, said], 1) if said.ndim == 1 else said


def reading(model: object, lexicon: Lexicon, classes: int, name: str | None = None) -> Victim:
    """A model of texts as a victim on the numbers of a lexicon: with slopes, by its scores, or by its decisions alone.

    `model` is a function of a list of texts to scores `(n, K)` or to labels `(n,)`, a classifier or pipeline of
    scikit-learn that takes texts, a pipeline of transformers for them, or a pair `(network, tokenizer)`; or a pair
    `(network, Vocabulary)` of an `nn.Module` that takes ids of whole words. Each text is asked for once in a call.
    Networks whose embedding is known have the access "gradients": they take opened texts too
    (`sparring.domains.text.opened`).

    Raises:
        BadInput: something else, or an answer that is neither.
    """
    if isinstance(model, Victim):
        return model
    title = name or called(model)
    if (inside := opened(model, lexicon)) is not None:
        return Victim(call=inside, access="gradients", framework="text", name=title, module=inside)
    read, network = _reads(model)
    reader = Reader(read, lexicon)
    try:
        said = answer(reader, torch.tensor([[0.0], [1.0]]), "torch", title)
    except BadInput:
        raise
    except Exception as error:  # whatever it raises
        given = f"{title} raised {named(error)} on texts {lexicon.decode(torch.tensor([[0.0], [1.0]]))!r}"
        raise BadInput(given, "a function of a list of texts to scores (n, K)", "try it on such a list") from error
    decides = said.ndim == 1 and not said.is_floating_point()
    asked = Asked(reader, title, classes if decides else None)
    return Victim(call=asked, access="labels" if decides else "scores", framework="text", name=title, module=network)


@dataclass(frozen=True)
class Asked:
    """A reader whose answers are looked at, as those of any other function; it travels to other processes."""

    reader: Reader
    name: str
    classes: int | None

    def __call__(self, x: Tensor) -> Tensor:
        """Scores `(B, K)`; of labels, which `classes` are for, one-hot ones.

        Raises:
            BadInput: an answer that is neither.
        """
        if self.classes is None:
            return scores(self.reader, name=self.name, takes="torch").call(x)
        return labels(self.reader, classes=self.classes, name=self.name, takes="torch").call(x)


def _reads(model: object) -> tuple[Read, nn.Module | None]:
    """What reads texts, and the torch module in it."""
    network, tokenizer = getattr(model, "model", None), getattr(model, "tokenizer", None)
    if isinstance(model, tuple) and len(model) == 2:
        network, tokenizer = model
    if tokenizer is not None and isinstance(network, nn.Module):
        return Tokenised(network, tokenizer), network
    if hasattr(model, "predict") and hasattr(model, "classes_"):
        if hasattr(model, "decision_function") or hasattr(model, "predict_proba"):
            return Estimator(model), None
        order = {label: i for i, label in enumerate(model.classes_)}
        return lambda texts: torch.tensor([order[label] for label in model.predict(texts)]), None
    if not callable(model):
        need = "a function of a list of texts to scores (n, K)"
        raise BadInput(f"a {type(model).__name__} as a model of texts", need, "wrap it in one")
    return model, model if isinstance(model, nn.Module) else None


def load(spec: str, *, weights: str | None = None, trust: bool = False) -> object:
    """What a command line names as a model of texts: `file.py:factory`, a `.skops`, or a folder of transformers.

    Raises:
        BadInput: what `sparring.models.load` refuses.
    """
    path = Path(spec)
    if path.is_dir() and (path / "config.json").is_file():
        from sparring.models.torch import load_folder

        transformers = require("transformers", "transformers")
        logits = load_folder(path).module  # of one input alone, where texts need their lengths too
        return getattr(logits, "model", logits), transformers.AutoTokenizer.from_pretrained(spec, local_files_only=True)
    return made(spec, weights=weights, trust=trust)
