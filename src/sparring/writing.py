"""Files that are replaced in one move."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def in_one_move(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is written: whoever reads sees the old one or the new one whole.

    Where writing fails, or is interrupted, the old one stays, and nothing is left beside it. Makes the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
