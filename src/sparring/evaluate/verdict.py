"""The audit: doctor, bout, result."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from sparring.domains.text.threats import Rewrites
from sparring.errors import BadInput
from sparring.evaluate.assembly import assembled, pictures
from sparring.evaluate.bout import Story, fight
from sparring.evaluate.bracket import Prover, prover
from sparring.evaluate.case import Case, treated
from sparring.evaluate.doctor import examine
from sparring.evaluate.given import Examples, met, with_gradients
from sparring.evaluate.ledger import Ledger
from sparring.evaluate.result import Result
from sparring.evaluate.run import Ring, Runner, Watch, one_thread, own_draws, silent, workforce
from sparring.evaluate.suites import Suite
from sparring.models.victim import unwritten
from sparring.tasks import Classification, Task, of
from sparring.threats import Ball
from sparring.types import Data, Defence


@with_gradients()
def audit(
    model: object,
    data: Examples,
    threat: Ball | Rewrites | str,
    *,
    task: Task | str | None = None,
    suite: str = "standard",
    passes: int | None = None,
    certify: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int = 1,
    out: Path | str | None = None,
    resume: bool = False,
    name: str | None = None,
    command: str | None = None,
    watch: Watch | None = None,
    behind: Defence | None = None,
) -> Result:
    """Find out how robust a model is, and whether that number can be trusted.

    `model` is of any framework (`sparring.models.adopt`); `data` a `Data`, inputs `(N, *shape)` in the threat's bounds
    with labels `(N,)`, or the name of a data set; `threat` a ball, or its text (`"linf:8/255"`). Of texts `data` is a
    pair (texts, labels), `threat` says how words are replaced (`"typos:2"`), and `model` takes a list of texts
    (`sparring.domains.text.reader.reading`). With `out`, a folder, the run keeps a ledger there, from which `resume`
    goes on, and leaves `result.json` and `gallery.npz`. `watch(stage, done, total)` is told of progress.

    `task` says what the model is asked, where that is no class (`"segmentation:0.5"`, see `sparring.tasks`), and what
    the labels are then. Accuracy is the share of examples that are answered rightly by its measure.

    `passes` is the budget of the suite's rounds, forward and backward passes an example, where it is not to be the
    suite's own. `certify` names a certificate: with all cheaper ones it is asked, after the first attacks, which of the
    examples that stand are proved to stand, and in the end how far, so that the result brackets the truth from below
    too. What is proved is not attacked again at that size. Beyond eps those certificates are asked that proved
    something at eps, short of it all, and branch and bound, which takes seconds an example, at eps alone.

    `behind` is the defence whose adaptive view `model` is, where it is one (`sparring.audit_defence`): a run is resumed
    with the same one only, and a random model is averaged over as many calls as it asks for, over 8 at least; over 32
    times as many before any attack, and before a success is believed.

    The result depends on model, data, threat, suite, passes, certify and seed alone: not on `batch_size` (chosen by
    free memory unless given; 32 for a model that is random), not on `workers` (processes, each on one thread), not on
    interruptions. The model comes back as it was given.

    Where checks doubt the gradients, or warn of paths that these pass over or of climbs that do not level off, or where
    networks inside of the model decide otherwise than it does, attacks are fitted to the model, without a hint, for as
    many passes again at most as were spent until then. What they break counts, and the check `adaptive` says how much
    it was. A failed check leaves the verdict suspect, unless each example is broken or proved to stand.

    Raises:
        BadInput: what cannot be audited: no examples, an unknown suite, a run in `out` with other settings; a model
            that cannot be certified, where that was asked for.
    """
    started = time.perf_counter()
    victim, subject, threat = met(model, data, threat, limit=limit, name=name, task=task)
    if threat.norm.name == "linf" and threat.eps > threat.high - threat.low:
        raise BadInput(f"{threat} on inputs from {threat.low:g} to {threat.high:g}", "an eps within them", "lower it")
    if certify is not None and not isinstance(of(subject), Classification):
        given = f"certificates of {of(subject)}"
        raise BadInput(given, "a classification: they bound what other classes score", "leave certify out")
    if passes is not None and passes < 0:
        raise BadInput(f"passes={passes}", "0 or more", "leave it out for the suite's own")
    folder = Path(out) if out is not None else None
    with one_thread(), unwritten(victim):
        with own_draws(seed, "doctor"):
            diagnosis = examine(victim, subject, threat, seed=seed)
        case = Case(
            victim=treated(victim, diagnosis),
            data=subject,
            threat=threat,
            suite=suite,
            passes=passes,
            certify=certify,
            seed=seed,
            behind=behind,
            diagnosis=diagnosis,
            command=command or _called(victim.name, subject, threat, suite, seed),
        )
        plan = case.plan()
        proving = None if certify is None else prover(victim, subject, threat, certify)
        if diagnosis.invalid:
            result = assembled(case, Story())
            if folder is not None:
                with Ledger(folder / "ledger.sqlite", case.settings(), resume=resume) as ledger:
                    ledger.finish()
                (folder / "gallery.npz").unlink(missing_ok=True)  # an earlier run's pictures are not this one's
        else:
            result = _run(
                case,
                plan,
                folder,
                proving=proving,
                batch_size=batch_size,
                count=workers,
                watch=watch or silent,
                resume=resume,
            )
    result = result.model_copy(update={"seconds": result.seconds + time.perf_counter() - started})
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        result.save(folder / "result.json")
    return result


def _called(model: str, data: Data, threat: Ball, suite: str, seed: int) -> str:
    """The call, as the result has it."""
    asked = "" if isinstance(of(data), Classification) else f"task={str(of(data))!r}, "
    return f"sparring.audit({model}, {data.name}, {threat}, {asked}suite={suite!r}, seed={seed})"


def _run(
    case: Case,
    plan: Suite,
    folder: Path | None,
    *,
    proving: Callable[[Ledger, Watch], Prover] | None,
    batch_size: int | None,
    count: int,
    watch: Watch,
    resume: bool,
) -> Result:
    """Attack, check, judge. Every sweep goes through the ledger, so that a second call goes on where one stopped."""
    ring = Ring(victim=case.victim, data=case.data, threat=case.threat, seed=case.seed, draws=case.draws)
    path = folder / "ledger.sqlite" if folder is not None else None
    size, settings = ring.batch_size(batch_size), {} if path is None else case.settings()
    with workforce(ring, count) as pool, Ledger(path, settings, resume=resume) as ledger:
        runner = Runner(ring=ring, ledger=ledger, batch_size=size, pool=pool, watch=watch)
        story = fight(case, plan, runner, None if proving is None else proving(ledger, watch))
        result = assembled(case, story)
        if folder is not None:
            from sparring.report.gallery import save

            save(pictures(case, story, ledger), folder / "gallery.npz")
        ledger.finish()
    return result.model_copy(update={"seconds": ledger.before})
