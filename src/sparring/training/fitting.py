"""The trainer: Adam on one cycle of the learning rate, the threat growing in, the weights averaged."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.streams import Streams
from sparring.training.objectives import Objective
from sparring.types import Data

IN_MEMORY = 2**30
"""Bytes of inputs up to which a data set is read once, and kept."""


@dataclass(frozen=True)
class Progress:
    """Where training stands after an update: `step` of `steps`, counted from 1, `epoch` of `epochs` as well."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    lr: float
    strength: float


def fit(
    network: nn.Module,
    data: Data,
    objective: Objective,
    *,
    epochs: int,
    batch_size: int = 128,
    lr: float = 5e-3,
    warmup: float = 0.4,
    ramp: float = 0.3,
    average: float = 0.999,
    augment: Callable[[Tensor, Streams], Tensor] | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Minimise an objective over the weights: a trained copy of `network`, in inference mode.

    Adam; the learning rate climbs to `lr` during the share `warmup` of the updates and falls to zero along a cosine
    (Smith and Topin, 2018). The objective's strength grows linearly from 0 to 1 during the share `ramp`. The weights
    returned are the exponential average over the updates with decay `average` (see `averaging`); 0 gives the last.
    Every epoch goes through the data in a new order, each batch as `augment` changes it (`shifts(1)`, say), and
    leaves out the incomplete batch at its end.

    `network` itself, its mode and torch's global random numbers are left alone: the same seed, network, data and
    machine give the same bits. Batches are read by index; data of up to 1 GiB are kept in memory.

    Raises:
        BadInput: no epochs, an empty batch, a share outside [0, 1], nothing to train, labels that the network has no
            output for, or a loss that is no longer finite.

    """
    _check(network, data, epochs=epochs, batch_size=batch_size, lr=lr, warmup=warmup, ramp=ramp, average=average)
    network = copy.deepcopy(network).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    device = parameters[0].device
    classes = _outputs(network, data.take([0])[0].to(device))
    batches = len(data) // min(batch_size, len(data))
    steps = epochs * batches
    optimizer = Adam(parameters, lr=lr)
    schedule = OneCycleLR(optimizer, max_lr=lr, total_steps=max(steps, 2), pct_start=warmup)
    averaged = AveragedModel(network, multi_avg_fn=averaging(average))
    order = torch.Generator().manual_seed(seed)
    take = _reader(data)
    with _own_random_numbers(seed):
        for epoch in range(epochs):
            shuffled = torch.randperm(len(data), generator=order)
            for batch in range(batches):
                step = epoch * batches + batch
                rows = shuffled[batch * batch_size : (batch + 1) * batch_size].tolist()
                x, labels = take(rows)
                if int(labels.max()) >= classes:
                    raise BadInput(
                        f"label {int(labels.max())} in {data.name}", f"labels below {classes}", "widen the network"
                    )
                x, labels = x.to(device), labels.to(device)
                rng = Streams.of(seed, rows).at(epoch)
                x = x if augment is None else augment(x, rng.at("augment"))
                strength = min(1.0, step / (ramp * steps)) if ramp else 1.0
                loss = objective(network, x, labels, strength, rng)
                if not math.isfinite(loss.item()):
                    raise BadInput(f"a loss of {loss.item()} at update {step + 1}", "a finite loss", "lower lr")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                rate = float(schedule.get_last_lr()[0])
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                if progress is not None:
                    progress(Progress(step + 1, steps, epoch + 1, epochs, loss.item(), rate, strength))
    trained: nn.Module = averaged.module
    trained.zero_grad()
    return trained.eval()


def averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """The update of an exponential average, `a <- d a + (1 - d) w`, with `d = min(decay, n / (n + 9))` after n weights.

    The smaller decay at first lets a short training forget the weights that it started from.
    """

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], seen: Tensor | int) -> None:
        kept = min(decay, int(seen) / (int(seen) + 9))
        torch._foreach_lerp_(list(averages), list(weights), 1 - kept)

    return update


def _check(network: nn.Module, data: Data, **settings: float) -> None:
    """Refuse what cannot be trained."""
    for name in ("epochs", "batch_size"):
        if settings[name] < 1:
            raise BadInput(f"{name} {settings[name]}", "1 or more", f"give a larger {name}")
    for name in ("warmup", "ramp", "average"):
        if not 0 <= settings[name] < 1:
            raise BadInput(f"{name} {settings[name]}", "a share from 0 up to but without 1", f"give another {name}")
    if not (settings["lr"] > 0 and math.isfinite(settings["lr"])):
        raise BadInput(f"lr {settings['lr']}", "a positive number", "give another lr")
    if not len(data):
        raise BadInput(f"{data.name} is empty", "at least 1 example", "check how it was made")
    if not any(p.requires_grad for p in network.parameters()):
        raise BadInput(f"a {type(network).__name__} with no weights to train", "a network", "unfreeze its parameters")


def _outputs(network: nn.Module, x: Tensor) -> int:
    """The number of classes that a network tells apart."""
    try:
        with inference(network), torch.no_grad():
            outputs = network(x)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise BadInput(
            f"inputs {tuple(x.shape[1:])} for {type(network).__name__} ({said})", "inputs it takes", "reshape them"
        ) from error
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        raise BadInput(f"outputs of shape {tuple(outputs.shape)}", "logits (B, K) of K >= 2 classes", "add a head")
    return int(outputs.shape[1])


def _reader(data: Data) -> Callable[[Sequence[int]], tuple[Tensor, Tensor]]:
    """`data.take`, or the same from memory where all of it fits there."""
    x, _ = data.take([0])
    if len(data) * x.nbytes > IN_MEMORY:
        return data.take
    everything, labels = data.take(range(len(data)))
    return lambda rows: (everything[rows], labels[rows])


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Let dropout and the like draw from `seed`, and give torch's global generators their state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
