"""Double masking: a model that no patch can change, out of any classifier, and the proof (Xiang et al., 2022).

Windows hide parts of an image so that a patch, wherever it lies, is hidden whole by one of them. Where the classifier
says the same whichever two of the windows are hidden, that is what the masked model says of the image under any patch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.domains.images.patches import side_of
from sparring.errors import BadInput
from sparring.limits import one_or_more
from sparring.registry import register
from sparring.threats import Ball
from sparring.types import Model
from sparring.views import mean, stand

ROUNDING = 1e-5
"""Of the larger of the two best scores: a lead that is smaller, another batch may round away, in float32."""


def spans(length: int, side: int, count: int) -> list[tuple[int, int]]:
    """Where `count` spans, or fewer, begin and end so that every stretch of `side` places is inside of one of them.

    Section 3.2: strides of `ceil((length - side + 1) / count)`, each span a stride and a side long, less one. A patch
    of no pixel needs none.
    """
    if not side:
        return [(0, 0)]
    side = min(side, length)
    stride = math.ceil((length - side + 1) / count)
    long = stride + side - 1
    starts = sorted({*range(0, length - long + 1, stride), length - long})
    return [(start, start + long) for start in starts]


def leads(outputs: Tensor, labels: Tensor) -> Tensor:
    """By how much the label's score leads, `(B,)`, less what rounding may take; NaN leads nothing."""
    half = outputs.is_floating_point() and outputs.dtype.itemsize < 4
    rounding, outputs = torch.finfo(outputs.dtype).eps * 4 if half else ROUNDING, outputs.double()
    own = outputs.gather(1, labels.unsqueeze(1)).squeeze(1)
    other = outputs.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    lead = own - other - rounding * torch.maximum(own.abs(), other.abs().nan_to_num(posinf=0.0))
    return lead.nan_to_num(nan=-torch.inf).float()


