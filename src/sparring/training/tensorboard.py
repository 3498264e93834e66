"""A log of training for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from sparring.errors import require
from sparring.training.alarms import Alarm
from sparring.training.trainer import Event, Looked, Progress, Resumed

EVERY = 10
"""Updates between two points of the curves of every update."""

MEASURED = ("clean", "robust", "live", "single_step", "constant")


@contextmanager
def tensorboard(folder: Path, *, eps: float = 1.0) -> Iterator[Callable[[Event], None]]:
    """Write losses, accuracies, the size of the threat, examples and weights where TensorBoard reads them.

        with tensorboard(folder) as log:
            fit(network, data, objective, epochs=10, watch=log)

    Every tenth update: loss, learning rate, eps in force (the share of it unless `eps` is given) and the gradient's
    norm. Every epoch: the mean loss, accuracies on the examples held out, a few of these before and under attack, and
    histograms of the weights. Alarms are texts. A training that is resumed goes on where its checkpoint was.

    Raises:
        BadInput: tensorboard is not installed.

    """
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writers: list[SummaryWriter] = []

    def log(event: Event) -> None:
        if not writers:
            made_again = event.step + 1 if isinstance(event, Resumed) else None
            writers.append(SummaryWriter(str(folder), purge_step=made_again))
        record(writers[0], event)

    def record(writer: Any, event: Event) -> None:
        match event:
            case Progress():
                if event.step % EVERY == 0 or event.step == event.steps:
                    for name, value in (("loss", event.loss), ("lr", event.lr), ("eps", eps * event.strength)):
                        writer.add_scalar(f"train/{name}", value, event.step)
                if event.gradient_norm is not None:
                    writer.add_scalar("train/gradient_norm", event.gradient_norm, event.step)
            case Looked():
                look(writer, event)
            case Alarm():
                writer.add_text("alarms", str(event), event.epoch)

    def look(writer: Any, event: Looked) -> None:
        step, measured = event.epoch.step, asdict(event.epoch)
        writer.add_scalar("epoch/loss", event.epoch.loss, step)
        for name in MEASURED:
            if measured[name] is not None:
                writer.add_scalar(f"accuracy/{name}", measured[name], step)
        for name, shown in (("clean", event.x), ("adversarial", event.z)):
            if shown is not None and _pictures(shown):
                writer.add_images(f"examples/{name}", shown.float().clamp(0, 1), step)
        for name, weight in event.network.named_parameters():
            writer.add_histogram(f"weights/{name}", weight, step)

    try:
        yield log
    finally:
        for writer in writers:
            writer.close()


def _pictures(x: Tensor) -> bool:
    """Whether inputs are images with channels first."""
    return x.dim() == 4 and x.shape[1] in (1, 3)
