"""`sparring train` end to end: what it leaves, what it says, how it is stopped, and what TensorBoard makes of it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.cli import cli, main
from sparring.data import Arrays, digits, first
from sparring.errors import BadInput
from sparring.evaluate import Result
from sparring.hardening import split, train
from sparring.networks import mlp
from sparring.threats import linf
from sparring.training import Alarm, Looked, Progress, tensorboard
from sparring.training.hardware import has_bfloat16
from sparring.training.locking import alone_in, companion

SMALL = ("--data", "digits", "--limit", "600", "--threat", "linf:0.1", "--epochs", "2")
QUICK = ("--budget", "quick", "--set", "audit.limit=60", "--set", "data.validation=60", "--set", "optimiser.lr=0.01")

NETWORKS = """
import os
import signal

from sparring.networks import mlp


class Interrupted(type(mlp())):
    calls = 0

    def forward(self, x):
        self.calls += 1
        if str(self.calls) == os.environ.get("INTERRUPT_AT"):
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def network():
    return Interrupted(*mlp())
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETWORKS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str) -> int:
    return int(cli.main(["train", *words], standalone_mode=False) or 0)


def weights(path: Path) -> Tensor:
    state = torch.load(path, weights_only=True)
    mlp().load_state_dict(state)
    return torch.cat([value.flatten() for value in state.values()])


