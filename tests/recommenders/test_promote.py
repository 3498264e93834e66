"""Audits of recommenders: numbers that can be believed, verdicts on those that cannot, detectors, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sparring.cli
from sparring.cli import main
from sparring.domains.recommenders.alternating import MF
from sparring.domains.recommenders.attacks import ATTACKS
from sparring.domains.recommenders.audit import audit, strata
from sparring.domains.recommenders.budget import fewest
from sparring.domains.recommenders.detectors import DETECTORS, noticed, threshold
from sparring.domains.recommenders.ease import EASE
from sparring.domains.recommenders.filtering import Filtered
from sparring.domains.recommenders.goals import promote
from sparring.domains.recommenders.interactions import Interactions, as_implicit
from sparring.domains.recommenders.measures import change, discounted, share
from sparring.domains.recommenders.result import Promotion, Suspicion
from sparring.domains.recommenders.shilling import average, popular, random
from sparring.domains.recommenders.synthetic import synthetic
from sparring.domains.recommenders.threats import FakeUsers
from sparring.errors import BadInput
from sparring.evaluate.statistics import clopper_pearson
from sparring.streams import Streams

RNG = Streams.of(0, [0])
DATA = synthetic(200, 150, length=30)
RARE = 109
"""Rated by 19 of the users, and before the attack in nobody's top ten."""
THREAT = FakeUsers(users=10, ratings=30)
CHEAP = {name: ATTACKS[name].make for name in ("random", "segment")}


def run(model: Any, data: Interactions = DATA, **given: Any) -> Promotion:
    return audit(model, data, THREAT, **({"items": [RARE], "attacks": CHEAP, "name": "mine"} | given))


def failed(found: Promotion) -> dict[str, str]:
    return {check.name: check.evidence for check in found.checks if check.outcome == "fail"}


def test_a_sound_audit_is_trusted_and_says_the_same_again() -> None:
    found, again = run(MF()), run(MF())
    assert found.verdict == "trusted"
    assert not failed(found)
    assert found.model_copy(update={"seconds": 0}) == again.model_copy(update={"seconds": 0})
    best, idle = found.strongest(DATA.names[RARE]), found.control[0]
    assert best.attacked.low > best.clean.high
    assert best.uplift.low > 0
    assert best.shift is not None
    assert best.shift.low > 0.1
    assert abs(idle.uplift.estimate) < 0.02
    assert len(best.by_seed) == 3


class Counting:
    """Ratings by a sound model; the more users there are, the better is one item, whatever they say."""

    def __call__(self, data: Interactions, rng: Streams) -> Tensor:
        scores = MF()(data, rng)
        scores[:, RARE] += 0.6 * (data.shape[0] - 200)
        return scores


def constant(data: Interactions, rng: Streams) -> Tensor:
    return torch.arange(data.shape[1]).float().expand(data.shape)


def noise(data: Interactions, rng: Streams) -> Tensor:
    return 3 + data.matrix.std() * rng.normal(*data.shape)[0]


def drawn_anew(data: Interactions, rng: Streams) -> Tensor:
    return MF()(data, rng) + float(int.from_bytes(os.urandom(2), "big")) * 1e-6


@pytest.mark.parametrize(
    ("model", "given", "verdict", "check"),
    [
        (constant, {}, "invalid", "reads-data"),
        (noise, {}, "suspect", "learns"),
        (Counting(), {}, "suspect", "control"),
        (MF(), {"seeds": 1}, "suspect", "seeds"),
        (MF(), {"attacks": {"random": random}}, "suspect", "informed"),
        (
            MF(),
            {"attacks": {**CHEAP, "greedy": lambda threat: average(FakeUsers(users=11, ratings=30))}},
            "suspect",
            "threat",
        ),
        (MF(), {"top": 140}, "suspect", "room"),
    ],
    ids=["reads-data", "learns", "control", "seeds", "informed", "threat", "room"],
)
def test_a_number_that_cannot_be_believed_is_not_trusted(
    model: Callable[..., Tensor], given: dict[str, Any], verdict: str, check: str
) -> None:
    found = run(model, **given)
    assert found.verdict == verdict
    assert check in failed(found)


def test_a_training_that_does_not_repeat_is_warned_of() -> None:
    assert {check.name: check.outcome for check in run(drawn_anew).checks}["repeats"] == "warn"


