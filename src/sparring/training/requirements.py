"""What a network has to be, so that it can be trained: said in one line where it is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.models.victim import inference
from sparring.types import Data


def trainable(network: nn.Module) -> None:
    """Refuse a network whose weights cannot be trained.

    Raises:
        BadInput: it has none, they are not float32, or it is a program that was made of a network.
    """
    kind = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule) or hasattr(network, "_orig_mod"):  # torch.compile leaves the latter
        raise BadInput(f"a compiled network ({kind})", "the network itself", "compile what comes back from training")
    weights = [p for p in network.parameters() if p.requires_grad]
    if not weights:
        raise BadInput(f"a {kind} with no weights to train", "a network", "unfreeze its parameters")
    other = {str(w.dtype) for w in weights if w.dtype != torch.float32}
    if other:
        raise BadInput(f"weights in {', '.join(sorted(other))}", "torch.float32", "call network.float()")


def outputs(network: nn.Module, x: Tensor, data: Data) -> int:
    """The number of classes that a network tells apart.

    Raises:
        BadInput: it fails on `x`, changes it in place, or gives no logits of several classes.
    """
    try:
        with inference(network), torch.enable_grad():
            logits = network(x.clone().requires_grad_())  # as an attack will
    except RuntimeError as error:
        said = " ".join(str(error).split())
        given = f"inputs {tuple(x.shape[1:])} of {data.name} for {type(network).__name__} ({said})"
        if "in-place" in said:
            raise BadInput(given, "inputs left as they are", "let the network change a copy") from error
        raise BadInput(given, "inputs it takes", "reshape them") from error
    if not isinstance(logits, Tensor):
        raise BadInput(f"outputs that are a {type(logits).__name__}", "logits alone, a tensor", "wrap the network")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise BadInput(f"outputs of shape {tuple(logits.shape)}", "logits (B, K) of K >= 2 classes", "add a head")
    return int(logits.shape[1])
