"""How far outputs are apart, as decisions see it."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.norms import divisor

STEADY = 1e-4
"""How far apart outputs for the same inputs may be, of a model that is not random."""


def agree(outputs: Tensor, others: Tensor) -> bool:
    """Whether outputs are the same but for rounding; those that no decision is made of, to the last bit."""
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        return torch.equal(outputs, others)
    return float(apart(outputs, others).max()) <= STEADY


def lead(outputs: Tensor) -> Tensor:
    """The median lead of a best class over the second; where scores tie, what float types round in sums of them."""
    best, second = outputs.topk(2, dim=1).values.unbind(1)
    rounds = 1e4 * torch.finfo(outputs.dtype).eps * best.abs().median()
    return divisor(torch.maximum((best - second).median(), rounds))


def apart(outputs: Tensor, others: Tensor) -> Tensor:
    """By how much other outputs `(..., B, K)` differ from these `(B, K)`, `(..., B)`: 0 where they are the same.

    A score counts by how far it is from that of the row's best class, in units of the lead of a best class over the
    second, and less the further away it is: `tanh((z_k - z_best) / lead)`. So neither the scale of the outputs nor a
    class that is masked by -1e9 hides a change.
    """
    unit, at = lead(outputs), outputs.argmax(1, keepdim=True)

    def seen(scores: Tensor) -> Tensor:
        return ((scores - scores.gather(-1, at.expand(*scores.shape[:-1], 1))) / unit).tanh()

    return (seen(others.to(outputs)) - seen(outputs)).detach().abs().amax(-1)
