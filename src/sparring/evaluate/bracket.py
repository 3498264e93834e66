"""The lower end of the bracket `certified <= true <= attacked`: which examples are proved to stand, and how far.

Certificates are tried from cheap to dear, each first on a few of the examples that look safest: one that proves none
of these is passed over. What is proved is not attacked again. Every batch goes through the ledger, as attacks' do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sparring.certify.answers import Certificate
from sparring.certify.graph import Graph
from sparring.certify.reading import TOGETHER, graph
from sparring.certify.wordings import OfWords, of_words
from sparring.errors import BadInput
from sparring.evaluate.ledger import Ledger, Outcome
from sparring.evaluate.proofs import Bounds
from sparring.evaluate.run import Watch, go_on
from sparring.models.victim import Victim
from sparring.registry import find
from sparring.threats import Ball
from sparring.types import Data

LADDER = ("interval", "crown", "alpha-crown", "branch-and-bound")
"""From cheap to dear, and from loose to tight."""

WALKS = frozenset(LADDER[:-1])
"""Those that take passes, where branch and bound takes seconds an example: they are asked for other sizes too."""

PROBED = 16
"""Examples that a certificate has to prove one of, before it is given the rest."""


@dataclass(frozen=True)
class Settled:
    """What certificates settled: `proved` says which of them proved an example, `outcomes` has all by certificate.

    Branch and bound meets inputs that break on its way: their outcomes count, as an attack's do.
    """

    proved: Mapping[int, str]
    outcomes: Mapping[str, Mapping[int, Outcome]]


@dataclass(frozen=True)
class Prover:
    """Certificates up to a rung of the ladder, for a network and its data."""

    net: Graph
    data: Data
    threat: Ball
    rungs: tuple[tuple[str, Certificate], ...]
    ledger: Ledger
    watch: Watch

    def among(self, names: Collection[str]) -> Prover:
        """The same, with these of its certificates alone."""
        return replace(self, rungs=tuple(rung for rung in self.rungs if rung[0] in names))

    def __call__(self, eps: float, examples: Sequence[int]) -> Settled:
        """What becomes of the examples, given the safest first, when the attacker may go as far as eps."""
        proved: dict[int, str] = {}
        outcomes: dict[str, dict[int, Outcome]] = {}
        left = list(examples)
        for name, certificate in self.rungs:
            outcomes[name] = {}
            asked = Bounds(net=self.net, data=self.data, threat=self.threat.at(eps), certificate=certificate)
            for some in filter(None, (left[:PROBED], left[PROBED:])):
                said = go_on(self.ledger, entry(name, eps), some, asked.batches, self.watch)
                found = {example: name for example, one in said.items() if (one.margin or 0.0) > asked.needed}
                outcomes[name] |= said
                proved |= found
                if not found:
                    break
            left = [example for example in left if example not in proved]
        return Settled(proved, outcomes)


def entry(name: str, eps: float) -> str:
    """What the ledger calls a certificate at a size."""
    return f"certified: {name} at {eps:g}"


def rungs(upto: str, threat: Ball) -> tuple[str, ...]:
    """The certificates from the cheapest to the one named.

    Raises:
        BadInput: no such certificate, or a norm that it has no bounds for.
    """
    if upto not in LADDER:
        raise BadInput(f"certificate {upto!r}", f"one of {', '.join(LADDER)}", "see: sparring list certificates")
    chosen = LADDER[: LADDER.index(upto) + 1]
    members = {name: find("certificates", name) for name in chosen}
    fitting = tuple(
        name
        for name, entry in members.items()
        if (entry.threats if threat.discrete else threat.norm.name in entry.norms)
    )
    if not fitting:
        raise BadInput(f"certificates for {threat}", "linf, l2 or l1", "leave --certify out")
    return fitting


def prover(victim: Victim, data: Data, threat: Ball, upto: str) -> Callable[[Ledger, Watch], Prover]:
    """What proves, once there is a ledger to write to.

    Raises:
        BadInput: no torch network behind the model, an operation or a norm that has no bounds, no such certificate.
    """
    ladder = tuple((name, find("certificates", name).make()) for name in rungs(upto, threat))
    if threat.discrete:
        net, vectors = of_words(victim, data.take(range(min(len(data), TOGETHER)))[0])
        ladder = tuple((name, OfWords(walk, vectors)) for name, walk in ladder)  # such as have lines
    else:
        net = graph(victim, data.take([0])[0])
    return lambda ledger, watch: Prover(net, data, threat, ladder, ledger, watch)
