"""Objectives without an inner maximum: training as usual, and two defences that are known not to hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.limits import fractions, positive
from sparring.models.victim import inference
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.contract import Objective
from sparring.training.objectives.minmax import loaded


def standard(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
    """Be right on the data as it is: `E L(f(x), y)`, L the cross-entropy."""
    return functional.cross_entropy(network(x), labels)


@register("objectives", "standard", threats=("snr",), family="baseline", passes="1")
def natural(threat: Ball) -> Objective:
    """Be right on the data as it is, whatever the threat."""
    return standard


@dataclass(frozen=True)
class LabelSmoothing:
    """Be a little unsure of every label: `E L(f(x), (1 - a) y + a / K)` (Szegedy et al., 2016).

    A baseline. It flattens the logits, which slows weak attacks down, and has no robustness of its own under strong
    ones (Fu et al., 2020).
    """

    smoothing: float = 0.1

    def __call__(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The cross-entropy with the smoothed labels."""
        return functional.cross_entropy(network(x), labels, label_smoothing=self.smoothing)


@register(
    "objectives", "label-smoothing", threats=("snr",), family="baseline", passes="1", paper="Szegedy et al., 2016"
)
def label_smoothing(threat: Ball, *, smoothing: float = 0.1) -> LabelSmoothing:
    """Be a little unsure of every label (Szegedy et al., 2016): known to be broken, for comparison."""
    fractions(smoothing=smoothing)
    return LabelSmoothing(smoothing)


class Distillation(nn.Module):
    """Learn a teacher's probabilities at a high temperature (Papernot et al., 2016): known to be broken.

    `L(f(x) / T, softmax(g(x) / T))`, g the teacher. The network is used at temperature 1, where its softmax saturates:
    gradients vanish, and attacks on the logits go straight through (Carlini and Wagner, 2017). Without a teacher the
    labels take its place: that is how the teacher itself is trained.
    """

    def __init__(self, teacher: nn.Module | str | None = None, temperature: float = 20.0) -> None:
        super().__init__()
        self.teacher = None if teacher is None else loaded(teacher)
        self.temperature = temperature

    def forward(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """The cross-entropy of softened outputs with the teacher's."""
        return functional.cross_entropy(network(x) / self.temperature, self.taught(x, labels))

    def taught(self, x: Tensor, labels: Tensor) -> Tensor:
        """The teacher's probabilities, `(B, K)`, or the labels."""
        if self.teacher is None:
            return labels
        with inference(self.teacher), torch.no_grad():
            logits: Tensor = self.teacher(x)
        return (logits / self.temperature).softmax(1)


@register("objectives", "distillation", family="baseline", passes="1", paper="Papernot et al., 2016")
def distillation(threat: Ball, *, teacher: nn.Module | str | None = None, temperature: float = 20.0) -> Distillation:
    """Learn a teacher's softened probabilities (Papernot et al., 2016): known to be broken, for comparison."""
    positive(temperature=temperature)
    return Distillation(teacher, temperature)