def test_a_run_leaves_weights_settings_history_result_and_report(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "trades", "--set", "precision=auto")
    assert command("sparring.networks:mlp", *SMALL, *QUICK, *asked, "--out", "a") == 0
    said = capsys.readouterr()
    assert "epoch 2: loss" in said.err
    assert re.search(r"clean \d+\.\d%, robust \d+\.\d%", said.err)
    assert "report: a/report.html" in said.out
    assert "weights: a/weights.pt" in said.out
    settings = tomllib.loads((place / "a" / "train.toml").read_text(encoding="utf-8"))
    assert settings["objective"] == {"name": "trades"}
    assert settings["data"]["limit"] == 600
    here = "bf16-mixed" if has_bfloat16(torch.device("cpu")) else "32"
    assert settings.get("precision", "32") == here, "what auto stood for is kept"
    rows = list(csv.DictReader((place / "a" / "history.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["robust"]) <= float(row["clean"]) <= 1 for row in rows)
    result = Result.load(place / "a" / "result.json")
    assert result.examples == 60
    said_of_itself = json.loads((place / "a" / "result.json").read_text(encoding="utf-8"))["training"]
    assert (said_of_itself["objective"], said_of_itself["epochs"], said_of_itself["alarms"]) == ("trades", 2, [])
    assert result.command.startswith("sparring train sparring.networks:mlp --data digits")
    page = (place / "a" / "report.html").read_text(encoding="utf-8")
    assert "The training" in page
    computed = {"32": "float32", "bf16-mixed": "bfloat16"}[here]
    assert f"Objective trades, 2 epochs in {computed}, " in page

    assert command("--recipe", "a/train.toml", "--budget", "none", "--out", "b") == 0
    assert torch.equal(weights(place / "a" / "weights.pt"), weights(place / "b" / "weights.pt"))
    assert not (place / "b" / "report.html").exists()


def test_a_network_that_was_trained_before_is_compared_with_what_becomes_of_it(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("sparring.networks:mlp", *SMALL, *QUICK)
    assert command(*start, "--method", "standard", "--budget", "none", "--out", "a") == 0
    assert command(*start, "--weights", "a/weights.pt", "--out", "b") == 0
    said = capsys.readouterr().out
    assert "sparring.networks:mlp, before" in said
    assert "McNemar" in said
    before, after = (Result.load(place / "b" / name) for name in ("before/result.json", "result.json"))
    assert after.robust_accuracy.estimate > before.robust_accuracy.estimate + 0.05
    page = (place / "b" / "report.html").read_text(encoding="utf-8")
    assert before.name in page
    assert after.name in page


def test_a_chinese_report_calls_before_and_after_by_chinese_words(place: Path) -> None:
    assert command("sparring.networks:mlp", *SMALL, *QUICK, "--language", "zh", "--out", "a") == 0
    names = [Result.load(place / "a" / name).name for name in ("before/result.json", "result.json")]
    assert names == ["sparring.networks:mlp（训练前）", "sparring.networks:mlp（训练后）"]
    page = (place / "a" / "report.html").read_text(encoding="utf-8")
    assert "（训练后）" in page
    assert ", after" not in page


def test_ctrl_c_says_how_to_go_on_and_the_rest_gives_the_same_weights(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("nets.py:network", *SMALL, *QUICK, "--budget", "none")
    assert command(*start, "--out", "whole") == 0
    monkeypatch.setenv("INTERRUPT_AT", "30")
    monkeypatch.setattr(sys, "argv", ["sparring", "train", *start, "--out", "a"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sparring: stopped")
    assert "--resume" in said
    monkeypatch.delenv("INTERRUPT_AT")
    monkeypatch.setenv("LOCAL_RANK", "0")  # as torchrun says it, to the first process too
    with pytest.raises(BadInput, match="unfinished training"):
        command(*start, "--out", "a")
    monkeypatch.delenv("LOCAL_RANK")
    assert command(*start, "--out", "a", "--resume") == 0
    assert torch.equal(weights(place / "whole" / "weights.pt"), weights(place / "a" / "weights.pt"))
    assert "goes on after update" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no threat"),
        (("--threat", "linf:0.1"), "no model"),
        (("sparring.networks:mlp", "--threat", "linf:0.1"), "no data"),
        (("sparring.networks:mlp", *SMALL, "--method", "trads"), "did you mean 'trades'"),
        (("sparring.networks:mlp", *SMALL, "--set", "epoch=3"), "did you mean 'epochs'"),
        (("sparring.networks:mlp", *SMALL, "--recipe", "none.toml"), "no recipe"),
        (("sparring.networks:nothing", *SMALL), "nothing"),
        (("sparring.networks:mlp", *SMALL, "--device", "cuda:7"), "cuda:7"),
        (("sparring.networks:mlp", *SMALL, "--seed", "9" * 23), "seed = 9{23}; need less"),
        (("sparring.networks:small_cnn", *SMALL, "--method", "vat", "--threat", "l1:1"), "vat for l1:1"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(place: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        command(*words)
    assert "\n" not in str(refused.value)
    assert not (place / "sparring-train").exists()


def test_data_in_hand_are_audited_on_what_was_held_out_unless_test_data_are_given() -> None:
    x, labels = digits("train").take(range(400))
    kept, held = split(Arrays("data", x, labels), 40)
    assert held is not None
    assert len(kept) == 360
    both = torch.cat([kept.take(range(360))[0], held.take(range(40))[0]]).flatten(1).sum(1)
    assert torch.equal(both.sort().values, x.flatten(1).sum(1).sort().values)
    settings: dict[str, Any] = {"epochs": 1, "audit": {"suite": "quick"}, "optimiser": {"lr": 0.01}}
    done = train(mlp(), (x, labels), linf(0.05), **settings)
    assert done.after is not None
    assert done.after.examples == 80
    done = train(mlp(), (x, labels), "linf:0.05", test=first(digits("test"), 30), **settings)
    assert done.after is not None
    assert done.after.examples == 30


def test_a_source_without_splits_is_not_audited_on_what_it_was_trained_on(place: Path) -> None:
    x, labels = digits("train").take(range(400))
    np.savez(place / "all.npz", x=x.numpy(), y=labels.numpy())
    done = train(mlp(), "all.npz", "linf:0.05", epochs=1, audit={"suite": "quick"})
    assert done.after is not None
    assert done.after.examples == 80


def test_data_without_labels_serve_an_objective_that_does_without() -> None:
    settings: dict[str, Any] = {"epochs": 2, "audit": {"suite": "none"}}
    data = {"name": "digits", "limit": 300, "extra": "digits:test", "labelled": False}
    done = train(mlp(), data, linf(0.05), method="vat", **settings)
    assert len(done.course.history) == 2
    assert done.course.history[0].step == 240 // 64
    with pytest.raises(BadInput, match="the objective vat"):
        train(mlp(), data, linf(0.05), **settings)


def test_what_torch_cannot_train_is_refused() -> None:
    with pytest.raises(BadInput, match="a torch network, or a Keras model on torch"):
        train(lambda x: x, digits("train"), linf(0.1))
    with pytest.raises(BadInput, match="no weights to train"):
        train(nn.Flatten(), digits("train"), linf(np.float64(0.1)))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A TensorBoard on the folder, on a port that it chooses."""
    words = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", "--load_fast", "false"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        try:
            assert server.stderr is not None
            said = next(line for line in server.stderr if "http://" in line)
            address = re.search(r"http://[^/\s]+", said)
            assert address is not None
            yield address[0]
        finally:
            server.terminate()


def ask(address: str, path: str) -> Any:
    """What TensorBoard has, once it has read its files."""
    for _ in range(100):
        with urllib.request.urlopen(f"{address}/data/plugin/{path}", timeout=60) as answer:
            found = json.load(answer)
        if found:
            return found
        threading.Event().wait(0.2)
    raise AssertionError(path)


@pytest.mark.frameworks
def test_tensorboard_shows_scalars_images_and_histograms(place: Path) -> None:
    pytest.importorskip("tensorboard")
    assert command("sparring.networks:mlp", *SMALL, *QUICK, "--budget", "none", "--tensorboard", "--out", "a") == 0
    with serving(place / "a" / "tensorboard") as address:
        scalars = set(ask(address, "scalars/tags")["."])
        assert {"train/loss", "train/lr", "train/eps", "train/gradient_norm"} <= scalars
        assert {"accuracy/clean", "accuracy/robust", "epoch/loss"} <= scalars
        points = ask(address, "scalars/scalars?run=.&tag=accuracy/robust")
        assert [step for _, step, _ in points] == [4, 8]
        assert set(ask(address, "images/tags")["."]) == {"examples/clean", "examples/adversarial"}
        assert "weights/1.weight" in ask(address, "histograms/tags")["."]


@pytest.mark.frameworks
def test_a_log_is_written_of_updates_epochs_and_alarms(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from sparring.training.alarms import Epoch

    epoch = Epoch(epoch=1, step=1, seconds=0.1, loss=1.0, lr=0.1, strength=1.0, clean=0.5, robust=0.4)
    with tensorboard(tmp_path) as log:
        log(Progress(1, 1, 1, 1, 1.0, 0.1, 1.0, 2.0))
        log(Looked(epoch=epoch, network=nn.Linear(2, 2), x=torch.rand(2, 5), z=torch.rand(2, 5)))
        log(Alarm(name="collapse", epoch=1, seen="", threshold="", remedy=""))
    assert len(list(tmp_path.iterdir())) == 1


def test_tensorboard_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(BadInput, match=r"sparring\[tensorboard\]"), tensorboard(tmp_path):
        pass


@pytest.mark.frameworks
def test_a_keras_model_on_torch_is_trained_like_any_other_and_left_as_it_was(tmp_path: Path) -> None:
    script = tmp_path / "keras_run.py"
    script.write_text(KERAS, encoding="utf-8")
    pytest.importorskip("keras")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / "run" / "trained.weights.h5").is_file()
    result = Result.load(tmp_path / "run" / "result.json")
    assert result.verdict == "trusted"
    assert result.robust_accuracy.estimate > 0.4


KERAS = """
import keras
import torch

from sparring.data import digits, first
from sparring.threats import linf
from sparring.hardening import train

torch.set_num_threads(1)
keras.utils.set_random_seed(0)
layers = [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(64), keras.layers.BatchNormalization()]
layers += [keras.layers.ReLU(), keras.layers.Dropout(0.1), keras.layers.Dense(10, "softmax")]
model = keras.Sequential(layers)
before = [v.value.clone() for v in model.variables]
settings = dict(epochs=3, optimiser={"lr": 1e-2}, audit={"suite": "quick", "limit": 100})
done = train(model, first(digits("train"), 2000), linf(0.05), out="run", **settings)
assert all(torch.equal(a, v.value) for a, v in zip(before, model.variables))
model.load_weights("run/trained.weights.h5")
x, labels = digits("test").take(range(200))
right = model(x.permute(0, 2, 3, 1), training=False).argmax(1) == labels
assert right.float().mean() > 0.7
"""


def test_a_folder_takes_one_training_at_a_time_and_keeps_no_trace_of_that(place: Path) -> None:
    tried: list[str] = []
    settings: dict[str, Any] = {"epochs": 1, "audit": {"suite": "none"}, "out": place / "a"}
    x, labels = digits("train").take(range(100))

    def second(event: object) -> None:
        if isinstance(event, Progress) and not tried:
            for resume in (False, True):
                with pytest.raises(BadInput, match="another training is running in") as refused:
                    train(mlp(), (x, labels), "linf:0.1", resume=resume, **settings)
                tried.append(str(refused.value))
            train(mlp(), (x, labels), "linf:0.1", **{**settings, "out": place / "b"})

    train(mlp(), (x, labels), "linf:0.1", watch=second, **settings)
    assert len(tried) == 2
    left = {"checkpoint.pt", "history.csv", "train.toml", "weights.pt"}
    assert {path.name for path in (place / "a").iterdir()} == {path.name for path in (place / "b").iterdir()} == left
    train(mlp(), (x, labels), "linf:0.1", **settings)


def test_a_process_that_died_keeps_nobody_out(place: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path

        from sparring.training.locking import alone_in

        with alone_in(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(place / "a")]
    assert subprocess.run(words, check=False).returncode < 0
    assert [path.name for path in (place / "a").iterdir()] == [".training.lock"]
    with alone_in(place / "a"):
        pass
    assert not list((place / "a").iterdir())


@pytest.mark.parametrize(
    ("said", "other"),
    [
        ({}, False),
        ({"LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, True),
        ({"RANK": "2", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, True),
    ],
)
def test_the_processes_of_a_training_do_not_keep_each_other_out(
    said: dict[str, str], other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert companion() is other


def test_what_is_refused_leaves_no_folder(place: Path) -> None:
    with pytest.raises(BadInput, match="nothing here"), alone_in(place / "a" / "b"):
        raise BadInput("nothing here", "something", "try again")
    assert not (place / "a").exists()


def test_a_checkpoint_of_another_version_is_refused_in_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = digits("train").take(range(100))
    settings: dict[str, Any] = {"epochs": 1, "audit": {"suite": "none"}, "out": place / "a"}
    train(mlp(), (x, labels), "linf:0.1", **settings)
    train(mlp(), (x, labels), "linf:0.1", resume=True, **settings)
    monkeypatch.setattr("sparring.hardening.__version__", "0.0.1")
    with pytest.raises(BadInput, match=r"other settings.*version of Sparring") as refused:
        train(mlp(), (x, labels), "linf:0.1", resume=True, **settings)
    assert "\n" not in str(refused.value)
