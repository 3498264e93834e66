"""Files from the internet: kept in the cache folder, and believed only if their SHA-256 is the published one."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.request import urlopen

from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import wrap_file

from sparring.errors import BadInput


def fetch(url: str, sha256: str, instead: str) -> Path:
    """A published file from the cache folder, downloaded unless it is there.

    It appears in the cache whole and verified, or not at all, and is verified again on every use. `instead` is what
    to do without a connection.

    Raises:
        BadInput: no connection, or another SHA-256; the wrong file is deleted.

    """
    place = user_cache_path("sparring") / url.rsplit("/", 1)[1]
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{place.name}.", dir=place.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as out:
                _download(url, out)
            _verify(part, sha256, url)
            part.replace(place)
        except (OSError, HTTPException) as error:
            raise BadInput(f"{url} cannot be downloaded ({error})", "a connection", instead) from error
        finally:
            part.unlink(missing_ok=True)
    return _verify(place, sha256, url)


def _download(url: str, out: BinaryIO) -> None:
    """Copy a web address to an open file, with a progress bar on a terminal."""
    with (
        urlopen(url, timeout=60) as answer,  # noqa: S310 - addresses are constants of named.py, never the user's
        wrap_file(
            answer,
            int(answer.headers.get("Content-Length") or 0),
            description=url.rsplit("/", 1)[1],
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        ) as body,
    ):
        shutil.copyfileobj(body, out, 1 << 20)


def _verify(path: Path, sha256: str, url: str) -> Path:
    """The file, if it is what was published; otherwise it is deleted."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise BadInput(f"{url} came with SHA-256 {found}", sha256, "it was deleted: try again, or another connection")
    return path
