"""Common corruptions: the worst for every image, and the accuracy under each (Hendrycks and Dietterich, 2019)."""

from __future__ import annotations

import torch

from sparring.attacks.spatial import Exhaustive
from sparring.domains.images.corruptions import KINDS, SEVERITIES
from sparring.domains.images.threats import Corruption
from sparring.models.victim import inference
from sparring.registry import register
from sparring.types import Data, Model


@register(
    "attacks",
    "corruptions",
    needs="scores",
    norms=(),
    threats=("corruption",),
    shape="image",
    family="spatial",
    passes="15 severity + 1 + 0",
    paper="Hendrycks and Dietterich, 2019",
)
def corruptions(threat: Corruption) -> Exhaustive:
    """The worst of noise, blur, weather and digital damage, up to a severity (Hendrycks and Dietterich, 2019)."""
    return Exhaustive(threat=threat)


def corruption_table(
    model: Model, data: Data, *, low: float = 0.0, high: float = 1.0, seed: int = 0, batch_size: int = 128
) -> dict[str, tuple[float, ...]]:
    """The accuracy of a model under each corruption, at severities 1 to 5, by the names of the corruptions.

    Costs 75 forward passes an example. A module is asked in inference mode. The model's own error counts too: compare
    with its accuracy on what is clean.
    """
    threat = Corruption(SEVERITIES, seed, low, high)
    right = {kind: [0] * SEVERITIES for kind in KINDS}
    with inference(model), torch.no_grad():
        for first in range(0, len(data), batch_size):
            x, y = data.take(range(first, min(first + batch_size, len(data))))
            for kind, counts in right.items():
                for i in range(SEVERITIES):
                    counts[i] += int((model(threat.corrupted(x, kind, i + 1)).argmax(1) == y).sum())
    return {kind: tuple(count / len(data) for count in counts) for kind, counts in right.items()}
