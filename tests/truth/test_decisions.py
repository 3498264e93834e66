"""Attacks on the decision alone: their questions are counted, and what they share does what it says."""

import inspect

import pytest
import torch
from linear import Linear, puzzle, reach

from sparring.attacks.decisions import Decisions, approach, bisect, lean, length, smooth
from sparring.attacks.rays import blocks
from sparring.goals import Never, Targeted, Untargeted
from sparring.norms import NORMS
from sparring.registry import members
from sparring.streams import Streams
from sparring.threats import Ball, l1, l2, linf

DECISIONS = {name: entry for name, entry in members("attacks").items() if entry.family == "decisions"}
every_attack = pytest.mark.parametrize(
    ("name", "norm"), [(name, norm) for name, entry in DECISIONS.items() for norm in entry.norms]
)


class Counted:
    """A linear model that shows decisions alone, and counts the questions."""

    def __init__(self, linear):
        self.linear, self.asked, self.points = linear, 0, []

    def __call__(self, z):
        self.asked += len(z)
        self.points.append(z.clone())
        return torch.nn.functional.one_hot(self.linear(z).argmax(1), 4).float()


@pytest.fixture
def duel():
    """A linear model, six inputs of class 0, and their goal."""
    far, x, best = puzzle((1, 6, 6), l2(1.0), count=6, seed=0)
    linear = Linear(far.w, ((x * far.w).flatten(1).sum(1) + 0.3 * best).max().item())
    return linear, x, Untargeted(torch.zeros(6, dtype=torch.int64))


def test_the_family_is_complete():
    assert set(DECISIONS) == {"boundary", "geoda", "hop-skip-jump", "rays", "sign-opt", "surfree"}
    assert all(entry.needs == "labels" and entry.aims == "smallest perturbation" for entry in DECISIONS.values())


@every_attack
@pytest.mark.parametrize("queries", [1, 2, 7, 100])
@pytest.mark.parametrize("goal", [Untargeted, Never])
def test_no_row_is_asked_about_more_often_than_allowed(name, norm, queries, goal, duel):
    linear, x, _ = duel
    x, rng, labels = x[:3], Streams.of(0, range(3)), torch.zeros(3, dtype=torch.int64)
    attack, together = DECISIONS[name].make(Ball(NORMS[norm], 1.0), queries=queries), Counted(linear)
    attack(together, x, goal(labels), rng)
    alone = []
    for row in range(3):
        model, rows = Counted(linear), torch.tensor([row])
        attack(model, x[rows], goal(labels[rows]), rng[rows])
        alone.append(model.asked)
    assert max(alone) <= queries
    assert sum(alone) == together.asked


@every_attack
def test_a_smaller_budget_asks_the_same_questions_and_stops_earlier(name, norm, duel):
    linear, x, goal = duel
    row = torch.tensor([1])
    threat, asked = Ball(NORMS[norm], 1.0), {}
    for queries in (90, 200):
        model = Counted(linear)
        DECISIONS[name].make(threat, queries=queries)(model, x[row], goal[row], Streams.of(0, row))
        asked[queries] = torch.cat(model.points)
    assert torch.equal(asked[200][: len(asked[90])], asked[90])
    assert len(asked[90]) == 90


@every_attack
def test_what_is_asked_about_is_inside_the_box(name, norm, duel):
    linear, x, goal = duel
    model = Counted(linear)
    DECISIONS[name].make(Ball(NORMS[norm], 1.0), queries=200)(model, x, goal, Streams.of(0, range(6)))
    points = torch.cat(model.points)
    assert ((points >= 0) & (points <= 1)).all()


@every_attack
def test_a_row_that_is_a_success_already_costs_one_question(name, norm, duel):
    linear, x, _ = duel
    model = Counted(linear)
    z = DECISIONS[name].make(Ball(NORMS[norm], 1.0))(
        model, x, Targeted(torch.zeros(6, dtype=torch.int64)), Streams.of(0, range(6))
    )
    assert torch.equal(z, x)
    assert model.asked == 6


