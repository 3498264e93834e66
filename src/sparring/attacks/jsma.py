"""JSMA: change the coordinates that the Jacobian points out, a pair or one at a time (Papernot et al., 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.attacks.runner_up import runners_up
from sparring.errors import BadInput
from sparring.norms import rows
from sparring.registry import register
from sparring.search import forward, slope, take
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Model

Choice = Callable[[Tensor, Tensor], Tensor]
"""Which coordinates to change: from what each does for the target and against the others, `(B, n)`, to `(B, k)`."""


def _saliency(towards: Tensor, against: Tensor) -> Tensor:
    """`alpha |beta|` where a change both raises the target and lowers the others (equation 8).

    Elsewhere the lesser of the two, zero or less, so that there is a best choice when none is admissible.
    """
    both = torch.minimum(towards, against)
    return torch.where(both > 0, towards * against, both)


def single(towards: Tensor, against: Tensor) -> Tensor:
    """The most salient coordinate (equation 8)."""
    return _saliency(towards, against).argmax(1, keepdim=True)


def pair(towards: Tensor, against: Tensor) -> Tensor:
    """The most salient pair (equation 10), of all `n (n - 1) / 2`.

    Saliency grows with both sums, so a coordinate with two others that are better both ways is in no best pair. Few
    remain (a dozen of 784, say), and all their pairs are compared.
    """
    towards, order = towards.sort(dim=1, descending=True, stable=True)
    against = against.gather(1, order)
    best = against.cummax(1).values
    first = torch.full_like(best[:, :1], -torch.inf)
    second = torch.cat([first, torch.minimum(against[:, 1:], best[:, :-1])], 1).cummax(1).values
    kept = against > torch.cat([first, second[:, :-1]], 1)  # fewer than two before it are better
    kept[:, :2] = True
    few = kept.sum(1).amax() if len(kept) else 2
    place = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :few]
    kept = kept.gather(1, place)
    a, b = (values.gather(1, place).masked_fill(~kept, -torch.inf) for values in (towards, against))
    sums = _saliency(a.unsqueeze(2) + a.unsqueeze(1), b.unsqueeze(2) + b.unsqueeze(1))
    sums.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    best_pair = sums.flatten(1).argmax(1)
    both = torch.stack([best_pair // place.shape[1], best_pair % place.shape[1]], 1)
    return order.gather(1, place.gather(1, both))


@dataclass(frozen=True, kw_only=True)
class JSMA:
    """Move the most salient coordinates by theta, until the goal is reached (Papernot et al., 2016, algorithm 2).

    Aims at the goal's label where there is a target, else at each of the `targets` likeliest wrong classes, and keeps
    whichever took fewest changes. `theta` is a share of the width of the box, one to go to its edge at once; what
    has been moved to the edge is not moved again. Departures: every coordinate may go up or down (the paper has two
    attacks, one for each way), and what it does is its gradient times the way that it has to go; the derivatives of the
    others are weighted by how likely they are (of logits a plain sum would listen to hopeless classes); where no change
    is admissible the least harmful is made; in the end, each change of the last step is undone if it was not needed.

    Returns the success of fewest changes; `threat.eps` is not looked at. Costs one forward pass, then for each target
    at most `steps` forward and twice as many backward, and one forward for each change of the last step.
    """

    threat: Ball
    choose: Choice = pair
    steps: int = 100
    targets: int = 3
    theta: float = 1.0

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The success of fewest changes, or `x` where there was none, `(B, *shape)`."""
        best = x.detach().clone()
        if not len(x):
            return best
        with torch.no_grad():
            outputs = model(best)
        going = (~goal.reached(outputs)).nonzero().flatten()
        aims = runners_up(outputs, goal.labels)[:, : self.targets] if goal.sign > 0 else goal.labels.unsqueeze(1)
        each, aims = going.repeat_interleave(aims.shape[1]), aims[going]
        found, success = self._runs(model, best[each], goal[each], aims.flatten())
        changes = self.threat.distance(found, best[each]).masked_fill(~success, torch.inf).view_as(aims)
        fewest = changes.argmin(1) + aims.shape[1] * torch.arange(len(going), device=x.device)
        best[going] = found[fewest]
        return best

    def _runs(self, model: Model, x: Tensor, goal: Goal, aims: Tensor) -> tuple[Tensor, Tensor]:
        """A run for each row, towards its aim: the success, or `x` where there was none, and whether there was."""
        found, success = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        place, z, before = torch.arange(len(x), device=x.device), x, x
        movable = torch.ones_like(x, dtype=torch.bool)
        chosen = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        for i in range(self.steps + 1 if len(x) else 0):
            point, outputs = forward(model, z)
            reached = goal.reached(outputs.detach())
            if bool(reached.any()):
                won = reached.nonzero().flatten()
                success[place[won]] = True
                found[place[won]] = _undo(model, *take((z, before, chosen, goal), won))
            going = (~reached & movable.flatten(1).any(1)).nonzero().flatten()
            if i == self.steps or not len(going):
                break
            with torch.enable_grad():
                aim = aims[going].unsqueeze(1)
                target = outputs[going].gather(1, aim).sum()
                others = outputs[going].scatter(1, aim, -torch.inf).logsumexp(1).sum()
                raises = slope(target, point, again=True)
                lowers = slope(-others, point)
            place, z, movable, goal, aims = take((place, z, movable, goal, aims), going)
            raises, lowers = (gradient[going].nan_to_num(0, 0, 0) for gradient in (raises, lowers))
            before, (z, movable, chosen) = z, self._move(z, movable, raises, lowers)
        return found, success

    def _move(self, z: Tensor, movable: Tensor, raises: Tensor, lowers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next point, what can still be moved there, and what was chosen: indices into flat rows."""
        low, high, far = self.threat.low, self.threat.high, self.theta * self.threat.width
        above, below = (z + far).clamp(max=high), (z - far).clamp(min=low)
        up, down = (_saliency(raises * (to - z), lowers * (to - z)) for to in (above, below))
        to = torch.where(up >= down, above, below)
        towards, against = (
            (slope * (to - z)).masked_fill(~movable, -torch.inf).flatten(1) for slope in (raises, lowers)
        )
        chosen = self.choose(towards, against)
        moves = torch.zeros_like(movable.flatten(1)).scatter(1, chosen, True).view_as(movable) & movable
        z = torch.where(moves, to, z)
        return z, movable & ~(moves & ((z <= low) | (z >= high))), chosen


def _undo(model: Model, z: Tensor, before: Tensor, chosen: Tensor, goal: Goal) -> Tensor:
    """Take back each change of the last step without which the goal is reached still."""
    for k in range(chosen.shape[1] if chosen.shape[1] > 1 else 0):
        one = chosen[:, k : k + 1]
        trial = z.flatten(1).scatter(1, one, before.flatten(1).gather(1, one)).view_as(z)
        with torch.no_grad():
            still = goal.reached(model(trial))
        z = torch.where(rows(still, z), trial, z)
    return z


_FACTS = {"norms": ("l0",), "aims": "smallest perturbation", "family": "minimum norm", "paper": "Papernot et al., 2016"}


@register("attacks", "jsma", passes="targets x steps + 2 targets x steps", **_FACTS)
def jsma(threat: Ball, *, steps: int = 100, targets: int = 3, theta: float = 1.0) -> JSMA:
    """Few coordinates, changed to the edge of the box, the most salient pair at a time (Papernot et al., 2016)."""
    return JSMA(threat=_l0(threat), choose=pair, steps=steps, targets=targets, theta=theta)


@register("attacks", "jsma-single", passes="targets x steps + 2 targets x steps", **_FACTS)
def jsma_single(threat: Ball, *, steps: int = 100, targets: int = 3, theta: float = 1.0) -> JSMA:
    """JSMA by single coordinates: a step for each, and a fresh look at the Jacobian (Papernot et al., 2016)."""
    return JSMA(threat=_l0(threat), choose=single, steps=steps, targets=targets, theta=theta)


def _l0(threat: Ball) -> Ball:
    if threat.norm.name != "l0":
        raise BadInput(f"JSMA on {threat}", "l0", "choose another attack: sparring list attacks")
    return threat
