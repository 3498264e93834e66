"""stAdv: pixels stay as they are, and change places (Xiao et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.edits import Edited
from sparring.domains.images.threats import Flow
from sparring.domains.images.warps import lattice, read
from sparring.norms import NORMS
from sparring.registry import register
from sparring.steps import ascent, chain, cosine


@dataclass(frozen=True, kw_only=True)
class Warp:
    """A flow `(B, 2, H, W)`: how far down and across each pixel looks for its value, in pixels.

    The cost is that of the paper, equation 5: `smooth` times the sum over neighbours of how far their flows differ.
    """

    threat: Flow
    smooth: float

    @property
    def reach(self) -> float:
        """The bound of the threat."""
        return self.threat.pixels

    def image(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The images, each pixel read where the flow points; at the border where it points beyond."""
        (i, j), (height, width) = lattice(x), x.shape[2:]
        down, across = (i + parameters[:, 0]).clamp(0, height - 1), (j + parameters[:, 1]).clamp(0, width - 1)
        return read(x, down, across).clamp(self.threat.low, self.threat.high)

    def leap(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The best place for every pixel: a bilinear surface is highest on a whole pixel or at an end of the reach."""
        i, j = lattice(x)
        best, most = torch.zeros_like(x[:, :2].expand(-1, 2, -1, -1)), torch.zeros_like(x[:, 0])
        for down, across in self.threat.places(x, torch.full((len(x),), self.reach)):
            gain = (gradient * (read(x, down, across) - x)).sum(1)
            flow = torch.stack([(down - i).expand_as(gain), (across - j).expand_as(gain)], 1)
            best, most = torch.where((gain > most).unsqueeze(1), flow, best), torch.maximum(gain, most)
        return best

    def cost(self, parameters: Tensor) -> Tensor:
        """How uneven the flow is."""
        below, beside = (parameters.diff(dim=axis).square().sum(1).clamp(min=1e-12).sqrt() for axis in (2, 3))
        return self.smooth * (below.flatten(1).sum(1) + beside.flatten(1).sum(1))


@register(
    "attacks",
    "stadv",
    norms=(),
    threats=("flow",),
    shape="image",
    family="spatial",
    passes="steps + steps",
    paper="Xiao et al., 2018",
)
def stadv(threat: Flow, *, steps: int = 40, smooth: float = 0.05) -> Edited:
    """A smooth flow that carries pixels to where they mislead (Xiao et al., 2018).

    Ascent within a bound on the flow, from the best flow for the linearised loss, and not L-BFGS from none without a
    bound. `smooth` is the paper's tau.
    """
    step = chain(ascent(NORMS["linf"]), cosine(threat.pixels, steps))
    return Edited(edit=Warp(threat=threat, smooth=smooth), step=step, steps=steps)
