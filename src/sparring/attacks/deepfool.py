"""DeepFool: to the nearest boundary of the linearised model, again and again (Moosavi-Dezfooli et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparring.attacks.nearest import Nearest, dual
from sparring.errors import BadInput
from sparring.losses import margin
from sparring.norms import divisor, rows
from sparring.registry import register
from sparring.search import forward, slope
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model
from sparring.views import boxed


def untargeted(goal: Goal, name: str) -> None:
    """Refuse a goal that has a target, or no labels: the attack picks the class that is nearest.

    Raises:
        BadInput: the goal's sign is -1.
    """
    if goal.sign < 0 or goal.labels.dim() != 1:
        given = "a targeted goal" if goal.sign < 0 else "a goal without classes"
        raise BadInput(given, f"an untargeted one for {name}, which picks the nearest class", "use fmn")


def enough(classes: int, name: str) -> int:
    """So many classes, of which one is the label.

    Raises:
        BadInput: less than two: there is no rival among them.
    """
    if classes < 2:
        raise BadInput(f"{name}.classes = {classes}", "2 or more: the label, and a rival", "give another value")
    return classes


def rivals(outputs: Tensor, labels: Tensor) -> Tensor:
    """All classes but the labels, likeliest first, `(B, K - 1)`."""
    return outputs.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]


def leads(search: Nearest, z: Tensor, x: Tensor, count: int, others: Tensor | None, *carry: Any) -> tuple[Any, ...]:
    """Judge `z`, and linearise the model there: how each rival leads the label, `(B, K)`, and the gradients of that.

    Rivals are `others`, `(B, K)`, or the `count` likeliest at `z`. Costs a forward pass, and K backward passes for the
    rows that have not reached the goal; the others' gradients are zero. Returns the leads, the gradients
    `(B, K, *shape)`, and which rows reached the goal, then `x`, `others` and `carry`, for the rows that stay.
    """
    point, outputs = forward(search.model, z)
    reached = search.goal.reached(outputs.detach())
    labels = search.goal.labels
    chosen = rivals(outputs.detach(), labels)[:, :count] if others is None else others
    gradients = []
    with torch.enable_grad():
        lead = outputs.gather(1, chosen) - outputs.gather(1, labels.unsqueeze(1))
        for k in range(chosen.shape[1]):
            gradient = slope(lead[~reached, k].sum(), point, again=k + 1 < chosen.shape[1])
            gradients.append(gradient.nan_to_num(0, 0, 0))
    return search.record(
        z, x, reached, lead.detach().to(z.dtype), torch.stack(gradients, 1), reached, x, others, *carry
    )


def nearest_rival(lead: Tensor, gradients: Tensor, threat: Ball) -> tuple[Tensor, Tensor]:
    """The lead and the gradient of the rival whose linearised boundary is nearest: least `|lead| / |gradient|*`.

    Where the label is ahead, the boundary is taken to be 1e-5 widths of the box away at the least, or as much as half
    precision resolves: no step to it would leave a point whose logits tie. (The code of DeepFool's authors adds 1e-4 to
    every step.)
    """
    norm = threat.norm
    far = torch.stack([lead[:, k].abs() / divisor(dual(gradients[:, k], norm)) for k in range(lead.shape[1])], 1)
    first = far.nan_to_num(torch.inf).argmin(1)
    each = torch.arange(len(lead), device=lead.device)
    w = gradients[each, first]
    least = max(1e-5, torch.finfo(w.dtype).eps) * threat.width
    return torch.minimum(lead[each, first], -least * dual(w, norm)), w


@dataclass(frozen=True, kw_only=True)
class DeepFool:
    """Step to the nearest boundary as the gradients see it, until it is crossed (Moosavi-Dezfooli et al., 2016).

    Their algorithm 2, and section 3.3 for other norms; the sum of the steps is stretched by a share `overshoot`, and
    clipped to the box. Departure: coordinates that the box stops count for nothing, or steps fall short of boundaries.
    Returns the first success, whatever its size: `threat.eps` is not looked at. A step costs a forward pass and a
    backward pass for each of the `classes` - 1 likeliest rivals; rows stop as they succeed.
    """

    threat: Ball
    steps: int = 50
    classes: int = 10
    overshoot: float = 0.02

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The first success, or `x` where there was none, `(B, *shape)`.

        Raises:
            BadInput: a goal that has a target already, or no classes.
        """
        untargeted(goal, "deepfool")
        threat, norm = self.threat, self.threat.norm
        inward = boxed(model, low=threat.low, high=threat.high)
        search = Nearest(inward, x, goal, threat, margin)
        x = z = x.detach()
        delta = torch.zeros_like(x)
        for _ in search.steps(self.steps):
            lead, gradients, reached, x, _, delta = leads(search, z, x, self.classes - 1, None, delta)
            x, delta, lead, gradients = search.leave(reached, x, delta, lead, gradients)
            gap, w = nearest_rival(lead, gradients, threat)
            length = gap.abs() / divisor(dual(w, norm))
            delta = delta + (rows(length, x) * norm.steepest(w)).nan_to_num(0, 0, 0)
            z = (x + (1 + self.overshoot) * delta).clamp(threat.low, threat.high)
        if len(search.open):
            search.judge(z, x)
        return search.best


@register(
    "attacks",
    "deepfool",
    aims="smallest perturbation",
    family="minimum norm",
    norms=("linf", "l2"),
    threats=("snr",),
    passes="steps + steps x classes",
    paper="Moosavi-Dezfooli et al., 2016",
)
def deepfool(threat: Ball, *, steps: int = 50, classes: int = 10) -> DeepFool:
    """A quick small change: to the nearest boundary of the linearised model, until one is crossed.

    Moosavi-Dezfooli et al. (2016).
    """
    return DeepFool(threat=threat, steps=steps, classes=enough(classes, "deepfool"))
