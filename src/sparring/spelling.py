"""Names that were meant: what a user wrote, and the name that is nearest to it."""

from __future__ import annotations

from collections.abc import Iterable

BEGUN = 3
"""Fewer letters than these begin too many names to mean one of them."""


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """What to do about a name that there is not: take the nearest one, if one is near."""
    near = nearest(name, known)
    return otherwise if near is None else f"did you mean {near!r}?"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant, most likely.

    That is the shortest that begins with what was written, hyphens aside, if this has at least `BEGUN` letters; else
    the one with the fewest slips, if these are few for its length. Upper and lower case are one. A letter too many,
    too few, another, or two that are swapped are one slip each.
    """
    known, start = list(known), _joined(name)
    begun = [one for one in known if _joined(one).startswith(start)] if len(start) >= BEGUN else []
    if begun:
        return min(begun, key=lambda one: (len(one), _slips(name, one)))
    slips = {one: (_slips(name.casefold(), one.casefold()), _slips(name, one)) for one in known}
    near = min(slips, key=slips.__getitem__, default=None)
    return near if near is not None and slips[near][0] <= (len(name) + 1) // 3 else None


def _joined(name: str) -> str:
    """A name in lower case, as one word."""
    return name.casefold().translate(dict.fromkeys(map(ord, "-_ ")))


def _slips(a: str, b: str) -> int:
    """How many slips turn one word into the other (the optimal string alignment distance)."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        rows.append([i])
        for j, y in enumerate(b, 1):
            fewest = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (x != y))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                fewest = min(fewest, rows[i - 2][j - 2] + 1)
            rows[i].append(fewest)
    return rows[-1][-1]
