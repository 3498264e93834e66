"""Run a stage: an attack on a batch, every claim judged again, every pass counted, wherever the batch is run."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context, parent_process

import psutil
import torch
from torch import Tensor

from sparring.allocator import keep_freed
from sparring.errors import BadInput, line, named
from sparring.evaluate.ledger import Cost, Ledger, Outcome
from sparring.goals import finite
from sparring.losses import margin
from sparring.models.victim import Victim, as_written, inference
from sparring.streams import Streams
from sparring.tasks import Classification, Task, of
from sparring.types import Attack, Boxed, Data, Model
from sparring.views import Counted, eot, logarithms, steady

Watch = Callable[[str, int, int], None]
"""Told of progress: the stage, the examples done, the examples in all."""

Bout = tuple[list[Outcome], Cost]

LARGEST = 256
"""Examples in a batch, however much memory there is: larger ones are no faster, and lose more when they are killed."""

UNWEIGHED = 1000
"""What a pass is taken to keep, in sizes of its inputs, where it cannot be weighed."""

GALLERY = 64
"""Audits keep the points of the first examples, for the pictures."""

DRAWS = 8
"""Calls that are averaged for a model that is random, unless it is behind a defence that asks for more."""

AGAIN = 32
"""So many times as many calls are averaged to say what is right before any attack on a random model, and before a
success is believed: every stage draws anew, and one of them would be lucky."""

DRAWN_TOGETHER = 32
"""Examples in a batch of a model that is random: with those beside it, an example shares the draws."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class Ring:
    """What a worker needs to run batches.

    `draws` calls are averaged for a model that is random; successes on the first `kept` examples are kept.
    """

    victim: Victim
    data: Data
    threat: Boxed
    seed: int
    draws: int = 1
    kept: int = GALLERY

    @property
    def task(self) -> Task:
        """What the model is asked."""
        return of(self.data)

    def exact(self) -> Counted:
        """The model on which claims are judged."""
        model = self.task.view(asked(self.victim))
        return Counted(model if self.draws == 1 else eot(model, self.draws))

    def attacked(self) -> Counted:
        """The view that gradients go through: log-probabilities where the model gives probabilities."""
        model = self.exact()
        logs = self.victim.probabilities and isinstance(self.task, Classification)
        return Counted(logarithms(model)) if logs else model

    def batch_size(self, asked_for: int | None) -> int:
        """The examples in a batch: as asked for, or by free memory, but for a model that is random.

        Raises:
            BadInput: less than one.
        """
        if asked_for is not None and asked_for < 1:
            raise BadInput(f"a batch size of {asked_for}", "one or more", "leave it out to have it chosen")
        if self.draws > 1:
            return DRAWN_TOGETHER
        return asked_for or memory_batch(self.victim, self.data.take(range(min(8, len(self.data))))[0])

    def cost(self, since: float, *views: Counted) -> Cost:
        """What was asked of these views, each call made `draws` times, since this time of `time.perf_counter`."""
        return Cost(
            forward=sum(view.forward for view in views) * self.draws,
            backward=sum(view.backward for view in views) * self.draws,
            seconds=time.perf_counter() - since,
        )

    def fight(self, stage: str, attack: Attack | None, examples: Sequence[int]) -> Bout:
        """Attack a batch (or only look at it), and judge what comes back in a fresh forward pass."""
        start = time.perf_counter()
        x, y = self.data.take(examples)
        device = home(self.victim)
        x, y = x.to(device), y.to(device)
        goal, view, judge = self.task.goal(y), self.attacked(), self.exact()
        with one_thread(), inference(self.victim), own_draws(self.seed, stage, examples[0]):
            z = x if attack is None else attack(view, x, goal, Streams.of(self.seed, examples).at(stage))
            with torch.no_grad():
                sure = judge if self.draws == 1 else eot(judge, AGAIN)
                outputs = judge(z) if attack is not None else sure(z)
                claimed = goal.reached(outputs)
                if sure is not judge and attack is not None and bool(claimed.any()):
                    outputs[claimed] = sure(z[claimed])
                    claimed = goal.reached(outputs)
                allowed = self.threat.contains(z, x)
                inside = claimed if attack is None else claimed & attack.threat.contains(z, x)
                counts = inside & allowed
                stored = torch.zeros_like(claimed)
                if attack is not None and bool(inside.any()):
                    stored[inside] = goal[inside].reached(judge(as_stored(z[inside], self.threat, self.data)))
        labels, predicted = (part.tolist() for part in self.task.told(outputs, y))
        distance = self.threat.distance(z, x).tolist()
        nearness = margin(outputs, goal).tolist()
        outside = ((x < self.threat.low - 1e-6) | (x > self.threat.high + 1e-6)).flatten(1).any(1)
        usable = (finite(outputs) & finite(x)).tolist()
        outcomes = [
            Outcome(
                example=example,
                label=labels[row],
                prediction=predicted[row] if usable[row] else -1,
                reached=bool(inside[row]),
                counts=bool(counts[row]),
                distance=distance[row] if inside[row] and attack is not None else None,
                margin=nearness[row] if usable[row] and (attack is None or bool(allowed[row])) else None,
                rejected=bool(outside[row] if attack is None else claimed[row] & ~inside[row]),
                survives_storage=bool(stored[row]) if inside[row] and attack is not None else None,
                z=z[row] if inside[row] and attack is not None and example < self.kept else None,
            )
            for row, example in enumerate(examples)
        ]
        return outcomes, self.cost(start, view, judge)


