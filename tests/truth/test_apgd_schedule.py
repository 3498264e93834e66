"""APGD against what its paper prints: the checkpoints, and the moves on a function whose course is known."""

import itertools

import pytest
import torch

from sparring.attacks.apgd import APGD, _checkpoints
from sparring.goals import Never
from sparring.streams import Streams
from sparring.threats import l2, linf


def test_the_checkpoints_of_100_steps_are_those_of_the_paper():
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 50, 1000])
def test_checkpoints_come_ever_closer_and_within_the_budget(steps):
    points = [0, *sorted(_checkpoints(steps))]
    gaps = [b - a for a, b in itertools.pairwise(points)]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 < points[-1] <= steps


class Recorder:
    """Two logits whose cross-entropy for class 0 grows with the score, and every point that they were asked about."""

    def __init__(self, score):
        self.score, self.points = score, []

    def __call__(self, z):
        self.points.append(z.detach().clone())
        score = self.score(z.flatten(1))
        return torch.stack([-score, torch.zeros_like(score)], 1)


def published(score, x, start, threat, steps):
    """Algorithm 1 of Croce and Hein (2020) for one example, line by line. The points at which it takes gradients."""

    def f(z):
        return torch.nn.functional.softplus(score(z.flatten(1))).sum()

    def gradient(z):
        z = z.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(z), z)
        return threat.norm.steepest(g)

    checkpoints = sorted(_checkpoints(steps))
    eta = 2 * threat.eps
    points = [start, threat.project(start + eta * gradient(start), x)]
    values = [f(z).item() for z in points]
    best = max(range(2), key=lambda i: values[i])
    z_best, f_best = points[best], values[best]
    before, now, rises, last, halved_last, best_last = start, points[1], int(values[1] > values[0]), 0, False, values[0]
    visited = list(points)
    f_now = values[1]
    for k in range(1, steps + 1):
        if k in checkpoints:
            stalls = rises <= 0.75 * (k - last) or (not halved_last and f_best <= best_last)
            halved_last, best_last, last, rises = stalls, f_best, k, 0
            if stalls:
                eta, now, before, f_now = eta / 2, z_best, z_best, f_best
        if k == steps:
            break
        ahead = threat.project(now + eta * gradient(now), x)
        after = threat.project(now + 0.75 * (ahead - now) + 0.25 * (now - before), x)
        f_after = f(after).item()
        rises += f_after > f_now
        if f_after > f_best:
            z_best, f_best = after, f_after
        before, now, f_now = now, after, f_after
        visited.append(after)
    return visited


@pytest.mark.parametrize("threat", [linf(0.3), l2(0.6)], ids=str)
def test_apgd_visits_the_points_of_the_published_algorithm(threat):
    weights = torch.tensor([3.0, -2.0, 5.0, 1.0])

    def score(z):  # a ridge with ripples: some steps rise, some fall
        return (torch.sin(9 * z * weights) + z * weights).sum(1)

    rng, x = Streams.of(0, [0]), torch.tensor([[[[0.4, 0.6, 0.5, 0.3]]]], dtype=torch.float64)
    model = Recorder(score)
    APGD(threat=threat, steps=50)(model, x, Never(torch.tensor([0])), rng)
    visited = published(score, x, threat.sample(x, rng), threat, 50)
    ours = model.points[1:]  # the first is the input itself
    assert len(ours) == len(visited) == 51
    torch.testing.assert_close(torch.cat(ours), torch.cat(visited), rtol=0, atol=1e-5)  # ripples amplify rounding
