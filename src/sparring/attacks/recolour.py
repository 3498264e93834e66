"""ReColorAdv: one function of colour, applied to all pixels (Laidlaw and Feizi, 2019)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.edits import Edited
from sparring.domains.images.threats import Recolour
from sparring.errors import BadInput
from sparring.norms import NORMS
from sparring.registry import register
from sparring.steps import ascent, chain, cosine


@dataclass(frozen=True, kw_only=True)
class Curves:
    """How far each colour moves: known on a grid of colours, `(B, C, nodes ** C)`, and multilinear between them."""

    threat: Recolour
    nodes: tuple[int, ...] = (256, 64, 16)
    """Along each axis of the grid, for images of 1, 2 and 3 channels."""

    @property
    def reach(self) -> float:
        """The bound of the threat."""
        return self.threat.eps

    def image(self, x: Tensor, parameters: Tensor) -> Tensor:
        """The images, each colour moved."""
        moved = torch.zeros_like(x).flatten(2)
        for node, share in self._corners(x):
            at_node = parameters.gather(2, node.unsqueeze(1).expand(-1, x.shape[1], -1))
            moved = moved + share.unsqueeze(1) * at_node
        return (x + moved.view_as(x)).clamp(self.threat.low, self.threat.high)

    def leap(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Every node as far as it can go, whichever way raises the sum over the pixels that it moves."""
        count = self._nodes(x) ** x.shape[1]
        gain = x.new_zeros(*x.shape[:2], count)
        for node, share in self._corners(x):
            gain.scatter_add_(2, node.unsqueeze(1).expand(-1, x.shape[1], -1), share.unsqueeze(1) * gradient.flatten(2))
        return self.reach * gain.sign()

    def cost(self, parameters: Tensor) -> Tensor:
        """Nothing."""
        return parameters.new_zeros(len(parameters))

    def _nodes(self, x: Tensor) -> int:
        if x.shape[1] > len(self.nodes):
            raise BadInput(f"{x.shape[1]} channels", f"at most {len(self.nodes)} for recoloradv", "use another attack")
        return self.nodes[x.shape[1] - 1]

    def _corners(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The nodes around every pixel's colour, and their shares in it, each `(B, H W)`."""
        nodes, width = self._nodes(x), self.threat.high - self.threat.low
        place = ((x - self.threat.low) / width).flatten(2) * (nodes - 1)
        floor = place.floor().clamp(max=nodes - 2)
        part, corners = place - floor, []
        for above in itertools.product((0, 1), repeat=x.shape[1]):
            node, share = torch.zeros_like(place[:, 0], dtype=torch.int64), torch.ones_like(place[:, 0])
            for channel, up in enumerate(above):
                node = node * nodes + floor[:, channel].long() + up
                share = share * (part[:, channel] if up else 1 - part[:, channel])
            corners.append((node, share))
        return corners


@register(
    "attacks",
    "recoloradv",
    norms=(),
    threats=("recolour",),
    shape="image",
    family="spatial",
    passes="steps + steps",
    paper="Laidlaw and Feizi, 2019",
)
def recoloradv(threat: Recolour, *, steps: int = 40) -> Edited:
    """One change of colours, the same all over the image (Laidlaw and Feizi, 2019).

    In the colours of the image, and not in CIELUV; without the paper's penalty for neighbours in colour that part.
    """
    step = chain(ascent(NORMS["linf"]), cosine(threat.eps, steps))
    return Edited(edit=Curves(threat=threat), step=step, steps=steps)