def asked(victim: Victim) -> Model:
    """The model as an evaluation calls it: `steady` where rows are cheap, and saying in one line what it raises."""
    return steady(answering(victim)) if victim.access == "gradients" else answering(victim)


def answering(victim: Victim) -> Model:
    """The model, saying in one line what it raises; what it writes into its inputs is lost."""

    def answer(x: Tensor) -> Tensor:
        try:
            with as_written():
                outputs: object = victim(x.clone() if victim.access == "gradients" else x)  # others get a copy anyway
            if not isinstance(outputs, Tensor):
                given = f"outputs of {victim.name} that are a {type(outputs).__name__}"
                raise BadInput(given, "scores alone, a tensor", f"give {_part(outputs)}")
            return outputs
        except (BadInput, MemoryError):
            raise
        except Exception as error:
            said = line(error)
            if "memory" in said.lower():
                raise  # the batch is halved, and tried again
            given = f"{victim.name} raised {type(error).__name__} on inputs {tuple(x.shape)}: {said}"
            raise BadInput(given, "a model that answers", "try it on such a batch by itself") from error

    return answer


def _part(outputs: object) -> str:
    """How to give the scores alone, of a model that gives more: the part that may be them, logits before others."""
    match outputs:
        case Mapping():
            parts = {f"[{key!r}]": part for key, part in outputs.items()}
        case tuple() | list():
            parts = {f"[{i}]": part for i, part in enumerate(outputs)}
        case _:
            parts = {f".{key}": part for key, part in getattr(outputs, "__dict__", {}).items()}
    found = [way for way, part in parts.items() if isinstance(part, Tensor) and part.dim() == 2]
    best = min(found, key=lambda way: "logits" not in way, default=None)
    return "a function that returns the scores" if best is None else f"a function of them: lambda x: model(x){best}"


def stuck(victim: Victim, error: Exception) -> BadInput:
    """In one line, what a model raised on the way back."""
    given = f"{victim.name} raised {named(error)} in its backward pass"
    return BadInput(given, "a model that hands out gradients", "try torch.autograd.grad on it by itself")


def accept(x: Tensor, data: Data, threat: Boxed) -> None:
    """Look at inputs before anything is computed of them.

    Raises:
        BadInput: some are not finite, or outside of the bounds.
    """
    if not bool(threat.contains(x, x).all()):
        raise BadInput(
            f"inputs in {data.name} that are not finite, or outside of {threat.low:g} to {threat.high:g}",
            "finite inputs within the bounds",
            "clean the data, or give --bounds",
        )


def as_stored(z: Tensor, threat: Boxed, data: Data) -> Tensor:
    """`z` as a file would give it back: as the data say, else an 8-bit one, the box in 255 steps."""
    stored: Callable[[Tensor], Tensor] | None = getattr(data, "stored", None)
    if stored is not None:
        return stored(z)
    step = (threat.high - threat.low) / 255
    return (threat.low + ((z - threat.low) / step).round() * step).clamp(threat.low, threat.high)


def home(victim: Victim) -> torch.device:
    """Where the model's parameters live."""
    parameters = iter(victim.module.parameters()) if victim.module is not None else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: only then are results independent of the batch size. Workers make up for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def own_draws(*key: object) -> Iterator[None]:
    """Torch's global random numbers, from which a random model draws, are set by a key, and given back."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def memory_batch(victim: Victim, x: Tensor) -> int:
    """How many examples fit in a third of the free memory, by what one pass keeps for its backward pass."""
    kept = 0

    def weigh(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    device = home(victim)
    try:
        with inference(victim), torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
            answering(victim)(x.to(device).requires_grad_(victim.access == "gradients"))
    except BadInput as error:
        if "saved tensor hooks" not in str(error):
            raise
        kept = UNWEIGHED * x.nbytes  # a model that calls torch.func.grad lets nobody weigh
    each = kept / len(x) + 20 * x[0].nbytes
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return max(1, min(LARGEST, int(free / 3 / each)))


_RING: Ring | None = None


def _enter(ring: Ring) -> None:
    global _RING  # noqa: PLW0603  (a worker process is handed its ring once)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed()
    _RING = ring


def _end_with_parent() -> None:
    """A process that is killed cannot tell its workers, and they would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _ready() -> None:
    """Nothing to do: handed out once to each worker, so that all are started."""


