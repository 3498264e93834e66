"""Who was in the ring: short digests of models and data, so that a run is not resumed with another one."""

from __future__ import annotations

import hashlib

from torch import Tensor

from sparring.models.victim import Victim
from sparring.types import Data


def digest(*tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of values, shapes and types."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def of_model(victim: Victim) -> str:
    """The parameters and buffers of a torch module; the name of any other model."""
    if victim.module is None:
        return f"{victim.framework}: {victim.name}"
    state = victim.module.state_dict().values()
    return f"{victim.framework}: {digest(*(value for value in state if isinstance(value, Tensor)))}"


def of_data(data: Data) -> str:
    """The name, the length, and the first and last example."""
    return f"{data.name}, {len(data)} examples, {digest(*data.take([0, len(data) - 1]))}"
