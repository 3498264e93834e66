"""One answer out of many: the mean over copies of the input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sparring.defences.cleaning import images
from sparring.errors import BadInput
from sparring.registry import register
from sparring.types import Model
from sparring.views import mean


class Shifted(nn.Module):
    """The mean outputs over copies of the image that are shifted, by these pixels down and to the right."""

    def __init__(self, model: Model, by: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.model, self.by = model, by
        self.training = getattr(model, "training", False)

    def forward(self, x: Tensor) -> Tensor:
        """The mean outputs of `x`, shifted."""
        height, width = images(x).shape[2:]
        most = max(max(abs(down), abs(right)) for down, right in self.by)
        wide = functional.pad(x, (most, most, most, most), mode="replicate")
        outputs = [
            self.model(wide[:, :, most - down : most - down + height, most - right : most - right + width])
            for down, right in self.by
        ]
        return mean(outputs)


@dataclass(frozen=True)
class Shifts:
    """Let the model answer for shifted copies of the input, and average."""

    by: tuple[tuple[int, int], ...]
    draws: int = 1
    differentiable: bool = True

    def defend(self, model: Model) -> Model:
        """The mean answer."""
        return Shifted(model, self.by)

    def adaptive(self, model: Model) -> Model:
        """The same: its gradient is exact."""
        return self.defend(model)


@register("defences", "shifts", shape="image", paper="Guo et al., 2018")
def shifts(*, reach: int = 1) -> Shifts:
    """Average the answers for copies that are shifted by up to `reach` pixels (crop ensemble; Guo et al., 2018)."""
    if reach < 0:
        raise BadInput(f"shifts of up to {reach} pixels", "0 or more", "give reach=1, say")
    return Shifts(tuple((down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)))
