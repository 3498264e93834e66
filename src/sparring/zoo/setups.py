"""Set-ups broken on purpose: an honest network with data or a threat that do not fit it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.threats import linf
from sparring.zoo.honest import relu
from sparring.zoo.specimens import Pair, specimen


def _bytes(x: Tensor, y: Tensor) -> Pair:
    return 255 * x, y


def _standardised(x: Tensor, y: Tensor) -> Pair:
    return (x - 0.1307) / 0.3081, y


def _with_a_nan(x: Tensor, y: Tensor) -> Pair:
    x = x.clone()
    x[7, 0, 3, 3] = torch.nan
    return x, y


def _shifted(x: Tensor, y: Tensor) -> Pair:
    return x, (y + 1) % 10


def _twice(x: Tensor, y: Tensor) -> Pair:
    rows = torch.arange(len(x)) % (len(x) // 2)
    return x[rows], y[rows]


def _first_forty(x: Tensor, y: Tensor) -> Pair:
    return x[:40], y[:40]


def _mostly_one(x: Tensor, y: Tensor) -> Pair:
    rows = torch.cat([(y == y[0]).nonzero().flatten(), (y != y[0]).nonzero().flatten()[:6]])
    return x[rows], y[rows]


@specimen("bytes", "broken", "input-range", alter=_bytes, verdict="invalid")
def in_bytes() -> nn.Module:
    """Inputs of 0 to 255 for bounds of 0 to 1."""
    return relu()


@specimen("normalised outside", "broken", "input-range", alter=_standardised, verdict="invalid")
def normalised_outside() -> nn.Module:
    """Inputs that were normalised outside of the model."""
    return relu()


@specimen("a pixel of NaN", "broken", "every-input", alter=_with_a_nan, verdict="invalid")
def a_nan() -> nn.Module:
    """One pixel that is no number, outside of the doctor's sample."""
    return relu()


@specimen("shifted labels", "broken", "labels", alter=_shifted, verdict="invalid")
def shifted_labels() -> nn.Module:
    """Labels counted from 1."""
    return relu()


@specimen("eps of pixels", "broken", "eps-unit", alter=_bytes, threat=linf(8 / 255, high=255.0), verdict="invalid")
def eps_of_pixels() -> nn.Module:
    """An eps of 8/255 for inputs and bounds of 0 to 255."""
    return relu()


@specimen("copies", "broken", "duplicates", alter=_twice, verdict="trusted")
def copies() -> nn.Module:
    """Every example twice."""
    return relu()


@specimen("few examples", "broken", "sample-size", alter=_first_forty, verdict="trusted")
def few_examples() -> nn.Module:
    """Forty examples."""
    return relu()


@specimen("one class", "broken", "class-balance", "labels", alter=_mostly_one, verdict="invalid")
def one_class() -> nn.Module:
    """Nearly all examples of one class: always naming it is nearly as good as the model."""
    return relu()
