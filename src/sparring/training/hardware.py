"""Where training runs: device, precision, and how many processes share a batch, by Lightning Fabric."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from sparring.errors import BadInput, line

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32", "bf16-mixed", "auto"]

MOST_A_CORE = 4
"""Processes on a core of the processor: more can only be a mistake."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What to train on. Under `torchrun` the processes are those that it started; else Fabric starts `devices`.

    `device` is where the network is, unless given: cpu, cuda, mps. With "bf16-mixed" the network computes in bfloat16
    where torch holds that to be safe; weights, losses and what attacks see stay in float32. "auto" is that where the
    device has bfloat16, and "32" where it would only imitate it.
    """

    device: str | None = None
    devices: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Precision = "32"

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise BadInput(f"{self.devices} devices", "one or more", "leave it out for one")

    def fabric(self, network: nn.Module) -> Fabric:
        """The processes and their devices, launched.

        Raises:
            BadInput: a device that is not here, or more processes than cores.

        """
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
        from torch.nn.parallel import DistributedDataParallel

        home = _device(self.device) if self.device else next(network.parameters()).device
        here = int(os.environ["LOCAL_WORLD_SIZE"]) if "LOCAL_WORLD_SIZE" in os.environ else self.devices
        nodes = int(os.environ["WORLD_SIZE"]) // here if "LOCAL_WORLD_SIZE" in os.environ else 1
        several = here * nodes > 1 or self.strategy == "ddp"
        # Buffers are those of the first process: a broadcast before each pass of an attack would be dear.
        newer = "forward_sync_buffers" in signature(DistributedDataParallel).parameters
        apart: dict[str, Any] = {"forward_sync_buffers" if newer else "broadcast_buffers": False}
        most = MOST_A_CORE * (os.cpu_count() or here)
        if home.type == "cpu" and here > most:
            raise BadInput(f"{here} processes on {most // MOST_A_CORE} cores", f"at most {most}", "take fewer devices")
        alone = [home.index] if home.index is not None and home.type != "cpu" and not several else here
        try:
            fabric = Fabric(
                accelerator=home.type,
                devices=alone,
                num_nodes=nodes,
                strategy=DDPStrategy(**apart) if several else "auto",
            )
            with starting():
                fabric.launch()
        except (RuntimeError, ValueError) as error:
            said = line(error)[:160]
            raise BadInput(f"{here} times '{home}' ({said})", "devices that torch has here", "use cpu") from error
        return fabric

    def chosen(self, network: nn.Module) -> Precision:
        """The precision, where "auto" leaves it to the device."""
        if self.precision != "auto":
            return self.precision
        home = _device(self.device) if self.device else next(network.parameters()).device
        return "bf16-mixed" if has_bfloat16(home) else "32"

    def casting(self, network: nn.Module) -> nn.Module:
        """The network, computing in the precision that was asked for."""
        return network if self.chosen(network) == "32" else BFloat16(network)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself. To imitate it takes a processor far longer than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch
    return device.type == "cpu" and any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        BadInput: torch knows none.
    """
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"the device '{name}'", "one that torch knows", "say cpu, cuda, or mps") from error


class BFloat16(nn.Module):
    """A network that computes in bfloat16 where that is safe, and answers in float32. Needs no scaling of losses."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Logits of `x`, float32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.network(x)
        return logits.float()


STARTED_BY = "SPARRING_STARTED_BY"
"""Where a process finds the number of the one that started it."""


@contextmanager
def starting() -> Iterator[None]:
    """While processes start and find each other: one ends with its parent, for which it would wait for minutes."""
    parent, together = os.environ.get(STARTED_BY), threading.Event()

    def watch() -> None:
        while not together.wait(0.2):
            if str(os.getppid()) != parent:
                os._exit(1)

    if parent is None:
        os.environ[STARTED_BY] = str(os.getpid())
    elif os.name == "posix":  # elsewhere one may be started by way of a third
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        together.set()
        del os.environ[STARTED_BY]


LOST = ("connection closed", "connection reset", "broken pipe", "timed out", "heartbeat", "nccl", "gloo")


@contextmanager
def companions(count: int, stopped: Callable[[], bool]) -> Iterator[None]:
    """Say in one line that another process has gone.

    Raises:
        BadInput: communication with it failed.
        KeyboardInterrupt: it failed while all of them were being stopped.

    """
    try:
        yield
    except RuntimeError as error:
        said = line(error)
        if count == 1 or not any(sign in said.lower() for sign in LOST):
            raise
        if stopped():
            raise KeyboardInterrupt from error
        raise BadInput(
            f"another of the {count} processes is gone ({said[:120]})",
            "all of them until the end",
            "run the same command with --resume: it goes on from the last checkpoint",
        ) from error


@contextmanager
def polite_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM as a question, so that an update is never cut in half; a second Ctrl-C ends at once."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        if heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        heard.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
