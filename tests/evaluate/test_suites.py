"""What the slices of the menu are for, each on a model whose optimum is known."""

from dataclasses import dataclass, field

import torch
from torch import nn

import sparring
from sparring.attacks import RunnerUp, pgd_cosine
from sparring.evaluate.suites import around
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.streams import Streams
from sparring.threats import linf


def test_ripples_as_long_as_the_threat_average_out():
    """Two classes, whose margin is a sum of one ripple a coordinate: the best of each is on a grid."""
    weights = Streams.of(0, [0]).normal(200)[0] / 200
    x, y, threat = 0.2 + 0.6 * Streams.of(1, range(20)).uniform(200), torch.zeros(20, dtype=torch.int64), linf(0.1)

    def risen(z: torch.Tensor) -> torch.Tensor:
        return z + 0.03 * torch.sin(60 * z)

    def model(z: torch.Tensor) -> torch.Tensor:
        lead = risen(z) @ weights
        return torch.stack([-lead, lead], 1) / 2

    reach = risen(x.unsqueeze(2) + torch.linspace(-0.1, 0.1, 2001)) * weights.sign().unsqueeze(1)
    best = (weights.abs() * reach.amax(2)).sum(1)
    start = risen(x) @ weights

    def share(z: torch.Tensor) -> float:
        return float(((margin(model(z), Never(y)) - start) / (best - start)).mean())

    rng = Streams.of(2, range(20))
    plain = share(pgd_cosine(threat, steps=20, loss=margin)(model, x, Never(y), rng))
    averaged = share(around(threat)(model, x, Never(y), rng))  # as many passes
    assert averaged > 0.9
    assert averaged > plain + 0.2


@dataclass
class Overheard:
    """An attack that does nothing but note its targets."""

    targets: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, model, x, goal, rng):
        self.targets.append(goal.targets)
        return x


def test_without_a_rank_every_row_draws_a_wrong_class_of_its_own():
    x, y = torch.rand(400, 6), torch.arange(400) % 6
    whole, halves = Overheard(), Overheard()
    RunnerUp(attack=whole, rank=None)(lambda z: z, x, Untargeted(y), Streams.of(0, range(400)))
    for some in (slice(0, 150), slice(150, 400)):
        rng = Streams.of(0, range(400))[torch.arange(400)[some]]
        RunnerUp(attack=halves, rank=None)(lambda z: z, x[some], Untargeted(y[some]), rng)
    assert torch.equal(whole.targets[0], torch.cat(halves.targets))
    assert not (whole.targets[0] == y).any()
    counts = torch.stack([(whole.targets[0] == k).sum() for k in range(6)])
    assert counts.min() > 40  # 67 in the mean


def test_what_falls_beyond_the_curve_alone_is_no_claim():
    """Of a model that stands at every size of the curve, the search for the smallest size finds larger ones."""
    x = torch.tensor([[0.1, 0.5], [0.9, 0.5]] * 4)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-8.0, 0.0], [8.0, 0.0]]))
        model.bias.copy_(torch.tensor([4.0, -4.0]))
    found = sparring.audit(model, (x, torch.tensor([0, 1] * 4)), "linf:0.05", suite="thorough")
    assert {check.name: check.outcome for check in found.checks}["claims"] == "pass"
    assert found.robust_accuracy.estimate == 1
