"""A model with a sample of its data, and what the looks of the doctor share: asked for once, when it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from sparring.attacks import pgd
from sparring.errors import BadInput
from sparring.evaluate.outputs import STEADY, apart
from sparring.evaluate.routes import Reading
from sparring.evaluate.run import stuck
from sparring.functions import unwatched
from sparring.goals import finite
from sparring.losses import margin
from sparring.models.victim import Victim
from sparring.norms import divisor, rows
from sparring.streams import Streams
from sparring.tasks import Task, of
from sparring.threats import Ball
from sparring.types import Data, Goal, Loss
from sparring.views import Counted


@dataclass(frozen=True, kw_only=True)
class Climb:
    """Where a climb from `x` ended, and what the model said on the way, `(32, B, K)`: of `x` first, of the end last."""

    end: Tensor
    outputs: Tensor
    goal: Goal

    def of(self, loss: Loss) -> Tensor:
        """A loss on the way, `(32, B)`."""
        return torch.stack([loss(outputs, self.goal).detach() for outputs in self.outputs])


@dataclass(frozen=True)
class Patient:
    """A model with its data, a sample of them, and what is asked of it."""

    model: Counted
    victim: Victim
    data: Data
    threat: Ball
    x: Tensor
    y: Tensor
    rng: Streams

    @property
    def task(self) -> Task:
        """What the model is asked."""
        return of(self.data)

    @cached_property
    def goal(self) -> Goal:
        """To make the model wrong."""
        return self.task.goal(self.y)

    @property
    def classes(self) -> int:
        """How many classes the model tells apart; 0 where its answers are none."""
        return self.task.classes(self.outputs)

    def right(self, outputs: Tensor) -> Tensor:
        """Which rows of the sample are answered rightly by such outputs, `(B,)` bool."""
        return ~self.goal.reached(outputs) & finite(outputs)

    @cached_property
    def exchanged(self) -> Tensor:
        """Which of the sample are right when other inputs of it, up to 16, are handed in instead, `(n, B)` bool."""
        count = len(self.x)
        with torch.no_grad():
            found = [self.right(self.outputs.roll(by, 0)) for by in range(1, min(count, 17))]
        return torch.stack(found) if found else torch.zeros(1, count, dtype=torch.bool)

    def apart(self, others: Tensor) -> Tensor:
        """By how much other outputs `(..., B, K)` of the sample differ from the first, `(..., B)`, as decisions see it.

        Where answers are no classes, by how much nearer or further from wrong they are, in units of the median of that,
        and less the further away.
        """
        if self.classes:
            return apart(self.outputs.to(others), others)
        if others.dim() > self.outputs.dim():
            return torch.stack([self.apart(one) for one in others])
        before, after = (margin(one.to(self.outputs), self.goal) for one in (self.outputs, others))
        unit = divisor(before.abs().median())
        return ((after / unit).tanh() - (before / unit).tanh()).abs().detach()

    @property
    def lead(self) -> str:
        """What `apart` counts in, in words."""
        return "the best class's lead" if self.classes else "the median margin"

    @cached_property
    def eight_bits(self) -> bool:
        """Whether the inputs are images `(C, H, W)`, or lie on the grid that 8 bits can store."""
        return self.x.dim() == 4 or self.on_grid

    @cached_property
    def on_grid(self) -> bool:
        """Whether they do."""
        steps = (self.x - self.threat.low) / self.span * 255
        return bool((steps - steps.round()).abs().max() < 1e-3)

    @cached_property
    def heard(self) -> tuple[Tensor, Reading]:
        """What the model says of the sample, and what it read of it."""
        with torch.no_grad(), Reading() as reading:
            return self.model(self.x).detach(), reading

    @property
    def half(self) -> torch.dtype | None:
        """The half precision that the model computes in, if it does."""
        return next(iter(self.heard[1].halves.values()), None)

    @cached_property
    def unwatched(self) -> tuple[str, ...]:
        """The operations that the model runs where nobody can listen."""
        return unwatched(self.model, self.x)

    @cached_property
    def outputs(self) -> Tensor:
        """What the model says of the sample."""
        return self.heard[0]

    @cached_property
    def again(self) -> Tensor:
        """What four more calls say, `(4, B, K)`."""
        with torch.no_grad():
            return torch.stack([self.model(self.x).detach() for _ in range(4)])

    @cached_property
    def differentiated(self) -> Tensor:
        """What a call says of which gradients will be asked."""
        return self.model(self.x.clone().requires_grad_()).detach()

    @cached_property
    def change(self) -> float:
        """By how much that is apart from the first, at most."""
        return float(self.apart(self.again).max())

    @property
    def steady(self) -> bool:
        """Whether the same inputs get the same outputs."""
        return self.change <= STEADY

    @property
    def span(self) -> float:
        """The range of a coordinate."""
        return self.threat.high - self.threat.low

    @cached_property
    def grain(self) -> float:
        """The step in which files store inputs, in steps of 8 bits over the range: those of sounds are far finer."""
        stored: Callable[[Tensor], Tensor] | None = getattr(self.data, "stored", None)
        if stored is None:
            return 1.0
        kept = stored(torch.linspace(0, self.span / 255, 1025)).tolist()  # in order
        apart = [high - low for low, high in pairwise(kept) if high > low]
        return min(apart) / (self.span / 255) if apart else 1.0

    @property
    def reach(self) -> float:
        """How far the threat goes, in input units: around the median of the sample, where that is not the same."""
        return float(torch.as_tensor(self.threat.reach(self.x)).median())

    @cached_property
    def scaled(self) -> dict[str, float]:
        """How much of the sample is right at other scales, by what was done; -1 where the model refuses such inputs."""
        mean, std = self.x.mean(), self.x.std().clamp(min=1e-6)
        scales = {
            "times 255": 255 * self.x,
            "divided by 255": self.x / 255,
            "as 2x - 1": 2 * self.x - 1,
            "as (x + 1) / 2": (self.x + 1) / 2,
            "standardised": (self.x - mean) / std,
            "times their deviation plus their mean": self.x * std + mean,
        }

        def right(z: Tensor) -> float:
            try:
                return float(self.right(self.model(z)).float().mean())
            except BadInput:
                return -1.0

        with torch.no_grad():
            return {name: right(z) for name, z in scales.items()}

    def step(self, u: Tensor) -> Tensor:
        """A change of the sample, as far as the bounds allow where the model refuses what is beyond them."""
        refuses = min(self.scaled.values()) < 0
        return (self.x + u).clamp(self.threat.low, self.threat.high) - self.x if refuses else u

    def specks(self, noise: Streams) -> Tensor:
        """Uniform noise of four of the steps that files store, 4/255 of the range, or of eps where that is less."""
        u = (
            4
            / 255
            * self.span
            * self.grain
            * (2 * noise.uniform(*self.x.shape[1:], device=self.x.device).to(self.x) - 1)
        )
        if self.threat.norm.counts:
            return u
        size = divisor(self.threat.norm.size(u))
        return u * rows((self.threat.reach(self.x) / size).clamp(max=1), u)

    def gradient(self, loss: Loss, x: Tensor | None = None, goal: Goal | None = None) -> Tensor | None:
        """The loss's gradient at the sample, or nothing where the model hands none out; or at `x`, for another goal."""
        point = (self.x if x is None else x).detach().clone().requires_grad_()
        outputs = self.model(point)
        if not outputs.requires_grad:
            return None
        try:
            total = loss(outputs, goal or self.goal).sum()
            (gradient,) = torch.autograd.grad(total, point, allow_unused=True)
        except (NotImplementedError, RuntimeError) as error:
            if "derivative" in str(error):  # as of torch.floor_divide, which has none
                return None
            if "memory" in str(error).lower():
                raise
            raise stuck(self.victim, error) from error
        return gradient

    @cached_property
    def probe(self) -> Loss:
        """What slopes are taken of: the margin; and of answers that are no classes the sum of all, weighed at random.

        Their margins have kinks of their own, as where another pixel becomes the next to fall.
        """
        if self.classes:
            return margin
        weights = self.rng.at("probe").uniform(*self.outputs.shape[1:], device=self.outputs.device)
        return lambda outputs, goal: (weights.to(outputs) * outputs).reshape(len(outputs), -1).sum(1)

    @property
    def sloped(self) -> Tensor:
        """Where slopes are looked at: the inputs, but within the threat where the answer to them may be perfect."""
        return self.x if self.classes else self.within

    @cached_property
    def margin_gradient(self) -> Tensor | None:
        """The gradient of the margin at `sloped`, on which several looks are taken."""
        return self.gradient(margin, self.sloped)

    @property
    def slope(self) -> Tensor:
        """The same, for those that are only asked where there is one."""
        assert self.margin_gradient is not None
        return self.margin_gradient

    @cached_property
    def within(self) -> Tensor:
        """A point of the threat for each example of the sample."""
        return self.threat.sample(self.x, self.rng.at("within"))

    @cached_property
    def climb(self) -> Climb:
        """30 steps of PGD on the margin that do not stop at success."""
        trace: list[Tensor] = []

        def noted(z: Tensor) -> Tensor:
            outputs = self.model(z)
            trace.append(outputs.detach())
            return outputs

        z = pgd(self.threat, steps=30, loss=margin)(noted, self.x, self.task.never(self.y), self.rng.at("climb"))
        return Climb(end=z, outputs=torch.stack(trace), goal=self.goal)
