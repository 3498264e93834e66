"""Small models whose arithmetic does not depend on what else is in the batch."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from sparring.domains.images.threats import Corruption, Pose
from sparring.domains.speech.threats import LOUDNESS
from sparring.norms import NORMS
from sparring.registry import Entry, members
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Attack, Boxed

ATTACKS = members("attacks")
CASES = [(name, norm) for name, entry in ATTACKS.items() for norm in entry.kinds if norm in members("threats")]
BUDGET = {"steps": 8, "queries": 40, "draws": 4, "targets": 2, "scales": 2, "mixes": 1, "neighbours": 2, "runs": 4}
BUDGET |= {"rounds": 4, "times": 3}
SIZES = {"linf": 0.1, "l2": 0.5, "l1": 1.5, "l0": 4.0}
SIZES |= {"pose": 20.0, "flow": 1.0, "recolour": 0.1, "patch": 0.25, "corruption": 2.0, "snr": 0.2}
IN_INPUT_UNITS = ("linf", "l2", "l1", "recolour")


def fold(terms: Tensor) -> Tensor:
    """The sum along the last axis, term by term: the same to the last bit in every batch, which `sum` need not be."""
    return terms.cumsum(-1)[..., -1]


@cache
def _drawn(classes: int, n: int) -> tuple[Tensor, ...]:
    """Stretch, shift and weight of the waves of every class, drawn once: laws call the model very often."""
    draw = Streams.of(0, range(classes))
    return tuple(draw.at(name).normal(n) for name in ("stretch", "shift", "weight"))


@dataclass(frozen=True)
class Waves:
    """`classes` logits, each a weighted sum of tanh waves over the inputs; `low` and `high` are the box."""

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    classes: int = 5

    def __call__(self, z: Tensor) -> Tensor:
        stretch, shift, weight = (part.to(z.dtype) for part in _drawn(self.classes, math.prod(self.shape)))
        v = (z.flatten(1).unsqueeze(1) - self.low) / (self.high - self.low)
        return fold(torch.tanh(3 * v * stretch + shift) * weight)


@dataclass(frozen=True)
class Duel:
    """Two classes that matter, so that every loss is a monotone function of the margin, and two that never do."""

    waves: Waves

    def __call__(self, z: Tensor) -> Tensor:
        outputs = self.waves(z)
        never = torch.full_like(outputs[:, 0], -20.0)
        return torch.stack([outputs[:, 0], outputs[:, 1], never, never - 10], 1)


def network() -> nn.Module:
    """A module with everything that an attack could disturb: statistics, modes, gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5)
        )
    model.eval()
    model[2].train()  # has no effect, and is nobody's to change
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[5].bias.requires_grad_(False)
    return model


def brief(entry: Entry, threat: Boxed) -> Attack:
    """The attack on a small budget: laws hold on any."""
    settings = inspect.signature(entry.make).parameters
    attack: Attack = entry.make(threat, **{name: value for name, value in BUDGET.items() if name in settings})
    return attack


def threat_of(kind: str, low: float = 0.0, high: float = 1.0, share: float = 1.0) -> Boxed:
    """A threat in proportion to the box, at a share of its usual size; few members where it is finite."""
    eps = SIZES[kind] * share * (high - low if kind in IN_INPUT_UNITS else 1)
    if kind in NORMS:
        return Ball(NORMS[kind], eps, low, high)
    if kind == "snr":  # as a share of the length of the input
        return Ball(LOUDNESS, SIZES[kind] * share, low, high)
    if kind == "pose":
        return Pose(eps, eps / 200, low, high, angles=5, places=3)
    if kind == "corruption":
        return Corruption(min(round(eps), 2), 0, low, high)
    threat: Boxed = members("threats")[kind].make(eps, low=low, high=high)
    return threat


def ball(norm: str, low: float = 0.0, high: float = 1.0, share: float = 1.0) -> Ball:
    """The threat, where it is a ball."""
    threat = threat_of(norm, low, high, share)
    assert isinstance(threat, Ball)
    return threat


def inputs(shape: tuple[int, ...], count: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Points of the box; a few coordinates sit on its edge, as black pixels do."""
    x = Streams.of(seed, range(count)).uniform(*shape) * 1.2 - 0.1
    return (low + (high - low) * x).clamp(low, high)
