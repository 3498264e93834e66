"""A detector that asks whether the explanation holds still."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.defences.detectors.detector import Learned, Score
from sparring.explain.stability import cosine
from sparring.limits import one_or_more, positive
from sparring.registry import register
from sparring.streams import Streams
from sparring.types import Model
from sparring.views import smoothed


@register("detectors", "attribution", paper="Ghorbani et al., 2019")
def attribution(*, sigma: float = 0.05, draws: int = 4, beta: float = 10.0) -> Learned:
    """How much the explanation of the decision turns under a little noise (after Ghorbani et al., 2019).

    One less the mean cosine between the gradient of the decided logit at `x` and at `x` with noise of `sigma`, the same
    noise for all. The pullback of ReLU is smoothed by `beta`, so that the score itself has a gradient. Costs a forward
    and a backward pass for each of `draws` and one.
    """
    positive(sigma=sigma)
    one_or_more(draws=draws)

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        seen, noise = smoothed(model, beta), sigma * Streams.of(0, range(draws)).normal(*x.shape[1:])

        def score(z: Tensor) -> Tensor:
            follow = torch.is_grad_enabled() and z.requires_grad
            with torch.enable_grad():
                point = z if follow else z.detach().requires_grad_()
                decided = seen(point).detach().argmax(1, keepdim=True)

                def explained(at: Tensor) -> Tensor:
                    said = seen(at).gather(1, decided).sum()
                    return torch.autograd.grad(said, at, create_graph=follow)[0]

                here = explained(point)
                turned = torch.stack([cosine(here, explained(point + u.to(z))) for u in noise]).mean(0)
            return 1 - (turned if follow else turned.detach())

        return score

    return Learned(scoring)
