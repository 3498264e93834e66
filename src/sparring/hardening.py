"""A whole run of training: from settings to a network, the files it leaves, and the evaluator's word on it."""

from __future__ import annotations

import copy
import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sparring import __version__
from sparring.data import Arrays, Subset, first
from sparring.data import load as load_data
from sparring.errors import BadInput
from sparring.evaluate import Result, audit, identity
from sparring.evaluate.ledger import admit
from sparring.evaluate.run import Watch as AuditWatch
from sparring.evaluate.run import accept
from sparring.models.loading import adopt, load
from sparring.models.victim import Victim
from sparring.threats import Ball
from sparring.training.alarms import Alarm, Epoch, gradient_masking
from sparring.training.checkpoints import Checkpoints, packed
from sparring.training.hardware import Hardware
from sparring.training.locking import alone_in, companion
from sparring.training.reading import Unlabelled
from sparring.training.requirements import outputs
from sparring.training.settings import Settings
from sparring.training.settings import recipe as read_recipe
from sparring.training.tensorboard import tensorboard
from sparring.training.trainer import Course, Event, Looked, Resumed, Trainer, Watch
from sparring.training.validation import Validation
from sparring.types import Data
from sparring.writing import in_one_move

if TYPE_CHECKING:
    from sparring.report.words import Language


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run of training came to. `before` and `after` are audits on the same data; none where none was asked for.

    `course` has the history, the alarms and the seconds; `alarms` adds what the audit found.
    """

    network: nn.Module
    settings: Settings
    course: Course
    alarms: tuple[Alarm, ...]
    before: Result | None = None
    after: Result | None = None
    report: Path | None = None
    weights: Path | None = None

    @property
    def compared(self) -> tuple[Result, ...]:
        """The audits that can be compared: before training, a fresh network gives no number at all."""
        audits = tuple(result for result in (self.before, self.after) if result is not None)
        return tuple(result for result in audits if result is self.after or result.verdict != "invalid")


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What settings name, in hand: the network and the data to train on, to hold out, and to audit on."""

    victim: Victim
    network: nn.Module
    train: Data
    held_out: Data | None
    test: Data
    extra: Data | None


def train(
    model: object = None,
    data: Data | tuple[Tensor, Tensor] | Mapping[str, Any] | str | None = None,
    threat: Ball | str | None = None,
    *,
    test: Data | tuple[Tensor, Tensor] | None = None,
    method: str | None = None,
    recipe: str | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    trust: bool = False,
    hardware: Hardware = Hardware(),  # noqa: B008  (frozen)
    log: bool = False,
    language: Language = "en",
    watch: Watch | None = None,
    audited: AuditWatch | None = None,
    command: str | None = None,
    **settings: Any,
) -> Trained:
    """Make a network robust: train it against its own worst cases, watch it, and have the result audited.

        trained = sparring.train(mlp(), load("digits:train"), linf(0.1), method="trades", epochs=20, out="run")

    `model` is a torch network or a Keras model on torch, or what `sparring.load` takes; it is left as it was. `data`
    and `test` are as in `audit`, `data` also a table of settings; the test data of named data sets are found. `method`
    is the name of an objective; `settings` are those of a recipe (`sparring.training.settings.Settings`), over those
    of `recipe`, a name or a file.

    With `out` the run leaves `weights.pt`, `train.toml`, `history.csv`, `result.json`, `report.html`, and with `log` a
    folder for TensorBoard; a checkpoint lies there while it runs, from which `resume` goes on. It ends with an audit
    of the network before and after, by attacks that training has not seen, on examples that it has not seen.

    Raises:
        BadInput: settings, a model, or data that cannot be trained with; another training that runs in `out`.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what is needed to go on is in `out`.

    """
    chosen = _settings(settings, model=model, data=data, threat=threat, method=method, name=recipe)
    folder = Path(out) if out is not None else None
    with _alone(folder, resume=resume):
        found = _materials(chosen, model, data, test, trust=trust)
        hardware = replace(hardware, precision=chosen.precision)
        chosen = chosen.model_copy(update={"precision": hardware.chosen(found.network)})
        chosen.suit(found.train.take([0])[0].shape[1:])
        ball = chosen.ball()
        for subject in (found.train, found.test):
            accept(subject.take(range(min(LOOKED_AT, len(subject))))[0], subject, ball)
        objective, remedy = chosen.objectives(ball, _classes(found.network, found.train))
        average, settled = chosen.averaging()
        with _watchers(chosen, watch, folder, log=log) as tell:
            trainer = Trainer(
                epochs=chosen.epochs,
                batch_size=chosen.batch_size,
                lr=chosen.optimiser.lr,
                optimiser=chosen.optimizer(),
                rate=chosen.rate(),
                ramp=chosen.strength(),
                average=average,
                settled=settled,
                neighbourhood=chosen.neighbour(),
                clip=chosen.clip,
                augment=chosen.augmentation(),
                extra=found.extra,
                share=chosen.data.share,
                remedy=remedy,
                validation=_validation(chosen, found.held_out),
                checkpoints=_checkpoints(chosen, found, folder, resume=resume),
                hardware=hardware,
                seed=chosen.seed,
                watch=tell,
            )
            course = trainer(found.network, found.train, objective)
        done = Trained(network=course.network, settings=chosen, course=course, alarms=course.alarms)
        if not course.first:
            return done
        if folder is not None:
            with in_one_move(folder / "train.toml") as file:
                file.write(chosen.toml().encode())
            done = replace(done, weights=_kept(course.network, folder))
        if chosen.audit.suite == "none":
            return done
        judged = _judged(
            done, found, ball, folder=folder, resume=resume, audited=audited, command=command, language=language
        )
        return _reported(judged, folder, language, watch)


