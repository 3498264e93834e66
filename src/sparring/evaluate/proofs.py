"""Proofs: what a certificate says of every example of a data set.

Every batch goes through the ledger, as attacks' do: a run that was killed goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from sparring import __version__
from sparring.certify.answers import Certificate, rounded_down
from sparring.certify.crown import Walk
from sparring.certify.graph import Graph, classes
from sparring.certify.lipschitz import slopes
from sparring.certify.masking import PatchCleanser
from sparring.certify.reading import graph
from sparring.certify.region import Region
from sparring.certify.smoothing import Smoothing, enough
from sparring.certify.wordings import OfWords, of_words
from sparring.errors import BadInput
from sparring.evaluate import identity
from sparring.evaluate.ledger import Cost, Ledger, Outcome
from sparring.evaluate.outputs import agree
from sparring.evaluate.result import Interval, Record, environment, recorded
from sparring.evaluate.run import Bout, Watch, accept, as_stored, asked, go_on, home, silent
from sparring.evaluate.statistics import clopper_pearson
from sparring.goals import Untargeted
from sparring.models.victim import Victim, inference, scores
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Boxed, Data
from sparring.views import Counted

Method = Certificate | Smoothing | PatchCleanser
"""What proves: bounds of a network, or a model that is made of any classifier."""


class Proof(Record):
    """What was found of one example."""

    index: int
    label: int
    answer: int
    """What the model says, or the model that is made of it; -1 for an abstention of smoothing."""
    right: bool
    lower: float | None
    """Of the margin within the threat; of the radius, by smoothing; of the lead whichever two windows are hidden, by
    double masking. Null for wrong answers, and without a bound."""
    certified: bool
    broken: bool | None = None
    """Whether an input was found that changes the answer; null for methods that do not look for one."""


class Proofs(Record):
    """A data set, certified. `certified_accuracy` is a lower bound of the true robust accuracy."""

    schema_: Literal[1] = Field(1, alias="schema")
    name: str
    data: str
    method: str
    threat: dict[str, float | str]
    examples: int
    right: int
    certified: int
    broken: int | None
    certified_accuracy: Interval
    environment: dict[str, str]
    per_example: tuple[Proof, ...]

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A certificate, put to a network and its data: an outcome's margin is its lower bound, a proof above zero."""

    net: Graph
    data: Data
    threat: Ball
    certificate: Certificate
    needed: ClassVar[float] = 0.0
    """What a bound has to be above."""

    def batches(self, examples: Sequence[int]) -> Iterator[Bout]:
        """What is said of these examples, as it comes: one by one where each takes seconds.

        Raises:
            BadInput: inputs that are not finite, or outside of the bounds; labels that the model does not have.
        """
        return map(self._batch, _in_turn(examples, self.certificate.at_once(self.net)))

    def _batch(self, examples: Sequence[int]) -> Bout:
        began = time.perf_counter()
        x, labels = self.data.take(examples)
        accept(x, self.data, self.threat)
        _known(labels, self.data, classes(self.net))
        answers = self._said(x).argmax(1)
        right = (answers == labels).nonzero().flatten()
        found = self.certificate.answers(self.net, x[right], labels[right], self.threat)
        lower = rounded_down(torch.tensor([one.lower for one in found], dtype=torch.float64)).tolist()
        of = {row: (bound, one.z) for row, bound, one in zip(right.tolist(), lower, found, strict=True)}
        outcomes = []
        for row, example in enumerate(examples):
            bound, z = of.get(row, (None, None))
            label = labels[row : row + 1]
            outcomes.append(
                Outcome(
                    example=example,
                    label=int(label),
                    prediction=int(answers[row]),
                    reached=z is not None,
                    counts=z is not None,
                    distance=None if z is None else float(self.threat.distance(z, x[row : row + 1])),
                    margin=bound,
                    survives_storage=None if z is None else self._survives(z, label),
                    z=None if z is None else z[0],
                )
            )
        return outcomes, Cost(forward=len(examples), seconds=time.perf_counter() - began)

    def _survives(self, z: Tensor, label: Tensor) -> bool:
        """Whether an input that changes the answer still does so out of an 8-bit file."""
        return bool(Untargeted(label).reached(self._said(as_stored(z, self.threat, self.data))))

    def _said(self, x: Tensor) -> Tensor:
        """The outputs of the network itself: the graph's, in float64, may break a tie that float32 has."""
        model = self.net.source or self.net
        with inference(model), torch.no_grad():
            return model(x)


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Smoothing, put to a model and its data: an outcome's margin is the radius, 0 for an abstention."""

    victim: Victim
    data: Data
    threat: Ball
    smoothing: Smoothing
    seed: int
    classes: int

    @property
    def needed(self) -> float:
        """What a radius has to be above."""
        return enough(self.threat.eps)

    def batches(self, examples: Sequence[int]) -> Iterator[Bout]:
        """What is said of these examples, one by one.

        Raises:
            BadInput: inputs that are not finite, or outside of the bounds; labels that the model does not have.
        """
        for example in examples:
            began = time.perf_counter()
            x, label = self.data.take([example])
            accept(x, self.data, self.threat)
            _known(label, self.data, self.classes)
            found = self.smoothing(self.victim, x.to(home(self.victim)), Streams.of(self.seed, [example]))
            outcome = Outcome(
                example=example,
                label=int(label),
                prediction=int(found.answer),
                reached=False,
                margin=float(found.radius) if bool(found.answer == label) else None,
            )
            yield [outcome], Cost(forward=int(found.samples), seconds=time.perf_counter() - began)


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Double masking, put to a model and its data: an outcome's margin is the least lead, a proof above zero."""

    victim: Victim
    data: Data
    masking: PatchCleanser
    classes: int
    needed: ClassVar[float] = 0.0
    """What a lead has to be above."""

    def batches(self, examples: Sequence[int]) -> Iterator[Bout]:
        """What is said of these examples, as it comes.

        Raises:
            BadInput: inputs that are not finite, or outside of the bounds; labels that the model does not have.
        """
        return map(self._batch, _in_turn(examples, AT_ONCE))

    def _batch(self, examples: Sequence[int]) -> Bout:
        began = time.perf_counter()
        x, labels = (part.to(home(self.victim)) for part in self.data.take(examples))
        accept(x, self.data, self.masking.threat)
        _known(labels, self.data, self.classes)
        bare = Counted(asked(self.victim))
        with inference(self.victim), torch.no_grad():
            answers = self.masking.defend(bare)(x).argmax(1)
            right = (answers == labels).nonzero().flatten()
            least = self.masking.least(bare, x[right], labels[right])
        lead = dict(zip(right.tolist(), least.tolist(), strict=True))
        outcomes = [
            Outcome(
                example=example,
                label=int(labels[row]),
                prediction=int(answers[row]),
                reached=False,
                margin=lead.get(row),
            )
            for row, example in enumerate(examples)
        ]
        return outcomes, Cost(forward=bare.forward, seconds=time.perf_counter() - began)


