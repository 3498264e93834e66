"""A training that was killed, stopped or shared among processes ends with the same weights as one that was not."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from sparring.data import first
from sparring.data.named import digits
from sparring.errors import BadInput
from sparring.networks import mlp
from sparring.threats import linf
from sparring.training import (
    Alarm,
    Checkpoints,
    Epoch,
    Event,
    Looked,
    Trainer,
    Validation,
    adversarial,
    inner_pgd,
    shifts,
    standard,
)
from sparring.training.checkpoints import packed
from sparring.training.objectives import Free, free
from sparring.training.rates import cosine
from sparring.training.weights import AWP, swa
from sparring.types import Data

HERE = Path(__file__).parent


class Forgetful(nn.Module):
    """A network with everything that keeps a state: dropout, BatchNorm; it may send its process a signal."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)]
            self.layers = nn.Sequential(*layers)
        self.calls, self.signal_at, self.signal = 0, -1, signal.SIGINT

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.signal_at:
            os.kill(os.getpid(), self.signal)
        return self.layers(x)  # type: ignore[no-any-return]


def few(count: int = 320) -> Data:
    return first(digits("train"), count)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in network.state_dict().values()])


ATTACK = partial(inner_pgd, steps=2)
PLAIN = Trainer(epochs=3, batch_size=32)
FULL = Trainer(
    epochs=3,
    batch_size=32,
    lr=0.05,
    optimiser=partial(SGD, momentum=0.9),
    rate=cosine(warmup=0.1),
    average=swa,
    settled=0.5,
    neighbourhood=AWP(0.01),
    clip=1.0,
    augment=shifts(1),
    extra=first(digits("test"), 50),
    share=0.25,
    validation=Validation(data=first(digits("test"), 64), threat=linf(0.1)),
)
TRAINERS = {"plain": PLAIN, "full": FULL}


def kept(trainer: Trainer, folder: Path, **how: Any) -> Trainer:
    return replace(trainer, checkpoints=Checkpoints(path=folder / "checkpoint.pt", steps=4, settings="a", **how))


KILLED = """
    import signal, sys
    from pathlib import Path

    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[1])
    from test_resume import ATTACK, TRAINERS, Forgetful, adversarial, few, kept, linf

    network = Forgetful()
    network.signal_at, network.signal = 50, signal.SIGKILL
    kept(TRAINERS[sys.argv[3]], Path(sys.argv[2]))(network, few(), adversarial(linf(0.1), ATTACK))
"""


@pytest.mark.parametrize("name", ["plain", "full"])
def test_a_training_killed_and_resumed_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(HERE), str(tmp_path), name]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    objective = adversarial(linf(0.1), ATTACK)
    resumed = kept(TRAINERS[name], tmp_path, resume=True)(Forgetful(), few(), objective)
    whole = TRAINERS[name](Forgetful(), few(), objective)
    assert torch.equal(weights(resumed.network), weights(whole.network))
    assert [replace(e, seconds=0) for e in resumed.history] == [replace(e, seconds=0) for e in whole.history]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [31, 60])
def test_ctrl_c_waits_for_the_end_of_an_update_and_loses_none(at: int, number: signal.Signals, tmp_path: Path) -> None:
    network = Forgetful()
    network.signal_at, network.signal = at, number
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        kept(PLAIN, tmp_path)(network, few(), adversarial(linf(0.1), ATTACK))
    assert signal.getsignal(number) is before
    told: list[Any] = []
    trainer = replace(kept(PLAIN, tmp_path, resume=True), watch=told.append)
    resumed = trainer(Forgetful(), few(), adversarial(linf(0.1), ATTACK))
    assert told[0].step == (at - 2) // 3 + 1, "one pass to look at the network, then three an update"
    assert torch.equal(
        weights(resumed.network), weights(PLAIN(Forgetful(), few(), adversarial(linf(0.1), ATTACK)).network)
    )


def test_an_objective_with_a_memory_goes_on_with_it(tmp_path: Path) -> None:
    make: Callable[[], Free] = partial(free, linf(0.1))
    whole = PLAIN(Forgetful(), few(), make())
    network = Forgetful()
    network.signal_at = 9
    with pytest.raises(KeyboardInterrupt):
        kept(PLAIN, tmp_path)(network, few(), make())
    resumed = kept(PLAIN, tmp_path, resume=True)(Forgetful(), few(), make())
    assert torch.equal(weights(resumed.network), weights(whole.network))


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    trainer = replace(PLAIN, validation=Validation(data=first(digits("test"), 64), threat=linf(0.1)))
    done = kept(trainer, tmp_path)(Forgetful(), few(), standard)
    told: list[Any] = []
    again = replace(kept(trainer, tmp_path, resume=True), watch=told.append)(Forgetful(), few(), standard)
    assert len(told) == 1
    assert torch.equal(weights(done.network), weights(again.network))
    assert again.history == done.history


