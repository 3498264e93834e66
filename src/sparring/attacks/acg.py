"""Auto conjugate gradient: directions that remember, steps that choose their own size (Yamamura et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.attacks.apgd import _checkpoints
from sparring.losses import margin
from sparring.norms import rows
from sparring.registry import register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model


@dataclass(frozen=True)
class _Place:
    """A point of the climb: its score and gradient, the gradient before it, and the direction that led to it."""

    z: Tensor
    score: Tensor
    gradient: Tensor
    before: Tensor
    along: Tensor

    def __getitem__(self, kept: Tensor) -> _Place:
        return _Place(**{name: value[kept] for name, value in vars(self).items()})

    def where(self, chosen: Tensor, other: _Place) -> _Place:
        """Itself in the chosen rows, the other elsewhere."""
        pairs = {name: (value, getattr(other, name)) for name, value in vars(self).items()}
        return _Place(**{name: torch.where(rows(chosen, mine), mine, its) for name, (mine, its) in pairs.items()})


@dataclass(frozen=True)
class _Pace:
    """Each row's step size, and what decides whether it halves (Croce and Hein, 2020, section 3)."""

    size: Tensor
    rises: Tensor
    halved: Tensor
    best_at_checkpoint: Tensor

    def __getitem__(self, kept: Tensor) -> _Pace:
        return _Pace(**{name: value[kept] for name, value in vars(self).items()})

    def checked(self, best_score: Tensor, needed: float) -> _Pace:
        """The pace after a checkpoint: half of it where fewer steps rose than needed, or the best stayed as it was."""
        stalls = (self.rises <= needed) | (~self.halved & (best_score <= self.best_at_checkpoint))
        return _Pace(torch.where(stalls, self.size / 2, self.size), torch.zeros_like(self.rises), stalls, best_score)


def conjugacy(gradient: Tensor, before: Tensor, along: Tensor) -> Tensor:
    """How much of the direction before to keep, `(B,)`: Hestenes and Stiefel (1952), and none where that is negative.

    `<-g, y> / <s, y>` with `y` the gradient before less the gradient now. None where the gradient stayed as it was.
    """
    turn = before - gradient
    kept = -(gradient * turn).flatten(1).sum(1) / (along * turn).flatten(1).sum(1)
    return kept.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class ACG:
    """Auto conjugate gradient (Yamamura et al., 2022, algorithm 1): APGD's step sizes along conjugate directions.

    The direction keeps a share of the one before, so that it turns more from step to step than a gradient does, and
    reaches maxima that gradients miss. Costs `steps` + 1 forward and backward passes, and one forward pass to judge
    `x`; rows stop as they reach the goal. It starts anywhere in the ball; the paper, in the middle of ball and box.
    """

    threat: Ball
    loss: Loss = margin
    steps: int = 100
    rho: float = 0.75

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search, direction = Search(model, x, goal, self.loss), self.threat.norm.ascent
        z = self.threat.sample(x, rng)
        _, x, z = search.judge(x, x, z)
        gradient, score, x, z = search.climb(z, x, z)
        near = self.threat.around(x)
        now = best = _Place(z, score, gradient, gradient, gradient)
        pace = _Pace(
            2 * self.threat.unit * self.threat.norm.measure(x) * torch.ones_like(score), 0 * score, score.isinf(), score
        )
        checkpoints, interval_start = _checkpoints(self.steps), 0
        for i in search.steps(self.steps):
            # s(k) = g(k) + beta s(k-1); z(k+1) = P(z(k) + eta s(k))
            along = now.gradient + rows(conjugacy(now.gradient, now.before, now.along), now.z) * now.along
            z = near(now.z + rows(pace.size, now.z) * direction(along))
            gradient, score, z, along, near, now, best, pace = search.climb(z, z, along, near, now, best, pace)
            place = _Place(z, score, gradient, now.gradient, along)
            pace = replace(pace, rises=pace.rises + (score > now.score))
            best, now = place.where(score > best.score, best), place
            if i + 1 in checkpoints:
                pace = pace.checked(best.score, self.rho * (i + 1 - interval_start))
                now = best.where(pace.halved, now)
                interval_start = i + 1
        return search.best


@register(
    "attacks", "acg", norms=("linf", "l2"), threats=("snr",), passes="steps + steps", paper="Yamamura et al., 2022"
)
def acg(threat: Ball, *, steps: int = 100, loss: Loss = margin) -> ACG:
    """Conjugate directions with APGD's step sizes, on the margin (Yamamura et al., 2022)."""
    return ACG(threat=threat, steps=steps, loss=loss)
