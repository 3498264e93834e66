"""The trainer: one loop over the outer minimum, whatever the objective, that can be stopped, resumed and watched.

    E_(x,y)  objective(f_theta, x, y)  ->  min over theta

An update is the objective's gradient and the optimiser's step, the threat growing in, the weights averaged. All that
the rest of a training depends on is in its checkpoint.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from sparring.errors import BadInput, line
from sparring.limits import LARGEST_SEED, below_one
from sparring.streams import Streams
from sparring.training.alarms import ALARMS, Alarm, Epoch
from sparring.training.checkpoints import Checkpoints
from sparring.training.contract import Objective, fresh, memory, pinned
from sparring.training.hardware import Hardware, companions, polite_signals
from sparring.training.layout import channels_first, channels_last, gradients_alike
from sparring.training.objectives import VAT, Labelled
from sparring.training.objectives import Average as Mean
from sparring.training.passes import Passes, gathering, norms
from sparring.training.rates import Rate, one_cycle
from sparring.training.reading import Mixed, Unlabelled, reader
from sparring.training.requirements import copied, enough_to_normalise, labelled, mixtures, outputs, trainable
from sparring.training.schedules import linear
from sparring.training.validation import Validation, measure
from sparring.training.weights import Average, Neighbourhood, content, ema, refilled, refreshed
from sparring.types import Data

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MEASURED_NORM = 10
"""Updates between two measurements of the gradient's norm, where it isn't needed to clip."""

AGREE = 20
"""Updates between two agreements of several processes on whether to stop, or to write a checkpoint."""

REFRESH = 50
"""Batches, as they are, from which the running statistics of averaged weights are taken anew."""

WATCHED = 3
"""Updates, at the start of every epoch, that are watched for BatchNorm leaking."""


@dataclass(frozen=True)
class Progress:
    """Where training stands after an update: `step` of `steps`, counted from 1, `epoch` of `epochs` as well."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    lr: float
    strength: float
    gradient_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Looked:
    """An epoch that is over: its line in the history, the network as it would be returned, and held-out examples.

    `x` and `z`, before and under attack, are the first few; none without examples held out.
    """

    epoch: Epoch
    network: nn.Module
    x: Tensor | None = None
    z: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Training goes on from a checkpoint: what it had left so far."""

    step: int
    history: tuple[Epoch, ...]
    alarms: tuple[Alarm, ...]


Event = Progress | Looked | Alarm | Resumed
Watch = Callable[[Event], None]
"""Told of every update, every epoch, every alarm, and once if a training is resumed."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A training that is over: the network in inference mode, its history and alarms, and the seconds it took."""

    network: nn.Module
    history: tuple[Epoch, ...]
    alarms: tuple[Alarm, ...]
    seconds: float
    first: bool = True
    """Whether this is the first of the processes: the one that writes and reports."""


