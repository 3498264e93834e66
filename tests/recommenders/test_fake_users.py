"""Attacks with fake users: what each stays within, and how strong it is where the best is known."""

from __future__ import annotations

import pytest
import torch

from sparring.domains.recommenders.alternating import MF
from sparring.domains.recommenders.attacks import ATTACKS, Bystanders, attack, fitting
from sparring.domains.recommenders.ease import EASE
from sparring.domains.recommenders.exchange import Exchange, exchanged, optimised, optimised_stars
from sparring.domains.recommenders.goals import Placement, demote, promote
from sparring.domains.recommenders.interactions import Interactions, as_implicit
from sparring.domains.recommenders.measures import fresh
from sparring.domains.recommenders.recommender import Recommender
from sparring.domains.recommenders.shilling import bandwagon, extreme, love_hate, popular, random, segment
from sparring.domains.recommenders.surrogates import bars, through_ease, through_mf
from sparring.domains.recommenders.synthetic import synthetic
from sparring.domains.recommenders.threats import FakeUsers, fake_users
from sparring.errors import BadInput
from sparring.streams import Streams

RNG = Streams.of(0, [0])
STARS = synthetic(150, 200, length=25)
CLICKS = as_implicit(STARS)
TARGET = int((STARS.popularity - 12).abs().argmin())
THREAT = FakeUsers(users=8, ratings=20)
CASES = [
    (name, data, sign)
    for name in ATTACKS
    for data in (STARS, CLICKS)
    for sign in (1, -1)
    if name in fitting(data, sign)
]


def shown(model: Recommender, z: Interactions, goal: Placement) -> float:
    """The share of the real users who had not rated the target and have it among the top ones."""
    some = STARS.rated[:, goal.item] == 0
    scores = model(z, RNG.at("victim"))[: STARS.shape[0]]
    return float((goal.rank(fresh(scores, STARS)[some]) <= goal.top).float().mean())


@pytest.mark.parametrize(
    ("name", "data", "sign"), CASES, ids=[f"{n}-{'clicks' if d.implicit else 'stars'}-{s:+}" for n, d, s in CASES]
)
def test_an_attack_stays_within_the_threat_and_rates_the_target_as_extremely_as_it_can(
    name: str, data: Interactions, sign: int
) -> None:
    goal, made = Placement(TARGET, sign=sign), ATTACKS[name].make(THREAT)
    z = made(EASE(), data, goal, RNG)
    assert THREAT.contains(z, data)
    assert THREAT.distance(z, data) == pytest.approx(8 / 150)
    fakes = z.matrix[150:]
    assert (fakes[:, TARGET] == extreme(data, goal)).all()
    if name != "power-users":  # a copy may be shorter
        assert (z.activity[150:] == THREAT.ratings).all()
    assert torch.equal(made(EASE(), data, goal, RNG).matrix, z.matrix)
    assert not torch.equal(made(EASE(), data, goal, RNG.at("other")).matrix, z.matrix) or name == "power-users"


def test_the_first_fake_users_are_the_same_however_many_there_are() -> None:
    few, many = (random(FakeUsers(users=n, ratings=20))(EASE(), STARS, promote(TARGET), RNG).matrix for n in (3, 8))
    assert torch.equal(few, many[:153])


def test_attacks_rate_what_they_say() -> None:
    goal, popularity = promote(TARGET), STARS.popularity
    best = popularity.index_fill(0, torch.tensor([TARGET]), -1).topk(5).indices
    z = bandwagon(THREAT)(EASE(), STARS, goal, RNG).matrix[150:]
    assert (z[:, best] == 5).all()
    z = popular(THREAT)(EASE(), STARS, goal, RNG).rated[150:].index_fill(1, torch.tensor([TARGET]), 0)
    assert int(popularity[z.any(0)].min()) >= int(popularity.topk(40).values[-1])
    z = segment(THREAT)(EASE(), STARS, goal, RNG).matrix[150:]
    assert ((z == 5).sum(1) == 6).all()
    assert ((z == 1).sum(1) == THREAT.ratings - 6).all()
    z = love_hate(THREAT)(EASE(), STARS, demote(TARGET), RNG).matrix[150:]
    assert ((z == 5).sum(1) == THREAT.ratings - 1).all()


def test_the_threat_knows_what_it_does_not_allow() -> None:
    z = random(THREAT)(EASE(), STARS, promote(TARGET), RNG)
    assert not FakeUsers(users=7, ratings=20).contains(z, STARS)
    assert not FakeUsers(users=8, ratings=19).contains(z, STARS)
    one = torch.arange(len(z.users)) != 3  # a real rating is gone
    assert not THREAT.contains(z.kept(one), STARS)
    assert THREAT.contains(STARS, STARS)
    assert not THREAT.contains(random(THREAT)(EASE(), CLICKS, promote(TARGET), RNG), STARS)


@pytest.mark.parametrize(("said", "users"), [("5%", 8), ("0.05", 8), ("12", 12), ("150", 150), ("0.1%", 1)])
def test_a_number_of_fake_users_is_read(said: str, users: int) -> None:
    threat = fake_users(said, STARS)
    assert threat == FakeUsers(users=users, ratings=int(STARS.activity.median()))


@pytest.mark.parametrize("said", ["many", "0", "-3", "120%", "151", "3.5"])
def test_numbers_that_make_no_sense_are_refused(said: str) -> None:
    with pytest.raises(BadInput, match="fake users"):
        fake_users(said, STARS)
    with pytest.raises(BadInput, match="ratings of a fake user"):
        fake_users("5%", STARS, ratings=201)


