"""A few examples before and under attack: kept beside the result, so that a report can show what happened."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sparring.errors import BadInput
from sparring.writing import in_one_move

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

BLUE, WHITE, ORANGE = np.array([[0, 114, 178], [255, 255, 255], [213, 94, 0]], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Picture:
    """One example: `x` as it was given, `z` as the attack left it, and what the model made of both.

    `clean` and `attacked` are probabilities over the classes (see `confidence`), `x` and `z` arrays of one shape,
    in input units. One or three channels by height by width is an image; anything else is drawn as a line, but for what
    has `words`, those of `x` and those of `z`, each with the space before it: that is a text. Where answers are no
    classes they were `measured`, and `clean` and `attacked` hold the one number that this names.
    """

    index: int
    label: int
    clean: Sequence[float]
    attacked: Sequence[float]
    x: Array
    z: Array
    words: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    measured: str = ""

    def __post_init__(self) -> None:
        if self.x.shape != self.z.shape:
            raise BadInput(f"x {self.x.shape} and z {self.z.shape}", "one shape", "hand over one example and its z")

    @property
    def kind(self) -> Literal["image", "line", "text"]:
        """How it can be shown."""
        if self.words is not None:
            return "text"
        return "image" if self.x.ndim == 3 and self.x.shape[0] in (1, 3) and min(self.x.shape[1:]) > 1 else "line"


Gallery = tuple[Picture, ...]


def confidence(outputs: Any, probabilities: bool = False) -> tuple[float, ...]:
    """The probabilities behind the outputs `(K,)` of one example, to hand to a Picture.

    Softmax of the outputs, the sigmoid and its complement where there is one output; the outputs themselves where
    the model documents them as probabilities.
    """
    values = np.asarray(outputs, dtype=np.float64).reshape(-1)
    if values.size == 1:
        values = np.array([1 - values[0], values[0]]) if probabilities else np.array([0.0, values[0]])
    if not probabilities:
        with np.errstate(invalid="ignore", over="ignore"):
            values = np.exp(values - values.max())
            values = values / values.sum()
    return tuple(values.tolist())


def top(probabilities: Sequence[float], label: int, count: int = 3) -> tuple[tuple[int, float], ...]:
    """The likeliest classes and the true one, `(class, probability)`, likeliest first; at most `count`."""
    order = sorted(range(len(probabilities)), key=lambda k: (-_number(probabilities[k]), k))[:count]
    if label not in order and label < len(probabilities) and len(order) == count:
        order[-1] = label
    return tuple((k, float(probabilities[k])) for k in order)


def pixels(picture: Picture) -> tuple[Pixels, Pixels, Pixels, float]:
    """Clean, adversarial and amplified difference as `(H, W, 3)` uint8, and the factor of the amplification.

    Inputs in [0, 1] and in [0, 255] are shown as they are; other ranges are stretched to their own lowest and
    highest value. The difference is blue below and orange above zero for one channel, mid-grey at zero for three.
    """
    x, z = (np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0) for part in (picture.x, picture.z))
    low, high = _bounds(np.stack([x, z]))
    change = (z - x) / (high - low)
    factor = _factor(float(np.abs(change).max()))
    shown = [_rgb(np.clip((part - low) / (high - low), 0, 1)) for part in (x, z)]
    amplified = np.clip(factor * change, -1, 1)
    if len(amplified) == 1:
        t = np.moveaxis(amplified, 0, -1)
        difference = WHITE + np.maximum(t, 0) * (ORANGE - WHITE) + np.maximum(-t, 0) * (BLUE - WHITE)
    else:
        difference = 127.5 * (1 + np.moveaxis(amplified, 0, -1))
    return shown[0], shown[1], np.round(difference).astype(np.uint8), factor


def save(gallery: Gallery, path: Path) -> None:
    """Write the gallery as an .npz without pickles, in one move; equal galleries make equal files."""
    arrays: dict[str, Any] = {
        "index": np.array([picture.index for picture in gallery], dtype=np.int64),
        "label": np.array([picture.label for picture in gallery], dtype=np.int64),
    }
    for i, picture in enumerate(gallery):
        arrays |= {
            f"x{i}": np.asarray(picture.x, dtype=np.float32),
            f"z{i}": np.asarray(picture.z, dtype=np.float32),
            f"clean{i}": np.asarray(picture.clean, dtype=np.float32),
            f"attacked{i}": np.asarray(picture.attacked, dtype=np.float32),
            **({} if picture.words is None else {f"words{i}": np.array(picture.words, dtype=np.str_)}),
            **({f"measured{i}": np.array(picture.measured)} if picture.measured else {}),
        }
    with in_one_move(path) as file:
        np.savez_compressed(file, **arrays)


def load(path: Path) -> Gallery:
    """Read a gallery that `save` wrote.

    Raises:
        BadInput: there is no such file, or it is not a gallery.

    """
    remedy = "give the gallery.npz that an audit wrote"
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return tuple(
                Picture(
                    index=int(index),
                    label=int(label),
                    clean=tuple(file[f"clean{i}"].tolist()),
                    attacked=tuple(file[f"attacked{i}"].tolist()),
                    x=file[f"x{i}"],
                    z=file[f"z{i}"],
                    words=_words(file[f"words{i}"]) if f"words{i}" in file else None,
                    measured=str(file[f"measured{i}"]) if f"measured{i}" in file else "",
                )
                for i, (index, label) in enumerate(zip(file["index"], file["label"], strict=True))
            )
    except OSError as error:
        raise BadInput(f"cannot read {path} ({error.strerror or error})", "a gallery.npz", remedy) from None
    except (KeyError, ValueError, TypeError, EOFError, AttributeError, BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} is not a gallery ({type(error).__name__})", "a gallery.npz", remedy) from None


def _words(pair: NDArray[np.str_]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    before, after = pair.tolist()
    return tuple(before), tuple(after)


def _number(value: float) -> float:
    return -1.0 if math.isnan(value) else value  # NaN sorts last


def _bounds(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    if low >= 0 and high <= 255 and bool((values == values.round()).all()):
        return 0.0, 255.0
    return low, high if high > low else low + 1.0


def _factor(largest: float) -> float:
    """The largest of 1, 2, 5, 10, ... at which the difference still fits the scale."""
    best = 1.0
    for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0):
        if largest and step * largest <= 1.0 + 1e-6:
            best = step
    return best


def _rgb(channels: NDArray[np.float64]) -> Pixels:
    stacked = np.repeat(channels, 3, axis=0) if len(channels) == 1 else channels
    return np.round(255 * np.moveaxis(stacked, 0, -1)).astype(np.uint8)
