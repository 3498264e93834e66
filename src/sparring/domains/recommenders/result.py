"""What an audit of a recommender says: the numbers, what they rest on, and whether they can be trusted."""

from __future__ import annotations

from sparring.evaluate.result import Check, Fraction, Interval, Record, Verdict


class Change(Record):
    """A mean difference over users, with the 95 % interval of a paired bootstrap."""

    estimate: float
    low: float
    high: float


class Service(Record):
    """How good the recommendations are of what users did next."""

    hit_rate: Fraction
    ndcg: Fraction
    rmse: float | None = None
    """Where there are ratings, in stars."""


class Suspicion(Record):
    """How well a detector tells the fake users of an attack from the real ones."""

    detector: str
    auc: Fraction
    """The chance that a fake user is more suspect than a real one; a half is none at all."""
    caught: Fraction
    """The share of the fake users above a threshold that 1 % of the users reach on the data before the attack."""
    alarms: Fraction
    """The share of the real users above it."""


class Tried(Record):
    """What an attack did for one item, among the users who may be shown it."""

    attack: str
    item: str
    ratings: int
    """How many users had rated the item before."""
    eligible: int
    clean: Interval
    """The share of these users who have it among the top ones before the attack."""
    attacked: Interval
    by_seed: list[Fraction]
    uplift: Change
    shift: Change | None
    """How many stars its predicted rating moves; None without ratings."""
    clean_percentile: Fraction
    """Where it stands for the median user: 0 at the top, 1 at the bottom."""
    percentile: Fraction
    ndcg: Fraction
    service: Service
    suspicion: list[Suspicion]


class Needed(Record):
    """How few fake users reach a share of the users."""

    item: str
    attack: str
    wanted: Fraction
    users: int | None
    """None where even the most that the threat allows do not suffice."""
    share: float | None
    """The same as a share of the real users."""
    reached: Fraction
    """The share of the users that so many reach, over all seeds; else the most do."""
    tries: list[tuple[int, Fraction]]
    """Numbers of fake users that the bisection tried, and the share of the users that each reached, once trained."""


class Promotion(Record):
    """The whole result. `result.json` has just this."""

    schema_: int = 1
    verdict: Verdict
    reasons: list[str]
    recommender: str
    data: dict[str, int | float | str | bool]
    threat: dict[str, int | float]
    top: int
    sign: int
    clean: Service
    tried: list[Tried]
    control: list[Tried]
    """Of the fake users of `random`, who do not rate the item."""
    needed: Needed | None
    checks: list[Check]
    seeds: int
    seed: int
    seconds: float
    environment: dict[str, str]
    command: str

    def strongest(self, item: str) -> Tried:
        """The attack that did most for an item; of equals the one that moved it further."""
        return max(
            (one for one in self.tried if one.item == item),
            key=lambda one: (self.sign * one.attacked.estimate, -self.sign * one.percentile),
        )

    @property
    def items(self) -> list[str]:
        """The items that were attacked, in order."""
        return list(dict.fromkeys(one.item for one in self.tried))