@every_attack
def test_more_questions_never_end_further_away(name, norm, duel):
    linear, x, goal = duel
    threat, before = Ball(NORMS[norm], 1.0), torch.full((6,), torch.inf)
    for queries in (60, 180, 540):
        z = DECISIONS[name].make(threat, queries=queries)(linear, x, goal, Streams.of(3, range(6)))
        distance = torch.where(goal.reached(linear(z)), threat.distance(z, x), torch.inf)
        assert (distance <= before).all()
        before = distance
    assert before.isfinite().all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ["geoda", "hop-skip-jump"])
def test_a_target_is_met_as_near_as_the_boundary_is(name, norm, duel):
    linear, x, _ = duel
    threat, goal = Ball(NORMS[norm], 1.0), Targeted(torch.ones(6, dtype=torch.int64))
    whole = {"frequencies": 1.0} if "frequencies" in inspect.signature(DECISIONS[name].make).parameters else {}
    z = DECISIONS[name].make(threat, queries=4000, **whole)(linear, x, goal, Streams.of(0, range(6)))
    assert goal.reached(linear(z)).all()
    assert (threat.distance(z, x) <= 1.05 * reach(linear.w, x, threat, -linear.lead(x))).all()


@pytest.mark.parametrize("high", [0.6, 1.0])
def test_surfree_and_geoda_find_a_smooth_boundary_among_few_waves(high):
    """Where the gradient is a wave of the lowest frequencies, the draws need no others: far fewer questions do."""
    place = torch.linspace(0, 1, 20)
    w = torch.cos(3 * place)[:, None] * torch.cos(1 + place)[None, :]
    x = 0.4 + 0.2 * Streams.of(0, range(4)).uniform(1, 20, 20)
    linear = Linear(w[None], ((x * w).flatten(1).sum(1)).max().item() + 3)
    goal, threat = Untargeted(torch.zeros(4, dtype=torch.int64)), l2(1.0, low=0.0, high=high)
    nearest = reach(linear.w, x, threat, -linear.lead(x))
    for name in ("surfree", "geoda"):
        far = {}
        for frequencies in (0.2, 1.0):
            attack = DECISIONS[name].make(threat, queries=400, frequencies=frequencies)
            z = attack(linear, x, goal, Streams.of(1, range(4)))
            far[frequencies] = (threat.distance(z, x) / nearest).mean()
        assert far[0.2] < far[1.0]


def test_turns_of_signs_cover_every_coordinate_at_every_level():
    turns = blocks(6)
    assert next(turns) == (0, 0)
    for widths in ([6], [3, 3], [2, 2, 2], [1] * 6, [1] * 6):
        level = [next(turns) for _ in widths]
        assert [last - first for first, last in level] == widths
        assert level[0][0] == 0
        assert level[-1][1] == 6


def test_bisection_ends_within_the_tolerance_above_where_success_begins():
    edge = Streams.of(0, range(64)).uniform(1).flatten()
    x = torch.stack([torch.zeros(64), edge], 1)

    def model(z):
        return torch.stack([z[:, 1] - z[:, 0], torch.zeros(len(z))], 1)

    for stride in (1.0, 4.0, torch.inf):
        decisions = Decisions(model, x, Untargeted(torch.zeros(64, dtype=torch.int64)), linf(1.0), 100)
        tolerance = torch.full((64,), 1e-3)
        found = bisect(
            decisions,
            lambda size: torch.stack([size, edge], 1),
            low=torch.zeros(64),
            high=torch.ones(64),
            wanted=torch.ones(64, dtype=torch.bool),
            tolerance=tolerance,
            stride=stride,
        )
        assert ((found >= edge) & (found <= edge + 1.01e-3)).all()
        assert (decisions.left >= 100 - 25).all()


