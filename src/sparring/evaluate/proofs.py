"""Proofs: what a certificate, or smoothing, says of every example of a data set.

Every batch goes through the ledger, as attacks' do: a run that was killed goes on from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from sparring import __version__
from sparring.certify.answers import Certificate, rounded_down
from sparring.certify.graph import Graph, classes
from sparring.certify.lipschitz import slopes
from sparring.certify.reading import graph
from sparring.certify.region import Region
from sparring.certify.smoothing import Asked, Smoothing, enough
from sparring.errors import BadInput
from sparring.evaluate import identity
from sparring.evaluate.ledger import Cost, Ledger, Outcome
from sparring.evaluate.result import Interval, Record, environment, recorded
from sparring.evaluate.run import Bout, Watch, accept, as_stored, go_on, home, silent
from sparring.evaluate.statistics import clopper_pearson
from sparring.goals import Untargeted
from sparring.models.victim import Victim, inference, scores
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.types import Data


class Proof(Record):
    """What was found of one example."""

    index: int
    label: int
    answer: int
    """What the model says; -1 for an abstention of smoothing."""
    right: bool
    lower: float | None
    """Of the margin within the threat, or of the radius, by smoothing; null for wrong answers, and without a bound."""
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

    @property
    def needed(self) -> float:
        """What a bound has to be above."""
        return 0.0

    def batches(self, examples: Sequence[int]) -> Iterator[Bout]:
        """What is said of these examples, as it comes: one by one where each takes seconds.

        Raises:
            BadInput: inputs that are not finite, or outside of the bounds; labels that the model does not have.
        """
        for start in range(0, len(examples), self.certificate.at_once):
            yield self._batch(examples[start : start + self.certificate.at_once])

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
        return bool(Untargeted(label).reached(self._said(as_stored(z, self.threat))))

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


def smoothing(victim: Victim, data: Data, threat: Ball, *, sigma: float, n: int) -> Smoothing:
    """How it is asked whether radii reach a threat: by distances where slopes of the model are known, else by votes."""
    try:
        known = slopes(victim, data.take([0])[0])
    except BadInput:
        known = None
    first = 1000 if known else 100  # where reaches are chosen, more must be known of the samples to come
    return Smoothing(sigma=sigma, n0=first, n=n, rule=Asked(threat.eps), slopes=known)


def prove(
    victim: Victim,
    data: Data,
    threat: Ball,
    how: Certificate | Smoothing,
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
        BadInput: a model or a threat that has no bounds; another threat than one in L2, for smoothing; inputs that are
            not finite, or outside of the bounds; a run in `out` with other settings, or an unfinished one.
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


def _put(victim: Victim, data: Data, threat: Ball, how: Certificate | Smoothing, seed: int) -> Bounds | Votes:
    """The method, put to the model and the data, where it can be."""
    x = data.take([0])[0]
    accept(x, data, threat)
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
