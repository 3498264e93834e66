"""What callers from Python hand over: a data set, or what becomes one; a threat, or the text of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from sparring.data import Arrays, agreed, first, load
from sparring.data.asked import asked, load_for
from sparring.data.texts import Texts, whole
from sparring.domains.text.reader import reading
from sparring.domains.text.threats import Rewrites, Wording, rewriting
from sparring.errors import BadInput
from sparring.models.loading import adopt
from sparring.models.victim import Victim
from sparring.tasks import Task
from sparring.tasks import parse as parse_task
from sparring.threats import Ball, parse
from sparring.types import Boxed, Data

Examples = Data | tuple[Tensor, Tensor] | tuple[Sequence[str], Sequence[int]] | str
"""A data set; inputs `(N, *shape)`, or N texts, with labels `(N,)`; or a name or a path, as on the command line."""


def examples(data: Examples, limit: int | None = None, task: Task | str | None = None) -> Data:
    """The data set, or the first of its examples; with what is asked of a model on them, where that is not a class.

    Raises:
        BadInput: something else, or what `sparring.data.load` or the task refuses.
    """
    if task is not None:
        wanted = parse_task(task) if isinstance(task, str) else task
        found = load_for(data, wanted) if isinstance(data, str) else asked(data, wanted)
    elif isinstance(data, str):
        found = load(data)
    elif isinstance(data, tuple) and len(data) == 2 and len(data[0]) and isinstance(data[0][0], str):
        texts, y = cast("tuple[Sequence[str], Sequence[int]]", data)
        found = Texts("data", texts, y)
    elif isinstance(data, tuple) and len(data) == 2:
        found = Arrays("data", *data)
    elif isinstance(data, Data):
        found = agreed(data) if len(data) else data
    else:
        raise BadInput(
            f"a {type(data).__name__} for the data",
            "a pair (inputs, labels), a data set, or the name of one",
            "write (x, y), or load(...) of sparring.data",
        )
    return found if limit is None else first(found, limit)


def met(
    model: object,
    data: Examples,
    threat: Boxed | Rewrites | str,
    *,
    limit: int | None = None,
    name: str | None = None,
    task: Task | str | None = None,
) -> tuple[Victim, Data, Ball]:
    """Model, data and threat, once they have met: texts are numbered together with what their words may become.

    Raises:
        BadInput: words replaced where there are none, or another threat on texts; and what each of them refuses.
    """
    subject = examples(data, limit, task)
    threat = rewriting(threat) or threat if isinstance(threat, str) else threat
    texts = whole(subject)
    if isinstance(threat, Rewrites):
        if (other := getattr(subject, "task", None)) is not None:
            raise BadInput(f"task {other} on {subject.name}, which are texts", "a class a text", "leave the task out")
        if texts is None:
            raise BadInput(f"{threat} on {subject.name}", "texts", "see: sparring list threats")
        numbered, wording = threat.over(texts)
        classes = max(int(max(numbered.y)) + 1, len(numbered.classes))
        return reading(model, numbered.words, classes, name), numbered, wording
    found = ball(threat)
    if texts is not None and not isinstance(found, Wording):
        raise BadInput(f"{found} on {subject.name}, which are texts", "a threat on words", "write for example typos:2")
    return adopt(model, name=name, example=subject.take([0])[0]), subject, found


def ball(threat: Boxed | str) -> Ball:
    """The threat, a ball of a norm.

    Raises:
        BadInput: something else, or what `sparring.threats.parse` refuses.
    """
    found = parse(threat) if isinstance(threat, str) else threat
    if not isinstance(found, Ball):
        given = f"{threat!r} for the threat" if isinstance(threat, str | float | int) else f"a {type(threat).__name__}"
        need = "a ball of a norm, or a patch"
        raise BadInput(given, need, "write linf(8 / 255), of sparring.threats, or 'linf:8/255'")
    return found


@contextmanager
def with_gradients() -> Iterator[None]:
    """Whatever mode the caller is in: an evaluation script is often under `torch.no_grad`, and attacks need slopes."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
