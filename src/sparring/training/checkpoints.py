"""Checkpoints of a training: written in one move, read without running anything that hides in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
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
            torch.save({**state, "settings": self.settings}, file)

    def load(self) -> State | None:
        """The state to go on from; None to start anew.

        Raises:
            BadInput: the file is no checkpoint, or one of a training with other settings.

        """
        if not self.resume or not self.path.exists():
            return None
        try:
            state: State = torch.load(self.path, map_location="cpu", weights_only=True)
            settings = state["settings"]
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            said = named(error)[:160]
            raise BadInput(
                f"'{self.path}' cannot be read ({said})", "the checkpoint of a training", "start anew, without --resume"
            ) from error
        if settings != self.settings:
            raise BadInput(
                f"'{self.path}' is of a training with other settings",
                "the same model, data, threat and settings as before",
                "give those of its train.toml, or another --out",
            )
        return state
