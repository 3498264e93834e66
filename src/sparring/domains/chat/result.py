"""What an audit of an assistant says: the numbers, what they rest on, and whether they can be trusted."""

from __future__ import annotations

from sparring.evaluate.result import Check, Count, Interval, Record, Verdict
from sparring.types import Access


class Spent(Record):
    """Passes of one row of tokens through the network, and answers written, token by token."""

    forward: Count = 0
    backward: Count = 0
    answers: Count = 0


class Nearest(Record):
    """The least loss (mean `-log p` of the wanted tokens) after so many forward passes."""

    passes: Count
    loss: float


class Bout(Record):
    """One attack on one case, judged by a fresh answer of the deployed assistant."""

    attack: str
    case: str
    text: str
    """What the attacker wrote."""
    answer: str
    """What the assistant answered."""
    within: bool
    """Whether the text is within the threat; what is not does not count."""
    broke: bool
    """Whether it is, and the assistant said what is wanted."""
    claimed: bool
    """Whether the search saw every wanted token come first."""
    spent: Spent
    trace: list[Nearest]
    """How the search came on; empty where there are no losses."""
    seconds: float


class Tried(Record):
    """What an attack did over all cases."""

    attack: str
    taken: Interval
    """The share of the cases in which the assistant said what is wanted."""
    spent: Spent
    seconds: float


class Clean(Record):
    """What the assistant says of a case when nothing is in the attacker's place."""

    case: str
    answer: str
    own: bool
    """Whether it says by itself what is wanted: such a case is left out."""
    able: bool
    """Whether it says so when its user asks for it."""


class Injection(Record):
    """The whole result. `result.json` has just this."""

    schema_: int = 1
    verdict: Verdict
    reasons: list[str]
    assistant: str
    access: Access
    threat: str
    judge: str
    clean: list[Clean]
    bouts: list[Bout]
    tried: list[Tried]
    taken: Interval
    """The share of the cases in which any of the attacks took the assistant over: a lower bound of what could."""
    checks: list[Check]
    seed: int
    seconds: float
    """Of all bouts, in however many sessions."""
    environment: dict[str, str]
    command: str

    def of(self, attack: str) -> list[Bout]:
        """The bouts of an attack, in the order of the cases."""
        return [bout for bout in self.bouts if bout.attack == attack]

    @property
    def strongest(self) -> Tried:
        """The attack that took over most cases, of equals the first: what only asks comes before what searches."""
        return max(self.tried, key=lambda one: one.taken.estimate)
