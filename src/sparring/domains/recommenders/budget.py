"""How few fake users are enough: bisection over their number."""

from __future__ import annotations

from collections.abc import Callable


def fewest(reached: Callable[[int], float], wanted: float, most: int) -> tuple[int | None, list[tuple[int, float]]]:
    """The least number from 1 to `most` that reaches `wanted`, if more never reach less; and what was tried.

    None where `most` do not reach it. About `2 log2(most)` tries at most: numbers are doubled first, since few are
    cheaper to try than many. Where more do reach less, it is a number that reaches `wanted`, below which one does not.
    """
    tries: list[tuple[int, float]] = []

    def enough(count: int) -> bool:
        tries.append((count, reached(count)))
        return tries[-1][1] >= wanted

    low, high = 0, 1
    while not enough(high):
        if high == most:
            return None, tries
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high, tries
