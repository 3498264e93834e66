"""Short hashes of values, by which a run tells whether it was given the same before."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def digest(*tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of values, shapes and types."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        sha.update(
            tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )  # NumPy has no bfloat16
    return sha.hexdigest()[:16]
