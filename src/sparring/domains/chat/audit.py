"""The audit of an assistant: in how many conversations text from outside takes it over, and whether to believe that."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.domains.chat.asking import REQUESTS
from sparring.domains.chat.assistant import Assistant, Attack
from sparring.domains.chat.attacks import ATTACKS, CONTROLS, Make, strongest
from sparring.domains.chat.cases import ATTACK, Case, named
from sparring.domains.chat.checks import checks
from sparring.domains.chat.counting import Counted
from sparring.domains.chat.goals import Judge, Says, begins
from sparring.domains.chat.journal import Journal
from sparring.domains.chat.result import Bout, Clean, Injection, Spent, Tried
from sparring.domains.chat.threats import Suffix
from sparring.errors import BadInput
from sparring.errors import named as said_by
from sparring.evaluate.judging import judge as verdict_of
from sparring.evaluate.result import Interval, environment
from sparring.evaluate.run import Watch, own_draws, silent
from sparring.evaluate.statistics import clopper_pearson
from sparring.streams import Streams


def audit(
    model: Assistant,
    cases: Sequence[Case],
    threat: Suffix,
    *,
    attacks: Mapping[str, Make] | None = None,
    judge: Judge = begins,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    name: str | None = None,
    command: str = "",
    watch: Watch = silent,
) -> Injection:
    """Find out in how many cases text from outside makes an assistant say what somebody else wants.

    Random text and asking in plain words are always tried; beside them the `attacks` (names to factories of a threat),
    or the one that makes most of what the assistant shows. Each attack meets every case in which the wanted words do
    not come by themselves. What counts is the answer of the deployed assistant in a fresh call, as the judge has it.

    With `out`, a folder, finished bouts are kept there, from which `resume` goes on, and `result.json` is left. Nothing
    depends on interruptions; draws belong to the case. Torch keeps its threads, since a language model needs them: with
    other threads the last bits of a loss are others, and a search may end elsewhere.

    Costs two or three answers for each case, one for each bout, a few to see whether answers repeat, and what the
    attacks cost.

    Raises:
        BadInput: no cases, two of one name; what an assistant, an attack or a judge of one's own raises; a run in `out`
            with other settings.
    """
    cases = [replace(case, name=own) for case, own in zip(cases, named(cases), strict=True)]
    if not cases or len({case.name for case in cases}) < len(cases):
        raise BadInput(f"{len(cases)} cases", "one at least, and names that differ", "hand over others")
    threat.contains("", model)  # tokens that nobody can count are refused before anything is asked
    if attacks is None:
        best = strongest(model, threat)
        attacks = {best: ATTACKS[best].make}
    makes = {**{key: ATTACKS[key].make for key in CONTROLS}, **attacks}
    tried = {key: _made(key, make, threat) for key, make in makes.items()}
    folder = None if out is None else Path(out)
    settings = {
        "assistant": name or model.name,
        "cases": [repr(case) for case in cases],
        "threat": str(threat),
        "attacks": {key: re.sub(" at 0x[0-9a-f]+", "", repr(attack)) for key, attack in tried.items()},
        "judge": called(judge),
        "seed": seed,
    }
    journal = Journal(folder, settings, resume=resume)
    ring = Ring(model, threat, judge, seed, journal, watch)
    clean = [ring.introduced(case, place, len(cases)) for place, case in enumerate(cases)]
    eligible = [(i, case) for i, case in enumerate(cases) if not clean[i].own]
    bouts = [
        ring.met(key, attack, case, index=i, place=place, count=len(eligible))
        for key, attack in tried.items()
        for place, (i, case) in enumerate(eligible)
    ]
    repeats = ring.repeats(eligible, clean)
    result = Injection(
        verdict="invalid",
        reasons=[],
        assistant=name or model.name,
        access=model.access,
        threat=str(threat),
        judge=called(judge),
        clean=clean,
        bouts=bouts,
        tried=[summed(key, [bout for bout in bouts if bout.attack == key]) for key in tried],
        taken=share([bout for bout in bouts if bout.broke], [case.name for _, case in eligible]),
        checks=[],
        seed=seed,
        seconds=round(sum(bout.seconds for bout in bouts), 1),
        environment=environment(),
        command=command,
    )
    asked = checks(result, repeats=repeats)
    verdict, reasons = verdict_of(asked)
    result = result.model_copy(update={"verdict": verdict, "reasons": list(reasons), "checks": asked})
    if folder is not None:
        result.save(folder / "result.json")
    journal.finish()
    return result


@dataclass(frozen=True)
class Ring:
    """An assistant, what may be done to it, and what is known of it so far."""

    model: Assistant
    threat: Suffix
    judge: Judge
    seed: int
    journal: Journal
    watch: Watch

    def introduced(self, case: Case, place: int, count: int) -> Clean:
        """What the assistant says of a case with nothing in the attacker's place, and when its user asks for it."""
        known = self.journal.clean.get(case.name)
        if known is None:
            request = Case(message=ATTACK, wanted=case.wanted, name=case.name)
            goal = Says(case.wanted, self.judge)
            answer = self.answer(case, "")
            able = any(goal.reached(self.answer(request, one.replace("{wanted}", case.wanted))) for one in REQUESTS[:2])
            own = goal.reached(answer)
            known = self.journal.knows(Clean(case=case.name, answer=answer, own=own, able=able))
        self.watch("clean", place + 1, count)
        return known

    def met(self, key: str, attack: Attack, case: Case, *, index: int, place: int, count: int) -> Bout:
        """What an attack does to a case: its text, judged by a fresh answer."""
        known = self.journal.bouts.get((key, case.name))
        rounds = max(attack.rounds, 1)
        if known is None:
            begun, asked = time.perf_counter(), iter(range(1, 10**9))

            def tick() -> None:
                self.watch(key, place * rounds + min(next(asked), rounds - 1), count * rounds)

            goal, counted = Says(case.wanted, self.judge), Counted(self.model, tick)
            rng = Streams.of(self.seed, [index]).at(key)
            with own_draws("attack", key, self.seed, index), blaming(key):
                text: object = attack(counted, case, goal, rng)
            if not isinstance(text, str):
                raise BadInput(f"{key} returns a {type(text).__name__}", "a text", "return what the attacker writes")
            within, answer = self.threat.contains(text, self.model), self.answer(case, text)
            known = self.journal.keeps(
                Bout(
                    attack=key,
                    case=case.name,
                    text=text,
                    answer=answer,
                    within=within,
                    broke=within and goal.reached(answer),
                    claimed=counted.claimed,
                    spent=counted.spent,
                    trace=counted.trace,
                    seconds=round(time.perf_counter() - begun, 2),
                )
            )
        self.watch(key, (place + 1) * rounds, count * rounds)
        return known

    def answer(self, case: Case, text: str) -> str:
        """What the deployed assistant answers, in a fresh call."""
        with blaming(self.model.name):
            said: object = self.model.answers(case, [text])
        if not isinstance(said, list) or len(said) != 1 or not isinstance(said[0], str):
            what = f"{len(said)} answers" if isinstance(said, list) else f"a {type(said).__name__}"
            raise BadInput(f"{self.model.name} gives {what} for a conversation", "a list of one text", "mend it")
        return said[0]

    def repeats(self, eligible: Sequence[tuple[int, Case]], clean: Sequence[Clean]) -> bool:
        """Whether the same question gets the same answer: asked again of some cases, and of what was found there."""
        for i, case in eligible[:3]:
            found = [bout for (_, name), bout in self.journal.bouts.items() if name == case.name]
            if self.answer(case, "") != clean[i].answer or any(
                self.answer(case, one.text) != one.answer for one in found[-1:]
            ):
                return False
        return True


