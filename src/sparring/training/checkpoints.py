"""Checkpoints of a training: written in one move, sealed, and read without running anything that hides in them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparring.errors import BadInput, named
from sparring.writing import in_one_move

State = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Where a training keeps what it needs to go on, and how often it does so.

    A checkpoint is written every `seconds`, every `steps` updates where that is given, after every epoch that was
    validated, and on Ctrl-C or SIGTERM. It holds all that the rest depends on: resumed, the training ends with the
    same bits on a CPU. `settings` is what must be the same to go on; without `resume` a training starts anew.
    """

    path: Path
    seconds: float = 60.0
    steps: int | None = None
    settings: str = ""
    resume: bool = False

    def due(self, step: int, waited: float) -> bool:
        """Whether it is time, after so many updates and so many seconds since the last checkpoint."""
        return waited >= self.seconds or (self.steps is not None and step % self.steps == 0)

    def save(self, state: State) -> None:
        """Replace the checkpoint by this state, in one move."""
        with in_one_move(self.path) as file:
            content = packed({**state, "settings": self.settings})
            file.write(content)
            file.write(_seal(content))

    def load(self, needed: Iterable[str] = ()) -> State | None:
        """The state to go on from, with all that is `needed`; None to start anew.

        Raises:
            BadInput: the file is no checkpoint, or a damaged one, or one of a training with other settings.

        """
        if not self.resume or not self.path.exists():
            return None
        try:
            file = memoryview(self.path.read_bytes())
            content, seal = file[:-SEAL], file[-SEAL:]
            if _seal(content) != seal:  # torch reads bits that have flipped without a word
                raise self.unreadable("it is damaged, or something else")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except BadInput:
            raise
        except Exception as error:  # whatever torch makes of it
            raise self.unreadable(named(error)[:160]) from error
        if not isinstance(state, dict) or "settings" not in state:
            raise self.unreadable("it is something else")
        if state["settings"] != self.settings:
            raise BadInput(
                f"'{self.path}' is of a training with other settings",
                "the same model, data, threat, settings and version of Sparring as before",
                "give those of its train.toml, or another --out",
            )
        if missing := ", ".join(sorted(set(needed) - state.keys())):
            raise self.unreadable(f"it lacks {missing}")
        return state

    def unreadable(self, why: str) -> BadInput:
        """What is said of a checkpoint that nobody can go on from."""
        return BadInput(
            f"'{self.path}' cannot be read ({why})", "the checkpoint of a training", "start anew, without --resume"
        )


SEAL = hashlib.sha256().digest_size
"""Bytes at the end of a checkpoint that vouch for those before them."""


def _seal(content: memoryview) -> bytes:
    return hashlib.sha256(content).digest()


def packed(value: object) -> memoryview:
    """What `torch.save` writes of a value, in memory: where a disk is full, only Python's own files say so plainly."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getbuffer()
