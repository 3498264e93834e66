"""Networks and data that the tests of the evaluator share: those of the zoo."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from sparring.data import digits
from sparring.threats import linf
from sparring.zoo import find, specimens

THREAT = linf(0.1)
HONEST = (*(one.name for one in specimens("honest")), "adversarially trained")


@cache
def held_out(count: int = 200) -> tuple[Tensor, Tensor]:
    return digits("test").take(range(count))


@cache
def honest(name: str) -> nn.Module:
    return find(name).make()
