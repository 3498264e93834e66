"""What a network has to be, so that it can be trained: said in one line where it is not."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sparring.errors import BadInput, line
from sparring.models.victim import inference
from sparring.training.augmentations import Mixup
from sparring.training.passes import norms
from sparring.training.reading import Unlabelled
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


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network, to be trained in its place.

    Raises:
        BadInput: it cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        said = line(error)[:100]
        raise BadInput(
            f"a {type(network).__name__} that cannot be copied ({said})",
            "one that copy.deepcopy takes",
            "make its weights by torch.nn.utils.parametrizations, say weight_norm, and not by torch.nn.utils",
        ) from error


def mixtures(objective: object, classes: int, *data: Data | None) -> None:
    """Refuse mixtures of examples that have no labels, or others than the network's.

    Raises:
        BadInput: `objective` is, or has in it, a `Mixup` of another number of classes, or of unlabelled data.
    """
    for inner in getattr(objective, "objectives", None) or filter(None, [getattr(objective, "objective", None)]):
        mixtures(inner, classes, *data)
    if not isinstance(objective, Mixup):
        return
    if objective.classes != classes:
        raise BadInput(
            f"mixtures of {objective.classes} classes", f"{classes}, as the network has", f"say classes={classes}"
        )
    for one in data:
        if isinstance(one, Unlabelled):
            raise BadInput(
                f"mixtures with {one.name} without labels", "labels to mix", "leave mixup out, or label them"
            )


def labelled(labels: Tensor, classes: int, name: str, *, partly: bool = False) -> None:
    """Refuse labels that a network has no output for; those below 0 are none, which `partly` allows.

    Raises:
        BadInput: one of them, or labels of another type than int64.
    """
    if labels.dtype != torch.int64:
        raise BadInput(f"labels of {labels.dtype} in {name}", "int64", "let take() give labels.long()")
    if int(labels.max()) >= classes:
        raise BadInput(f"label {int(labels.max())} in {name}", f"labels below {classes}", "widen the network")
    if not partly and int(labels.min()) < 0:  # torch leaves -100 out of the loss, without a word
        do = "mend it, or say that it is none: Unlabelled data, or the objective vat"
        raise BadInput(f"label {int(labels.min())} in {name}", "labels from 0", do)


def enough_to_normalise(network: nn.Module, x: Tensor) -> None:
    """Refuse a BatchNorm that gathers statistics of a single value a channel, in batches of one example like `x`.

    Raises:
        BadInput: there is one.
    """
    single: list[nn.Module] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            single.append(norm)

    handles = [part.register_forward_pre_hook(look) for part in norms(network).values() if part.training]
    try:
        with inference(network), torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    if single:
        raise BadInput("batches of one example for a network with BatchNorm", "2 or more", "give a larger batch_size")


def outputs(network: nn.Module, x: Tensor, data: Data) -> int:
    """The number of classes that a network tells apart.

    Raises:
        BadInput: it fails on `x`, changes it in place, or gives no logits of several classes.
    """
    try:
        with inference(network), torch.enable_grad():
            logits = network(x.clone().requires_grad_())  # as an attack will
    except BadInput:
        raise
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        said = line(error)
        given = f"inputs {tuple(x.shape[1:])} of {data.name} for {type(network).__name__} ({said})"
        if "in-place" in said:
            raise BadInput(given, "inputs left as they are", "let the network change a copy") from error
        raise BadInput(given, "inputs it takes", "reshape them") from error
    if not isinstance(logits, Tensor):
        raise BadInput(f"outputs that are a {type(logits).__name__}", "logits alone, a tensor", "wrap the network")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise BadInput(f"outputs of shape {tuple(logits.shape)}", "logits (B, K) of K >= 2 classes", "add a head")
    return int(logits.shape[1])
