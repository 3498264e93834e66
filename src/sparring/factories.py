"""`package.module:factory` and `path/to/file.py:factory`: how to hand over what only Python can make."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

from sparring.errors import BadInput, named
from sparring.spelling import hint

FORM = "package.module:factory or path/to/file.py:factory"


def build(spec: str) -> object:
    """Import what `spec` names and, where it is a function or a class, call it without arguments.

    Anything else (a network, an estimator, a pair of arrays) comes back as it is. The code of the file or module
    runs, and may import what lies beside the file, or in the current folder.

    Raises:
        BadInput: no colon, no such file, module or name, or an exception while importing or calling.

    """
    with _located(spec) as value:
        if not (inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, partial)):
            return value
        try:
            return value()
        except BadInput:
            raise
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"'{spec}' raised {named(error)}", "a factory that runs without arguments", "mend it, or wrap it in one"
            ) from error


def locate(spec: str) -> object:
    """Import what `spec` names, and leave it as it is: what needs arguments is for the caller to call.

    Raises:
        BadInput: no colon, no such file, module or name, or an exception while importing.
    """
    with _located(spec) as value:
        return value


@contextmanager
def _located(spec: str) -> Iterator[object]:
    """What `spec` names, while modules beside it can be imported."""
    path, colon, name = spec.rpartition(":")
    if not colon or not path or not name:
        raise BadInput(f"'{spec}'", FORM, "name the function after a colon")
    file = Path(path) if path.endswith(".py") else None
    with _importable(file.resolve().parent if file else Path.cwd()):
        yield _find(_run(file) if file else _import(path), path, name)


def _run(file: Path) -> ModuleType:
    """A file as a module of its own."""
    if not file.is_file():
        raise BadInput(f"no file '{file}'", "a Python file", "check the path")
    name = f"{file.stem}_{abs(hash(file.resolve())):x}"
    known = importlib.util.spec_from_file_location(name, file.resolve())
    assert known is not None
    assert known.loader is not None
    module = importlib.util.module_from_spec(known)
    sys.modules[name] = module  # dataclasses look their module up here while it runs
    try:
        known.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BadInput(f"'{file}' raised {named(error)} on import", "a file that can be imported", "mend it") from error
    return module


def _import(path: str) -> ModuleType:
    """A dotted path as a module."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or path
        if path == missing or path.startswith(missing + "."):
            raise BadInput(f"no module '{missing}'", FORM, "install it, or run from the folder that holds it") from None
        raise BadInput(f"'{path}' imports '{missing}'", "that module installed", f"install '{missing}'") from error
    except (Exception, SystemExit) as error:
        raise BadInput(
            f"'{path}' raised {named(error)} on import", "a module that can be imported", "mend it"
        ) from error


def _find(module: ModuleType, path: str, name: str) -> object:
    """What a (dotted) name stands for in a module."""
    value: object = module
    for part in name.split("."):
        if not hasattr(value, part):
            do = hint(part, [one for one in dir(value) if not one.startswith("__")], "check the spelling")
            raise BadInput(f"'{path}' has no '{name}'", "a name that is there", do)
        value = getattr(value, part)
    return value


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported meanwhile, as `python file.py` and `python -m` do."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
