"""What settings may be: numbers outside of that are refused in one line, before any work."""

from __future__ import annotations

import math

from sparring.errors import BadInput

LARGEST_SEED = 2**63 - 1
"""On either side of 0. Torch's generators take 64 bits."""


def fractions(**given: float) -> None:
    """Look at shares, by their names.

    Raises:
        BadInput: one that is not from 0 to 1.
    """
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise BadInput(f"{name} = {value:g}", "a share from 0 to 1", "give another one")


def not_negative(**given: float) -> None:
    """Look at numbers that may be 0, by their names.

    Raises:
        BadInput: one below 0, or not finite.
    """
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{name} = {value:g}", "a number of 0 or more", "give another one")


def positive(**given: float) -> None:
    """Look at numbers that may not be 0, by their names.

    Raises:
        BadInput: one that is not above 0, or not finite.
    """
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{name} = {value:g}", "a number above 0", "give another one")


def below_one(**given: float) -> None:
    """Look at shares of which something has to be left, by their names.

    Raises:
        BadInput: one that is not from 0 up to but without 1.
    """
    for name, value in given.items():
        if not 0 <= value < 1:
            raise BadInput(f"{name} = {value:g}", "a share from 0 up to but without 1", "give another one")


def one_or_more(**given: int) -> None:
    """Look at counts, by their names.

    Raises:
        BadInput: one of less than one.
    """
    for name, value in given.items():
        if value < 1:
            raise BadInput(f"{name} = {value}", "one or more", "give another one")
