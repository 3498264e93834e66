"""The parts of the attacks for the smallest change, against closed forms, other solvers and what their papers print."""

import math
from functools import partial

import pytest
import torch
from linear import Linear, puzzle, reach

from sparring.attacks import Restarts, apgd_ce, bisection, mi_fgsm, pdpgd, pgd
from sparring.attacks.bisection import Balls, Bisection
from sparring.attacks.deepfool import DeepFool
from sparring.attacks.fab import to_plane
from sparring.attacks.fmn import FMN
from sparring.attacks.nearest import dual
from sparring.attacks.pdpgd import PROXIMAL, adam
from sparring.errors import BadInput
from sparring.goals import Targeted, Untargeted
from sparring.norms import NORMS
from sparring.registry import find
from sparring.streams import Streams
from sparring.threats import Ball, linf
from sparring.views import Counted

CONVEX = ["linf", "l2", "l1"]
PENALTY = {
    "linf": lambda u: u.abs().amax(-1),
    "l2": lambda u: u.norm(dim=-1),
    "l1": lambda u: u.abs().sum(-1),
    "l0": lambda u: (u * u).pow(1 / 3).sum(-1),
}


def near_the_boundary(norm, count, seed=2):
    """A linear model, inputs of class 0, and how far its boundary is from each."""
    threat = Ball(NORMS[norm], {"linf": 0.1, "l2": 1.0, "l1": 5.0, "l0": 8.0}[norm])
    far, x, best = puzzle((1, 6, 6), threat, count=count, seed=seed)
    model = Linear(far.w, ((x * far.w).flatten(1).sum(1) + 0.5 * best).max().item())
    return model, x, threat, reach(model.w, x, threat, -model.lead(x))


def streams(x):
    return Streams.of(0, range(len(x)))


def class_zero(x):
    return Untargeted(torch.zeros(len(x), dtype=torch.int64))


@pytest.mark.parametrize("norm", CONVEX)
def test_pdpgd_with_the_steps_of_its_paper_is_within_6_percent_of_the_distance_to_the_boundary(norm):
    model, x, threat, nearest = near_the_boundary(norm, 4)
    z = pdpgd(threat)(model, x, class_zero(x), Streams.of(0, range(4)))
    assert (threat.distance(z, x) <= 1.06 * nearest).all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_has_less_of_what_a_proximal_operator_weighs(norm):
    rng = Streams.of(3, range(200))
    v, weight = rng.normal(4).double(), rng.at("weight").uniform(1).double() + 0.01
    u = PROXIMAL[norm](v, weight)

    def total(point):
        return weight[:, :1] * PENALTY[norm](point).unsqueeze(1) + (point - v).square().sum(-1, keepdim=True) / 2

    least = total(u)
    for k, size in enumerate((1.0, 0.1, 0.01)):
        for draw in range(20):
            other = u + size * rng.at(f"{k} {draw}").normal(4)
            assert (total(other) >= least - 1e-9).all()
    assert (total(torch.zeros_like(v)) >= least - 1e-9).all()
    assert (total(v) >= least - 1e-9).all()


def test_adam_moves_by_one_while_the_gradient_stays_and_by_its_means_where_it_turns():
    gradient = torch.tensor([[0.3, -2.0, 1e-3]]).double()
    state = adam().init(gradient)
    for i in range(4):
        move, state = adam().update(gradient, state, i)
        torch.testing.assert_close(move, gradient.sign(), rtol=0, atol=1e-4)
    move, _ = adam().update(-3 * gradient, state, 4)
    means = 0.1 * (sum(0.9**k for k in (1, 2, 3, 4)) - 3), 0.001 * (sum(0.999**k for k in (1, 2, 3, 4)) + 9)
    expected = means[0] / (1 - 0.9**5) / math.sqrt(means[1] / (1 - 0.999**5)) * gradient.sign()
    torch.testing.assert_close(move, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("box", [(0.0, 1.0), (-50.0, 50.0), (-math.inf, math.inf)])
@pytest.mark.parametrize("norm", CONVEX)
def test_the_way_to_a_plane_is_the_shortest_inside_the_box(norm, box):
    """As long as the smallest ball in which a linear function gains the gap, for gaps of both signs."""
    rng, threat = Streams.of(5, range(64)), Ball(NORMS[norm], 1.0, *box)
    x, w = rng.at("x").uniform(7).double(), rng.at("w").normal(7).double()
    w[:, 3] = 0
    gap = rng.at("gap").normal(1).flatten().double()
    change = to_plane(x, w, gap, threat)
    assert ((x + change >= box[0] - 1e-12) & (x + change <= box[1] + 1e-12)).all()
    got = (w * change).sum(1)
    uphill = w * gap.sign().unsqueeze(1)
    room = torch.where(uphill > 0, box[1] - x, x - box[0])
    most = torch.where(uphill != 0, uphill.abs() * room, 0).sum(1)
    torch.testing.assert_close(got.abs(), torch.minimum(gap.abs(), most))
    reached = gap.abs() < most
    needed = reach(uphill, x, threat, gap.abs())
    torch.testing.assert_close(threat.norm.size(change)[reached], needed[reached], rtol=1e-4, atol=1e-6)


def test_the_dual_norm_is_the_sum_the_length_and_the_largest_coordinate():
    gradient = torch.tensor([[3.0, -4.0, 0.0]])
    assert [dual(gradient, NORMS[norm]).item() for norm in CONVEX] == [7.0, 5.0, 4.0]


def test_deepfool_in_one_step_crosses_the_nearest_of_several_planes():
    """Three classes in the plane: class 2 is nearer than class 1, though class 1 comes second in the scores."""
    w = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 4.0]])
    b = torch.tensor([0.0, -1.0, -1.2])
    x = torch.zeros(1, 2)
    attack = DeepFool(threat=Ball(NORMS["l2"], 1.0, -5.0, 5.0))
    counted = Counted(lambda z: z @ w.T + b)
    z = attack(counted, x, Untargeted(torch.tensor([0])), Streams.of(0, [0]))
    torch.testing.assert_close(z, torch.tensor([[0.0, 1.02 * 0.3]]))
    assert (counted.forward, counted.backward) == (2, 2)