def test_without_resume_a_training_starts_anew(tmp_path: Path) -> None:
    kept(PLAIN, tmp_path)(Forgetful(), few(), standard)
    told: list[Any] = []
    replace(kept(PLAIN, tmp_path), watch=told.append)(Forgetful(), few(), standard)
    assert told[0].step == 1


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_refused_in_one_line(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.pt"
    kept(PLAIN, tmp_path)(Forgetful(), few(64), standard)
    other = replace(PLAIN, checkpoints=Checkpoints(path=place, settings="b", resume=True))
    with pytest.raises(BadInput, match="other settings"):
        other(Forgetful(), few(64), standard)
    good = place.read_bytes()
    flipped = [bytearray(good) for _ in range(20)]
    for i, content in enumerate(flipped):
        content[i * (len(good) - 1) // 19] ^= 1 << i % 8
    for content in (b"", b"not a checkpoint", good[:1000], good[:-1], *flipped):
        place.write_bytes(content)
        with pytest.raises(BadInput, match="cannot be read") as refused:
            kept(PLAIN, tmp_path, resume=True)(Forgetful(), few(64), standard)
        assert "\n" not in str(refused.value)


def test_a_batch_that_processes_cannot_share_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_fabric.Fabric.world_size", property(lambda self: 3))
    with pytest.raises(BadInput, match="batches of 32 for 3 processes"):
        PLAIN(mlp(), few(), standard)


STARTED = """
    import os, signal, subprocess, sys

    from sparring.training.hardware import starting

    with starting():
        if "waits" not in sys.argv:
            subprocess.Popen([sys.executable, __file__, "waits"])
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_process_that_waits_for_others_ends_when_the_one_that_started_it_is_gone(tmp_path: Path) -> None:
    script = tmp_path / "started.py"
    script.write_text(textwrap.dedent(STARTED))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, check=False, timeout=240)
    assert done.returncode == -signal.SIGTERM, "and nobody holds its pipes any more"


SHARED = """
    import os, signal, sys
    from dataclasses import replace
    from functools import partial
    from pathlib import Path

    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[1])
    from sparring.errors import BadInput
    from sparring.training import Progress
    from test_resume import ATTACK, adversarial, few, inner_pgd, kept, linf, mlp, replace, SHARING

    resume, dies = sys.argv[3] == "resume", int(sys.argv[4])

    def watch(event):
        pass

    attack = ATTACK
    if os.environ.get("RANK") == "1" and dies:
        def attack(threat, done=[0]):
            done[0] += 1
            if done[0] == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return ATTACK(threat)

    try:
        course = kept(SHARING, Path(sys.argv[2]), resume=resume)(mlp(), few(), adversarial(linf(0.1), attack))
    except BadInput as error:
        print("REFUSED", error, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("STOPPED", flush=True)
        sys.exit(130)
    if course.first:
        torch.save(course.network.state_dict(), Path(sys.argv[2]) / "weights.pt")
"""

SHARING = replace(
    PLAIN, augment=shifts(1), clip=1.0, validation=Validation(data=first(digits("test"), 64), threat=linf(0.1))
)


def shared(folder: Path, *, resume: bool = False, dies: int = 0) -> subprocess.CompletedProcess[str]:
    script = folder / "shared.py"
    script.write_text(textwrap.dedent(SHARED), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [str(script), str(HERE), str(folder), "resume" if resume else "anew", str(dies)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, *words], check=False, capture_output=True, text=True, env=environment, timeout=200)


@pytest.mark.slow
def test_two_processes_give_the_model_of_one_up_to_rounding(tmp_path: Path) -> None:
    done = shared(tmp_path)
    assert done.returncode == 0, done.stderr
    two = mlp()
    two.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    one = SHARING(mlp(), few(), adversarial(linf(0.1), ATTACK)).network
    assert torch.allclose(weights(one), weights(two), atol=1e-4)
    assert not torch.allclose(weights(one), weights(mlp()), atol=1e-2)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_in_one_line_and_it_can_be_resumed(tmp_path: Path) -> None:
    died = shared(tmp_path, dies=23)
    assert died.returncode != 0
    said = [line for line in died.stdout.splitlines() if line.startswith(("REFUSED", "STOPPED"))]
    assert len(said) == 1, died.stderr
    done = shared(tmp_path, resume=True)
    assert done.returncode == 0, done.stderr
    two = mlp()
    two.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    one = SHARING(mlp(), few(), adversarial(linf(0.1), ATTACK)).network
    assert torch.allclose(weights(one), weights(two), atol=1e-4)


@pytest.mark.parametrize("state", [[1], "text", torch.zeros(3), {}, {"settings": "a"}, {"settings": "a", "step": 1}])
def test_another_file_of_torch_in_the_place_of_a_checkpoint_is_refused_in_one_line(state: Any, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint.pt"
    for content in (bytes(packed(state)), bytes(packed(state)) + hashlib.sha256(packed(state)).digest()):
        place.write_bytes(content)
        with pytest.raises(BadInput, match=r"cannot be read .*start anew") as refused:
            kept(PLAIN, tmp_path, resume=True)(Forgetful(), few(64), standard)
        assert "\n" not in str(refused.value)


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path: Path) -> None:
    kept(PLAIN, tmp_path)(Forgetful(), few(64), standard)
    with pytest.raises(BadInput, match="of another network or optimiser") as refused:
        kept(PLAIN, tmp_path, resume=True)(mlp(), few(64), standard)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_an_error_of_the_system_and_the_old_one_stays(
    tmp_path: Path,
) -> None:
    script = """
        import resource, sys
        from pathlib import Path

        import torch

        from sparring.training import Checkpoints

        one = Checkpoints(path=Path(sys.argv[1]), resume=True)
        one.save({"a": torch.zeros(10)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        try:
            one.save({"a": torch.zeros(10_000)})
        except OSError:
            assert len(one.load()["a"]) == 10
            sys.exit(3)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "checkpoint.pt")]
    assert subprocess.run(words, check=False).returncode == 3
    assert len(list(tmp_path.iterdir())) == 1


class Centred(nn.Module):
    """Keeps the mean of what it was trained on in a buffer that no state dict has; it may send its process a signal."""

    def __init__(self, signal_at: int = -1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.head = nn.Linear(784, 10)
        self.register_buffer("mean", torch.zeros(784), persistent=False)
        self.calls, self.signal_at = 0, signal_at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        x = x.flatten(1)
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.head(x - self.mean)  # type: ignore[no-any-return]


@pytest.mark.parametrize("average", [0.0, 0.999, swa])
def test_buffers_that_no_state_dict_has_go_on_too(average: Any, tmp_path: Path) -> None:
    trainer = replace(PLAIN, average=average, settled=0.3)
    whole = trainer(Centred(), few(), standard).network
    with pytest.raises(KeyboardInterrupt):
        kept(trainer, tmp_path)(Centred(signal_at=15), few(), standard)
    resumed = kept(trainer, tmp_path, resume=True)(Centred(), few(), standard).network
    assert torch.equal(whole.head.weight, resumed.head.weight)
    assert torch.equal(whole.mean, resumed.mean)


def test_buffers_that_no_state_dict_has_come_back_with_the_good_weights_and_with_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at_once(history: Sequence[Epoch]) -> Alarm | None:
        found = Alarm(name="catastrophic-overfitting", epoch=2, seen="", threshold="", remedy="")
        return found if len(history) == 2 else None

    monkeypatch.setattr("sparring.training.trainer.ALARMS", (at_once,))
    shown: list[Tensor] = []

    def keep(event: Event) -> None:
        if isinstance(event, Looked):
            shown.append(event.network.mean.clone())  # type: ignore[operator,union-attr]

    held = Validation(data=first(digits("test"), 64), threat=linf(0.1), keep_best=False)
    trainer = replace(PLAIN, average=0.0, watch=keep, validation=held)
    back = trainer(Centred(), few(), standard).network
    assert torch.equal(back.mean, shown[0])
    assert not torch.equal(shown[0], shown[1])
    shown.clear()
    monkeypatch.setattr("sparring.training.trainer.ALARMS", ())
    course = replace(trainer, lr=0.5, validation=replace(held, keep_best=True))(Centred(), few(), standard)
    robust = [epoch.robust or 0.0 for epoch in course.history]
    assert torch.equal(course.network.mean, shown[robust.index(max(robust))])  # type: ignore[arg-type]
