"""Tasks: what a model is asked, and with it what an attack on it is: how to read its outputs, and the goal.

A task turns what the data give into a goal, and the rest of Sparring runs unchanged: every attack that climbs the
margin or the cross-entropy, or asks for these scores, serves every task. Attacks that reason about classes (DLR,
DeepFool, ...) refuse goals without them.

    task = Regression(tolerance=0.5)
    z = pgd(threat)(task.view(model), x, task.goal(labels), rng)
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sparring.data.arrays import Array, Lazy, floats, inputs, numbers
from sparring.data.arrays import labels as class_labels
from sparring.errors import BadInput
from sparring.goals import Direction, Endless, Labels, Measured, Never, Pixels, Targeted, Untargeted, Values, finite
from sparring.spelling import hint
from sparring.types import Data, Goal, Model

Checked = tuple[Array, tuple[str, ...]]
"""Labels that were checked, and notes of what was done to them."""


def pairs(model: Model) -> Model:
    """A model with one logit s as one with two, (-s / 2, s / 2): the same decision, the same probabilities.

    Outputs `(B,)`, `(B, 1)` or `(B, 1, *places)` become `(B, 2, *places)`. Two outputs and more stay as they are.
    """

    def view(x: Tensor) -> Tensor:
        s = model(x)
        s = s.reshape(len(x), 1) if s.dim() < 2 else s
        return torch.cat([-s / 2, s / 2], 1) if s.shape[1] == 1 else s

    return view


def odds(model: Model) -> Model:
    """A model that ends in a sigmoid as one that ends in its logit, `log(p / (1 - p))`, cut off where p rounds to 1."""

    def view(x: Tensor) -> Tensor:
        p = model(x)
        return torch.logit(p, torch.finfo(p.dtype).eps)

    return view


@dataclass(frozen=True)
class Rows:
    """Rows of an array as inputs, as `Arrays` makes them."""

    x: Array

    def __call__(self, rows: Sequence[int]) -> Tensor:
        """Some of the rows, `(B, *shape)` float32."""
        return floats(np.asarray(self.x)[rows])


class Task(ABC):
    """What a model is asked. A task is a frozen value; `str(task)` is its text on a command line (see `parse`)."""

    name: ClassVar[str]
    needs: ClassVar[str]
    """The outputs and labels that fit, in words."""
    measures: ClassVar[str]
    """What `measure` tells, in words."""
    silence: ClassVar[bool] = False
    """Whether a model that says nothing is right: being right is no sign then that it understands its inputs."""
    two_ways: ClassVar[bool] = False
    """Whether an answer can be wrong in two ways, by being too large or too small, that attacks try one by one."""

    @abstractmethod
    def goal(self, labels: Tensor) -> Goal:
        """To make the model wrong: the goal of an attack on examples with these labels."""

    @abstractmethod
    def target(self, wanted: Tensor) -> Goal:
        """To make the model say what the attacker wants, given as labels are."""

    def never(self, labels: Tensor) -> Goal:
        """To climb away from the labels to the very end: no answer is wrong enough."""
        goal = self.goal(labels)
        assert isinstance(goal, Measured)
        return Endless(goal)

    @abstractmethod
    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """The labels `(N, ...)` of a data set, checked.

        Raises:
            BadInput: labels that are none of this task; `name` is the data set's.
        """

    @abstractmethod
    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """What keeps these outputs (of `view`) and labels from being a model's of this task; empty if nothing does."""

    def classes(self, outputs: Tensor) -> int:
        """How many classes an answer is one of; 0 where it is none."""
        return 0

    def told(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What a record says that was right, and what was answered, `(B,)` int64 each: places in `ANSWERS`, or classes.

        They differ exactly where the goal is reached.
        """
        wrong = self.goal(labels).reached(outputs).long()
        return torch.zeros_like(wrong), wrong

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """How well each row is answered, `(B,)`: the figure that `measures` names."""
        goal = self.goal(labels)
        assert isinstance(goal, Measured)
        return goal.measure(outputs)

    def view(self, model: Model) -> Model:
        """The model in the form that the goals read: what is attacked, and what is judged."""
        return model

    def data(self, name: str, x: Array | Tensor, y: Array | Tensor) -> Data:
        """Inputs `(N, *shape)` as `Arrays` takes them, with labels of this task, as a data set.

        Raises:
            BadInput: labels that do not fit the task, or what `Arrays` refuses.
        """
        rows, notes = inputs(x, name)
        answers, said = self.labels(y, name)
        if len(rows) != len(answers):
            raise BadInput(f"{name} has {len(rows)} inputs and {len(answers)} labels", "one label an input", "align")
        return Lazy(name, Rows(rows), answers, notes=(*notes, *said), task=self)

    def __str__(self) -> str:
        settings = {field.name: getattr(self, field.name) for field in _settings(type(self))}
        given = {key: x for key, x in settings.items() if x != getattr(type(self), key, MISSING)}
        return ":".join([self.name, *(key if x is True else str(x) for key, x in given.items())])


@dataclass(frozen=True)
class Classification(Task):
    """One of K classes: logits `(B, K)`, labels `(B,)` from 0. To be wrong is to name another class."""

    name = "classification"
    needs = "finite (B, K), labels 0 to K - 1"
    measures = "1 where the class is right"

    def goal(self, labels: Tensor) -> Goal:
        """Any other class."""
        return Untargeted(labels)

    def never(self, labels: Tensor) -> Goal:
        """Any other class, ever more surely."""
        return Never(labels)

    def target(self, wanted: Tensor) -> Goal:
        """The wanted class."""
        return Targeted(wanted)

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """Whole numbers from 0 `(N,)`, or one-hot `(N, K)`."""
        return class_labels(y, name)

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs that are not (B, K), a single output, labels that are no classes, NaN or infinity."""
        return _class_misfit(outputs, labels)

    def classes(self, outputs: Tensor) -> int:
        """As many as there are outputs."""
        return outputs.shape[1] if outputs.dim() == 2 else 0

    def told(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The labels, and the classes that were named."""
        return labels, outputs.argmax(1)

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """1 where the class is right, else 0."""
        return (outputs.argmax(1) == labels).float()


@dataclass(frozen=True)
class Binary(Classification):
    """Yes or no: one logit `(B,)` or `(B, 1)`, yes where it is above 0; labels `(B,)` of 0 and 1.

    Attacks see two classes (`pairs`). With `probability` the output is that of a sigmoid, and yes above a half.
    """

    name = "binary"
    needs = "one finite logit (B,) or (B, 1), labels 0 and 1"
    measures = "1 where the answer is right"

    probability: bool = False

    def view(self, model: Model) -> Model:
        """Two logits in place of one."""
        return pairs(odds(model) if self.probability else model)

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """0 and 1, `(N,)` or `(N, 1)`."""
        return class_labels(_bits(numbers(y, f"the labels of {name}"), name), name)

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """As in a classification with two classes; and probabilities where logits were promised."""
        if outputs.dim() == 2 and outputs.shape[1] > 2:
            return f"the model has {outputs.shape[1]} outputs, not one for yes or no"
        problem = _class_misfit(outputs, labels)
        if not (problem or self.probability) and torch.equal(outputs[:, 0], -outputs[:, 1]):
            return _sigmoid(2 * outputs[:, 1], self.name)
        return problem


@dataclass(frozen=True)
class MultiLabel(Task):
    """Any of L labels at once: logits `(B, L)`, a label set above 0; labels `(B, L)` of 0 and 1.

    To be wrong is to decide more than `wrong` labels wrongly: any, unless told. With `probability` the outputs are
    those of sigmoids.
    """

    name = "multi-label"
    needs = "finite logits (B, L), labels (B, L) of 0 and 1"
    measures = "labels decided wrongly"

    wrong: int = 0
    probability: bool = False

    def __post_init__(self) -> None:
        if self.wrong < 0:
            raise BadInput(f"{self.wrong} labels that may be wrong", "0 or more", "give say 1")

    def goal(self, labels: Tensor) -> Goal:
        """More wrong labels than allowed."""
        return Labels(labels, self.wrong)

    def target(self, wanted: Tensor) -> Goal:
        """The wanted labels, but for as many as may be wrong."""
        return Labels(wanted, self.wrong, sign=-1)

    def view(self, model: Model) -> Model:
        """Logits in place of probabilities."""
        return odds(model) if self.probability else model

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """0 and 1, `(N, L)`."""
        y = _filled(y, name, 2, "(N, L), a column of 0 and 1 for every label")
        return _bits(y, name).astype(np.int64), ()

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs and labels of two shapes, NaN or infinity, probabilities where logits were promised."""
        if outputs.dim() != 2 or outputs.shape != labels.shape:
            return shapes(outputs, labels)
        return unusable(outputs) or ("" if self.probability else _sigmoid(outputs, self.name))


@dataclass(frozen=True)
class Regression(Task):
    """Numbers: outputs `(B,)`, `(B, D)` or of any other shape, labels of the same. To be wrong is to be off by more.

    `tolerance` is in the unit of the outputs; the worst of an example's outputs counts.
    """

    name = "regression"
    needs = "finite outputs in the shape of the labels"
    measures = "largest error"
    two_ways = True

    tolerance: float

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < float("inf"):
            need = "a finite number, 0 or more"
            raise BadInput(f"a tolerance of {self.tolerance}", need, "give it in the unit of the outputs")

    def goal(self, labels: Tensor) -> Goal:
        """An output that is off by more than the tolerance."""
        return Values(labels, self.tolerance)

    def target(self, wanted: Tensor) -> Goal:
        """Outputs within the tolerance of the wanted."""
        return Values(wanted, self.tolerance, sign=-1)

    def view(self, model: Model) -> Model:
        """A row for every example: one value `(B,)` as `(B, 1)`."""

        def view(x: Tensor) -> Tensor:
            outputs = model(x)
            return outputs.unsqueeze(1) if outputs.dim() == 1 else outputs

        return view

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """Finite numbers, `(N,)` or `(N, *shape)`, as float32."""
        y = _filled(y, name, None, "(N,) or (N, D)")
        return _finite(y, name), ()

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs and labels of two shapes, NaN or infinity."""
        one = outputs.numel() == labels.numel() == len(labels)
        return unusable(outputs) if outputs.shape == labels.shape or one else shapes(outputs, labels)


@dataclass(frozen=True)
class Segmentation(Task):
    """A class for every pixel: logits `(B, K, H, W)`, labels `(B, H, W)`. To be wrong is a pixel accuracy below this.

    One logit a pixel, `(B, 1, H, W)`, is read as yes above 0. Pixels of class `ignore` do not count.
    """

    name = "segmentation"
    needs = "finite logits (B, K, H, W), labels (B, H, W) of 0 to K - 1"
    measures = "pixel accuracy"

    accuracy: float
    ignore: int = 255

    def __post_init__(self) -> None:
        if not 0 < self.accuracy <= 1:
            raise BadInput(f"a pixel accuracy of {self.accuracy}", "a share above 0 and up to 1", "give say 0.5")

    def goal(self, labels: Tensor) -> Goal:
        """A pixel accuracy below the threshold."""
        return Pixels(labels.long(), self.accuracy, self.ignore)

    def target(self, wanted: Tensor) -> Goal:
        """The wanted map, on that share of the pixels."""
        return Pixels(wanted.long(), self.accuracy, self.ignore, sign=-1)

    def view(self, model: Model) -> Model:
        """Two logits in place of one."""
        return pairs(model)

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """Whole numbers from 0, or `ignore`, `(N, H, W)` or `(N, 1, H, W)`. Integers stay in their type, and mapped."""
        y = numbers(y, f"the labels of {name}")
        y = y[:, 0] if y.ndim == 4 and y.shape[1] == 1 else y
        y = _filled(y, name, 3, "(N, H, W), a class for every pixel")
        wrong = (y < 0) & (y != self.ignore)
        if y.dtype.kind == "f":
            wrong |= ~np.isfinite(y) | (y != np.rint(y))
        if wrong.any():
            do = f"give class numbers, and {self.ignore} where there is none"
            raise BadInput(f"the labels of {name} contain {y[wrong][0]}", "whole numbers from 0", do)
        return y if y.dtype in (np.uint8, np.int16, np.int32, np.int64) else y.astype(np.int64), ()

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs that are not (B, K, H, W) for labels (B, H, W), labels that are no classes, NaN or infinity."""
        if outputs.dim() != 4 or labels.dim() != 3 or (len(outputs), *outputs.shape[2:]) != tuple(labels.shape):
            return shapes(outputs, labels)
        known = labels[labels != self.ignore]
        if len(known) and (int(known.min()) < 0 or int(known.max()) >= outputs.shape[1]):
            reach = f"labels reach from {int(known.min())} to {int(known.max())}"
            return f"{reach}, and the model has {outputs.shape[1]} classes; {self.ignore} is ignored"
        return unusable(outputs)


@dataclass(frozen=True)
class Embedding(Task):
    """Directions: vectors `(B, D)`, references `(B, D)`. To be wrong is a cosine to the reference below this.

    The reference may be a prototype, another picture of the same person, or what the model says of the clean input.
    """

    name = "embedding"
    needs = "finite vectors (B, D), references (B, D)"
    measures = "cosine to the reference"

    cosine: float

    def __post_init__(self) -> None:
        if not -1 < self.cosine < 1:
            raise BadInput(f"a cosine of {self.cosine}", "a number between -1 and 1", "give say 0.5")

    def goal(self, labels: Tensor) -> Goal:
        """A cosine below the threshold."""
        return Direction(labels, self.cosine)

    def target(self, wanted: Tensor) -> Goal:
        """A cosine to the wanted above the threshold."""
        return Direction(wanted, self.cosine, sign=-1)

    def labels(self, y: Array | Tensor, name: str) -> Checked:
        """Finite vectors `(N, D)`, none of them zero, as float32."""
        y = _finite(_filled(y, name, 2, "(N, D), a reference vector an example"), name)
        if not np.abs(y).any(axis=1).all():
            raise BadInput(f"a reference of {name} is zero", "vectors with a direction", "drop such rows")
        return y, ()

    def misfit(self, outputs: Tensor, labels: Tensor) -> str:
        """Outputs and references of two shapes, NaN or infinity."""
        fits = outputs.dim() == 2 and outputs.shape == labels.shape
        return unusable(outputs) if fits else shapes(outputs, labels)


ANSWERS = ("right", "wrong")
"""What an answer is called that is no class."""


def of(data: Data) -> Task:
    """What is asked of a model on these examples: for a class, unless they say otherwise."""
    task: Task | None = getattr(data, "task", None)
    return task or Classification()


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Binary, MultiLabel, Regression, Segmentation, Embedding)
}