def test_the_rank_is_counted_from_one_and_equals_share_theirs() -> None:
    scores = torch.tensor([[3.0, 2, 1], [1, 1, 1], [-torch.inf, 0, -torch.inf]])
    assert promote(1).rank(scores).tolist() == [2, 2, 1]
    assert promote(1, top=1).reached(scores).tolist() == [False, False, True]
    assert demote(1, top=1).reached(scores).tolist() == [True, True, False]


def test_bystanders_are_the_same_users_without_the_target() -> None:
    z, idle = (made(EASE(), STARS, promote(TARGET), RNG) for made in (random(THREAT), Bystanders(of=random(THREAT))))
    assert (idle.rated[150:, TARGET] == 0).all()
    others = torch.arange(200) != TARGET
    assert torch.equal(idle.matrix[:, others], z.matrix[:, others])
    assert torch.equal(idle.matrix[:150], STARS.matrix)


def test_attacks_for_other_data_are_refused() -> None:
    with pytest.raises(BadInput, match="implicit feedback, up"):
        attack("average", CLICKS, 1)
    with pytest.raises(BadInput, match="ratings, up"):
        attack("love-hate", STARS, 1)
    with pytest.raises(BadInput, match="did you mean 'bandwagon'"):
        attack("bandwagen", STARS, 1)
    assert not fitting(CLICKS, -1)


def test_the_margin_through_ease_is_what_ease_says_when_it_is_trained_anew() -> None:
    goal = promote(TARGET)
    z = popular(THREAT)(EASE(), CLICKS, goal, RNG)
    some, anew = CLICKS.rated[:, TARGET] == 0, EASE()(z, RNG)
    margin = through_ease(CLICKS, z, goal, RNG)(z.rated[150:], z.matrix[150:])
    assert torch.allclose(margin, anew[:150][some, TARGET] - bars(anew, CLICKS, goal), atol=1e-4)


def test_the_margin_through_a_factorisation_is_what_it_says_when_it_is_trained_to_the_end() -> None:
    goal, model = promote(TARGET), MF(steps=200)
    z = popular(THREAT)(MF(), STARS, goal, RNG)
    some, anew = STARS.rated[:, TARGET] == 0, model(z, RNG.at("any"))
    margin = through_mf(STARS, z, goal, RNG)(z.rated[150:], z.matrix[150:])
    wanted = anew[:150][some, TARGET] - bars(anew, STARS, goal)
    assert (margin - wanted).abs().median() < 0.1
    assert torch.corrcoef(torch.stack([margin, wanted]))[0, 1] > 0.9


def test_the_gradient_through_a_factorisation_is_that_of_finite_differences() -> None:
    goal = promote(TARGET)
    z = popular(THREAT)(MF(), STARS, goal, RNG)
    rated, stars = z.rated[150:], z.matrix[150:]
    margin = through_mf(STARS, z, goal, RNG)
    leaf = stars.clone().requires_grad_()
    (slope,) = torch.autograd.grad(margin(rated, leaf).mean(), leaf)
    direction = RNG.at("direction").normal(*stars.shape)[0] * rated
    ahead, behind = (margin(rated, stars + h * direction).mean() for h in (0.02, -0.02))
    assert float((ahead - behind) / 0.04) == pytest.approx(float((slope * direction).sum()), rel=0.05)


@pytest.mark.parametrize(("make", "model", "data"), [(optimised, EASE(), CLICKS), (optimised_stars, MF(), STARS)])
def test_optimised_fake_users_beat_every_heuristic_on_the_model_that_they_are_made_for(
    make: object, model: Recommender, data: Interactions
) -> None:
    goal = promote(TARGET)
    others = {name: entry.make for name, entry in fitting(data, 1).items() if not name.startswith("optimised")}
    best = max(shown(model, made(THREAT)(model, data, goal, RNG), goal) for made in others.values())
    ours = shown(model, make(THREAT)(model, data, goal, RNG), goal)  # type: ignore[operator]
    assert ours > 1.2 * best + 0.02


def test_an_exchange_finds_the_best_of_all_profiles_where_these_can_be_tried() -> None:
    """One fake user with the target and one more item: all 199 are tried."""
    goal, threat = promote(TARGET, top=40), FakeUsers(users=1, ratings=2)
    z = popular(threat)(EASE(), CLICKS, goal, RNG)
    margin, width = through_ease(CLICKS, z, goal, RNG), 0.02

    def gain(rated: torch.Tensor) -> float:
        return float(torch.sigmoid(margin(rated, rated) / width).mean())

    every = []
    for other in range(200):
        rated = torch.zeros(1, 200).index_fill(1, torch.tensor([TARGET, other]), 1)
        every.append(gain(rated) if other != TARGET else -1.0)
    found = Exchange(threat=threat, surrogate=through_ease, starts=(popular,), rounds=1, steps=20)(
        EASE(), CLICKS, goal, RNG
    )
    assert found.rated[150].sum() == 2
    rank = sum(one > gain(found.rated[150:]) + 1e-9 for one in every)
    assert rank <= 4  # the width that it climbs with is another one


def test_an_exchange_keeps_the_number_of_ratings_where_there_are_fewer_than_it_may_change() -> None:
    rated = torch.zeros(2, 30).index_fill(1, torch.tensor([0, 1, 2]), 1)
    held, new = RNG.normal(2, 30)[0], RNG.at("new").normal(2, 30)[0] + 3
    held[:, 0], new[:, 0] = torch.inf, -torch.inf
    after, stars = exchanged((rated, 3 * rated), held, new, torch.full((2, 30), 5.0), 16)
    assert after.sum(1).tolist() == [3, 3]
    assert (after[:, 0] == 1).all()
    assert ((stars > 0) == (after > 0)).all()