LOOKED_AT = 256
"""Examples whose range is looked at before a training."""


def _validation(chosen: Settings, held_out: Data | None) -> Validation | None:
    """What is looked at on the examples that were held out, if any were."""
    if held_out is None:
        return None
    said = chosen.validation
    return Validation(
        data=held_out,
        threat=chosen.ball(),
        attack=chosen.challenger(),
        every=said.every,
        keep_best=said.keep == "best",
        patience=said.patience,
    )


def _checkpoints(chosen: Settings, found: Materials, folder: Path | None, *, resume: bool) -> Checkpoints | None:
    """Checkpoints in the folder, to be gone on with by the same network, data and settings only."""
    if folder is None:
        return None
    same = (identity.of_model(found.victim, found.train), identity.of_data(found.train), chosen.digest)
    return Checkpoints(
        path=folder / "checkpoint.pt",
        seconds=chosen.checkpoint.seconds,
        steps=chosen.checkpoint.steps,
        settings="; ".join((f"sparring {__version__}", *same)),
        resume=resume,
    )


@contextmanager
def _watchers(chosen: Settings, watch: Watch | None, folder: Path | None, *, log: bool) -> Iterator[Watch]:
    """Tell all who are to be told: the caller, the history, TensorBoard."""
    with ExitStack() as stack:
        told: list[Watch] = [] if watch is None else [watch]
        if folder is not None:
            told.append(written(folder / "history.csv"))
        if log:
            faced = chosen.stretch * chosen.ball().eps
            told.append(stack.enter_context(tensorboard((folder or Path()) / "tensorboard", eps=faced)))

        def tell(event: Event) -> None:
            for one in told:
                one(event)

        yield tell


@contextmanager
def _alone(folder: Path | None, *, resume: bool) -> Iterator[None]:
    """Have the folder for one training, once it is known that what lies there may be overwritten or gone on with."""
    if folder is None or companion():  # the first process looks after it for all
        yield
        return
    with alone_in(folder):
        if not resume:
            _admit(folder)
        yield


def _admit(folder: Path) -> None:
    """Look at what lies where a training is to begin, before anything of it is overwritten.

    Raises:
        BadInput: a training that was killed, whose checkpoint is newer than the settings that are written at its end;
            or an audit at its end that was.
    """
    checkpoint, end = folder / "checkpoint.pt", folder / "train.toml"
    if checkpoint.exists() and not (end.exists() and end.stat().st_mtime_ns >= checkpoint.stat().st_mtime_ns):
        do = "add --resume to go on with it, or give another --out"
        raise BadInput(f"{folder} holds an unfinished training", "a decision", do)
    for audited in (folder, folder / "before"):
        admit(audited / "ledger.sqlite", {}, resume=False)


