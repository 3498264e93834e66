"""Examples of a task: labels that are no classes, from whatever holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparring.data.arrays import Array, Subset
from sparring.data.loading import Source, load, load_split
from sparring.data.npz import read_npz
from sparring.data.table import read_csv
from sparring.errors import BadInput
from sparring.factories import build
from sparring.tasks import Classification, Task
from sparring.types import Data


def asked(data: Any, task: Task, name: str = "data") -> Data:
    """A data set, or a pair (inputs, labels), on which a model is asked this. Of a pair the labels are checked.

    Raises:
        BadInput: something else, a data set of another task, or what `task.data` refuses.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        return task.data(name, *data)
    if not isinstance(data, Data):
        need = "a pair (inputs, labels), a data set, or the name of one"
        raise BadInput(f"a {type(data).__name__} for the {name}", need, "write (x, y), or load(...) of sparring.data")
    own: Task | None = getattr(data, "task", None)
    if own not in (None, task):
        raise BadInput(f"task {task} on {data.name}, which is for {own}", "one task", "leave the task out")
    return Subset(data, range(len(data)), task)


def load_for(spec: str, task: Task, split: str | None = None) -> Data:
    """What a user types after `--data`, with labels as the task wants them.

    An `.npz` with `x` and `y` of any shape; a table whose label column holds numbers; a factory that gives a pair or a
    data set. Whatever else `sparring.data.load` takes has classes, which tasks about classes can use.

    Raises:
        BadInput: labels that are none of this task, and what `load` refuses.
    """
    source = Source.of(spec)
    path = Path(source.name)
    if source.kind == "path" and path.suffix.lower() == ".npz":
        return task.data(path.name, *_members(path, source.split or split))
    if source.kind == "path" and path.suffix.lower() == ".csv":
        x, y, words = read_csv(path)
        if words and not isinstance(task, Classification):
            raise BadInput(f"labels of '{path.name}' that are words", task.needs, "write them as numbers")
        return task.data(path.name, x, y)
    if source.kind == "factory":
        return asked(build(spec), task, spec)
    found = load(spec) if split is None else load_split(spec, split)
    if not isinstance(task, Classification) and getattr(found, "task", None) is None:
        need = "an .npz, a .csv, or a factory with labels that are none"
        raise BadInput(f"{task} on {spec}, whose labels are classes", need, "see the page on other tasks")
    return asked(found, task)


def _members(path: Path, split: str | None) -> tuple[Array, Array]:
    """Inputs and labels: `x` and `y`, or those of a split."""
    named = (("x", "y"), ("x_test", "y_test")) if split is None else ((f"x_{split}", f"y_{split}"),)
    x, y = read_npz(path, named)
    return x, y