def _fight(stage: str, attack: Attack | None, examples: Sequence[int]) -> list[Bout]:
    assert _RING is not None
    return list(within_memory(_RING, stage, attack, examples))


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs stages over examples, in batches, in one process or in several, and enters each batch into the ledger."""

    ring: Ring
    ledger: Ledger
    batch_size: int
    pool: Executor | None = None
    watch: Watch = silent

    def sweep(self, stage: str, attack: Attack | None, examples: Sequence[int]) -> dict[int, Outcome]:
        """Run a stage on these examples, but for those that the ledger has already; returns all their outcomes."""
        return go_on(self.ledger, stage, examples, partial(self._batches, stage, attack), self.watch)

    def _batches(self, stage: str, attack: Attack | None, examples: Sequence[int]) -> Iterator[Bout]:
        batches = [examples[i : i + self.batch_size] for i in range(0, len(examples), self.batch_size)]
        if self.pool is None:
            for batch in batches:
                yield from within_memory(self.ring, stage, attack, batch)
            return
        futures: list[Future[list[Bout]]] = []
        try:
            futures += [self.pool.submit(_fight, stage, attack, batch) for batch in batches]
            for future in as_completed(futures):
                yield from future.result()
        except BrokenProcessPool:
            raise BadInput("a worker process died", "memory for every worker", "resume with fewer workers") from None
        finally:
            for future in futures:
                future.cancel()


def go_on(
    ledger: Ledger, stage: str, examples: Sequence[int], run: Callable[[Sequence[int]], Iterable[Bout]], watch: Watch
) -> dict[int, Outcome]:
    """Run a stage on these examples, but for those that the ledger has already; returns all their outcomes.

    `run` yields batches, and each is entered as it comes: a run that is killed loses what is in hand, and no more.
    """
    known = ledger.outcomes(stage)
    pending = [example for example in examples if example not in known]
    done, total = len(examples) - len(pending), len(examples)
    watch(stage, done, total)
    if not pending and stage not in ledger.stages():
        ledger.record(stage, (), Cost())
    for outcomes, cost in run(pending):
        ledger.record(stage, outcomes, cost)
        done += len(outcomes)
        watch(stage, done, total)
    known = ledger.outcomes(stage)
    return {example: known[example] for example in examples}


def within_memory(ring: Ring, stage: str, attack: Attack | None, batch: Sequence[int]) -> Iterator[Bout]:
    """Run a batch; when memory runs out, its halves. Results do not depend on the batch size, so nothing changes."""
    try:
        yield ring.fight(stage, attack, batch)
        return
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "memory" in str(error).lower()):
            raise
        if len(batch) == 1:
            raise BadInput("memory ran out on one example", "more memory, or a smaller model", "free memory") from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
        yield from within_memory(ring, stage, attack, half)


def one_budget(victim: Victim, workers: int) -> None:
    """Refuse several workers for an endpoint: each would have a budget and a rate of its own.

    Raises:
        BadInput: they were asked for.
    """
    if victim.framework == "http" and workers > 1:
        raise BadInput(
            f"{workers} workers for an endpoint", "one: requests go one after another", "leave --workers out"
        )


@contextmanager
def workforce(ring: Ring, count: int) -> Iterator[Executor | None]:
    """A pool of worker processes, each with the ring; none for a single worker.

    Raises:
        BadInput: the model or the data cannot be sent to another process, or an endpoint is to have several.
    """
    one_budget(ring.victim, count)
    if count < 1:
        raise BadInput(f"{count} workers", "one or more", "leave the option out for one")
    if count == 1:
        yield None
        return
    import pickle

    try:
        pickle.dumps(ring)
    except Exception as error:
        raise BadInput(
            f"{type(error).__name__}: this model or data cannot be sent to a worker process",
            "one worker, or what can be pickled",
            "leave --workers out",
        ) from None
    others = set(active_children())
    pool = ProcessPoolExecutor(count, get_context("spawn"), _enter, (ring,))
    try:
        with _deaf_to_ctrl_c():
            for _ in range(count):
                pool.submit(_ready)
        yield pool
    except BaseException:  # what is in flight is lost, and may take minutes
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that start meanwhile never hear Ctrl-C, which a terminal sends to them too: their parent acts on it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited; ours waits till the end
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