AT_ONCE = 16
"""Examples that double masking looks at together: what a killed run may lose."""


def _in_turn(examples: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """So many of the examples at a time."""
    return (examples[start : start + size] for start in range(0, len(examples), size))


def with_slopes(how: Smoothing, victim: Victim, data: Data) -> Smoothing:
    """Smoothing by distances, where slopes of the model are known; by votes as before, where they are not."""
    try:
        known = slopes(victim, data.take([0])[0])
    except BadInput:
        return how
    return replace(how, n0=max(how.n0, 1000), slopes=known)  # to choose reaches, more must be known of the samples


def prove(
    victim: Victim,
    data: Data,
    threat: Boxed,
    how: Method,
    *,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
    watch: Watch = silent,
) -> Proofs:
    """Say of every example whether its answer is right, and proved to stay so within the threat.

    With `out`, a folder, the run keeps a ledger there, from which `resume` goes on, and leaves `proofs.json`. Of a
    killed run a batch is lost at most; the result is that of an undisturbed one, save where branch and bound runs out
    of time. `seed` is that of smoothing's noise.

    Raises:
        BadInput: a model or a threat that has no bounds; another threat than one in L2 for smoothing, or than its own
            for double masking; inputs that are not finite, or outside of the bounds; a run in `out` with other
            settings, or an unfinished one.
    """
    method = _put(victim, data, threat, how, seed)
    searched = isinstance(method, Bounds) and method.certificate.searches
    settings: dict[str, object] = {
        "version": __version__,
        "model": identity.of_model(victim, data),
        "data": identity.of_data(data),
        "threat": identity.of_attack(threat),
        "method": str(how),
        "seed": seed,
    }
    with Ledger(None if out is None else out / "ledger.sqlite", settings, resume=resume) as ledger:
        found = go_on(ledger, "certify", range(len(data)), method.batches, watch)
        per_example = tuple(_proof(one, method.needed, searched) for one in found.values())
        certified = sum(one.certified for one in per_example)
        proofs = Proofs(
            schema=1,
            name=victim.name,
            data=data.name,
            method=str(how),
            threat=recorded(threat),
            examples=len(data),
            right=sum(one.right for one in per_example),
            certified=certified,
            broken=sum(bool(one.broken) for one in per_example) if searched else None,
            certified_accuracy=clopper_pearson(certified, len(data)),
            environment=environment(),
            per_example=per_example,
        )
        if out is not None:
            proofs.save(out / "proofs.json")
        ledger.finish()
    return proofs


def _put(victim: Victim, data: Data, threat: Boxed, how: Method, seed: int) -> Bounds | Votes | Masked:
    """The method, put to the model and the data, where it can be."""
    x = data.take([0])[0]
    accept(x, data, threat)
    if isinstance(how, PatchCleanser):
        if threat != how.threat:
            raise BadInput(f"double masking for {how.threat}, within {threat}", "one threat", "give it the threat")
        return Masked(victim=victim, data=data, masking=how, classes=_steadily(victim, x))
    if not isinstance(threat, Ball):
        raise BadInput(f"bounds within {threat}", "a norm: linf, l2 or l1", "see: sparring list certificates")
    if threat.discrete:
        return _of_words(victim, data, threat, how)
    if not isinstance(how, Smoothing):
        Region.of(threat, x)  # refuses a norm that has no bounds
        net = graph(victim, x)
        classes(net)
        return Bounds(net=net, data=data, threat=threat, certificate=how)
    if threat.norm.name != "l2":
        raise BadInput(f"smoothing within {threat}", "an l2 threat", "write for example l2:0.5")
    with inference(victim), torch.no_grad():
        count = scores(victim, x.to(home(victim))).shape[1]
    return Votes(victim=victim, data=data, threat=threat, smoothing=how, seed=seed, classes=count)


def _of_words(victim: Victim, data: Data, threat: Ball, how: Certificate | Smoothing) -> Bounds:
    """Bounds over all wordings, of a network of whole words."""
    if not isinstance(how, Walk):
        raise BadInput(f"{how} within {threat}", "interval, crown or alpha-crown", "see: sparring list certificates")
    net, vectors = of_words(victim, data.take(range(min(len(data), AT_ONCE)))[0])
    classes(net)
    return Bounds(net=net, data=data, threat=threat, certificate=OfWords(how, vectors))


def _steadily(victim: Victim, x: Tensor) -> int:
    """How many classes a model has that says the same of an input whenever it is asked.

    Raises:
        BadInput: one that is random, or says NaN.
    """
    with inference(victim), torch.no_grad():
        one, other = (scores(asked(victim), x.to(home(victim))) for _ in range(2))
    if bool(one.isnan().any()):
        raise BadInput(f"{victim.name}, whose scores are NaN", "numbers", "run: sparring doctor")
    if not agree(one, other):
        raise BadInput(
            f"{victim.name}, which gives other outputs at every call", "one that is not random", "use smoothing, in l2"
        )
    return one.shape[1]


def _known(labels: Tensor, data: Data, count: int) -> None:
    """Refuse labels that the model can never give."""
    if bool(((labels < 0) | (labels >= count)).any()):
        raise BadInput(
            f"labels from {int(labels.min())} to {int(labels.max())} in {data.name}, for a model of {count} classes",
            f"labels from 0 to {count - 1}",
            "check that data and model belong together, and that labels count from 0",
        )


def _proof(outcome: Outcome, needed: float, attacked: bool) -> Proof:
    """A line of the result, out of a line of the ledger."""
    bound = outcome.margin
    return Proof(
        index=outcome.example,
        label=outcome.label,
        answer=outcome.prediction,
        right=outcome.prediction == outcome.label,
        lower=bound if bound is not None and math.isfinite(bound) else None,
        certified=bound is not None and bound > needed,
        broken=outcome.reached if attacked else None,
    )