class DoubleMasked(nn.Module):
    """What a model says of an image if a patch may lie on it (Algorithm 1).

    All windows are hidden in turn. Where the answers differ, those that are not of the majority are looked into: one
    that stays the same whichever window is hidden as well is taken, the majority's otherwise. The outputs are the first
    of those that gave the answer: a mean of them might round a lead away. Costs `masks^2` passes, and as many again for
    every window that dissents.
    """

    def __init__(self, model: Model, masking: PatchCleanser) -> None:
        super().__init__()
        self.model, self.masking = model, masking
        self.training = getattr(model, "training", False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(B, K)`."""
        windows = self.masking.windows(x)
        return self.decided(x, windows, self.masking.round(self.model, x, windows))

    def decided(self, x: Tensor, windows: Tensor, once: list[Tensor]) -> Tensor:
        """The same, of the outputs of the first round."""
        votes = torch.stack([outputs.argmax(1) for outputs in once])
        majority = votes.mode(0).values
        said = _first(once, majority)
        open_ = (votes != majority).any(0)
        for i, window in enumerate(windows):
            rows = (open_ & (votes[i] != majority)).nonzero().flatten()
            if len(rows):
                twice = self.masking.round(self.model, x[rows].masked_fill(window, self.masking.fill), windows)
                kept = torch.stack([outputs.argmax(1) == votes[i, rows] for outputs in twice]).all(0)
                said = said.index_copy(0, rows[kept], twice[0][kept])
                open_[rows[kept]] = False
        return said


def _first(outputs: list[Tensor], answer: Tensor) -> Tensor:
    """Row by row, the first of these outputs whose best class is the answer."""
    every = torch.stack(outputs)
    first = (every.argmax(2) == answer).to(torch.uint8).argmax(0)
    return every[first, torch.arange(len(answer), device=answer.device)]


class Climbed(nn.Module):
    """The outputs of double masking, with the gradient of the mean over all windows: the votes themselves jump."""

    def __init__(self, deployed: DoubleMasked) -> None:
        super().__init__()
        self.deployed = deployed
        self.training = deployed.training

    def forward(self, x: Tensor) -> Tensor:
        """Scores `(B, K)`."""
        deployed, windows = self.deployed, self.deployed.masking.windows(x)
        once = deployed.masking.round(deployed.model, x, windows)
        with torch.no_grad():
            value = deployed.decided(x, windows, once)
        return stand(value, mean(once)) if torch.is_grad_enabled() else value


@dataclass(frozen=True, kw_only=True)
class PatchCleanser:
    """A defence against patches, around any classifier, that proves what it withstands (Xiang et al., 2022).

    `masks` windows along each side of the image hide any patch of the threat, filled with `fill`: more windows hide
    less, and cost more. A model that has seen images with holes keeps more of its accuracy (the augmentation `cutout`).
    What is proved is about `defend(model)`, not about the model, and holds for models that are not random. Whether
    another batch rounds otherwise is left room for by the type of the outputs: not for half precision inside.
    """

    threat: Ball
    masks: int = 6
    fill: float = 0.0
    draws: int = 1
    differentiable: bool = False

    def __post_init__(self) -> None:
        one_or_more(masks=self.masks)
        if not math.isfinite(self.fill):
            raise BadInput(f"a fill of {self.fill}", "a finite number", "take that of an empty pixel")

    def windows(self, x: Tensor) -> Tensor:
        """Which pixels each window hides, `(M, H, W)` bool.

        Raises:
            BadInput: inputs that are no images.
        """
        side = side_of(self.threat.eps, x)
        down, across = (_covering(length, side, self.masks, x.device) for length in x.shape[2:])
        return (down[:, None, :, None] & across[None, :, None, :]).flatten(0, 1)

    def round(self, model: Model, x: Tensor, windows: Tensor) -> list[Tensor]:
        """Outputs with each of the windows hidden."""
        return [model(x.masked_fill(window, self.fill)) for window in windows]

    def defend(self, model: Model) -> Model:
        """The model behind double masking."""
        return DoubleMasked(model, self)

    def adaptive(self, model: Model) -> Model:
        """The same outputs, with the gradient of the mean over windows."""
        return Climbed(DoubleMasked(model, self))

    def least(self, model: Model, x: Tensor, labels: Tensor) -> Tensor:
        """The least lead of the label whichever two windows are hidden, `(B,)`: above 0 it is a proof (Theorem 1).

        Where that is not above 0, the lead under the first two for which it is not. Costs
        up to `masks^2 (masks^2 + 1) / 2` passes; an example that fails is not looked at further.
        """
        least, left = torch.full((len(x),), torch.inf, device=x.device), torch.arange(len(x), device=x.device)
        for hidden in _pairs(self.windows(x)):
            if not len(left):
                break
            with torch.no_grad():
                outputs = model(x[left].masked_fill(hidden, self.fill))
            least[left] = torch.minimum(least[left], leads(outputs, labels[left]))
            left = left[least[left] > 0]
        return least


def _covering(length: int, side: int, count: int, device: torch.device) -> Tensor:
    """Which places each of the spans covers, `(spans, length)` bool."""
    place = torch.arange(length, device=device)
    return torch.stack([(place >= start) & (place < end) for start, end in spans(length, side, count)])


def _pairs(windows: Tensor) -> Iterator[Tensor]:
    """What is hidden by one window, for each, and then by two: the single ones fail sooner."""
    yield from windows
    for i, one in enumerate(windows):
        for other in windows[i + 1 :]:
            yield one | other


@register(
    "certificates",
    "patch-cleanser",
    needs="labels",
    norms=(),
    threats=("patch",),
    shape="image",
    passes="masks^4 / 2",
    paper="Xiang et al., 2022",
)
def patch_cleanser(threat: Ball, *, masks: int = 6, fill: float = 0.0) -> PatchCleanser:
    """Any classifier, asked with windows of the image hidden: what no patch can change (Xiang et al., 2022)."""
    return PatchCleanser(threat=threat, masks=masks, fill=fill)
