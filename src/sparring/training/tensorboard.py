"""A log of training for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.errors import require
from sparring.training.fitting import Progress


@contextmanager
def tensorboard(folder: Path) -> Iterator[Callable[[Progress], None]]:
    """Write loss, learning rate and strength of every update where TensorBoard reads them.

        with tensorboard(folder) as log:
            fit(network, data, objective, epochs=10, progress=log)

    Raises:
        BadInput: tensorboard is not installed.

    """
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    def log(now: Progress) -> None:
        for name in ("loss", "lr", "strength"):
            writer.add_scalar(f"train/{name}", getattr(now, name), now.step)

    with SummaryWriter(str(folder)) as writer:
        yield log