def _unwatched(event: Event) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """How to minimise an objective over the weights: `Trainer(epochs=10)(network, data, objective)`.

    `optimiser(parameters, lr=lr)` makes the optimiser; `rate` says how `lr` changes (`sparring.training.rates`), and
    `ramp` how the objective's strength grows in (`schedules`). What is returned is the average of the weights:
    exponential with decay `average` (0 gives the last), or what `average(network)` makes, from the share `settled` of
    the updates on, and of the last one in any case. `neighbourhood` moves the weights to where the loss is taken;
    gradients are clipped to the norm `clip`. Every epoch goes through the data in a new order, each batch as `augment`
    changes it, the incomplete batch at its end left out; a `share` of every batch is drawn from `extra` data.

    With `validation`, alarms are raised (`sparring.training.alarms`), and the best weights returned. On catastrophic
    overfitting training goes back to the last good weights, and on with the objective `remedy`; it stops there without.
    Of extra data that are `Unlabelled` the remedy sees nothing, unless it is `VAT`; mixtures of them are refused.
    With `checkpoints` it can be stopped and resumed. `hardware` says on what it runs: several processes share each
    batch by rank, which gives the same model up to rounding, but for what draws from torch's global random numbers
    (dropout), sees the batch whole (BatchNorm, `Mixup`, the regularisers of certified training), perturbs the weights
    by its own examples (as SAM's paper has it), learns from its own batch (the objective `generator`), or means over
    those of its rows that have a label (`VAT`, where the data themselves lack some).

    Frozen weights stay as they are, and so do the statistics of a BatchNorm that is handed over in inference mode with
    its own weights frozen.

    The same seed, network, data and machine give the same bits; `network` itself, its mode, the objective and torch's
    global random numbers are left alone. Batches are read by index; data of up to 1 GiB are kept in memory.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 5e-3
    optimiser: Callable[..., Optimizer] = partial(Adam, fused=True)  # noqa: RUF009  (a pure function)
    rate: Rate = one_cycle()  # noqa: RUF009  (a pure function)
    ramp: Callable[[float], float] = linear
    average: float | Callable[[nn.Module], Average] = 0.999
    settled: float = 0.0
    neighbourhood: Neighbourhood | None = None
    clip: float | None = None
    augment: Callable[[Tensor, Streams], Tensor] | None = None
    extra: Data | None = None
    share: float = 0.5
    validation: Validation | None = None
    remedy: Objective | None = None
    checkpoints: Checkpoints | None = None
    hardware: Hardware = Hardware()  # noqa: RUF009  (frozen)
    seed: int = 0
    watch: Watch = _unwatched

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}", "1 or more", f"give a larger {name}")
        for name in ("average", "settled", "share"):
            value = getattr(self, name)
            if not callable(value):
                below_one(**{name: value})
        for name, value in (("lr", self.lr), ("clip", self.clip)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise BadInput(f"{name} {value}", "a positive number", f"give another {name}")
        if not -LARGEST_SEED <= self.seed <= LARGEST_SEED:
            raise BadInput(f"seed {self.seed}", f"at most {LARGEST_SEED} on either side of 0", "give another seed")

    def __call__(self, network: nn.Module, data: Data, objective: Objective) -> Course:
        """The course of a training.

        Raises:
            BadInput: nothing to train or to train on, labels that the network has no output for, a loss or weights
                that are no longer finite, a checkpoint of another training, or another process that is gone.
            KeyboardInterrupt: Ctrl-C or SIGTERM, once the checkpoint is written.

        """
        if not len(data):
            raise BadInput(f"{data.name} is empty", "at least 1 example", "check how it was made")
        trainable(network)
        _evenly(self.batch_size, self.hardware.devices)  # asked again of processes that others launched
        fabric = self.hardware.fabric(network)
        with (
            _own_random_numbers(self.seed + 1_000_003 * fabric.global_rank),
            polite_signals() as stopped,
            companions(fabric.world_size, stopped),
        ):
            course = _Run(self, fabric, network, data, objective, stopped=stopped).go()
            fabric.barrier()  # whoever left first would cut the others' connections
            return course


def _evenly(size: int, processes: int, which: str = "") -> None:
    """Refuse batches that processes cannot share."""
    if size % processes:
        raise BadInput(f"batches of {size} {which}for {processes} processes", "equal shares", "change batch_size")


def fit(network: nn.Module, data: Data, objective: Objective, **settings: Any) -> nn.Module:
    """Minimise an objective over the weights: a trained copy of `network`, in inference mode.

        network = fit(mlp(), digits("train"), adversarial(linf(0.1)), epochs=10)

    `settings` are those of `Trainer`, which also gives the history. Unless told otherwise: Adam, the learning rate on
    one cycle, the threat growing in over the first 30 % of the updates, and the weights averaged.

    Raises:
        BadInput: what `Trainer` refuses.

    """
    return Trainer(**settings)(network, data, objective).network


class _Run:
    """A training while it runs. What is in `state()` is all that the rest of it depends on."""

    def __init__(
        self,
        plan: Trainer,
        fabric: Fabric,
        network: nn.Module,
        data: Data,
        objective: Objective,
        *,
        stopped: Callable[[], bool],
    ) -> None:
        self.plan, self.fabric, self.stopped = plan, fabric, stopped
        self.objective, self.remedy = fresh(objective), _remedy(plan, objective)
        self.source = reader(data if plan.extra is None else Mixed(data, plan.extra))
        self.name = data.name
        partly = any(isinstance(one, Unlabelled) for one in (data, plan.extra))
        self.size = min(plan.batch_size, len(data))
        self.foreign = round(plan.share * self.size) if plan.extra is not None else 0
        self.own = self.size - self.foreign
        if not self.own:
            raise BadInput(
                f"a share of {plan.share} of extra data in batches of {self.size}",
                "room for the data itself",
                "take a smaller share, or a larger batch_size",
            )
        self.count, self.more = len(data), 0 if plan.extra is None else len(plan.extra)
        self.batches = len(data) // self.own
        self.steps = plan.epochs * self.batches
        _evenly(self.size, fabric.world_size)
        if partly:  # the loss is a mean over those with labels
            _evenly(self.own, fabric.world_size, "of the data itself ")
        self.network = gathering(copied(network))
        example = data.take([0])[0].to(next(self.network.parameters()).device)
        self.classes = outputs(self.network, example, data)
        mixtures(objective, self.classes, data, plan.extra)
        mixtures(plan.remedy, self.classes)
        if (self.own if partly else self.size) == fabric.world_size:
            enough_to_normalise(self.network, example)
        if plan.validation is not None:
            held_out = plan.validation.data
            labelled(held_out.take(range(len(held_out)))[1], self.classes, held_out.name)
        channels_last(self.network, example)
        wrapped = fabric.setup_module(plan.hardware.casting(self.network))
        # Alone, Fabric's wrapper does nothing but cost time in every pass of an attack.
        self.called = wrapped if fabric.world_size > 1 else plan.hardware.casting(self.network)
        for one in (self.objective, self.remedy):
            if (held := memory(one)) is not None:
                held.to(fabric.device)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = plan.optimiser(parameters, lr=plan.lr)
        self.rate = plan.rate(self.optimizer, self.steps)
        self.average = _average(plan.average, self.network)
        self.order = torch.Generator().manual_seed(plan.seed)
        self.turn = self.order.get_state()
        self.rows = torch.empty(0, dtype=torch.int64)
        self.step, self.over, self.spent = 0, False, 0.0
        self.history: list[Epoch] = []
        self.alarms: list[Alarm] = []
        self.good: dict[str, Any] | None = None
        self.best: dict[str, Any] | None = None
        self.sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        self.lr = plan.lr
        self.norm: float | None = None
        self.leaks: int | None = None
        self.passes = Passes(self.network)
        self.still = {name for name, norm in norms(self.network).items() if not norm.training}
        self.saved = time.monotonic()

    @property
    def tells(self) -> bool:
        """Whether this process writes and reports."""
        return bool(self.fabric.global_rank == 0)

    def tell(self, event: Event) -> None:
        """Tell whoever watches, once."""
        if self.tells:
            self.plan.watch(event)

    # The course

    def go(self) -> Course:
        """From the first update, or from the checkpoint, to the end."""
        self.resume()
        with gradients_alike(self.network):
            while self.step < self.steps and not self.over:
                started = time.perf_counter()
                if self.step % self.batches == 0 or not len(self.rows):
                    self.shuffle()
                self.update()
                self.spent += time.perf_counter() - started
                if self.step % self.batches == 0:
                    self.close()
                self.rest()
        network, validation = channels_first(copy.deepcopy(self.shown())), self.plan.validation
        if self.best is not None and validation is not None and validation.keep_best:
            refilled(network, self.best["weights"])
        network.zero_grad()
        for weight, trained in zip(network.parameters(), self.network.parameters(), strict=True):
            weight.requires_grad_(trained.requires_grad)  # an average has none of its own
        if not all(bool(weight.isfinite().all()) for weight in network.parameters() if weight.requires_grad):
            # No loss was taken of what the last update made.
            raise BadInput(f"weights that are not finite after update {self.step}", "finite weights", "lower lr")
        return Course(
            network=network.eval(),
            history=tuple(self.history),
            alarms=tuple(self.alarms),
            seconds=self.spent,
            first=self.tells,
        )

    def shown(self) -> nn.Module:
        """The network as it would be returned."""
        return self.network if self.average is None or not self.average.seen else self.average.network

    def shuffle(self) -> None:
        """The order of an epoch; `turn` remembers from where it was drawn."""
        if self.step % self.batches == 0:
            self.turn = self.order.get_state()
        rows = torch.randperm(self.count, generator=self.order)[: self.batches * self.own].view(self.batches, -1)
        if self.foreign:
            needed = self.batches * self.foreign
            drawn = [torch.randperm(self.more, generator=self.order) for _ in range(-(-needed // self.more))]
            rows = torch.cat([rows, self.count + torch.cat(drawn)[:needed].view(self.batches, -1)], 1)
        self.rows = rows

    def update(self) -> None:
        """One update: a batch, the loss where the neighbourhood says, a step of the optimiser."""
        plan, epoch = self.plan, self.step // self.batches
        rows = self.rows[self.step % self.batches][self.fabric.global_rank :: self.fabric.world_size]
        x, labels = self.source(rows)
        labelled(labels, self.classes, self.name, partly=_takes_unlabelled(self.objective))
        x, labels = x.to(self.fabric.device), labels.to(self.fabric.device)
        rng = Streams.of(plan.seed, rows).at(epoch)
        x = x if plan.augment is None else plan.augment(x, rng.at("augment"))
        strength = plan.ramp(self.step / self.steps)
        passes, watched = self.passes, bool(self.passes.norms) and self.step % self.batches < WATCHED
        with passes if watched else nullcontext():
            loss = pinned(self.objective, self.called, x, labels, strength, rng)
            rest: Tensor | None = None

            def nearby() -> Tensor:
                nonlocal rest
                with passes.unseen():
                    value = loss()
                rest = value.detach()
                return value

            with nullcontext() if plan.neighbourhood is None else plan.neighbourhood.around(self.called, nearby):
                self.optimizer.zero_grad()
                value = loss()
                passes.learning = True
                self.fabric.backward(value)
        if watched:
            self.leaks = max(self.leaks or 0, passes.leaked)
        said = value.item()
        if not math.isfinite(said):
            if not bool(x.isfinite().all()):
                raise BadInput(f"inputs in {self.name} that are not finite", "finite inputs", "clean the data")
            raise BadInput(f"a loss of {said} at update {self.step + 1}", "a finite loss", "lower lr")
        norm = self.gradient_norm()
        self.lr = float(self.rate.get_last_lr()[0])
        self.optimizer.step()
        self.rate.step()
        if self.average is not None and self.step >= min(plan.settled * self.steps, self.steps - 1):
            self.average.update(self.network)
        self.sums += torch.stack([value.detach(), value.detach() if rest is None else rest, torch.ones_like(value)])
        self.step += 1
        self.tell(Progress(self.step, self.steps, epoch + 1, plan.epochs, said, self.lr, strength, norm))

    def gradient_norm(self) -> float | None:
        """The norm of the gradient, clipped where that was asked for; measured now and then where it was not."""
        if self.plan.clip is None and self.step % MEASURED_NORM:
            return None
        largest = math.inf if self.plan.clip is None else self.plan.clip
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), largest))
        return self.norm

    # The end of an epoch

    def close(self) -> None:
        """Write the epoch into the history, raise alarms, keep good weights, and go back to them where needed."""
        plan, number = self.plan, self.step // self.batches
        sums = self.fabric.all_reduce(self.sums, reduce_op="sum")
        assert isinstance(sums, Tensor)
        mean, rest, _ = (sums / sums[2]).tolist()
        self.sums.zero_()
        epoch = Epoch(
            epoch=number,
            step=self.step,
            seconds=self.spent,
            loss=mean,
            at_rest=rest if plan.neighbourhood is not None else None,
            lr=self.lr,
            strength=plan.ramp(self.step / self.steps),
            gradient_norm=self.norm,
            leaks=self.leaks,
            classes=self.classes,
        )
        self.leaks = None
        if self.average is not None and self.average.stale and self.average.seen:
            inputs = (self.source(rows)[0].to(self.fabric.device) for rows in self.rows[:REFRESH])
            refreshed(self.average.network, inputs, still=self.still)
        due = plan.validation is not None and (number % plan.validation.every == 0 or self.step == self.steps)
        x = z = None
        if due and self.tells:
            epoch, x, z = self.validate(epoch)
        epoch = self.fabric.broadcast(epoch)
        self.history.append(epoch)
        self.tell(Looked(epoch=epoch, network=self.shown(), x=x, z=z))
        raised = [alarm for ask in ALARMS if (alarm := ask(self.history)) is not None]
        bad = any(alarm.name == "catastrophic-overfitting" for alarm in raised)
        for alarm in raised:
            self.sound(self.back(alarm) if alarm.name == "catastrophic-overfitting" else alarm)
        if due and not bad:
            self.keep(epoch)
        if plan.checkpoints is not None and due:
            self.save()

    def validate(self, epoch: Epoch) -> tuple[Epoch, Tensor, Tensor]:
        """The accuracies of an epoch; the first examples before and under attack."""
        validation = self.plan.validation
        assert validation is not None
        look = partial(measure, seed=self.plan.seed, device=self.fabric.device)
        # What is in training has only met the threat as far as it has grown.
        grown = replace(validation, threat=validation.threat.times(min(1.0, epoch.strength)))
        live = look(self.plan.hardware.casting(self.network), validation=grown, single_step=True)
        same = self.shown() is self.network and epoch.strength >= 1
        shown = live if same else look(self.plan.hardware.casting(self.shown()), validation=validation)
        _, labels = validation.data.take(range(len(validation.data)))
        measured = replace(
            epoch,
            clean=shown.clean,
            robust=shown.robust,
            live=live.robust,
            single_step=live.single_step,
            constant=live.constant,
            common=float(labels.bincount().max() / len(labels)),
            examples=len(labels),
        )
        return measured, shown.x, shown.z

    def sound(self, alarm: Alarm) -> None:
        """Raise an alarm, each kind once in a row."""
        known = any(a.name == alarm.name and a.epoch == alarm.epoch - 1 for a in self.alarms)
        self.alarms.append(alarm)
        if not known:
            self.tell(alarm)

    def keep(self, epoch: Epoch) -> None:
        """Remember the weights in training as good ones, and those shown if they are the best so far."""
        validation = self.plan.validation
        assert validation is not None
        self.good = copy.deepcopy({"epoch": epoch.epoch, **self.learnt()})
        robust = epoch.robust if epoch.robust is not None else 0.0
        # Until the whole threat is in force, a high accuracy says little, but some weights are better than none.
        if self.best is None or robust > self.best["robust"]:
            self.best = {"robust": robust, "epoch": epoch.epoch, "weights": copy.deepcopy(content(self.shown()))}
        elif validation.patience is not None and epoch.strength >= 1:
            since = [e for e in self.history if e.epoch > self.best["epoch"] and e.robust is not None]
            self.over = len(since) >= validation.patience

    def back(self, alarm: Alarm) -> Alarm:
        """Go back to the last good weights, and on with the remedy if there is one; the alarm that says so."""
        if self.good is None:
            return alarm
        self.relearn(self.good)
        where = f"went back to the weights of epoch {self.good['epoch']}"
        if self.remedy is None:
            self.over = True
            return replace(alarm, remedy=f"{where}, and stopped there; {alarm.remedy}")
        self.objective, self.remedy = self.remedy, None
        return replace(alarm, remedy=f"{where}, and goes on against several steps")

    # Stopping and going on

    def rest(self) -> None:
        """Write a checkpoint where it is time, and stop where that was asked for."""
        checkpoints, several = self.plan.checkpoints, self.fabric.world_size > 1
        if several and self.step % AGREE:
            return
        stop = self.stopped()
        due = checkpoints is not None and checkpoints.due(self.step, time.monotonic() - self.saved)
        if several:
            asked = torch.tensor([float(stop), float(due)], device=self.fabric.device)
            agreed = self.fabric.all_reduce(asked, reduce_op="sum")
            assert isinstance(agreed, Tensor)
            stop, due = (bool(value) for value in agreed.tolist())
        if checkpoints is not None and (due or stop):
            self.save()
        if stop:
            raise KeyboardInterrupt

    def learnt(self) -> dict[str, Any]:
        """What updates change."""
        return {
            "network": content(self.network),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def relearn(self, state: Mapping[str, Any]) -> None:
        """Go back to what updates had changed."""
        kept = [group["lr"] for group in self.optimizer.param_groups]
        refilled(self.network, state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        for group, lr in zip(self.optimizer.param_groups, kept, strict=True):
            group["lr"] = lr
        if self.average is not None:
            self.average.load_state_dict(copy.deepcopy(state["average"]))

    def alone(self) -> dict[str, Any]:
        """What differs from process to process."""
        return {
            "objective": None if (held := memory(self.objective)) is None else held.state_dict(),
            "random": torch.get_rng_state(),
            "device": torch.cuda.get_rng_state() if self.fabric.device.type == "cuda" else None,
            "leaks": self.leaks,
            "sums": self.sums.cpu(),
        }

    def save(self) -> None:
        """Write a checkpoint."""
        assert self.plan.checkpoints is not None
        ranks: list[Any] = [self.alone()]
        if self.fabric.world_size > 1:
            ranks = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(ranks, self.alone())
        if self.tells:
            self.plan.checkpoints.save(self.state(ranks))
        self.saved = time.monotonic()

    def state(self, ranks: list[Any]) -> dict[str, Any]:
        """All that the rest of the training depends on; `ranks` is what differs from process to process."""
        return {
            "step": self.step,
            "spent": self.spent,
            "over": self.over,
            "turn": self.turn,
            **self.learnt(),
            "rate": self.rate.state_dict(),
            "remedied": self.remedy is None and self.plan.remedy is not None,
            "norm": self.norm,
            "good": self.good,
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "ranks": ranks,
        }

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one."""
        checkpoints = self.plan.checkpoints
        state = None if checkpoints is None else checkpoints.load(self.state([]))
        if checkpoints is None or state is None:
            return
        if len(state["ranks"]) != self.fabric.world_size:
            raise BadInput(
                f"a checkpoint of {len(state['ranks'])} processes for {self.fabric.world_size}",
                "as many as before",
                "start as many processes",
            )
        self.step, self.spent, self.over, self.turn = (state[key] for key in ("step", "spent", "over", "turn"))
        if state["remedied"] and self.remedy is not None:
            self.objective, self.remedy = self.remedy, None
        try:
            self.relearn(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise checkpoints.unreadable(f"of another network or optimiser: {line(error)[:160]}") from error
        self.rate.load_state_dict(state["rate"])
        for group, lr in zip(self.optimizer.param_groups, self.rate.get_last_lr(), strict=True):
            group["lr"] = lr
        self.norm, self.good, self.best = state["norm"], state["good"], state["best"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]
        mine = state["ranks"][self.fabric.global_rank]
        if (held := memory(self.objective)) is not None:
            held.load_state_dict(mine["objective"])
        torch.set_rng_state(mine["random"])
        if mine["device"] is not None and self.fabric.device.type == "cuda":
            torch.cuda.set_rng_state(mine["device"])
        self.leaks = mine["leaks"]
        self.sums.copy_(mine["sums"])
        self.order.set_state(self.turn)
        self.rows = torch.empty(0, dtype=torch.int64)
        if self.step % self.batches == 0:  # the epoch is over: its order has been drawn
            self.shuffle()
            self.rows = torch.empty(0, dtype=torch.int64)
        self.tell(Resumed(step=self.step, history=tuple(self.history), alarms=tuple(self.alarms)))


def _remedy(plan: Trainer, objective: Objective) -> Objective | None:
    """The remedy of a plan; on labelled rows alone, where it does not know what to do with others."""
    if plan.remedy is None:
        return None
    partly = isinstance(plan.extra, Unlabelled) or _takes_unlabelled(objective)
    blind = partly and not _takes_unlabelled(plan.remedy)
    return Labelled(fresh(plan.remedy)) if blind else fresh(plan.remedy)


def _takes_unlabelled(objective: Objective) -> bool:
    """Whether an objective knows that a label below 0 is none."""
    if isinstance(objective, Mean):
        return all(map(_takes_unlabelled, objective.objectives))
    return isinstance(objective, VAT | Labelled)


def _average(average: float | Callable[[nn.Module], Average], network: nn.Module) -> Average | None:
    """What averages the weights of this network; nothing where the last ones are wanted."""
    if callable(average):
        return average(network)
    return ema(network, average) if average else None


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Let dropout and the like draw from `seed`, and give torch's global generators their state back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
