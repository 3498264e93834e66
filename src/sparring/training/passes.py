"""The passes of an update: which BatchNorm gathers statistics in them, and a watch for where it should not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def gathering(network: nn.Module) -> nn.Module:
    """The network in training mode, in place, but for each BatchNorm that was frozen.

    That is one that came in inference mode, with weights of its own that are not to be trained: it keeps the statistics
    that it came with.
    """
    frozen = [part for part in norms(network).values() if not part.training and _untrained(part)]
    network.train()
    for part in frozen:
        part.eval()
    return network


def norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """Every BatchNorm of a network, by its name."""
    return {name: part for name, part in network.named_modules() if isinstance(part, _BatchNorm)}


def _untrained(norm: _BatchNorm) -> bool:
    weights = list(norm.parameters())
    return bool(weights) and not any(weight.requires_grad for weight in weights)


class Passes:
    """Watch the passes of an update: those in training mode of which nothing reaches the loss are the attack's.

    In them BatchNorm gathers statistics of points that training never sees.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.counting, self.learning = True, False
        self.training = self.learnt = 0
        self.norms = [part for part in norms(network).values() if part.track_running_stats]

    def __enter__(self) -> Passes:
        self.counting, self.learning = True, False
        self.training = self.learnt = 0
        self.handle = self.network.register_forward_hook(self.seen)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def seen(self, network: nn.Module, inputs: object, outputs: Tensor) -> None:
        """Count a pass, and note when the gradient of the loss comes by."""
        if not self.counting or not any(norm.training for norm in self.norms):
            return
        self.training += 1
        if outputs.requires_grad:
            reached: list[bool] = []

            def reach(gradient: Tensor) -> None:
                if self.learning and not reached:
                    reached.append(True)
                    self.learnt += 1

            outputs.register_hook(reach)  # type: ignore[no-untyped-call]

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Passes that are made good by whoever makes them: those of a neighbourhood of weights."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    @property
    def leaked(self) -> int:
        """How many passes changed the statistics, and taught nothing."""
        return self.training - self.learnt