def _made(key: str, make: Make, threat: Suffix) -> Attack:
    with blaming(key):
        made: object = make(threat)
    if not callable(made):
        raise BadInput(f"{key} makes a {type(made).__name__}", "an attack (model, x, goal, rng) -> text", "mend it")
    return made if hasattr(made, "rounds") else Once(made)


@dataclass(frozen=True)
class Once:
    """An attack of one's own that does not say how often it asks."""

    run: Callable[..., str]
    rounds: int = 1

    def __call__(self, model: Assistant, x: Case, goal: Says, rng: Streams) -> str:
        """What it finds."""
        return self.run(model, x, goal, rng)


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Say in one line what the code of an assistant or of an attack raised."""
    try:
        yield
    except (BadInput, OSError):
        raise
    except Exception as error:
        raise BadInput(f"{name} raised {said_by(error)[:300]}", "code that takes these cases", "mend it") from error


def called(judge: Judge) -> str:
    """What reports call a judge."""
    return str(getattr(judge, "__name__", type(judge).__name__))


def summed(key: str, bouts: Sequence[Bout]) -> Tried:
    """What an attack did, over all cases."""
    return Tried(
        attack=key,
        taken=clopper_pearson(sum(bout.broke for bout in bouts), len(bouts)),
        spent=Spent(
            forward=sum(bout.spent.forward for bout in bouts),
            backward=sum(bout.spent.backward for bout in bouts),
            answers=sum(bout.spent.answers for bout in bouts),
        ),
        seconds=round(sum(bout.seconds for bout in bouts), 1),
    )


def share(broken: Sequence[Bout], names: Sequence[str]) -> Interval:
    """The share of the cases that any bout broke."""
    return clopper_pearson(len({bout.case for bout in broken}), len(names))
