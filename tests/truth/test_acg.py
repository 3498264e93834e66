"""Auto conjugate gradient against what is known: conjugate directions, the published algorithm, APGD's optimum."""

import itertools

import pytest
import torch

from sparring.attacks.acg import ACG, conjugacy
from sparring.attacks.apgd import _checkpoints
from sparring.goals import Never
from sparring.losses import cross_entropy
from sparring.streams import Streams
from sparring.threats import l2, linf


def test_on_a_quadratic_exact_steps_along_the_directions_reach_the_top_in_as_many_steps_as_it_has_dimensions():
    n = 5
    draw = Streams.of(0, [0]).normal(n, n)[0].double()
    hessian, slope = draw @ draw.T + torch.eye(n).double(), Streams.of(1, [0]).normal(n)[0].double()
    z = torch.zeros(1, n).double()
    gradient = slope - z @ hessian
    before = along = gradient
    directions = []
    for _ in range(n):
        along = gradient + conjugacy(gradient, before, along).unsqueeze(1) * along
        directions.append(along[0])
        z = z + (along @ gradient.T) / (along @ hessian @ along.T) * along
        before, gradient = gradient, slope - z @ hessian
    for one, other in itertools.combinations(directions, 2):
        assert abs(one @ hessian @ other) < 1e-8
    torch.testing.assert_close(z[0], torch.linalg.solve(hessian, slope))


def test_where_the_gradient_stays_as_it_was_nothing_of_the_direction_before_is_kept():
    gradient = torch.tensor([[1.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    before = torch.tensor([[1.0, 2.0], [2.0, 0.0], [0.0, 0.0]])
    assert conjugacy(gradient, before, before).tolist() == [0.0, 0.0, 0.0]  # the second is negative


class Recorder:
    """Two logits whose margin for class 0 is the score, and every point that they were asked about."""

    def __init__(self, score):
        self.score, self.points = score, []

    def __call__(self, z):
        self.points.append(z.detach().clone())
        score = self.score(z.flatten(1))
        return torch.stack([-score, torch.zeros_like(score)], 1)


def published(score, x, start, threat, steps):
    """Algorithm 1 of Yamamura et al. (2022) for one example, line by line. The points at which it takes gradients."""

    def gradient(z):
        z = z.clone().requires_grad_()
        (g,) = torch.autograd.grad(score(z.flatten(1)).sum(), z)
        return g

    checkpoints, eta = sorted(_checkpoints(steps)), 2 * threat.eps
    now, f_now, g = start, score(start.flatten(1)).item(), gradient(start)
    g_before = s = g
    best = (now, f_now, g, g_before, s)
    visited, rises, last, halved_last, best_last = [start], 0, 0, False, f_now
    for k in range(1, steps + 1):
        y = g_before - g
        beta = max(0.0, ((-g * y).sum() / (s * y).sum()).nan_to_num(0.0, 0.0, 0.0).item())
        s = g + beta * s
        after = threat.project(now + eta * threat.norm.steepest(s), x)
        f_after = score(after.flatten(1)).item()
        rises += f_after > f_now
        g_before, g, now, f_now = g, gradient(after), after, f_after
        visited.append(now)
        if f_now > best[1]:
            best = (now, f_now, g, g_before, s)
        if k in checkpoints:
            stalls = rises <= 0.75 * (k - last) or (not halved_last and best[1] <= best_last)
            halved_last, best_last, last, rises = stalls, best[1], k, 0
            if stalls:
                eta = eta / 2
                now, f_now, g, g_before, s = best
    return visited


@pytest.mark.parametrize("threat", [linf(0.3), l2(0.6)], ids=str)
def test_acg_visits_the_points_of_the_published_algorithm(threat):
    weights = torch.tensor([3.0, -2.0, 5.0, 1.0])

    def score(z):  # a ridge with ripples: some steps rise, some fall
        return (torch.sin(9 * z * weights) + z * weights + torch.sin(4 * z.sum(1, keepdim=True))).sum(1)

    rng, x = Streams.of(0, [0]), torch.tensor([[[[0.4, 0.6, 0.5, 0.3]]]], dtype=torch.float64)
    model = Recorder(score)
    ACG(threat=threat, steps=50)(model, x, Never(torch.tensor([0])), rng)
    visited = published(score, x, threat.sample(x, rng), threat, 50)
    ours = model.points[1:]  # the first is the input itself
    assert len(ours) == len(visited) == 51
    torch.testing.assert_close(torch.cat(ours), torch.cat(visited), rtol=0, atol=1e-5)  # ripples amplify rounding


def test_any_loss_will_do():
    model = Recorder(lambda z: (z * torch.tensor([1.0, -1.0])).sum(1))
    x = torch.full((2, 2), 0.5)
    z = ACG(threat=linf(0.1), loss=cross_entropy, steps=10)(
        model, x, Never(torch.zeros(2).long()), Streams.of(0, [0, 1])
    )
    torch.testing.assert_close(z, torch.tensor([[0.6, 0.4], [0.6, 0.4]]))
