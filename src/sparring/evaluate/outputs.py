"""How far outputs are apart, as decisions see it."""

from __future__ import annotations

import torch
from torch import Tensor

STEADY = 1e-4
"""How far apart outputs for the same inputs may be, of a model that is not random."""


def agree(outputs: Tensor, others: Tensor) -> bool:
    """Whether outputs are the same but for rounding."""
    return float(apart(outputs, others).max()) <= STEADY


def apart(outputs: Tensor, others: Tensor) -> Tensor:
    """By how much other outputs `(..., B, K)` differ from these `(B, K)`, `(..., B)`: 0 where they are the same.

    A score counts by how far it is from that of the row's best class, in units of the median lead of a best class over
    the second, and less the further away it is: `tanh((z_k - z_best) / lead)`. So neither the scale of the outputs nor
    a class that is masked by -1e9 hides a change.
    """
    top, at = outputs.topk(2, dim=1)
    lead = (top[:, 0] - top[:, 1]).median().clamp(min=float(1e-6 * top[:, 0].abs().median()))
    lead = lead.clamp(min=torch.finfo(outputs.dtype).tiny)

    def seen(scores: Tensor) -> Tensor:
        best = scores.gather(-1, at[:, :1].expand(*scores.shape[:-1], 1))
        return ((scores - best) / lead).tanh()

    return (seen(others.to(outputs)) - seen(outputs)).abs().amax(-1)
