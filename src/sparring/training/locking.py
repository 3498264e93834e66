"""One training a folder: two at once would overwrite each other's results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.errors import BadInput

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Where those who launch several processes say which one it is: `torchrun`, Fabric, Slurm; the first of them counts."""


def companion() -> bool:
    """Whether this is another process than the first of a training: that one looks after the folder."""
    return int(next((os.environ[name] for name in RANKS if name in os.environ), "0")) > 0


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder meanwhile. Makes it, and takes it away where nothing came to lie there.

    The lock is the system's (`flock`): it ends with the process, however that ends. Where the system, or what the
    folder lies on, has none, nobody is kept out.

    Raises:
        BadInput: another training is at it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".training.lock"
    try:
        held = _held(path)
        try:
            yield
        finally:
            if held is not None:
                path.unlink(missing_ok=True)
                os.close(held)
    finally:
        for place in made:
            try:
                place.rmdir()
            except OSError:  # something lies there
                break


def _held(path: Path) -> int | None:
    """The lock, as an open file; none where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise BadInput(
                f"another training is running in {path.parent}", "a folder of its own", "wait, or give another --out"
            ) from None
        except OSError:  # the file system has no locks
            return file
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)  # whoever had the lock has just removed it