def _settings(
    given: Mapping[str, Any],
    *,
    model: object,
    data: object,
    threat: Ball | str | None,
    method: str | None,
    name: str | None,
) -> Settings:
    """Everything that was said, in the order of its weight: the recipe, the arguments, the single settings."""
    said: dict[str, Any] = {}
    if isinstance(model, str):
        said["model"] = model
    if isinstance(data, str | Mapping):
        said["data"] = {"name": data} if isinstance(data, str) else data
    if isinstance(threat, str):
        said["threat"] = threat
    if isinstance(threat, Ball):
        said.update(
            threat=f"{threat.norm.name}:{threat.norm.said(float(threat.eps))!r}", bounds=(threat.low, threat.high)
        )
    if method is not None:
        said["objective"] = {"name": method}
    chosen = Settings.of({} if name is None else read_recipe(name), said, given)
    if not chosen.threat:
        raise BadInput("no threat", "NORM:EPS to be robust to", "say for example --threat linf:0.1")
    return chosen


def _materials(chosen: Settings, model: object, data: object, test: object, *, trust: bool) -> Materials:
    """The network and the data that the settings name, or that were handed over."""
    if model is None and not chosen.model:
        raise BadInput("no model", "a network to train", "name one, as package.module:factory or in a recipe")
    victim = (
        load(chosen.model, weights=chosen.weights, trust=trust)
        if model is None or isinstance(model, str)
        else adopt(model)
    )
    named = data is None or isinstance(data, str | Mapping)
    if named and not chosen.data.name:
        raise BadInput("no data", "examples to train on", "name them with --data, or in a recipe")
    whole = load_data(chosen.data.name, split=chosen.data.split) if named else _data(data)
    given = None if test is None else _data(test)
    if given is None and named:
        given = load_data(chosen.data.name, split=chosen.audit.split)
        if identity.of_data(given).partition(", ")[2] == identity.of_data(whole).partition(", ")[2]:
            given = None  # a source without splits: to audit on what was trained on would flatter
    whole = whole if chosen.data.limit is None else first(whole, chosen.data.limit)
    held = min(chosen.data.validation, len(whole) // 5)
    if given is None and not held and chosen.audit.suite != "none":
        raise BadInput("no test data", "examples that training does not see", "give test data, or hold some out")
    kept, out = split(whole, held)
    subject = given if given is not None else out
    assert subject is not None or chosen.audit.suite == "none"
    subject = subject or whole
    limit = chosen.audit.limit
    return Materials(
        victim=victim,
        network=trainable(victim),
        train=kept,
        held_out=out,
        test=subject if limit is None else first(subject, limit),
        extra=_extra(chosen),
    )


def _extra(chosen: Settings) -> Data | None:
    """The data that are mixed in."""
    if chosen.data.extra is None:
        return None
    found = load_data(chosen.data.extra, split=chosen.data.split)
    if not chosen.data.labelled and chosen.objective["name"] != "vat":
        raise BadInput(
            f"data without labels for {chosen.objective['name']}",
            "the objective vat",
            "say --method vat, or label them",
        )
    return found if chosen.data.labelled else Unlabelled(found)


def split(data: Data, held: int) -> tuple[Data, Data | None]:
    """The data without `held` examples, evenly spaced over them, and these examples."""
    if not held:
        return data, None
    rows = [i * len(data) // held for i in range(held)]
    chosen = set(rows)
    return Subset(data, [i for i in range(len(data)) if i not in chosen]), Subset(data, rows)


def trainable(victim: Victim) -> nn.Module:
    """The network behind a model, where torch can train it.

    Raises:
        BadInput: a model of another kind.

    """
    if victim.trainee is not None:
        return victim.trainee
    if victim.module is None or victim.framework not in ("torch", "transformers"):
        raise BadInput(
            f"{victim.name}, a model of {victim.framework}",
            "a torch network, or a Keras model on torch",
            "hand over the network itself: package.module:factory",
        )
    return victim.module


def _data(data: object) -> Data:
    """Data in hand."""
    return Arrays("data", *data) if isinstance(data, tuple) else data  # type: ignore[return-value]


def _classes(network: nn.Module, data: Data) -> int:
    """How many classes there are: as many as the network has outputs."""
    x, _ = data.take([0])
    device = next((weight.device for weight in network.parameters()), x.device)  # the trainer refuses what has none
    return outputs(network, x.to(device), data)


def _kept(network: nn.Module, folder: Path) -> Path:
    """The weights, in a file that holds nothing else, as the network's own code loads them."""
    from sparring.models.keras import Trainee
    from sparring.models.torch import Logits

    if isinstance(network, Trainee):
        place = folder / "trained.weights.h5"
        network.model.save_weights(str(place))
        return place
    path = folder / "weights.pt"
    with in_one_move(path) as file:
        file.write(packed((network.model if isinstance(network, Logits) else network).state_dict()))
    return path


def written(path: Path) -> Watch:
    """Keep the history in a CSV file, whole after every epoch, with the alarms that it raised."""
    rows: list[Epoch] = []
    alarms: list[Alarm] = []
    head = [field.name for field in fields(Epoch)]

    def tell(event: Event) -> None:
        match event:
            case Resumed():
                rows[:], alarms[:] = event.history, event.alarms
            case Looked():
                rows.append(event.epoch)
            case Alarm():
                alarms.append(event)
            case _:
                return
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*head, "alarms"])
        for row in rows:
            raised = " ".join(alarm.name for alarm in alarms if alarm.epoch == row.epoch)
            table.writerow([*asdict(row).values(), raised])
        with in_one_move(path) as file:
            file.write(text.getvalue().encode())

    return tell