def known() -> Mapping[str, type[Task]]:
    """All tasks that have a text, by name: those of domains too, which enter theirs on import."""
    importlib.import_module("sparring.domains.driving.tasks")
    return TASKS


def parse(text: str) -> Task:
    """`NAME[:SETTING]...`, as in `binary`, `multi-label:2`, `regression:0.5`, `segmentation:0.5`, `embedding:0.3`.

    A flag is given by its name: `binary:probability`.

    Raises:
        BadInput: an unknown name, a setting that it does not have, a number that is missing or out of range.
    """
    tasks, (name, *given) = known(), text.split(":")
    if name not in tasks:
        do = hint(name, tasks, "choose one of them")
        raise BadInput(f"unknown task {name!r}", f"one of {', '.join(tasks)}", do)
    slots, settings = _settings(tasks[name]), dict[str, object]()
    try:
        for word in given:
            flag = next((field for field in slots if field.name == word and field.type == "bool"), None)
            field = flag or next(f for f in slots if f.type != "bool" and f.name not in settings)
            settings[field.name] = True if flag else int(word) if field.type == "int" else float(word)
        return tasks[name](**settings)
    except BadInput:
        raise
    except (ValueError, TypeError, StopIteration):
        raise BadInput(
            f"task {text!r}", form(tasks[name]), "write for example regression:0.5 or multi-label:probability"
        ) from None