@pytest.mark.parametrize("threat", [l2(1.0), linf(1.0), l1(1.0)], ids=str)
def test_the_way_to_the_boundary_ends_just_beyond_it(threat, duel):
    linear, x, goal = duel
    decisions = Decisions(linear, x, goal, threat, 4000)
    z = decisions.start(Streams.of(0, range(6)))
    assert goal.reached(linear(z)).all()
    near = approach(decisions, z, 0.001)
    assert goal.reached(linear(near)).all()
    inner = threat.norm.project(near, x, 0.998 * threat.distance(near, x), 0.0, 1.0)
    assert not goal.reached(linear(inner)).any()


def test_the_vote_leans_along_the_gradient(duel):
    linear, x, goal = duel
    x, linear = x.double(), Linear(linear.w.double(), linear.bias)
    decisions = Decisions(linear, x, goal, l2(1.0, low=-9.0, high=9.0), 4000)
    z = approach(decisions, decisions.start(Streams.of(0, range(6))), 1e-6)
    radius = torch.full((6,), 0.1).double()
    way = lean(decisions, z, radius=radius, count=3000, rng=Streams.of(1, range(6)))
    cosine = (way * linear.w).flatten(1).sum(1) / (length(way) * linear.w.norm())
    assert (cosine > 0.97).all()  # 36 coordinates: the error is about sqrt(36 pi / 2 / 3000) = 0.14


def test_a_vote_with_one_answer_alone_still_leans():
    decisions = Decisions(
        lambda z: torch.tensor([[1.0, 0.0]]).expand(len(z), 2),
        torch.zeros(2, 1, 5, 5),
        Untargeted(torch.zeros(2, dtype=torch.int64)),
        l2(1.0),
        100,
    )
    way = lean(decisions, decisions.x, radius=torch.full((2,), 0.1), count=50, rng=Streams.of(0, range(2)))
    assert (length(way) > 0).all()


def test_smooth_noise_has_the_low_frequencies_alone_and_keeps_their_weight():
    noise = Streams.of(0, range(50)).normal(3, 16, 16)
    for frequencies in (0.25, 0.5):
        spectrum = torch.fft.rfft2(torch.cat([wave := smooth(noise, frequencies), wave.flip(3)], 3), dim=(3,)).abs()
        kept = round(16 * frequencies)
        assert spectrum[..., kept:].amax() < 1e-3 * spectrum.amax()
        assert wave.square().sum() == pytest.approx(50 * 3 * kept**2, rel=0.1)
    assert torch.equal(smooth(noise, 1.0), noise)
    assert smooth(Streams.of(0, range(4)).normal(7), 0.5).shape == (4, 7)


def test_a_start_is_found_where_uniform_draws_find_none():
    """Half of the box' corners reach this goal, and no point that is far from all of them."""
    x = torch.full((4, 30), 0.5)

    def model(z):
        outer = ((z - 0.5).abs().mean(1) - 0.45) * (z[:, 0] - 0.5)
        return torch.stack([torch.zeros(len(z)), torch.where((z - 0.5).abs().mean(1) > 0.45, outer, -1.0)], 1)

    goal = Untargeted(torch.zeros(4, dtype=torch.int64))
    decisions = Decisions(model, x, goal, l2(1.0), 1000)
    assert goal.reached(model(decisions.start(Streams.of(0, range(4))))).all()


def test_rows_without_a_start_are_given_up_after_a_while(duel):
    linear, x, _ = duel
    model = Counted(linear)
    goal = Never(torch.zeros(6, dtype=torch.int64))
    for name in ("hop-skip-jump", "rays"):
        model.asked = 0
        z = DECISIONS[name].make(Ball(NORMS["linf"], 1.0), queries=10_000)(model, x, goal, Streams.of(0, range(6)))
        assert torch.equal(z, x)
        assert model.asked <= 6 * 1010