def _judged(
    done: Trained,
    found: Materials,
    threat: Ball,
    *,
    folder: Path | None,
    resume: bool,
    audited: AuditWatch | None,
    command: str | None,
    language: Language,
) -> Trained:
    """The audits before and after, and the alarm that only they can raise."""
    from sparring.report.words import words

    settings = done.settings
    title = settings.model or type(found.network).__name__

    def judge(network: nn.Module, name: str, place: Path | None) -> Result:
        return audit(
            network,
            found.test,
            threat,
            suite=settings.audit.suite,
            seed=settings.seed,
            out=place,
            resume=resume and place is not None and (place / "ledger.sqlite").exists(),
            name=name,
            command=command,
            watch=audited,
        )

    device = next(done.network.parameters()).device
    start = copy.deepcopy(found.network).eval().to(device)
    say = words(language)
    before = judge(start, say["training_before"].format(name=title), None if folder is None else folder / "before")
    after = judge(done.network, say["training_after"].format(name=title), folder)
    masked = gradient_masking(after, len(done.course.history))
    alarms = (*done.alarms, *([masked] if masked is not None else []))
    said = {
        "objective": settings.objective["name"],
        "epochs": len(done.course.history),
        "seconds": done.course.seconds,
        "alarms": [asdict(alarm) for alarm in alarms],
    }
    return replace(done, before=before, after=after.model_copy(update={"training": said}), alarms=alarms)


def _reported(done: Trained, folder: Path | None, language: Language, watch: Watch | None) -> Trained:
    """The result with what training says of itself, and the report of before and after."""
    for alarm in done.alarms[len(done.course.alarms) :]:
        if watch is not None:
            watch(alarm)
    if folder is None or done.before is None or done.after is None:
        return done
    from sparring import report
    from sparring.report.training import section

    done.after.save(folder / "result.json")
    galleries = {done.before.name: report.read(folder / "before")[1], done.after.name: report.read(folder)[1]}
    part = section(done.settings, done.course.history, done.alarms, done.course.seconds, language)
    page = report.write(folder, done.compared, galleries, sections=[part], language=language)
    return replace(done, report=page)