def form(kind: type[Task]) -> str:
    """How a task is written: its name and its settings, those in brackets that may be left out."""
    slots = (field.name if field.default is MISSING else f"[{field.name}]" for field in _settings(kind))
    return ":".join([kind.name, *slots])


def _settings(kind: type[Task]) -> tuple[Field[Any], ...]:
    return fields(kind)  # type: ignore[arg-type]  # every task is a dataclass


def _class_misfit(outputs: Tensor, labels: Tensor) -> str:
    if outputs.dim() != 2 or len(outputs) != len(labels):
        return shapes(outputs, labels)
    count = outputs.shape[1]
    if count < 2:
        return "the model has a single output, which is no class of its own"
    if labels.dim() != 1 or labels.is_floating_point():
        return f"labels {tuple(labels.shape)} of {labels.dtype} are not one class an example"
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= count):
        return f"labels reach from {int(labels.min())} to {int(labels.max())}, and the model has {count} classes"
    return unusable(outputs)


def shapes(outputs: Tensor, labels: Tensor) -> str:
    """That these do not fit each other, in words."""
    return f"outputs have shape {tuple(outputs.shape)} for labels {tuple(labels.shape)}"


def unusable(outputs: Tensor) -> str:
    """How many rows hold NaN or infinity, in words; empty if none does."""
    rows = int((~finite(outputs)).sum())
    return f"{rows} of {len(outputs)} outputs hold NaN or infinity" if rows else ""


