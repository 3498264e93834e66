"""Total variation minimisation: drop pixels, and put the smoothest picture through the rest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparring.defences.cleaning import RandomCleaning, images
from sparring.defences.smoothing import bell
from sparring.errors import BadInput
from sparring.limits import one_or_more, positive
from sparring.registry import register
from sparring.streams import Streams
from sparring.views import settled


def slopes(z: Tensor) -> Tensor:
    """Differences to the pixel below and to the right, `(2, B, C, H, W)`; zero at the end."""
    down = functional.pad(z[:, :, 1:] - z[:, :, :-1], (0, 0, 0, 1))
    right = functional.pad(z[..., 1:] - z[..., :-1], (0, 1))
    return torch.stack([down, right])


def gathered(p: Tensor) -> Tensor:
    """What turns slopes back, `-slopes^T`: the divergence of `(2, B, C, H, W)`."""
    down, right = p[0, :, :, :-1], p[1, ..., :-1]
    return (
        functional.pad(down, (0, 0, 0, 1))
        - functional.pad(down, (0, 0, 1, 0))
        + functional.pad(right, (0, 1))
        - functional.pad(right, (1, 0))
    )


def variation(z: Tensor) -> Tensor:
    """The total variation of every image, `(B,)`: the length of its slope, summed over pixels and channels."""
    return slopes(z).square().sum(0).sqrt().flatten(1).sum(1)


def least_variation(x: Tensor, kept: Tensor, *, weight: float, steps: int) -> Tensor:
    """`min over z of 1/2 |kept (z - x)|^2 + weight variation(z)`, by primal and dual steps (Chambolle and Pock, 2011).

    `kept` is 1 for pixels that count, 0 for those to be filled in. Steps are as long as the norm of the slopes allows.
    """
    z = ahead = x
    p = torch.zeros_like(slopes(x))
    step = 8**-0.5
    for _ in range(steps):
        p = p + step * slopes(ahead)
        p = p / (p.square().sum(0).sqrt() / weight).clamp(min=1)
        last, z = z, (z + step * gathered(p) + step * kept * x) / (1 + step * kept)
        ahead = 2 * z - last
    return z.clamp(0, 1)


def through_the_rest(x: Tensor, rng: Streams, *, keep: float, weight: float, steps: int) -> Tensor:
    """Keep a share of the pixels, and fill in the rest with as little variation as may be."""
    kept = (rng.uniform(*images(x).shape[2:], device=x.device) < keep).unsqueeze(1).to(x)
    return least_variation(x, kept, weight=weight, steps=steps)


def blurred(x: Tensor, rng: Streams, *, sigma: float) -> Tensor:
    """A Gaussian blur of `sigma` pixels, whichever pixels are dropped."""
    return bell(x, sigma=sigma)


@register("defences", "total-variation", shape="image", paper="Guo et al., 2018")
def total_variation(*, keep: float = 0.8, weight: float = 0.05, steps: int = 30, draws: int = 4) -> RandomCleaning:
    """Drop pixels at random, and put the smoothest picture through the rest (Guo et al., 2018).

    The paper minimises the norm of the misfit, this its square. Its gradient is taken for that of a blur, in place
    of the identity's (Athalye et al., 2018, section 5.3.1): its own would go back through all steps.
    """
    positive(weight=weight)
    one_or_more(steps=steps)
    if not 0 < keep <= 1:
        raise BadInput(f"keep={keep:g} of the pixels", "above 0 and up to 1", "give keep=0.8, say")
    clean = settled(through_the_rest, keep=keep, weight=weight, steps=steps)
    return RandomCleaning(clean=clean, surrogate=settled(blurred, sigma=1.0), draws=draws)
