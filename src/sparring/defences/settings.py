"""Settings of defences and detectors that make no sense, refused where they are given."""

from __future__ import annotations

import math

from sparring.errors import BadInput


def positive(**settings: float) -> None:
    """Refuse what is no finite number above 0.

    Raises:
        BadInput: one of them.
    """
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise BadInput(f"{name}={value:g}", "a finite number above 0", f"give another {name}")


def not_negative(**settings: float) -> None:
    """Refuse what is no finite number of 0 or more.

    Raises:
        BadInput: one of them.
    """
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise BadInput(f"{name}={value:g}", "a finite number, 0 or more", f"give another {name}")


def one_or_more(**settings: int) -> None:
    """Refuse counts of less than one.

    Raises:
        BadInput: one of them.
    """
    for name, value in settings.items():
        if value < 1:
            raise BadInput(f"{name}={value}", "one or more", f"give another {name}")