def _sigmoid(outputs: Tensor, name: str) -> str:
    """Whether these are no logits, by their looks: between 0 and 1, and not all the same."""
    if len(outputs) and 0 <= float(outputs.min()) < float(outputs.max()) <= 1:
        return f"every output is between 0 and 1, as of a sigmoid; a logit above 0 means yes; say {name}:probability"
    return ""


def _filled(y: Array | Tensor, name: str, dims: int | None, need: str) -> Array:
    """Labels as an array that has rows, and as many dimensions as it must."""
    y = numbers(y, f"the labels of {name}")
    if y.ndim == 0 or (dims is not None and y.ndim != dims):
        raise BadInput(f"the labels of {name} have shape {y.shape}", need, "reshape them, or choose another task")
    if not y.size:
        raise BadInput(f"{name} is empty", "at least 1 example", "check how it was made")
    return y


def _bits(y: Array, name: str) -> Array:
    odd = ~np.isin(y, (0, 1))
    if odd.any():
        raise BadInput(f"the labels of {name} contain {y[odd][0]}", "0 and 1 alone", "write 0 for no and 1 for yes")
    return y


def _finite(y: Array, name: str) -> Array:
    if not np.isfinite(y).all():
        raise BadInput(f"the labels of {name} hold NaN or infinity", "finite numbers", "drop or mend such rows")
    return y.astype(np.float32)
