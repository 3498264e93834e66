"""The one way in which Sparring refuses bad input: a line that says what was given, what is needed, what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class BadInput(ValueError):
    """Input that cannot be used. The command line prints the message alone and exits with status 2."""

    def __init__(self, given: str, need: str, do: str) -> None:
        super().__init__(f"{given}; need {need}; {do}")
        self.given, self.need, self.do = given, need, do

    def __reduce__(self) -> tuple[type[BadInput], tuple[str, str, str]]:
        """Travel from a worker process whole."""
        return type(self), (self.given, self.need, self.do)


class MayPass(BadInput):
    """What may be over by the time one asks again: a run that it stops can be gone on with."""


def line(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def named(error: BaseException) -> str:
    """The type of an exception, and what it says, in one line."""
    said, name = line(error), type(error).__name__
    return name if said == name else f"{name}: {said}"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional framework, or say which extra brings it.

    Raises:
        BadInput: the module is not installed.

    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise
        raise BadInput(
            f"{module} is not installed", f"the extra '{extra}'", f"run: pip install 'sparring[{extra}]'"
        ) from None
