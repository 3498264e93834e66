"""Projected gradient ascent, and the attacks that are recipes on top of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparring.losses import cross_entropy
from sparring.registry import register
from sparring.search import Search
from sparring.steps import ascent, chain, cosine, momentum, nesterov, scale
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Goal, Loss, Model, Step


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Climb the loss inside the threat, and keep the best point seen (Madry et al., 2018).

    Costs `steps` forward and backward passes, and one forward pass to judge the last point; rows stop as they reach
    the goal. With a random start, one more forward pass makes sure that the result is never worse than `x`.
    """

    threat: Ball
    step: Step
    loss: Loss = cross_entropy
    steps: int = 40
    random_start: bool = True

    def __call__(self, model: Model, x: Tensor, goal: Goal, rng: Streams) -> Tensor:
        """The best point seen, `(B, *shape)`."""
        search = Search(model, x, goal, self.loss)
        if not self.random_start:
            return self.climb(search, x, x)
        _, x, z = search.judge(x, x, self.threat.sample(x, rng))
        return self.climb(search, x, z)

    def climb(self, search: Search, x: Tensor, z: Tensor) -> Tensor:
        """The best point seen by a search that goes on from `z`."""
        near, state = self.threat.around(x), self.step.init(x)
        for i in search.steps(self.steps):
            gradient, _, z, near, state = search.climb(z, z, near, state)
            move, state = self.step.update(gradient, state, i)
            z = near(z + move)
        search.judge(z)
        return search.best


@register("attacks", "fgsm", threats=("patch", "snr"), passes="1 + 1", paper="Goodfellow et al., 2015")
def fgsm(threat: Ball, *, loss: Loss = cross_entropy) -> PGD:
    """The best point for the linearised loss: for Linf one step of eps up the sign (Goodfellow et al., 2015).

    A long step, projected, ends at the maximiser of a linear function over ball and box, in any norm.
    """
    step = chain(ascent(threat.norm), scale(100 * threat.unit))
    return PGD(threat=threat, step=step, loss=loss, steps=1, random_start=False)


@register("attacks", "bim", threats=("patch", "snr"), passes="steps + steps", paper="Kurakin et al., 2017")
def bim(threat: Ball, *, steps: int = 10, loss: Loss = cross_entropy) -> PGD:
    """FGSM in small steps from the input itself (Kurakin et al., 2017).

    Steps of `4 eps / steps`, as in `pgd`: the paper's `eps / steps` ends short where the box turns the way.
    """
    step = chain(ascent(threat.norm), scale(4 * threat.unit / steps))
    return PGD(threat=threat, step=step, loss=loss, steps=steps, random_start=False)


@register("attacks", "pgd", threats=("patch", "snr"), passes="steps + steps", paper="Madry et al., 2018")
def pgd(threat: Ball, *, steps: int = 40, loss: Loss = cross_entropy) -> PGD:
    """Small steps up the gradient from a random start in the ball (Madry et al., 2018)."""
    step = chain(ascent(threat.norm), scale(4 * threat.unit / steps))
    return PGD(threat=threat, step=step, loss=loss, steps=steps)


@register("attacks", "pgd-cosine", threats=("patch", "snr"), passes="steps + steps", paper="Liu et al., 2022")
def pgd_cosine(threat: Ball, *, steps: int = 20, loss: Loss = cross_entropy) -> PGD:
    """PGD whose step falls from eps to nothing along a cosine: short runs, for many restarts (Liu et al., 2022)."""
    step = chain(ascent(threat.norm), cosine(threat.unit, steps))
    return PGD(threat=threat, step=step, loss=loss, steps=steps)


@register("attacks", "mi-fgsm", threats=("patch", "snr"), passes="steps + steps", paper="Dong et al., 2018")
def mi_fgsm(threat: Ball, *, steps: int = 10, decay: float = 1.0, loss: Loss = cross_entropy) -> PGD:
    """BIM with momentum, whose examples transfer better (Dong et al., 2018)."""
    step = chain(momentum(decay), ascent(threat.norm), scale(4 * threat.unit / steps))
    return PGD(threat=threat, step=step, loss=loss, steps=steps, random_start=False)


@register("attacks", "ni-fgsm", threats=("snr",), passes="steps + steps", paper="Lin et al., 2020")
def ni_fgsm(threat: Ball, *, steps: int = 10, decay: float = 1.0, loss: Loss = cross_entropy) -> PGD:
    """MI-FGSM that takes its gradient where the momentum will carry it (Lin et al., 2020)."""
    step = nesterov(threat.norm, 4 * threat.unit / steps, decay)
    return PGD(threat=threat, step=step, loss=loss, steps=steps, random_start=False)
