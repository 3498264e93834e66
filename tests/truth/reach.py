"""How close an attack must come to the optimum of a linear model, where that is not 98 percent, and why."""

from __future__ import annotations

from typing import Any

REACH: dict[str, float] = {
    # attack of a fixed budget: the share of the best gain, when the attack is not made to reach all of it
}

WITHIN: dict[str, float] = {
    # attack for the smallest perturbation: how many times the distance to the boundary, instead of 1.05
}

BUDGET: dict[str, dict[str, Any]] = {
    # settings for the truth tests, where the defaults cost more than they need to
    "square": {"queries": 3000},
}
