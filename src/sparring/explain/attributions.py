"""Attributions: how much every input value speaks for a label. The methods are Captum's (Kokhlikyan et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.models.loading import adopt
from sparring.models.victim import Victim, inference


def attribute(model: object, x: Tensor, labels: Tensor, method: str = "integrated-gradients") -> Tensor:
    """How much every value of `x` speaks for its label, `(B, *shape)`: positive for, negative against.

    `labels` `(B,)` are the classes to explain, the true ones or those that the model decided for. The methods are the
    keys of `METHODS`; the reference input, where one needs it, is all zeros. Deterministic: rows do not see each
    other, and the global random numbers of torch and NumPy are left alone. The model comes back as it was given.

    Raises:
        BadInput: an unknown method, inputs that are not floating point, labels that do not fit, or a model without what
            the method needs: outputs `(B, K)`, gradients, or for Grad-CAM a convolution.

    """
    if method not in METHODS:
        raise BadInput(f"the attribution method {method!r}", f"one of {', '.join(METHODS)}", "choose one of them")
    victim, chosen = adopt(model), METHODS[method]
    if chosen.gradients and victim.access != "gradients":
        raise BadInput(f"{method} of a model that gives {victim.access}", "gradients", "use occlusion")
    with torch.inference_mode(False), torch.enable_grad(), inference(victim):  # whatever mode the caller is in
        _fits(victim, x, labels)
        labels = labels.long()
        parts = [
            chosen.run(victim, x[i : i + chosen.rows].detach().clone().requires_grad_(), labels[i : i + chosen.rows])
            for i in range(0, len(x), chosen.rows)
        ]
    return torch.cat(parts).detach().to(x.dtype)


def _fits(victim: Victim, x: Tensor, labels: Tensor) -> None:
    """Refuse inputs without slopes, and labels that the model has no output for."""
    if not len(x) or labels.shape != x.shape[:1]:
        raise BadInput(f"{len(x)} inputs and labels {tuple(labels.shape)}", "one label an input", "align them")
    if not x.is_floating_point() or labels.is_floating_point():
        given = f"inputs of {x.dtype} and labels of {labels.dtype}"
        raise BadInput(given, "floating point inputs and whole labels", "convert them")
    with torch.no_grad():
        outputs = victim(x[:1])
    if outputs.dim() != 2:
        raise BadInput(f"outputs of shape {tuple(outputs.shape)}", "a score a class (B, K)", "run: sparring doctor")
    classes = outputs.shape[1]
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise BadInput(f"labels {int(labels.min())} to {int(labels.max())}", f"0 to {classes - 1}", "mend the labels")


def _saliency(victim: Victim, x: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the label's output (Simonyan et al., 2014), with its sign."""
    from captum.attr import Saliency

    found: Tensor = Saliency(victim.call).attribute(x, target=labels, abs=False)
    return found


def _integrated_gradients(victim: Victim, x: Tensor, labels: Tensor) -> Tensor:
    """The gradients along the way from zero, times the way (Sundararajan et al., 2017): they add up to the change."""
    from captum.attr import IntegratedGradients

    return IntegratedGradients(victim.call).attribute(x, target=labels, n_steps=50, internal_batch_size=512)  # type: ignore[no-any-return]


def _gradient_shap(victim: Victim, x: Tensor, labels: Tensor) -> Tensor:
    """Gradients at random points between zero and noisy copies of the input, times the way (Lundberg and Lee, 2017)."""
    from captum.attr import GradientShap

    with _same_random_numbers():
        # its noise is float32, whatever the input is
        found: Tensor = GradientShap(lambda noisy: victim(noisy.to(x.dtype))).attribute(
            x, baselines=torch.zeros_like(x[:1]), target=labels, n_samples=64, stdevs=0.05
        )
    return found


def _occlusion(victim: Victim, x: Tensor, labels: Tensor) -> Tensor:
    """What the label's output loses when a window of zeros hides a part (Zeiler and Fergus, 2014); passes only."""
    from captum.attr import Occlusion

    channels, sides = (x.shape[1:2], x.shape[2:]) if x.dim() > 2 else ((), x.shape[1:])
    window = [max(1, side // 7) for side in sides]
    steps = [max(1, width // 2) for width in window]
    with torch.no_grad():
        found: Tensor = Occlusion(victim.call).attribute(
            x.detach(), (*channels, *window), strides=(*channels, *steps), target=labels
        )
    return found


def _grad_cam(victim: Victim, x: Tensor, labels: Tensor) -> Tensor:
    """Where the last convolution speaks for the label, enlarged to the input (Selvaraju et al., 2017)."""
    from captum.attr import LayerAttribution, LayerGradCam

    layers = _convolutions(victim, x[:1])
    if not layers:
        raise BadInput(f"grad-cam of {victim.name}", "a torch module with a convolution", "use integrated-gradients")
    coarse: Any = LayerGradCam(victim.call, layers[-1]).attribute(x, target=labels, relu_attributions=True)
    fine: Tensor = LayerAttribution.interpolate(coarse, tuple(x.shape[2:]), "bilinear")
    return fine.expand_as(x)


def _convolutions(victim: Victim, x: Tensor) -> list[nn.Module]:
    """Those that `x` meets on its way through the model, in order."""
    met: list[nn.Module] = []
    parts = victim.module.modules() if victim.module else ()
    handles = [
        part.register_forward_hook(lambda module, *_: met.append(module))
        for part in parts
        if isinstance(part, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            victim(x)
    finally:
        for handle in handles:
            handle.remove()
    return met


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Captum draws from the global generators of torch and NumPy: start them alike, and give them back."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@dataclass(frozen=True)
class Method:
    """How an attribution is computed, on how many rows at a time, and whether it needs gradients."""

    run: Callable[[Victim, Tensor, Tensor], Tensor]
    rows: int
    gradients: bool = True


METHODS: Mapping[str, Method] = {
    "integrated-gradients": Method(_integrated_gradients, 32),
    "saliency": Method(_saliency, 256),
    "gradient-shap": Method(_gradient_shap, 1),  # row by row, so that each gets the same random numbers
    "occlusion": Method(_occlusion, 256, gradients=False),
    "grad-cam": Method(_grad_cam, 256),
}
"""The methods by name."""
