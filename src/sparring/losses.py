"""Losses: the attacker's score, `(outputs, goal) -> (B,)`, always higher when the attacker is better off.

`goal.sign` turns a statement about the labels into one about success: +1 where they are to be left, -1 where they
are to be reached. All but the cross-entropy are positive exactly where the goal is reached.

The margin and the cross-entropy serve goals of every shape: a `Measured` goal brings its own. The others are about
classes, and refuse it.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from sparring.errors import BadInput
from sparring.goals import Measured, Towards, lead, surprise
from sparring.types import Goal


def _of_labels(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.gather(1, labels.unsqueeze(1)).squeeze(1)


def _class_margin(outputs: Tensor, goal: Goal) -> Tensor:
    return goal.sign * lead(outputs, goal.labels)


def cross_entropy(outputs: Tensor, goal: Goal) -> Tensor:
    """`-log softmax(outputs)_y` (Goodfellow et al., 2015); for a `Measured` goal, what such models are trained on.

    Its slope is right however sure the model is, until it is below the least number of float32, at a margin of 87.
    """
    if isinstance(goal, Measured):
        return goal.loss(outputs)
    if goal.labels.is_floating_point():  # shares of all classes
        return goal.sign * functional.cross_entropy(outputs, goal.labels, reduction="none")
    return goal.sign * surprise(outputs, goal.labels)


def margin(outputs: Tensor, goal: Goal) -> Tensor:
    """`max_{i != y} z_i - z_y` (Carlini and Wagner, 2017, f6); for a `Measured` goal, the margin to success."""
    return goal.margin(outputs) if isinstance(goal, Measured) else _class_margin(outputs, goal)


def dlr(outputs: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio: the margin over `z_(1) - z_(3)`, so that scaling changes nothing.

    Croce and Hein (2020), equation 6. Needs three classes. Towards a target the divisor is taken for a constant: its
    slope leads to where the best class leads further, and cancels that of the margin where the target comes third.
    """
    ahead = _class_margin(outputs, goal)
    if outputs.shape[1] < 3:
        raise BadInput(f"{outputs.shape[1]} classes", "three for the DLR loss", "use the margin loss")
    top = outputs.topk(3, dim=1).values
    scale = (top[:, 0] - top[:, 2]).clamp(min=1e-12)
    return ahead / (scale if goal.sign > 0 else scale.detach())


def targeted_dlr(outputs: Tensor, goal: Goal) -> Tensor:
    """DLR towards the goal's chosen class, `(z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2)`.

    Croce and Hein (2020), equation 7. Needs four classes and a goal of `Towards`.
    """
    if outputs.shape[1] < 4:
        raise BadInput(f"{outputs.shape[1]} classes", "four for the targeted DLR loss", "use the targeted margin loss")
    top = outputs.topk(4, dim=1).values
    return targeted_margin(outputs, goal) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp(min=1e-12)


def targeted_margin(outputs: Tensor, goal: Goal) -> Tensor:
    """`z_t - z_y`: the margin towards the class that a goal of `Towards` chose."""
    if not isinstance(goal, Towards):
        raise TypeError("a targeted loss needs a goal of Towards(labels, targets)")
    return _of_labels(outputs, goal.targets) - _of_labels(outputs, goal.labels)


def logit(outputs: Tensor, goal: Goal) -> Tensor:
    """`-z_y` alone (Zhao et al., 2021): its gradient does not vanish as the model grows sure."""
    return -goal.sign * _of_labels(outputs, goal.labels)


def probability_margin(outputs: Tensor, goal: Goal) -> Tensor:
    """The margin between probabilities, `max_{i != y} p_i - p_y` (Xie et al., 2024)."""
    return _class_margin(outputs.softmax(1), goal)
