"""Ratings: out of files, in order, with last ones held out; what is refused, and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparring.domains.recommenders.interactions import Interactions, as_implicit, leave_last_out
from sparring.domains.recommenders.reading import load
from sparring.domains.recommenders.synthetic import synthetic
from sparring.errors import BadInput

ROWS = [("7", "42", 5, 30), ("7", "9", 3, 10), ("8", "42", 1, 20), ("8", "11", 4, 5), ("9", "11", 2, 1)]


def written(folder: Path, name: str, between: str, head: str = "") -> Path:
    path = folder / name
    lines = ([head] if head else []) + [between.join(map(str, row)) for row in ROWS]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "between", "head"),
    [
        ("u.data", "\t", ""),
        ("ratings.dat", "::", ""),
        ("ratings.csv", ",", "userId,movieId,rating,timestamp"),
        ("mine.inter", "\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
    ],
)
def test_every_form_of_a_file_says_the_same(tmp_path: Path, name: str, between: str, head: str) -> None:
    data = load(written(tmp_path, name, between, head))
    assert data.shape == (3, 3)
    assert data.names == ("42", "9", "11")
    assert data.levels == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert data.matrix.tolist() == [[5, 3, 0], [1, 0, 4], [0, 0, 2]]
    assert data.item("11") == 2
    assert not data.implicit


def test_columns_may_stand_in_any_order_and_without_ratings_feedback_is_implicit(tmp_path: Path) -> None:
    (tmp_path / "seen.csv").write_text("item,when,user\na,1,x\nb,2,x\na,3,y\n", encoding="utf-8")
    data = load(tmp_path / "seen.csv")
    assert data.implicit
    assert data.rated.tolist() == [[1, 1], [1, 0]]


def test_of_two_ratings_the_later_one_counts(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t1\t5\t20\n1\t1\t2\t10\n1\t2\t3\t1\n", encoding="utf-8")
    assert load(tmp_path / "u.data").matrix.tolist() == [[5, 3]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "columns userId"),
        ("userId,movieId,rating\n", "no ratings"),
        ("userId,movieId,rating\n1,2,good\n", "numbers as rating"),
        ("userId,movieId,rating\n1,2\n", "columns"),
        ("userId,movieId,rating\n" + "".join(f"1,{i},{i}\n" for i in range(60)), "60 different ratings"),
    ],
)
def test_files_that_hold_no_ratings_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said) as refusal:
        load(path)
    assert "\n" not in str(refusal.value)


def test_a_file_and_an_item_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load(tmp_path / "nothing.csv")
    with pytest.raises(BadInput, match="item '7777'"):
        synthetic(20, 30, length=8).item("7777")


def test_what_cannot_be_is_refused() -> None:
    data = synthetic(20, 30, length=8)
    parts = {name: getattr(data, name) for name in ("users", "items", "ratings", "times", "levels", "names", "shape")}
    for wrong, said in (
        ({"users": data.users + 1}, "users outside"),
        ({"items": data.items + 1}, "items outside"),
        ({"items": data.items * 0}, "rates twice"),
        ({"ratings": data.ratings + 0.5}, "no level"),
        ({"shape": (10**6, 10**6)}, "at most"),
    ):
        with pytest.raises(BadInput, match=said):
            Interactions(**(parts | wrong))  # type: ignore[arg-type]


def test_the_last_rating_of_every_user_is_held_out_and_no_other() -> None:
    data = synthetic(50, 60, length=12)
    train, held = leave_last_out(data)
    assert len(train.users) + len(held.users) == len(data.users)
    assert torch.equal(held.users.sort().values, torch.arange(50))
    for user, time in zip(held.users, held.times, strict=True):
        assert time == data.times[data.users == user].max()


def test_who_has_a_single_rating_keeps_it(tmp_path: Path) -> None:
    train, held = leave_last_out(load(written(tmp_path, "u.data", "\t")))
    assert train.matrix.tolist() == [[0, 3, 0], [0, 0, 4], [0, 0, 2]]
    assert held.matrix.tolist() == [[5, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_joined_users_come_last_and_leave_the_others_alone() -> None:
    data = synthetic(20, 30, length=8)
    profiles = torch.full((2, 30), torch.nan)
    profiles[0, 3], profiles[1, 4] = 5, 1
    z = data.joined(profiles)
    assert z.shape == (22, 30)
    assert torch.equal(z.matrix[:20], data.matrix)
    assert z.matrix[20:].nonzero().tolist() == [[0, 3], [1, 4]]
    assert z.times[-1] > data.times.max()


def test_implicit_feedback_keeps_what_was_liked() -> None:
    data = synthetic(20, 30, length=8)
    assert torch.equal(as_implicit(data).rated, data.rated)
    assert torch.equal(as_implicit(data, at_least=4).rated, (data.matrix >= 4).float())


def test_made_up_ratings_look_like_real_ones() -> None:
    data = synthetic()
    popular = data.popularity.sort(descending=True).values.float()
    assert popular[:80].sum() / popular.sum() > 0.4  # a fifth of the items has most of the ratings
    assert 30 <= int(data.activity.median()) <= 50
    assert torch.equal(data.matrix, synthetic().matrix)
    assert not torch.equal(data.matrix, synthetic(seed=1).matrix)
