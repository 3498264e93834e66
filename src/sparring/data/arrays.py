"""Labelled examples in memory or memory-mapped, and the one place where labels and inputs are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparring.errors import BadInput, line
from sparring.types import Data

if TYPE_CHECKING:
    from sparring.tasks import Task

Array = NDArray[Any]

TASK = "of a model that does not classify, say what it is asked (--task)"


@dataclass(frozen=True, eq=False)
class Arrays:
    """Inputs and labels as arrays or tensors, as a data set.

    `x` is `(N, *shape)` in any numeric type and stays as it is, memory-mapped too; `take` gives the rows asked for as
    float32. uint8 becomes [0, 1]; every other type keeps its values, so floats in 0-255 stay there (the doctor
    notices). `y` is `(N,)` whole numbers from 0, or one-hot `(N, K)`. What was done to either is said in `notes`.

    Raises:
        BadInput: no rows, unequal lengths, text or objects, labels that are not whole numbers from 0.

    """

    name: str
    x: Array | Tensor
    y: Array | Tensor
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x, notes = inputs(self.x, self.name)
        y, said = labels(self.y, self.name)
        if len(x) != len(y):
            raise BadInput(f"{self.name} has {len(x)} inputs and {len(y)} labels", "one label an input", "align them")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "notes", (*self.notes, *notes, *said))

    def __repr__(self) -> str:
        return f"Arrays({self.name!r}, x={tuple(self.x.shape)} {self.x.dtype}, y={tuple(self.y.shape)})"

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs `(B, *shape)` float32 and labels `(B,)` int64; reads these rows only."""
        rows = np.asarray(indices, dtype=np.int64)
        return floats(np.asarray(self.x)[rows]), torch.from_numpy(np.asarray(self.y)[rows])


@dataclass(frozen=True)
class Subset:
    """Some examples of a data set, in a given order, read through it; `asked` is a task, in place of that of all."""

    data: Data
    rows: Sequence[int]
    asked: Task | None = None

    @property
    def name(self) -> str:
        """The name of the whole data set."""
        return self.data.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the whole data set."""
        return self.data.classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What the whole data set says of itself."""
        return tuple(getattr(self.data, "notes", ()))

    @property
    def stored(self) -> Callable[[Tensor], Tensor] | None:
        """How inputs of the whole data set are stored."""
        return getattr(self.data, "stored", None)

    @property
    def task(self) -> Task | None:
        """What a model is asked."""
        return self.asked or getattr(self.data, "task", None)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs and labels at these positions of the subset."""
        return self.data.take([self.rows[int(i)] for i in indices])


@dataclass(frozen=True, eq=False)
class Lazy:
    """Labelled examples whose inputs are made when they are asked for.

    `read` gives the inputs `(B, *shape)` float32 at some positions; `y` is `(N,)` int64, already checked. `stored` says
    what a file would make of such inputs, where that is not 8 bits over the box, as of pictures. `task` is what a model
    is asked, where that is not a class; the labels are as that wants them.
    """

    name: str
    read: Callable[[Sequence[int]], Tensor]
    y: Array
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    stored: Callable[[Tensor], Tensor] | None = None
    task: Task | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Inputs `(B, *shape)` float32 and labels `(B,)` int64, or the task's; reads these examples only."""
        rows = np.asarray(indices, dtype=np.int64)
        return self.read(rows.tolist()), torch.from_numpy(self.y[rows])


def first(data: Data, n: int) -> Data:
    """The first `n` examples; all of them where there are fewer.

    Raises:
        BadInput: `n` is less than 1.

    """
    if n < 1:
        raise BadInput(f"a limit of {n}", "at least 1 example", "give a larger limit")
    return data if n >= len(data) else Subset(data, range(n))


def inputs(x: Array | Tensor, name: str) -> tuple[Array, tuple[str, ...]]:
    """Check the inputs of a data set, and say what `take` will do to them."""
    x = numbers(x, f"the inputs of {name}")
    if x.ndim < 2:
        raise BadInput(f"the inputs of {name} have shape {x.shape}", "one row an example", "reshape them to (N, ...)")
    if not x.size:
        raise BadInput(f"the inputs of {name} are empty, {x.shape}", "at least 1 example", "check how it was made")
    notes = []
    if x.dtype == np.uint8:
        notes.append("uint8 inputs were divided by 255")
    if x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):
        notes.append(f"inputs are {x.shape[1:]}, channels last, and are used so; most torch models need channels first")
    return x, tuple(notes)


def labels(y: Array | Tensor, name: str) -> tuple[Array, tuple[str, ...]]:
    """Check labels and give them as `(N,)` int64; one-hot rows become positions, which is said."""
    y = numbers(y, f"the labels of {name}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and y.shape[1] > 1:
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise BadInput(
                f"the labels of {name} have shape {y.shape} and are not one-hot", "one label an example", "take argmax"
            )
        return y.argmax(axis=1).astype(np.int64), ("one-hot labels became positions",)
    if y.ndim != 1:
        raise BadInput(f"the labels of {name} have shape {y.shape}", "one label an example", "reshape them to (N,)")
    if not len(y):
        raise BadInput(f"{name} is empty", "at least 1 example", "check how it was made")
    if y.dtype.kind == "f":
        if np.isnan(y).any():
            raise BadInput(
                f"label {np.isnan(y).argmax()} of {name} is NaN", "whole numbers from 0", "drop or mend such rows"
            )
        if not (np.isfinite(y) & (y == np.rint(y))).all():
            odd = y[~(np.isfinite(y) & (y == np.rint(y)))][0]
            raise BadInput(f"the labels of {name} contain {odd}", "whole numbers from 0", f"give class numbers; {TASK}")
    if y.dtype.kind in "fu" and float(y.max()) >= 2**63:
        raise BadInput(f"the labels of {name} contain {y.max()}", "class numbers from 0", "renumber the classes")
    y = y.astype(np.int64)
    if y.min() < 0:
        raise BadInput(f"the labels of {name} contain {y.min()}", "whole numbers from 0", "renumber the classes")
    return y, ()


def floats(x: Array) -> Tensor:
    """Rows as a float32 tensor of their own: uint8 in [0, 1], every other type with its values.

    Raises:
        BadInput: finite numbers that float32 cannot hold.

    """
    with fitting():
        out = torch.from_numpy(x.astype(np.float32))
    return out.div_(255) if x.dtype == np.uint8 else out


@contextmanager
def fitting() -> Iterator[None]:
    """Refuse finite numbers that float32 cannot hold where numpy casts some; they would become infinity.

    Raises:
        BadInput: such numbers.

    """
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError:
        raise BadInput("inputs beyond 3.4e+38", "numbers that float32 can hold", "scale them") from None


def numbers(values: Array | Tensor, what: str) -> Array:
    """As a numeric array, memory-mapped ones as they are."""
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        values = np.asanyarray(values)
    except ValueError:
        raise BadInput(f"{what} are lists of unequal lengths", "one shape for all", "pad or cut them") from None
    except (TypeError, RuntimeError) as error:  # sparse tensors, and lists of tensors that numpy cannot read
        raise BadInput(f"{what} are no array ({line(error)})", "a dense numeric array", "convert them") from None
    if values.dtype.kind not in "buif":
        kind = {"O": "Python objects", "U": "text", "S": "text", "c": "complex"}.get(values.dtype.kind, "records")
        raise BadInput(f"{what} are {kind}", "numbers", "convert them to a numeric array")
    return values
