"""Runs that can be gone on with: what is said where one stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sparring.errors import BadInput, MayPass

GO_ON = "what is done is kept in {}: add --resume to the same command to go on"


class Stopped(click.ClickException):
    """Ctrl-C in a run that can be resumed."""


@contextmanager
def going_on(out: Path | None, begun: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Say how to go on, where something was kept in `out`: on Ctrl-C, and where what fails on the way may pass.

    Servers come back, and a spent budget is raised; of other refusals going on would only end in the same one, as of
    those before anything was `begun`.
    """
    try:
        yield
    except KeyboardInterrupt:
        if out is None:
            raise
        raise Stopped(f"stopped; {GO_ON.format(out)}") from None
    except MayPass as error:
        if out is None or not begun():
            raise
        raise BadInput(error.given, error.need, f"{error.do}; {GO_ON.format(out)}") from error
