"""What is audited: the model, its data, the threat, and what the doctor said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sparring import __version__
from sparring.attacks import each_way
from sparring.evaluate import identity
from sparring.evaluate.doctor import Diagnosis
from sparring.evaluate.run import DRAWS
from sparring.evaluate.suites import Suite, among_winners, build, last_resort
from sparring.evaluate.ways import way_of
from sparring.models.victim import Victim
from sparring.tasks import of
from sparring.threats import Ball
from sparring.types import Access, Attack, Data, Defence

CURVE = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Where accuracy is measured, as multiples of the audited eps."""

Make = Callable[[Ball], Attack]
"""An attack of the same kind on a threat of any size."""


@dataclass(frozen=True)
class Wrapped:
    """An attack of a kind, inside of another one."""

    make: Make
    wrap: Callable[[Attack], Attack]

    def __call__(self, threat: Ball) -> Attack:
        """The attack on this threat, wrapped."""
        return self.wrap(self.make(threat))


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is audited, and what the doctor said of it."""

    victim: Victim
    data: Data
    threat: Ball
    suite: str
    passes: int | None
    certify: str | None
    seed: int
    behind: Defence | None
    diagnosis: Diagnosis
    command: str

    @property
    def access(self) -> Access:
        """What the attacker has, once looked at: a model without gradients gives scores."""
        found = self.diagnosis
        return "scores" if self.victim.access == "gradients" and not found.differentiable else self.victim.access

    @property
    def draws(self) -> int:
        """Calls that are averaged; one where the model is not random."""
        if not self.diagnosis.failed("randomness"):
            return 1
        return DRAWS if self.behind is None else max(DRAWS, self.behind.draws)

    def plan(self) -> Suite:
        """The suite; where gradients cannot be relied on, with a long black-box attack on all that stands."""
        plan = self._built(self.access)
        doubtful = ("gradients", "finite-differences", "shattered-gradients", "hidden-paths")
        if self.access == "gradients" and any(self.diagnosis.failed(name) for name in doubtful):
            blind = self._built("scores")
            longer = (replace(s, name=f"{s.name}-long") for s in blind.stages if s.role == "black box")
            plan = replace(plan, opening=(*plan.opening, *longer))
        winners = self.diagnosis.winners
        if plan.menu and 2 <= len(winners) < self.diagnosis.classes:
            plan = replace(plan, menu=(among_winners(self.threat, winners), *plan.menu))
        return plan if self.passes is None else replace(plan, passes=self.passes, strict=True)

    def _built(self, access: Access) -> Suite:
        """The suite with this access; each way, where answers can be wrong in two."""
        plan = build(self.suite, self.threat, access, self.diagnosis.classes)
        return plan.wrapped(each_way) if of(self.data).two_ways else plan

    @property
    def climbs(self) -> bool:
        """Whether inputs can be moved along gradients: words are replaced, whatever their slopes say."""
        return self.access == "gradients" and not self.threat.discrete

    def climber(self, *, steps: int, times: int) -> Make:
        """A short attack for the checks and the curve, of the strongest kind that the model allows."""
        runs: Make = partial(last_resort, access=self.access)
        if self.climbs:
            runs = partial(way_of(self.threat).runs, steps=steps, times=times)
        return Wrapped(runs, each_way) if of(self.data).two_ways else runs

    def sizes(self, more: int = 0) -> tuple[float, ...]:
        """The sizes of the curve: the audited eps and multiples of it, `more` of them, no larger than the box."""
        factors = (*CURVE, *(CURVE[-1] * (i + 1) / more for i in range(more)))
        largest = self.threat.whole(self.data.take([0])[0]).eps
        sizes = {float(f"{self.threat.eps * factor:.6g}") if factor != 1 else self.threat.eps for factor in factors}
        if self.threat.norm.whole:
            sizes = {float(int(size)) for size in sizes if size >= 1}
        return tuple(sorted(size for size in sizes if size <= largest))

    def settings(self) -> dict[str, object]:
        """What the result depends on, for the ledger: to resume, it must be the same."""
        return {
            "version": __version__,
            "model": identity.of_model(self.victim, self.data, steady=self.draws == 1),
            "defence": None if self.behind is None else identity.of_attack(self.behind),
            "data": identity.of_data(self.data),
            **({} if self.diagnosis.classes else {"task": str(of(self.data))}),
            "threat": self.threat.identity,
            "suite": self.suite,
            "passes": self.passes,
            "certify": self.certify,
            "seed": self.seed,
        }


def treated(victim: Victim, diagnosis: Diagnosis) -> Victim:
    """The victim as the remedies want it: known probabilities are attacked through their logarithms."""
    return replace(victim, probabilities=victim.probabilities or diagnosis.failed("logits"))
