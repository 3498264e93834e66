"""Randomised smoothing: a radius around every input in which the majority's answer under noise cannot change.

    g(x) = argmax_c P(f(x + sigma n) = c),  n ~ N(0, 1)        R = sigma Phi^-1(p),  p <= P(f(x + sigma n) = g(x))

Cohen et al. (2019), theorem 1. It is `g` that is certified, not `f`, whatever `f` is, in L2, and with a chance of
`alpha` to be wrong for an input: p comes from samples. An abstention certifies nothing.

Where it is known how far a noisy input is from another answer, at least, fewer samples say more. Let A be where f
answers as g does, and A_r what lies r inside of A. A rim of r around a set adds `r / sigma` to `Phi^-1` of its share,
at least (the Gaussian isoperimetric inequality: Borell, 1975); so at `x + d`

    P(A) >= Phi(Phi^-1(p) + (r - |d|) / sigma)        R = r + sigma Phi^-1(p),  p <= P(x + sigma n in A_r)

which for r = 0 is Cohen's radius. Such distances follow from a lead and from how fast it can change (Tsuzuku et al.,
2018): `sparring.certify.slopes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, betaln, logsumexp, ndtr, ndtri
from torch import Tensor

from sparring.certify.lipschitz import Slopes
from sparring.errors import BadInput
from sparring.limits import positive
from sparring.models.victim import inference, scores
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import TOLERANCE, Ball
from sparring.types import Model

Floats = NDArray[np.float64]

BLOCK = 1000
"""Samples that go through the model together, at most."""

DISSENT = 10
"""First samples that vote for another class than the rest, with which it is known well enough how many others do."""

ABSTAINED = -1
"""The answer of an abstention."""

TINY = 1e-30
"""Below zero by this at least is the distance of what has another answer."""


# What a count of successes says of the share behind it


def exactly(successes: ArrayLike, trials: ArrayLike, alpha: float) -> Floats:
    """A lower bound of a share that fails with chance `alpha`, for a number of trials fixed beforehand.

    Clopper and Pearson (1934), one-sided.
    """
    k, t = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    found: Floats = np.where(k > 0, betaincinv(np.maximum(k, 1), t - k + 1, alpha), 0.0)
    return found


SHAPES = np.array([1.0, 30.0, 1e3, 3e4])
"""First parameters of the Beta priors that a share is bet on; the second is 1/2. The last is for shares next to one."""

WEIGHTS = np.array([0.2, 0.2, 0.2, 0.4])


def at_all_times(successes: ArrayLike, trials: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """Bounds of a share that hold after every trial at once, but for chance `alpha`: one may look, and stop, at will.

    A confidence sequence from a bet (Robbins, 1970; Waudby-Smith and Ramdas, 2023): where the share is q, the wealth

        E_t(q) = int p^k (1 - p)^(t - k) dB(p)  /  q^k (1 - q)^(t - k)

    is a martingale that starts at 1 and passes `1 / alpha` with chance `alpha` at most (Ville, 1939). The bounds are
    the ends of all q that it hasn't passed at. B is a mixture of Beta distributions.
    """
    k, t = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64))
    won = logsumexp(
        np.log(WEIGHTS) + betaln(SHAPES + k[..., None], 0.5 + (t - k)[..., None]) - betaln(SHAPES, 0.5), axis=-1
    )
    middle = k / t

    def passed(q: Floats) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore", invalid="ignore"):
            paid = np.where(k > 0, k * np.log(q), 0.0) + np.where(k < t, (t - k) * np.log1p(-q), 0.0)
        lost: NDArray[np.bool_] = won - paid >= -np.log(alpha)
        return lost

    ends = []
    for end in (np.zeros_like(k), np.ones_like(k)):
        outside, inside = end, middle
        for _ in range(60):
            q = (outside + inside) / 2
            out = passed(q)
            outside, inside = np.where(out, q, outside), np.where(out, inside, q)
        ends.append(np.where(passed(end), outside, end))
    return ends[0], ends[1]


def share_beyond(first: Floats, reaches: Floats) -> Floats:
    """What share of samples to expect at these distances or further, from the distances of the first.

    Counted, where DISSENT of them or more are nearer. Elsewhere the nearest tenth is taken for the tail of a normal
    distribution.
    """
    near = np.sort(first)
    nearer = near.searchsorted(reaches)
    ranks = ndtri((np.arange(len(near)) + 0.5) / len(near))
    tail = slice(max(len(near) // 10, DISSENT))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        width = near[tail].std() / ranks[tail].std()
        expected = ndtr((near[tail].mean() - reaches) / width - ranks[tail].mean())
    few = (nearer < DISSENT) & np.isfinite(expected)
    found: Floats = np.where(few, expected, 1 - nearer / len(near))
    return found


class Rule(Protocol):
    """How many samples are taken of an input, which of them count, and what they say."""

    def begin(self, first: Floats, plan: Smoothing) -> tuple[float, int]:
        """The reach that counts, and how many samples to take at most, from the distances of the first.

        The first are not counted again, so that bounds may take both for fixed beforehand.
        """
        ...

    def __call__(self, successes: int, trials: int, reach: float, plan: Smoothing) -> tuple[float, bool]:
        """A lower bound of the share that has the reach, and whether that is all: after every block."""
        ...


@dataclass(frozen=True)
class EverySample:
    """All samples, as Cohen et al. (2019) have it."""

    def begin(self, first: Floats, plan: Smoothing) -> tuple[float, int]:
        """As `Rule`: the reach that all samples are expected to bring furthest."""
        reaches, radii = plan.expected(first, np.array([plan.n]))
        return float(reaches[radii[:, 0].argmax()]), plan.n

    def __call__(self, successes: int, trials: int, reach: float, plan: Smoothing) -> tuple[float, bool]:
        """As `Rule`: of use at the end alone."""
        return float(exactly(successes, trials, plan.alpha)), False


every_sample = EverySample()


@dataclass(frozen=True)
class Nearly:
    """As many samples as will bring the radius within a `share` of what the votes of all are expected to give.

    The first say how many that is (as in Chen et al., 2022): far from an abstention, and from a vote that all agree on,
    few. Where all agree votes alone take about half of them: after t samples the bound is `alpha^(1 / t)` at best, by
    any method, and its radius grows with every one. Distances take fewer.
    """

    share: float = 0.05

    def begin(self, first: Floats, plan: Smoothing) -> tuple[float, int]:
        """As `Rule`."""
        ends = np.cumsum([*blocks(plan.n)])
        against = int((first < 0).sum())
        if 1 - exactly(against, len(first), plan.alpha) <= 0.5:
            return 0.0, int(ends[0])  # an abstention, whatever else is seen
        reaches, radii = plan.expected(first, ends)
        enough = (radii >= (1 - self.share) * radii[0, -1]) & (radii > 0)
        soonest = int(enough.any(0).argmax()) if enough.any() else len(ends) - 1
        return float(reaches[radii[:, soonest].argmax()]), int(ends[soonest])

    def __call__(self, successes: int, trials: int, reach: float, plan: Smoothing) -> tuple[float, bool]:
        """As `Rule`."""
        return every_sample(successes, trials, reach, plan)


@dataclass(frozen=True)
class Asked:
    """Until it is known whether the radius reaches `eps`: some hundreds of samples, where that is not close."""

    eps: float

    def begin(self, first: Floats, plan: Smoothing) -> tuple[float, int]:
        """As `Rule`."""
        return every_sample.begin(first, plan)

    def __call__(self, successes: int, trials: int, reach: float, plan: Smoothing) -> tuple[float, bool]:
        """As `Rule`."""
        needed = float(ndtr((enough(self.eps) - reach) / plan.sigma))
        low, high = (float(end) for end in at_all_times(successes, trials, plan.alpha))
        return low, low > needed or high <= needed


@dataclass(frozen=True, kw_only=True)
class Radii:
    """What the smoothed model says, `(B,)`: -1 where it abstains; the radius in which that holds, and samples taken."""

    answer: Tensor
    radius: Tensor
    samples: Tensor

    def certified(self, labels: Tensor, eps: float) -> Tensor:
        """Which answers are right, and stay so within `eps` in L2."""
        return (self.answer == labels) & (self.radius > enough(eps))


def enough(eps: float) -> float:
    """What a radius has to be above for a threat of this size, what audits forgive for rounding included."""
    return eps * (1 + 2 * TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Certify `g(x) = argmax_c P(f(x + sigma n) = c)` by votes of a classifier f under noise (Cohen et al., 2019).

    The first samples, `n0` or until some dissent, say which class to bet on. Up to `n` others bound its share from
    below, with a chance of `alpha` to be wrong for an input; `rule` says how many, and when to stop. For `Asked`,
    100 first ones are enough. With `slopes`, of the model that is called, what counts is not the vote of a sample alone
    but that it is some way from another. Every input has its own noise, from its stream: nothing depends on which
    others are beside it. Noise is not clipped to the box. Costs up to `n0 + n` forward passes an input.
    """

    sigma: float = 0.25
    n0: int = 1000
    n: int = 100_000
    alpha: float = 0.001
    rule: Rule = field(default_factory=Nearly)
    slopes: Slopes | None = None

    def __post_init__(self) -> None:
        positive(sigma=self.sigma)
        if not 0 < self.alpha < 0.5:
            raise BadInput(f"alpha {self.alpha}", "a chance above 0 and below 0.5", "take 0.001")
        if self.n0 < 1 or self.n < 1:
            raise BadInput(f"{self.n0} and {self.n} samples", "1 or more of each", "take 100 and 100000")

    @property
    def counts(self) -> str:
        """What is counted, in words."""
        known = self.slopes
        return "by votes" if known is None else f"by distances (slopes up to {known.greatest:.3g})"

    def __call__(self, model: Model, x: Tensor, rng: Streams) -> Radii:
        """The answer for every row, and its radius.

        Raises:
            BadInput: inputs that are not finite, where noise would not change the answer, or whole numbers.
        """
        _measurable(x)
        with inference(model), torch.no_grad():
            found = [self.one(model, x[i], rng[torch.tensor([i])]) for i in range(len(x))]
        answer, radius, samples = zip(*found, strict=True) if found else ((), (), ())
        return Radii(
            answer=torch.tensor(answer, dtype=torch.int64),
            radius=torch.tensor(radius, dtype=torch.float64).float().nextafter(torch.tensor(0.0)),
            samples=torch.tensor(samples, dtype=torch.int64),
        )

    def one(self, model: Model, x: Tensor, rng: Streams) -> tuple[int, float, int]:
        """The answer for one input without its batch, its radius, and how many samples that took."""
        guess, first = self.bet(model, x, rng)
        reach, most = self.rule.begin(self.distances(first, guess), self)
        successes = trials = 0
        radius = 0.0
        for found in noisy(model, x, self.sigma, most, rng.at("bound")):
            successes += int((self.distances(found, guess) >= reach).sum())
            trials += len(found)
            low, done = self.rule(successes, trials, reach, self)
            radius = reach + self.sigma * float(ndtri(low))
            if done:
                break
        spent = len(first) + trials
        return (guess, radius, spent) if radius > 0 else (ABSTAINED, 0.0, spent)

    def bet(self, model: Model, x: Tensor, rng: Streams) -> tuple[int, Tensor]:
        """The class to bet on, and the scores `(B, K)` of the first samples, which say so."""
        some: list[Tensor] = []
        for found in noisy(model, x, self.sigma, self.n0, rng.at("guess")):
            some.append(found)
            said = answers(torch.cat(some))
            guess = max(int(said.mode().values), 0)  # most have no answer: no class has half, whichever is bet on
            if int((said != guess).sum()) >= DISSENT:
                break
        return guess, torch.cat(some)

    def distances(self, found: Tensor, answer: int) -> Floats:
        """How far samples with these scores are from another answer, at least: 0 or above where this is theirs.

        Without slopes, how far it leads: in no unit, and of use for its sign, and to foresee signs.
        """
        if self.slopes is None:
            wide = found.double()
            others = wide.index_fill(1, torch.tensor(answer, device=found.device), -torch.inf)
            far = wide[:, answer] - others.amax(1)
        else:
            far = self.slopes.distances(found, answer)
        far = far.cpu().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        given: Floats = torch.where(answers(found) == answer, far.clamp(min=0), far.clamp(max=-TINY)).numpy()
        return given

    def expected(self, first: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Reaches that may count, from 0 on, and the radius to expect of each after so many samples, a row a reach.

        Only 0 where enough of the first dissent: there votes say as much, and how many there are is better known.
        """
        by_votes = self.slopes is None or (first < 0).sum() >= DISSENT
        reaches = np.zeros(1) if by_votes else np.linspace(0.0, max(float(np.quantile(first, 0.2)), 0.0), 60)
        low = exactly(share_beyond(first, reaches)[:, None] * counts, counts, self.alpha)
        return reaches, reaches[:, None] + self.sigma * ndtri(low)


@register("certificates", "smoothing", needs="labels", norms=("l2",), passes="n0 + samples", paper="Cohen et al., 2019")
def smoothing(threat: Ball, *, sigma: float = 0.25, samples: int = 100_000) -> Smoothing:
    """Any classifier under Gaussian noise: what most of its answers are; large networks too (Cohen et al., 2019)."""
    return Smoothing(sigma=sigma, n0=100, n=samples, rule=Asked(threat.eps))


def noisy(model: Model, x: Tensor, sigma: float, count: int, rng: Streams) -> Iterator[Tensor]:
    """The scores of an input under noise, in blocks that double until they are large enough to be cheap."""
    done = 0
    for size in blocks(count):
        noise = torch.randn(size, *x.shape, generator=_generator(rng.at(done)))
        yield scores(model, x + sigma * noise.to(x))
        done += size


def _measurable(x: Tensor) -> None:
    """Refuse inputs that noise cannot be added to."""
    if not x.is_floating_point():  # it would be rounded
        raise BadInput(f"inputs of {x.dtype}", "float32", "call x.float()")
    if not bool(x.isfinite().all()):
        raise BadInput("inputs that are not finite", "finite inputs", "clean the data")


def answers(found: Tensor) -> Tensor:
    """The classes of these scores; -1, a vote for none, where one is NaN."""
    return found.argmax(1).masked_fill(found.isnan().any(1), ABSTAINED).cpu()


def blocks(count: int) -> Iterator[int]:
    """Sizes that add up to a count: they double."""
    done = 0
    while done < count:
        size = min(max(done, 100), BLOCK, count - done)
        yield size
        done += size


def _generator(rng: Streams) -> torch.Generator:
    """Torch's own generator from a stream of one row: many numbers for one input."""
    return torch.Generator().manual_seed(int(rng.keys[0]))


@dataclass(frozen=True)
class Smoothed:
    """The smoothed model itself, as a view: the share of votes of every class under `draws` samples of noise.

    The noise is the same for every input and every call. A sample whose scores are NaN votes for no class. Costs
    `draws` passes; votes have no gradient.
    """

    model: Model
    sigma: float = 0.25
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        positive(sigma=self.sigma)
        if self.draws < 1:
            raise BadInput(f"{self.draws} samples", "1 or more", "take 1000")

    def __call__(self, x: Tensor) -> Tensor:
        """Shares `(B, K)`.

        Raises:
            BadInput: inputs that are not finite, or whole numbers.
        """
        _measurable(x)
        rng = Streams.of(self.seed, [0]).at("smoothed")
        with inference(self.model), torch.no_grad():
            counts = torch.zeros(len(x), scores(self.model, x[:1]).shape[1])
            for row, count in zip(x, counts, strict=True):
                said = torch.cat([answers(found) for found in noisy(self.model, row, self.sigma, self.draws, rng)])
                count += said[said != ABSTAINED].bincount(minlength=len(count))
        return (counts / self.draws).to(x)