def test_fake_users_outside_of_the_threat_count_for_nothing() -> None:
    found = run(MF(), attacks={"random": random, "greedy": lambda threat: average(FakeUsers(users=99, ratings=30))})
    assert [one.attack for one in found.tried] == ["random"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda data, rng: torch.zeros(3, 3), "returns \\(3, 3\\)"),
        (lambda data, rng: None, "returns NoneType"),
        (lambda data, rng: torch.full(data.shape, torch.nan), "NaN"),
        (lambda data, rng: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_no_recommender_is_refused(model: Callable[..., Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        run(model)


def test_a_recommender_that_writes_to_its_data_changes_nothing_for_the_next_one() -> None:
    def careless(data: Interactions, rng: Streams) -> Tensor:
        scores = MF()(data, rng)
        data.matrix.zero_()
        data.rated.fill_(1)
        return scores

    assert run(careless).tried == run(MF()).tried


def test_an_attack_that_fails_is_named() -> None:
    for broken, said in ((lambda *given: 1 / 0, "mine raised ZeroDivisionError"), (lambda *given: 3, "returns a int")):
        with pytest.raises(BadInput, match=said):
            run(MF(), attacks={"mine": lambda threat, broken=broken: broken})


def test_items_that_many_see_can_be_pushed_down_by_ratings_and_not_by_clicks() -> None:
    down = {name: ATTACKS[name].make for name in ("random", "love-hate")}
    found = run(MF(), items=None, attacks=down, sign=-1)
    assert found.verdict == "trusted"
    assert len(found.items) == 3
    best = found.strongest(found.items[0])
    assert best.clean.estimate > 0.2
    assert best.attacked.estimate < best.clean.estimate / 2
    with pytest.raises(BadInput, match="implicit feedback"):
        audit(EASE(), as_implicit(DATA), THREAT, sign=-1)


@pytest.mark.parametrize("given", [{"items": [150]}, {"items": []}, {"items": [-1]}, {"seeds": 0}, {"top": 0}])
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        run(MF(), **given)


def test_data_in_which_nothing_can_be_measured_are_refused() -> None:
    once = torch.zeros(len(DATA.users), dtype=torch.bool).index_fill_(0, torch.tensor([0, 200, 900]), True)
    with pytest.raises(BadInput, match="more than one item"):
        run(MF(), DATA.kept(once))
    rated_by_all = DATA.kept(DATA.rated[DATA.users, RARE] > 0)
    some = Interactions(**{**vars_of(rated_by_all), "users": rated_by_all.users.unique(return_inverse=True)[1]})
    with pytest.raises(BadInput, match="have not rated it"):
        run(MF(), replace(some, shape=(int(some.users.max()) + 1, 150)))


def test_the_fewest_fake_users_are_found_by_bisection() -> None:
    for enough in range(1, 41):
        found, tries = fewest(lambda count, enough=enough: float(count >= enough), 1.0, 40)
        assert found == enough
        assert len(tries) <= 2 * (40).bit_length()
    assert fewest(lambda count: 0.0, 0.5, 40)[0] is None


def test_an_audit_says_how_few_would_do() -> None:
    found = run(MF(), reach=0.2)
    needed = found.needed
    assert needed is not None
    assert needed.users is not None
    assert needed.users < THREAT.users
    shares = dict(needed.tries)
    assert shares[needed.users] >= 0.2 > shares.get(needed.users - 1, 0)
    assert run(MF(), reach=1.0).needed.users is None  # type: ignore[union-attr]


def test_items_are_taken_from_three_strata() -> None:
    few, middle, many = DATA.popularity[strata(DATA)].tolist()
    assert few < middle < many


def test_intervals_are_exact_for_hits_and_cover_what_they_should() -> None:
    hits = torch.tensor([1.0] * 7 + [0.0] * 13)
    assert share(hits) == clopper_pearson(7, 20)
    assert share(torch.zeros(50)).high > 0.05
    thirds = share(torch.tensor([1 / 3] * 2 + [0.0] * 48))
    assert (thirds.low, thirds.high) == (0, clopper_pearson(1, 50).high)
    covered = 0
    for i in range(100):
        values = Streams.of(i, [0]).normal(60)[0] + 0.3
        found = change(values, Streams.of(i, [1]))
        covered += found.low <= 0.3 <= found.high
    assert 88 <= covered <= 99


def test_the_discount_is_that_of_ndcg() -> None:
    assert discounted(torch.tensor([1.0, 3.0, 11.0]), 10).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_does_not_know_who_is_fake_by_the_order_of_users(name: str) -> None:
    z = average(THREAT)(EASE(), DATA, promote(RARE), RNG)
    order = RNG.bits(z.shape[0])[0].argsort()
    places = torch.empty_like(order).index_put_((order,), torch.arange(len(order)))
    moved = Interactions(**{**vars_of(z), "users": places[z.users]})
    assert torch.allclose(DETECTORS[name](moved)[places], DETECTORS[name](z), rtol=1e-2, atol=1e-4)


def vars_of(data: Interactions) -> dict[str, Any]:
    return {name: getattr(data, name) for name in ("users", "items", "ratings", "times", "shape", "levels", "names")}


def seen(name: str, z: Interactions) -> Suspicion:
    return noticed(name, z, DATA.shape[0], threshold(name, DATA))


def test_random_profiles_are_noticed_and_popular_ones_less() -> None:
    z = {make: make(THREAT)(EASE(), DATA, promote(RARE), RNG) for make in (random, popular)}
    plain, hidden = (max(seen(name, z[make]).auc for name in ("pca", "rdma")) for make in (random, popular))
    assert plain > 0.95
    assert hidden < plain
    for name in DETECTORS:
        found = seen(name, z[random])
        assert 0 <= found.caught <= 1
        assert found.alarms < 0.05


def test_the_chance_of_a_detector_is_counted_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    z = random(FakeUsers(users=2, ratings=5))(EASE(), DATA, promote(RARE), RNG)
    scores = {200: torch.arange(200.0), 202: torch.cat([torch.arange(200.0), torch.tensor([198.5, 49.0])])}
    monkeypatch.setitem(DETECTORS, "mine", lambda data: scores[data.shape[0]])
    found = seen("mine", z)
    assert found.auc == pytest.approx((199 + 49.5) / 400)
    assert found.caught == 0.5


def test_a_filter_takes_the_sting_out_of_what_it_catches_and_costs_who_is_taken_for_fake() -> None:
    item = DATA.names[RARE]
    bare, behind = (
        run(model, attacks={"random": random, "popular": popular}) for model in (MF(), Filtered(recommender=MF()))
    )
    plain = [next(one for one in found.tried if one.attack == "random").attacked.estimate for found in (bare, behind)]
    assert plain[1] < plain[0]
    assert behind.strongest(item).attacked.estimate >= plain[1]
    assert torch.equal(Filtered(recommender=MF(), share=0.0)(DATA, RNG), MF()(DATA, RNG))


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`sparring promote` in the folder with the ratings: its status, and what it wrote."""

    def run_it(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["sparring", "promote", *words])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run_it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ratings, and with a recommender of one's own."""
    place = tmp_path_factory.mktemp("ratings")
    rows = zip(DATA.users.tolist(), DATA.items.tolist(), DATA.ratings.tolist(), DATA.times.tolist(), strict=True)
    lines = ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in rows)]
    (place / "ratings.csv").write_text("\n".join(lines), encoding="utf-8")
    (place / "mine.py").write_text(OWN, encoding="utf-8")
    return place


OWN = """
from sparring.domains.recommenders.shilling import average


def recommender():
    def fit(data, rng):
        counts = data.rated.sum(0)
        return ((data.matrix.sum(0) + 2 * data.ratings.mean()) / (counts + 2)).expand(data.shape)

    return fit


def attack(threat):
    return average(threat)
"""


def test_the_command_answers_and_keeps_what_it_found(folder: Path, command: Callable[..., Any]) -> None:
    words = ("ratings.csv", "--item", str(RARE), "--recommender", "mf", "--fake-users", "10", "--attack", "segment")
    status, out, err = command(*words, "--reach", "20%", "--out", "found", "--fail-over", "1%")
    assert status == 1
    assert "the gate is not passed" in out
    assert "trusted: " in out
    assert f"put item {RARE} into the top 10 of 20% of the users" in out
    assert "trainings" in err
    found = Promotion.model_validate(json.loads((folder / "found" / "result.json").read_text(encoding="utf-8")))
    assert found.needed is not None
    assert [one.attack for one in found.tried] == ["random", "segment"]
    assert (folder / "found" / "promote.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_takes_recommenders_and_attacks_of_ones_own(command: Callable[..., Any]) -> None:
    words = ("ratings.csv", "--item", str(RARE), "--recommender", "mine.py:recommender", "--fake-users", "10")
    status, out, _ = command(*words, "--attack", "mine.py:attack", "--seeds", "1")
    assert status == 0
    assert "mine.py:attack" in out
    assert "suspect" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing.csv", "--recommender", "mf"], "'nothing.csv'"),
        (["ratings.csv"], "--recommender"),
        (["ratings.csv", "--recommender", "user-kn"], "did you mean 'user-knn'?"),
        (["ratings.csv", "--recommender", "mf", "--item", "none"], "item 'none'"),
        (["ratings.csv", "--recommender", "mf", "--fake-users", "lots"], "fake users 'lots'"),
        (["ratings.csv", "--recommender", "mf", "--attack", "optimised"], "attack 'optimised' on ratings"),
        (["ratings.csv", "--recommender", "mf", "--reach", "half"], "'half' is no share"),
        (["ratings.csv", "--recommender", "mf", "--at-least", "4"], "--at-least"),
        (["ratings.csv", "--recommender", "mf", "--top", "150"], "the top 150"),
        (["ratings.csv", "--recommender", "mf", "--filter", "pcb"], "did you mean 'pca'?"),
        (["ratings.csv", "--recommender", "ease", "--down"], "implicit feedback"),
        (["ratings.csv", "--recommender", "mine.py:absent"], "absent"),
        (["ratings.csv", "--recommender", "mf", "--out", "ratings.csv"], "is a file"),
    ],
)
def test_wrong_use_is_said_in_one_line(command: Callable[..., Any], words: list[str], said: str) -> None:
    status, _, err = command(*words)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_the_command_is_there_and_loads_nothing_before_it_is_asked() -> None:
    code = "import sys, sparring.cli; print(any('recommenders.audit' in one for one in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
    assert "promote" in sparring.cli.cli.commands
