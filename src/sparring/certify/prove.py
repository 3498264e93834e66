"""Certify a data set: for how many examples no input within the threat changes the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.certify.branch import BranchAndBound, rounded_down
from sparring.certify.graph import Graph, graph
from sparring.errors import BadInput
from sparring.models.victim import Victim
from sparring.threats import Ball
from sparring.types import Data

BATCH = 16

Certificate = Callable[[Graph, Tensor, Tensor, Ball], Tensor]


@dataclass(frozen=True)
class Proved:
    """Lower bounds of every example's margin, `(N,)`, and how many the model gets right as they are.

    `broken` counts those for which an input was found that changes the answer, by certificates that look for one.
    """

    lower: Tensor
    right: int
    broken: int | None = None

    @property
    def certified(self) -> int:
        """The examples whose answer is right, and stays so."""
        return int((self.lower > 0).sum())


def prove(
    victim: Victim, data: Data, certificate: Certificate, threat: Ball, *, watch: Callable[[str, int, int], None]
) -> Proved:
    """Certify all examples that the model gets right; the others' bound is minus infinity.

    Raises:
        BadInput: a model or a threat that has no bounds, or inputs that are not finite or outside of the box.
    """
    net = graph(victim, data.take([0])[0])
    bounds: list[Tensor] = []
    broken = 0 if isinstance(certificate, BranchAndBound) else None
    for first in range(0, len(data), BATCH):
        x, labels = data.take(range(first, min(first + BATCH, len(data))))
        if not bool(threat.contains(x, x).all()):
            raise BadInput(
                f"inputs in {data.name} that are not finite, or outside of {threat.low:g} to {threat.high:g}",
                "finite inputs within the bounds",
                "clean the data, or give --bounds",
            )
        right = net(x).argmax(1) == labels
        lower = torch.full((len(x),), -torch.inf)
        if isinstance(certificate, BranchAndBound):
            answers = certificate.answers(net, x[right], labels[right], threat)
            lower[right] = rounded_down([one.lower for one in answers])
            broken = (broken or 0) + sum(one.status == "broken" for one in answers)
        else:
            lower[right] = certificate(net, x[right], labels[right], threat)
        bounds.append(lower)
        watch("certify", first + len(x), len(data))
    found = torch.cat(bounds)
    return Proved(found, int(found.isfinite().sum()), broken)