@pytest.mark.parametrize("name", ["deepfool", "fab", "fab-t"])
def test_attacks_that_pick_the_nearest_class_refuse_a_target(name):
    from sparring.registry import find

    x = torch.zeros(2, 3)
    with pytest.raises(BadInput, match="targeted goal"):
        find("attacks", name).make(linf(0.1))(lambda z: z, x, Targeted(torch.zeros(2).long()), Streams.of(0, range(2)))


def test_a_row_that_reaches_the_goal_already_costs_one_pass():
    model, x, threat, _ = near_the_boundary("l2", 4)
    goal = Untargeted(torch.tensor([1, 0, 1, 1]))
    counted = Counted(model)
    z = FMN(threat=threat, steps=10)(counted, x, goal, Streams.of(0, range(4)))
    assert torch.equal(z[[0, 2, 3]], x[[0, 2, 3]])
    assert counted.forward == 4 + 9


def test_fmn_goes_on_from_where_its_start_ends():
    model, x, threat, nearest = near_the_boundary("linf", 4)
    start = pgd(threat.at(0.5), steps=5)
    z = FMN(threat=threat, steps=25, start=start)(model, x, class_zero(x), Streams.of(0, range(4)))
    assert (threat.distance(z, x) <= 1.05 * nearest).all()
    assert (threat.distance(z, x) < threat.distance(start(model, x, class_zero(x), Streams.of(0, range(4))), x)).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("make", [pgd, mi_fgsm, apgd_ce], ids=["pgd", "mi-fgsm", "apgd"])
def test_bisection_brings_any_attack_to_the_distance_of_the_boundary(make, norm):
    model, x, threat, nearest = near_the_boundary(norm, 3)
    attack = Bisection(ball=threat, make=partial(make, steps=20), rounds=9)
    z = attack(model, x, class_zero(x), Streams.of(0, range(3)))
    assert (threat.distance(z, x) <= 1.05 * nearest).all()


def test_bisection_finds_the_size_of_every_row_whatever_the_size_it_begins_with():
    model, x, threat, nearest = near_the_boundary("linf", 4)
    for eps in (0.0, 1e-3, 1.0):
        z = bisection(threat.at(eps))(model, x, class_zero(x), Streams.of(0, range(4)))
        assert (threat.distance(z, x) <= 1.05 * nearest).all()


def test_bisection_works_with_restarts_inside():
    def twice(threat):
        return Restarts(attacks=(pgd(threat, steps=10),), times=2)

    model, x, threat, nearest = near_the_boundary("l2", 3)
    z = Bisection(ball=threat, make=twice)(model, x, class_zero(x), Streams.of(0, range(3)))
    assert (threat.distance(z, x) <= 1.05 * nearest).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bisection_tells_more_rows_apart_than_bfloat16_can_count(dtype):
    """The boundary of a row is as far as its only coordinate says."""
    x = torch.linspace(0.25, 0.75, 600).to(dtype).unsqueeze(1)
    z = bisection(linf(0.1), steps=4, rounds=8)(lambda z: torch.cat([1 - z, z - 0.1], 1), x, class_zero(x), streams(x))
    far = (0.55 - x.float()).clamp(min=0)
    moved = (z.float() - x.float()).abs()
    assert z.dtype == dtype
    assert (moved <= 1.05 * far + 0.01).all()
    assert (moved[x.float() < 0.54] > 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_every_row_has_a_ball_of_its_own_whichever_rows_stay(norm):
    x, sizes = Streams.of(0, range(6)).uniform(2, 3), torch.tensor([1.0, 0.5, 2.0, 1.5, 3.0, 0.25])
    balls = Balls(Ball(NORMS[norm], 1.0), sizes, x)
    stay = torch.tensor([4, 1, 5])
    points = balls.wrap(x)[stay]
    far = points + torch.cat([10 * Streams.of(1, range(3)).normal(6), torch.zeros(3, 1)], 1)
    z = balls.unwrap(balls.project(far, points)).view(3, 2, 3)
    distance = NORMS[norm].size(z - x[stay])
    assert (distance <= sizes[stay] * (1 + 1e-5)).all()
    torch.testing.assert_close(balls.unwrap(points).view(3, 2, 3), x[stay])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["carlini-wagner", "ddn", "deepfool", "sigma-zero"])
def test_half_precision_comes_about_as_near(name, norm):
    entry = find("attacks", name)
    if norm not in entry.norms:
        pytest.skip(f"{name} is not for {norm}")
    model, x, threat, nearest = near_the_boundary(norm, 4)
    half = x.half()
    z = entry.make(threat)(lambda z: model(z.float()), half, class_zero(x), streams(x))
    assert z.dtype == torch.float16
    assert (model(z.float()).argmax(1) != 0).all()
    assert (threat.distance(z.float(), half.float()) <= 1.5 * nearest + 0.02 * threat.eps).all()
