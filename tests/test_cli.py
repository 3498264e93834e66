"""The command line end to end: what it refuses, what it writes, and with which status it leaves."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

import sparring
from sparring import registry
from sparring.cli import cli, main
from sparring.data import digits
from sparring.evaluate import Result
from sparring.threats import linf

NETWORKS = '''
import os
import signal

import torch
from torch import nn


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


def trained():
    model = network()
    model.load_state_dict(torch.load("weights.pt", weights_only=True))
    return model


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = trained()
        self.eval()


class Softmax(Wrapped):
    def forward(self, x):
        return self.model(x).softmax(1)


class Detached(Wrapped):
    def forward(self, x):
        return self.model(x.detach())


class Pair(Wrapped):
    def forward(self, x):
        return self.model(x), x


class OneLogit(Wrapped):
    def forward(self, x):
        return self.model(x)[:, 0]


class ChangesItsInput(Wrapped):
    def forward(self, x):
        x -= 0.1307
        return self.model(x)


def five_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5)).eval()


class Interrupted(Wrapped):
    """Ctrl-C at a call that the environment names; "wait" leaves it to someone else to send the signal."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        if str(self.calls) == os.environ.get("INTERRUPT_AT"):
            if os.environ.get("INTERRUPT_BY") == "wait":
                print("waiting", flush=True)
                signal.pause()
            signal.raise_signal(signal.SIGINT)
        return self.model(x)


def raises():
    raise RuntimeError("no weights\\nanywhere")


def function():
    model = trained()
    return lambda x: model(torch.from_numpy(x)).detach().numpy()


def attack(threat, *, steps: int = 3):
    from sparring.attacks import pgd

    return pgd(threat, steps=steps)
'''

MINE = """
from dataclasses import dataclass
from typing import Any

from sparring.attacks import pgd


@dataclass
class Mine:
    threat: Any
    make: Any

    def __call__(self, model, x, goal, rng):
        return self.make(x)


def far(threat):
    return Mine(threat, lambda x: x + 100)


def fails(threat):
    return Mine(threat, lambda x: 1 / 0)


def late(threat):
    left = [1, 0]
    return Mine(threat, lambda x: x / left.pop(0) if left[0] else 1 / 0)


def climbs(threat):
    return pgd(threat)
"""

TRAINED = ("nets.py:network", "--weights", "weights.pt")
SMALL = ("--data", "digits", "--limit", "64")
THREAT = ("--threat", "linf:0.1")
QUICK = ("--budget", "quick")
AUDIT = ("audit", *TRAINED, *SMALL, *THREAT, *QUICK)
ATTACK = ("attack", *TRAINED, *SMALL, *THREAT, "--out", "out")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def weights() -> dict[str, Any]:
    """A small network that knows most digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    x, y = digits("train").take(range(2000))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        rows = torch.randint(0, len(x), (256,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
    return model.state_dict()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, Any]) -> Path:
    """The folder in which commands run: networks, weights, and files of every bad kind."""
    monkeypatch.chdir(tmp_path)
    torch.save(weights, "weights.pt")
    Path("nets.py").write_text(NETWORKS)
    return tmp_path


@pytest.fixture
def register_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test registers, it registers for itself: the register that others see stays as it is."""
    monkeypatch.setattr(registry, "_MEMBERS", {kind: {**registry.members(kind)} for kind in get_args(registry.Kind)})


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def start(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["sparring", *words])
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Ended(left.value.code, said.out, said.err)

    return start


def files(place: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*") if "__pycache__" not in path.parts}


def refused(run: Run, words: Sequence[str], *fragments: str) -> None:
    """Status 2, one line on stderr with all fragments, nothing on stdout, no file made or changed."""
    before = files(Path.cwd())
    ended = run(*words)
    assert ended.status == 2, ended
    assert ended.err.startswith("sparring: ")
    assert ended.err.count("\n") == 1
    assert ended.out == ""
    for fragment in fragments:
        assert fragment in ended.err
    assert files(Path.cwd()) == before


def timeless(path: Path) -> dict[str, Any]:
    """A result without what a clock says."""
    text = path.read_text()
    return json.loads(text, object_hook=lambda row: {key: row[key] for key in row if key != "seconds"})


BAD_THREATS = {
    "linf:8": "linf:8/255",
    "linf:abc": "'abc'",
    "l3:1": "linf",
    "linf:-1": "-1",
    "linf:nan": "nan",
    "linf:1/0": "1/0",
    "linf": "linf:8/255",
    "l0:0.5": "a whole number of values",
    "l0:2.5": "a whole number of values",
    "patch:2": "a share of 2.0",
}


@pytest.mark.parametrize("threat", BAD_THREATS)
@pytest.mark.parametrize("command", ["audit", "doctor", "attack"])
def test_a_bad_threat_is_refused_in_one_line(run: Run, command: str, threat: str) -> None:
    more = {"audit": ("--out", "out"), "doctor": (), "attack": ("--attack", "pgd", "--out", "out")}[command]
    refused(run, (command, *TRAINED, *SMALL, "--threat", threat, *more), BAD_THREATS[threat])


BAD_MODELS = {
    ("gone.onnx",): "no file 'gone.onnx'",
    ("gone",): "no file 'gone'",
    ("nets.py",): "write nets.py:NAME",
    ("nets.py:netwrok",): "did you mean 'network'?",
    ("gone.py:network",): "no file 'gone.py'",
    ("gone.module:network",): "no module 'gone'",
    ("nets.py:raises",): "RuntimeError: no weights anywhere",
    ("whole.pkl",): "--trust",
    ("whole.pt",): "--trust",
    ("weights.pt",): "module:factory",
    ("nets.py:network", "--weights", "gone.pt"): "no file 'gone.pt'",
    ("nets.py:network", "--weights", "other.pt"): "does not fit",
    ("nets.py:network", "--weights", "whole.pt"): "--trust",
    ("nets.py:network", "--weights", "truncated.pt"): "truncated.pt",
    ("nets.py:network", "--weights", "junk.pt"): "'junk.pt' does not load",
    ("nets.py:network", "--weights", "junk.pt", "--trust"): "'junk.pt' does not load",
    ("nets.py:Pair",): "returns a tuple",
    ("nets.py:ChangesItsInput",): "RuntimeError",
    ("nets.py:network", "--device", "nonsense"): "--device nonsense",
    ("nets.py:function", "--device", "cuda"): "a torch model",
}


@pytest.mark.parametrize("model", BAD_MODELS, ids=" ".join)
def test_a_bad_model_is_refused_in_one_line(run: Run, place: Path, model: tuple[str, ...]) -> None:
    whole = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    torch.save(whole, "whole.pt")
    torch.save(whole.state_dict(), "other.pt")
    Path("whole.pkl").write_bytes(pickle.dumps(whole))
    Path("truncated.pt").write_bytes(Path("weights.pt").read_bytes()[:1000])
    Path("junk.pt").write_text("these are no weights")
    refused(run, ("audit", *model, *SMALL, *THREAT, *QUICK, "--out", "out"), BAD_MODELS[model])


BAD_DATA = {
    ("gone.npz",): "no file 'gone.npz'",
    ("gone",): "no data set, file, folder or module 'gone'",
    ("digist",): "did you mean 'digits'?",
    ("digits", "--split", "dev"): "train or test",
    ("truncated.npz",): "truncated.npz",
    ("pickled.npz",): "pickle",
    ("unlabelled.npz",): "x and y",
    ("empty",): "empty",
    ("weights.pt",): "weights.pt",
    ("nets.py:raises",): "RuntimeError: no weights anywhere",
    ("photos.npz",): "(3, 32, 32)",
    ("digits", "--limit", "0"): "--limit",
}


@pytest.mark.parametrize("command", ["audit", "attack"])
@pytest.mark.parametrize("data", BAD_DATA, ids=" ".join)
def test_bad_data_are_refused_in_one_line(run: Run, place: Path, data: tuple[str, ...], command: str) -> None:
    x, y = np.zeros((8, 3, 32, 32), np.float32), np.zeros(8, np.int64)
    np.savez("photos.npz", x=x, y=y)
    np.savez("unlabelled.npz", x=x)
    np.savez("pickled.npz", x=np.array([{}] * 8, dtype=object), y=y)
    Path("truncated.npz").write_bytes(Path("photos.npz").read_bytes()[:3000])
    Path("empty").mkdir()
    Path("empty", "notes.txt").write_text("no pictures")
    more = QUICK if command == "audit" else ("--attack", "pgd")
    refused(run, (command, *TRAINED, "--data", *data, *THREAT, *more, "--out", "out"), BAD_DATA[data])


def test_data_that_the_model_cannot_take_are_named_with_shape_and_exception(run: Run, place: Path) -> None:
    np.savez("photos.npz", x=np.zeros((8, 3, 32, 32), np.float32), y=np.zeros(8, np.int64))
    fragments = ("nets.py:network", "RuntimeError", "3072", "784", "(3, 32, 32)", "photos.npz")
    refused(run, ("doctor", *TRAINED, "--data", "photos.npz"), *fragments)


BAD_OPTIONS = {
    ("audit", *TRAINED, *SMALL, *THREAT, "--budget", "quikc"): "one of quick, standard",
    ("audit", *TRAINED, *SMALL): "'--threat'",
    ("audit", *TRAINED, *THREAT): "'--data'",
    ("audit",): "'MODEL'",
    (*AUDIT, "--workers", "0"): "--workers",
    (*AUDIT, "--batch-size", "0"): "--batch-size",
    (*AUDIT, "--fail-under", "2"): "--fail-under",
    (*AUDIT, "--fail-under", "nan"): "--fail-under",
    (*AUDIT, "--bounds", "1", "0"): "low < high",
    (*AUDIT, "--seed", "x"): "--seed",
    (*AUDIT, "--languages", "en"): "sparring audit --help",
    (*AUDIT, "--bounds", "1"): "requires 2 arguments. Run: sparring audit --help",
    ("audti",): "audti",
    ("attack", *TRAINED, *SMALL, *THREAT, "--out", "out"): "'--attack'",
    ("attack", *TRAINED, *SMALL, *THREAT, "--attack", "pgd"): "'--out'",
    ("attack", *TRAINED, *SMALL, *THREAT, "--attack", "apgdce", "--out", "out"): "did you mean 'apgd-ce'?",
    ("attack", *TRAINED, *SMALL, *THREAT, "--attack", "ddn", "--out", "out"): "a norm of l2",
    ("attack", "nets.py:function", *SMALL, *THREAT, "--attack", "pgd", "--out", "out"): "black-box",
    ("attack", "nets.py:Detached", *SMALL, *THREAT, "--attack", "pgd", "--out", "out"): "black-box",
    (*ATTACK, "--attack", "pgd", "--set", "stepz=3"): "did you mean 'steps'?",
    (*ATTACK, "--attack", "pgd", "--set", "steps=ten"): "a whole number",
    (*ATTACK, "--attack", "pgd", "--set", "steps"): "--set steps=100",
    (*ATTACK, "--attack", "pgd", "--set", "loss=margn"): "did you mean 'margin'?",
    (*ATTACK, "--attack", "PGD"): "did you mean 'pgd'? (see: sparring list attacks)",
    (*ATTACK, "--attack", "nets.py:atack"): "did you mean 'attack'?",
    (*ATTACK, "--attack", "gone.py:attack"): "no file 'gone.py'",
    (*ATTACK, "--attack", "nets.py:raises"): "raises() raised TypeError",
    (*ATTACK, "--attack", "nets.py:attack", "--workers", "2"): "one worker",
    (*AUDIT, "--split", "train", "--data", "bytes.npz"): "--split train for bytes.npz; need data with splits",
    (
        "attack",
        *TRAINED,
        "--data",
        "rows.csv",
        *THREAT,
        "--split",
        "test",
        "--attack",
        "pgd",
        "--out",
        "out",
    ): "rows.csv",
    (*AUDIT, "--split", "train", "--data", "digits:test"): "one split",
    ("compare", "empty", "empty"): "cannot read empty/result.json",
    ("explain", *TRAINED, *SMALL): "'--out'",
    ("explain", *TRAINED, "--data", "digits", "--method", "guess", "--out", "out"): "integrated-gradients",
    ("explain", "nets.py:OneLogit", "--data", "digits", "--out", "out"): "(B, K)",
    ("attack", "nets.py:OneLogit", *SMALL, *THREAT, "--attack", "pgd", "--out", "out"): "(B, K)",
    ("explain", "nets.py:function", "--data", "digits", "--limit", "1", "--out", "out"): "use occlusion",
    ("list", "weapons"): "attacks",
    ("list",): "models. Run: sparring list --help",
    ("audit", *TRAINED, "--data", "", *THREAT): "no data set, file, folder or module ''",
    ("compare", "gone.json", "gone.json"): "gone.json",
    ("compare", "nets.py", "nets.py"): "not a result",
    ("compare", "."): "'SECOND'",
    ("report", "empty"): "no result.json",
    ("report", "gone"): "no result.json",
    ("certify", *TRAINED, "--data", "counted.npz", *THREAT): "labels from 0 to 9",
    ("certify", "nets.py:five_classes", *SMALL, *THREAT): "labels from 0 to 4",
    ("certify", *TRAINED, *SMALL, "--threat", "l0:1"): "linf, l2, l1",
    ("certify", *TRAINED, *SMALL, *THREAT, "--method", "branch-and-bound", "--seconds", "nan"): "nan seconds",
    ("certify", *TRAINED, *SMALL, *THREAT, "--samples", "0"): "--samples",
    ("certify", *TRAINED, *SMALL, *THREAT, "--sigma", "3"): "--sigma with --method crown",
    ("explain", *TRAINED, "--data", "bytes.npz", "--out", "out"): "outside of 0 to 1",
    (
        "train",
        "nets.py:network",
        "--data",
        "bytes.npz",
        *THREAT,
        "--budget",
        "none",
        "--out",
        "out",
    ): "outside of 0 to 1",
    ("train", "nets.py:network", *SMALL, *THREAT, "--devices", "100000", "--out", "out"): "processes",
    (
        "train",
        "nets.py:network",
        *SMALL,
        *THREAT,
        "--set",
        "batch_size=31",
        "--devices",
        "2",
        "--out",
        "out",
    ): "equal shares",
    ("report", "nets.py"): "no result.json",
}


@pytest.mark.parametrize("words", BAD_OPTIONS, ids=lambda words: " ".join(words)[-60:])
def test_wrong_use_is_refused_in_one_line(run: Run, place: Path, words: tuple[str, ...]) -> None:
    Path("empty").mkdir()
    Path("rows.csv").write_text("a,y\n1,0\n")
    x, y = digits("test").take(range(64))
    np.savez("bytes.npz", x=255 * x.numpy(), y=y.numpy())
    np.savez("counted.npz", x=x.numpy(), y=y.numpy() + 1)
    refused(run, words, BAD_OPTIONS[words])


@pytest.mark.parametrize("out", ["nets.py", "nets.py/below"])
@pytest.mark.parametrize("command", ["audit", "attack", "demo"])
def test_an_out_that_is_a_file_is_refused_before_any_work(run: Run, command: str, out: str) -> None:
    words = {"audit": AUDIT, "attack": ("attack", *TRAINED, *SMALL, *THREAT, "--attack", "pgd"), "demo": ("demo",)}
    refused(run, (*words[command], "--out", out), "'nets.py' is a file")


def test_a_folder_where_the_report_would_go_is_refused_before_any_work(run: Run, place: Path) -> None:
    Path("out/report.html").mkdir(parents=True)
    refused(run, (*AUDIT, "--out", "out"), "'out/report.html' is a folder")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_an_out_that_may_not_be_written_is_refused(run: Run, place: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    refused(run, (*AUDIT, "--out", "locked/out"), "'locked' cannot be written")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, which takes no folders from anyone")
def test_a_system_that_refuses_to_write_is_named_in_one_line(run: Run) -> None:
    ended = run(*AUDIT, "--out", "/proc/sparring")
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "/proc/sparring" in ended.err


def test_a_run_is_not_resumed_with_other_settings_and_not_overwritten_unfinished(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("audit", "nets.py:Interrupted", *SMALL, *THREAT, *QUICK, "--out", "out")
    monkeypatch.setenv("INTERRUPT_AT", "150")
    assert run(*words).status == 130
    monkeypatch.delenv("INTERRUPT_AT")
    refused(run, words, "unfinished run", "--resume")
    refused(run, (*words, "--resume", "--seed", "1"), "differs in seed")
    refused(run, (*words, "--resume", "--limit", "63"), "differs in data")
    assert run(*words, "--resume").status == 0


def test_an_invalid_audit_takes_no_other_runs_place(run: Run) -> None:
    more = (*SMALL, *THREAT, *QUICK, "--out", "out")
    assert run("audit", *TRAINED, *more).status == 0
    before = Path("out", "result.json").read_bytes()
    refused(run, ("audit", "nets.py:five_classes", *more, "--resume"), "differs in model")
    assert Path("out", "result.json").read_bytes() == before
    assert run("audit", "nets.py:five_classes", *more).status == 1
    refused(run, ("audit", *TRAINED, *more, "--resume"), "differs in model")


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_what_is_no_ledger_is_called_so(run: Run, place: Path, resume: tuple[str, ...]) -> None:
    Path("out").mkdir()
    Path("out", "ledger.sqlite").write_text("no ledger")
    refused(run, (*AUDIT, "--out", "out", *resume), "is not a ledger")


def test_a_defence_on_an_unsound_set_up_has_no_numbers(run: Run) -> None:
    defended = ("audit", "nets.py:five_classes", *SMALL, *THREAT, *QUICK, "--defence", "bit-depth", "--out", "out")
    ended = run(*defended)
    assert ended.status == 1, ended.err
    assert ended.out.splitlines()[:3] == [
        "without bit-depth, under attack: not valid",
        "with it, against an attack that does not know it: not valid",
        "with it, against one that does: not valid",
    ]
    found = Result.load(Path("out", "result.json")).defence
    assert found is not None
    assert (found.bare, found.unaware, found.adaptive, found.missed) == (None, None, None, 0)


def test_another_defence_is_refused_before_the_bare_model_is_audited(run: Run) -> None:
    defended = ("audit", *TRAINED, *SMALL, *THREAT, *QUICK, "--passes", "0", "--out", "out", "--defence")
    assert run(*defended, "bit-depth").status == 0
    shutil.rmtree(Path("out", "bare"))
    refused(run, (*defended, "median", "--resume"), "differs in defence")


def test_ctrl_c_leaves_a_ledger_from_which_resume_gives_the_same_result(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("audit", "nets.py:Interrupted", *SMALL, *THREAT, *QUICK, "--out")
    monkeypatch.setenv("INTERRUPT_AT", "150")
    stopped = run(*words, "out")
    assert stopped.status == 130
    assert stopped.out == ""
    assert stopped.err.endswith(
        "sparring: stopped; what is done is kept in out: add --resume to the same command to go on\n"
    )
    assert {path.name for path in Path("out").iterdir()} == {"ledger.sqlite"}
    monkeypatch.delenv("INTERRUPT_AT")
    resumed, whole = run(*words, "out", "--resume"), run(*words, "whole")
    assert resumed.status == whole.status == 0
    assert timeless(Path("out", "result.json")) == timeless(Path("whole", "result.json"))
    assert Path("out", "gallery.npz").read_bytes() == Path("whole", "gallery.npz").read_bytes()


def start(*words: str, **settings: Any) -> subprocess.Popen[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-c", "from sparring.cli import main; main()", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen(command, text=True, **pipes)


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_a_signal_from_outside_stops_an_attack_with_status_130(place: Path) -> None:
    words = ("attack", "nets.py:Interrupted", *SMALL, *THREAT, "--attack", "pgd", "--out", "out")
    running = start(*words, env={**os.environ, "INTERRUPT_AT": "40", "INTERRUPT_BY": "wait", "OMP_NUM_THREADS": "1"})
    assert running.stdout is not None
    assert running.stdout.readline() == "waiting\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130
    assert err.endswith("add --resume to the same command to go on\n")
    assert "Traceback" not in err
    assert not Path("out", "adversarial.npz").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that break")
@pytest.mark.parametrize("words", [("--help",), ("list", "attacks")])
def test_what_nobody_reads_has_not_the_status_of_a_gate(words: tuple[str, ...]) -> None:
    running = start(*words)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    with running.stderr:
        assert running.stderr.read() == ""
    assert running.wait() == 141


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
def test_a_closed_output_or_one_without_accents_stops_nothing(place: Path) -> None:
    command = [sys.executable, "-m", "sparring"]
    closed = ["bash", "-c", f"{' '.join([*command, *AUDIT])} --passes 0 --out out <&- >&- 2>&-"]
    subprocess.run(closed, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert Path("out", "report.html").is_file()
    poor = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    listed = subprocess.run([*command, "list", "objectives"], check=True, env=poor, capture_output=True, text=True)
    assert "Tram?r" in listed.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_run_or_has_anything_to_say(place: Path, which: signal.Signals) -> None:
    words = ("attack", "nets.py:Interrupted", *SMALL, *THREAT, "--attack", "pgd", "--out", "out")
    settings = {**os.environ, "INTERRUPT_AT": "150", "INTERRUPT_BY": "wait", "OMP_NUM_THREADS": "1"}
    running = start(*words, "--workers", "2", "--batch-size", "2", env=settings, start_new_session=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "waiting\n", "a worker waits for a signal that it must not get"
    if which == signal.SIGINT:  # a terminal sends it to all of them
        os.killpg(running.pid, which)
    else:
        running.send_signal(which)
    _, err = running.communicate(timeout=60)  # ends when the last process lets go of the pipes
    assert running.returncode == (130 if which == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_progress_bar_and_colours(place: Path) -> None:
    ours, theirs = pty.openpty()
    running = start(
        *AUDIT,
        "--passes",
        "0",
        "--out",
        "out",
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux says so that the other end is closed
        pass
    os.close(ours)
    assert running.wait() == 0
    text = shown.decode()
    assert "━" in text
    assert "64/64" in text
    assert "\x1b[" in text
    assert "TRUSTED" in text


def test_files_and_pipes_get_plain_lines(run: Run) -> None:
    ended = run(*AUDIT, "--out", "out")
    assert "\x1b" not in ended.out + ended.err
    assert "\r" not in ended.out + ended.err
    lines = ended.err.splitlines()
    assert lines[0] == "clean: 64 examples"
    assert all(re.fullmatch(r"[\w #-]+: \d+ examples", line) for line in lines)


def test_an_audit_ends_with_a_verdict_a_valid_result_and_a_page_that_needs_nothing_else(run: Run, place: Path) -> None:
    ended = run(*AUDIT, "--out", "deep/out")
    assert ended.status == 0
    assert "TRUSTED" in ended.out
    assert ended.out.endswith("report: deep/out/report.html\n")
    out = Path("deep", "out")
    assert {path.name for path in out.iterdir()} == {"ledger.sqlite", "result.json", "gallery.npz", "report.html"}
    result = Result.load(out / "result.json")
    assert result.examples == 64
    assert result.robust_accuracy.estimate < 0.5 < result.clean_accuracy.estimate
    assert f"{result.robust_accuracy.estimate:.1%}" in ended.out
    page = (out / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)[^"']*|@import|url\((?!["']?data:|["']?#)""", page)
    assert result.command in page


def test_the_command_of_a_result_gives_the_result_again(run: Run, place: Path) -> None:
    run(*AUDIT, "--seed", "3", "--batch-size", "40", "--out", "first")
    words = Result.load(Path("first", "result.json")).command.split()
    assert words[0] == "sparring"
    assert run(*words[1:], "--out", "second").status == 0
    assert timeless(Path("first", "result.json")) == timeless(Path("second", "result.json"))


@pytest.mark.parametrize(
    ("model", "share", "status", "said"),
    [
        ("nets.py:trained", "0", 0, "TRUSTED"),
        ("nets.py:trained", "1", 1, "is under 1"),
        ("nets.py:Softmax", "0", 1, "a number in doubt passes no gate"),
    ],
)
def test_a_gate_lets_pass_only_what_is_high_enough_and_trusted(
    run: Run, model: str, share: str, status: int, said: str
) -> None:
    ended = run("audit", model, *SMALL, *THREAT, *QUICK, "--out", "out", "--fail-under", share)
    assert ended.status == status
    assert said in ended.out


def test_an_invalid_audit_leaves_with_status_1_and_prints_no_clean_number(run: Run, place: Path) -> None:
    assert run(*AUDIT, "--out", "out").status == 0
    x, y = digits("test").take(range(64))
    np.savez("bytes.npz", x=255 * x.numpy(), y=y.numpy())
    ended = run("audit", *TRAINED, "--data", "bytes.npz", *THREAT, *QUICK, "--out", "out")
    assert ended.status == 1
    assert "INVALID" in ended.out
    assert "not valid" in ended.out
    assert "divide the inputs by 255" in ended.out
    assert not re.search(r"\d ?%", ended.out)
    assert Result.load(Path("out", "result.json")).verdict == "invalid"
    assert not Path("out", "gallery.npz").exists(), "pictures of an earlier run"
    refused(run, ("attack", *TRAINED, "--data", "bytes.npz", *THREAT, "--attack", "pgd", "--out", "new"), "0 to 255")


def test_the_doctor_says_whether_an_audit_could_be_believed(run: Run, place: Path) -> None:
    sound = run("doctor", *TRAINED, *SMALL)
    assert sound.status == 0
    assert sound.out.endswith("\nthe set-up is sound\n")
    assert "finite-differences" in sound.out
    doubtful = run("doctor", "nets.py:Softmax", *SMALL, *THREAT)
    assert doubtful.status == 0
    assert doubtful.out.endswith("\nan audit of this would be suspect\n")
    x, y = digits("test").take(range(64))
    np.savez("bytes.npz", x=255 * x.numpy(), y=y.numpy())
    invalid = run("doctor", *TRAINED, "--data", "bytes.npz")
    assert invalid.status == 1
    assert "divide the inputs by 255" in invalid.out


def test_a_pickle_runs_with_trust(run: Run, place: Path, weights: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    model.load_state_dict(weights)
    torch.save(model.eval(), "whole.pt")
    assert run("doctor", "whole.pt", "--trust", *SMALL).status == 0


@pytest.mark.parametrize(
    ("model", "name", "count"),
    [("nets.py:trained", "pgd", 64), ("nets.py:Softmax", "apgd-ce", 64), ("nets.py:function", "square", 16)],
)
def test_an_attack_keeps_examples_that_are_inside_the_threat_and_fool_the_model(
    run: Run, weights: dict[str, Any], model: str, name: str, count: int
) -> None:
    data = ("--data", "digits", "--limit", str(count))
    ended = run("attack", model, *data, "--threat", "linf:0.2", "--attack", name, "--out", "out")
    assert ended.status == 0
    assert ended.out.endswith("written: out/adversarial.npz, out/attack.json\n")
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    network.load_state_dict(weights)
    x, y = digits("test").take(range(64))
    with np.load("out/adversarial.npz") as file:
        found = {part: torch.from_numpy(file[part]) for part in file.files}
    index, z = found["index"], found["z"]
    assert len(index) > count / 3
    assert f"broke {len(index)} of" in ended.out
    assert torch.equal(found["x"], x[index])
    assert torch.equal(found["label"], y[index])
    assert bool(linf(0.2).contains(z, x[index]).all())
    assert torch.allclose(found["distance"], linf(0.2).distance(z, x[index]))
    with torch.no_grad():
        assert torch.equal(network(x[index]).argmax(1), y[index])
        assert torch.equal(network(z).argmax(1), found["prediction"])
    assert bool((found["prediction"] != found["label"]).all())


def test_an_attack_of_ones_own_and_its_settings_come_from_the_command_line(run: Run, place: Path) -> None:
    words = ("attack", *TRAINED, *SMALL, "--threat", "linf:0.2")
    ended = run(*words, "--attack", "nets.py:attack", "--set", "steps=5", "--set", "restarts=2", "--out", "own")
    assert ended.status == 0, ended.err
    assert "attack on linf:0.2: broke " in ended.out
    record = json.loads(Path("own", "attack.json").read_text())
    assert (record["attack"], record["settings"]) == ("attack", {"steps": 5, "restarts": 2})
    assert record["broken"] > 0
    words = (*words, "--attack", "pgd", "--set", "steps=4", "--set", "steps=2", "--set", "loss=margin", "--out", "out")
    assert run(*words).status == 0
    record = json.loads(Path("out", "attack.json").read_text())
    assert record["settings"] == {"steps": 2, "loss": "margin", "restarts": 1}


def test_an_attack_of_ones_own_that_cheats_or_fails_is_told(run: Run, place: Path) -> None:
    Path("mine.py").write_text(MINE)
    words = ("attack", *TRAINED, *SMALL, *THREAT, "--out", "out", "--attack")
    ended = run(*words, "mine.py:far")
    assert ended.status == 0, ended.err
    rejected = json.loads(Path("out", "attack.json").read_text())["rejected"]
    assert rejected > 0
    assert "broke 0 of" in ended.out
    assert f"\n{rejected} claims were rejected: outside of the threat or of the bounds\n" in ended.out
    nearest = run(*words, "deepfool", "--threat", "linf:0.01")
    assert "of its finds are outside of the threat: it looks for the nearest" in nearest.out
    assert "rejected" not in run(*words, "fgsm").out
    before = Path("out", "attack.json").read_bytes()
    for _ in range(2):  # the folder is not blocked
        failed = run(*words, "mine.py:fails")
        assert failed.status == 2
        assert failed.err.splitlines()[-1].startswith(
            "sparring: fails raised ZeroDivisionError: division by zero; need"
        )
        assert "--resume" not in failed.err
    assert Path("out", "attack.json").read_bytes() == before
    for spec in ("math:hypot", "builtins:dict"):
        refused(run, (*words, spec), f"{spec.partition(':')[2]} does not say what it takes; need a factory")


FENCE = """
from dataclasses import dataclass

from sparring.attacks import pgd
from sparring.registry import register
from sparring.threats import Ball, linf


@dataclass(frozen=True)
class Fence(Ball):
    def __str__(self):
        return f"fence:{self.eps:g}"


class Rotten(Fence):
    def contains(self, z, x):
        return "no" if self.eps == 0.1 else 1 / 0


@register("threats", "fence")
def fence(eps, *, low=0.0, high=1.0):
    if eps > 1:
        raise ValueError("a fence too high")
    return (Rotten if eps < 0.2 else Fence)(linf(eps).norm, eps, low, high) if eps else None


@register("attacks", "climb", norms=(), threats=("fence",))
def climb(threat, *, steps: int = 3):
    return pgd(threat, steps=steps)
"""


def test_a_threat_of_ones_own_comes_with_the_file_of_its_attack(place: Path) -> None:
    Path("fences.py").write_text(FENCE)
    words = ("attack", *TRAINED, *SMALL, "--attack", "fences.py:climb", "--out", "out")
    out, err = start(*words, "--threat", "fence:0.2").communicate()
    assert "climb on fence:0.2: broke " in out, err


@pytest.mark.usefixtures("register_alone")
@pytest.mark.parametrize(
    ("size", "line"),
    [
        ("2", "threat 'fence:2' raised ValueError: a fence too high; need a factory"),
        ("0", "threat 'fence:0' is a NoneType; need contains, distance, low and high"),
        ("0.1", "contains of the threat fence:0.1 returned str; need bool (64,)"),
        ("0.15", "contains of the threat fence:0.15 raised ZeroDivisionError: division by zero; need contains(z, x)"),
    ],
)
def test_a_threat_of_ones_own_that_fails_is_named_in_one_line(run: Run, size: str, line: str) -> None:
    Path("fences.py").write_text(FENCE)
    ended = run("attack", *TRAINED, *SMALL, "--attack", "fences.py:climb", "--threat", f"fence:{size}", "--out", "out")
    assert ended.status == 2
    assert f"sparring: {line}" in ended.err
    assert "Traceback" not in ended.err


def test_a_refusal_that_going_on_would_meet_again_gets_no_such_advice(run: Run, place: Path) -> None:
    Path("mine.py").write_text(MINE)
    words = ("attack", "nets.py:function", "--data", "digits", "--limit", "24", "--batch-size", "8", *THREAT)
    for name in ("late", "climbs"):
        ended = run(*words, "--attack", f"mine.py:{name}", "--out", name)
        assert ended.status == 2
        assert "--resume" not in ended.err
        assert Path(name, "ledger.sqlite").exists()
    assert run(*words, "--attack", "uniform-noise", "--out", "climbs").status == 0, "what had not begun blocks nothing"
    assert "holds an unfinished run" in run(*words, "--attack", "uniform-noise", "--out", "late").err


def test_a_split_that_is_asked_for_is_taken_and_written_into_the_command(run: Run, place: Path) -> None:
    x, y = digits("train").take(range(64))
    np.savez("parts.npz", x_train=x.numpy(), y_train=y.numpy(), x_test=x.numpy()[:3], y_test=y.numpy()[:3])
    words = ("audit", *TRAINED, "--data", "parts.npz", *THREAT, *QUICK, "--out")
    assert run(*words, "out", "--split", "train").status == 0
    result = Result.load(Path("out", "result.json"))
    assert result.examples == 64
    assert "--split train" in result.command


def test_an_attack_that_breaks_nothing_writes_an_empty_file(run: Run, place: Path) -> None:
    words = ("attack", *TRAINED, *SMALL, "--threat", "linf:0.002", "--attack", "uniform-noise", "--out", "out")
    assert run(*words).status == 0
    with np.load("out/adversarial.npz") as file:
        assert file["z"].shape == file["x"].shape == (0, 1, 28, 28)


@pytest.mark.parametrize("model", ["nets.py:trained", "nets.py:function"])
def test_explain_leaves_a_picture_and_a_number_for_each_example(run: Run, place: Path, model: str) -> None:
    data = ("--data", "digits", "--limit", "4", "--method", "occlusion")
    ended = run("explain", model, *data, *THREAT, "--out", "out")
    assert ended.status == 0, ended.err
    assert ended.out.endswith("written: out/attributions.png, out/stability.csv\n")
    assert Path("out", "attributions.png").read_bytes().startswith(b"\x89PNG")
    head, *rows = Path("out", "stability.csv").read_text().splitlines()
    assert head == "example,label,clean,attacked,cosine,overlap"
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2", "3"]
    cosines = [float(row.split(",")[4]) for row in rows]
    assert all(-1 <= cosine <= 1 for cosine in cosines)
    assert max(cosines) < 1, "every decision is attacked, the wrong ones too"


def test_a_picture_of_attributions_has_the_first_24_examples_and_the_table_all(run: Run, place: Path) -> None:
    data = ("--data", "digits", "--limit", "30", "--method", "saliency")
    assert run("explain", "nets.py:network", *data, *THREAT, "--out", "out").status == 0
    assert len(Path("out", "stability.csv").read_text().splitlines()) == 31
    height = int.from_bytes(Path("out", "attributions.png").read_bytes()[20:24])  # as a PNG says it
    assert run("explain", "nets.py:network", *data, *THREAT, "--out", "out", "--limit", "24").status == 0
    assert height == int.from_bytes(Path("out", "attributions.png").read_bytes()[20:24])


def test_a_result_whose_threat_has_no_size_is_refused_in_one_line(run: Run, place: Path) -> None:
    run(*AUDIT, "--out", "out")
    result = json.loads(Path("out", "result.json").read_text())
    for eps in (float("nan"), float("inf"), "wide", None):
        Path("out", "result.json").write_text(json.dumps(result | {"threat": result["threat"] | {"eps": eps}}))
        for words in (("report", "out"), ("compare", "out", "out")):
            refused(run, words, "out/result.json is not a result: ", "number")
    Path("out", "result.json").write_text(json.dumps(result | {"passes": {"forward": 10**400, "backward": -1}}))
    refused(run, ("compare", "out", "out"), "out/result.json is not a result: passes.forward", "less than")


def test_compare_fails_where_the_second_is_less_robust_than_chance_explains(run: Run, place: Path) -> None:
    run(*AUDIT, "--out", "out")
    first = Path("out", "result.json")
    same = run("compare", str(first), str(first))
    assert same.status == 0
    assert run("compare", "out", "out").out == same.out, "a folder stands for the result in it"
    worse = json.loads(first.read_text())
    for row in worse["per_example"]:
        row["broken_by"] = row["broken_by"] or "square"
    worse["robust_accuracy"] = {"estimate": 0.0, "low": 0.0, "high": 0.06}
    Path("worse.json").write_text(json.dumps(worse))
    ended = run("compare", str(first), "worse.json")
    assert ended.status == 1
    assert "McNemar" in ended.out
    assert run("compare", "worse.json", str(first)).status == 0
    Path("invalid.json").write_text(json.dumps(worse | {"verdict": "invalid"}))
    assert run("compare", str(first), "invalid.json").status == 1
    Path("other.json").write_text(json.dumps(worse | {"threat": worse["threat"] | {"eps": 0.2}}))
    unlike = run("compare", str(first), "other.json")
    assert unlike.status == 2
    assert "differ in their threat; need the same threat in both" in unlike.err
    Path("others.json").write_text(json.dumps(worse | {"digest": "0" * 16}))
    unlike = run("compare", str(first), "others.json")
    assert unlike.status == 2
    assert "differ in their examples; need the same examples in both" in unlike.err


@pytest.mark.parametrize(("model", "share", "status"), [("trained", "0", 0), ("trained", "1", 1), ("Softmax", "0", 1)])
def test_report_writes_junit_and_sarif_and_holds_the_same_gate(run: Run, model: str, share: str, status: int) -> None:
    run("audit", f"nets.py:{model}", *SMALL, *THREAT, *QUICK, "--out", "out")
    files = ("--junit", "checks.xml", "--sarif", "checks.sarif")
    ended = run("report", "out", *files, "--fail-under", share)
    assert ended.status == status
    assert ended.out.startswith("report: out/report.html\njunit: checks.xml\nsarif: checks.sarif\n")
    suite = ET.parse("checks.xml").getroot()[0]
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert (f"robust accuracy >= {share}" in failed) == bool(status)
    log = json.loads(Path("checks.sarif").read_text())
    (found,) = log["runs"]
    assert len(found["results"]) == len(suite) - 1 - (model == "trained"), "all checks; a verdict only if it is bad"
    assert found["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "out/result.json"


def test_the_zoo_prints_how_often_each_check_is_wrong(run: Run, place: Path) -> None:
    ended = run("zoo", "--only", "relu", "--only", "few examples", "--limit", "80")
    assert ended.status == 0
    assert "false alarms: 0, misses: 0, wrong verdicts: 0" in ended.out
    assert re.search(r"`sample-size` +0 of 1 +0 of 1", ended.out)
    assert "honest  relu: trusted" in ended.err
    refused(run, ("zoo", "--only", "unicorn"), "no specimen 'unicorn'", "relu")


def test_report_shows_several_runs_side_by_side_each_with_its_own_pictures(run: Run, place: Path) -> None:
    run(*AUDIT, "--out", "runs/small")
    run("audit", *TRAINED, *SMALL, "--threat", "linf:0.3", *QUICK, "--out", "runs/large")
    Path("runs", "small", "report.html").unlink()
    assert run("report", "runs/small").status == 0
    ended = run("report", "runs", "--language", "zh")
    assert ended.out == "report: runs/report.html\n"
    page, large = (Path("runs", part, "report.html").read_text() for part in ("", "large"))
    pictures = re.findall(r'src="(data:image/png;base64,[^"]+)"', large)
    assert pictures
    assert set(pictures) <= set(re.findall(r'src="(data:image/png;base64,[^"]+)"', page))


def test_the_package_runs_as_a_module() -> None:
    said = subprocess.run([sys.executable, "-m", "sparring", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("sparring, version ")


def test_version_and_help_answer_for_every_command(run: Run) -> None:
    assert run("--version").out == f"sparring, version {sparring.__version__}\n"
    top = run()
    assert top.status == 0
    assert top.out == run("--help").out
    assert "..." not in top.out.split("Commands:")[1], "a summary was cut off"
    for name in cli.commands:
        ended = run(name, "--help")
        assert ended.status == 0
        assert ended.out.startswith(f"Usage: sparring {name} ")
        assert ended.err == ""


@pytest.mark.parametrize(
    ("kind", "members"),
    {
        "attacks": ("pgd", "apgd-ce", "square", "Madry et al., 2018"),
        "threats": ("linf:EPS", "l2:EPS", "l1:EPS", "l0:EPS"),
        "suites": ("quick", "standard", "thorough"),
        "datasets": ("digits", "mnist", "cifar10"),
        "models": ("PyTorch", "ONNX", "scikit-learn", "HTTP endpoint"),
    }.items(),
)
def test_list_names_what_there_is(run: Run, kind: str, members: tuple[str, ...]) -> None:
    ended = run("list", kind)
    assert ended.status == 0
    for member in members:
        assert member in ended.out


def described(url: str, **settings: Any) -> str:
    """The description of an endpoint that gives up soon."""
    table = {"url": url, "response": "outputs", "timeout_s": 0.1, "retries": 1, "wait_s": 0.01} | settings
    Path("endpoint.json").write_text(json.dumps(table))
    return "endpoint.json"


def answering(weights: dict[str, Any], left: list[int]) -> type[BaseHTTPRequestHandler]:
    """A server of the network with these weights, that fails once `left` requests have been answered."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    model.load_state_dict(weights)

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer

        def do_POST(self) -> None:
            x = torch.tensor(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"])
            with torch.no_grad():
                body = json.dumps({"outputs": model(x).tolist()}).encode()
            left[0] -= 1
            self.send_response(200 if left[0] >= 0 else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Answer


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Answer requests on a port of this machine until the test ends."""
    with ExitStack() as stack:

        def start(handler: type[BaseHTTPRequestHandler]) -> str:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/predict"

        yield start


@pytest.mark.frameworks
@pytest.mark.parametrize("command", ["audit", "attack"])
def test_an_endpoint_that_refuses_or_times_out_is_told_in_one_line(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    more = (*SMALL, *THREAT, "--out", "out", *(QUICK if command == "audit" else ("--attack", "square")))
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/predict"
        refused(run, (command, described(url), *more), "did not answer within 0.1 s", url[7:])
    refused(run, (command, described(url), *more), "cannot be reached", url[7:])


@pytest.mark.frameworks
def test_an_endpoint_that_breaks_down_in_the_middle_leaves_a_run_to_resume(
    run: Run,
    weights: dict[str, Any],
    serve: Callable[[type[BaseHTTPRequestHandler]], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    left = [40]
    endpoint = described(serve(answering(weights, left)), timeout_s=5)
    data = ("--data", "digits", "--limit", "24", "--batch-size", "8")
    words = ("attack", endpoint, *data, *THREAT, "--attack", "uniform-noise", "--out", "out")
    broken = run(*words)
    assert broken.status == 2
    last = broken.err.splitlines()[-1]
    assert "answered 500" in last
    assert last.endswith("what is done is kept in out: add --resume to the same command to go on")
    left[0] = 10**6
    again = run(*words)
    assert "holds an unfinished run" in again.err
    assert again.err.count("--resume") == 1, "what was refused before its first batch has added nothing"
    resumed = run(*words, "--resume")
    assert resumed.status == 0, resumed.err
    assert run(*words[:-1], "whole").status == 0
    assert Path("out", "adversarial.npz").read_bytes() == Path("whole", "adversarial.npz").read_bytes()


@pytest.mark.frameworks
@pytest.mark.parametrize("queries", [None, 2000])
def test_an_endpoint_says_what_bounds_its_queries_and_how_many_it_has_had(
    run: Run,
    weights: dict[str, Any],
    serve: Callable[[type[BaseHTTPRequestHandler]], str],
    monkeypatch: pytest.MonkeyPatch,
    queries: int | None,
) -> None:
    pytest.importorskip("httpx")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("sparring.progress.SOON", 0.02)
    settings = {} if queries is None else {"queries": queries}
    endpoint = described(serve(answering(weights, [10**6])), timeout_s=5, **settings)
    words = ("attack", endpoint, "--data", "digits", "--limit", "24", *THREAT, "--attack", "square")
    ended = run(*words, "--set", "queries=20", "--out", "out")
    assert ended.status == 0, ended.err
    first, *lines = ended.err.splitlines()
    assert first.endswith(
        "not known beforehand; "
        + ("2,000 at most" if queries else "nothing bounds them: set queries in its description")
    )
    assert re.search(r"\nclean: 24 examples, \d+ queries so far\n", ended.err)
    assert re.search(r"\nsquare: \d+ examples, \d+ queries so far\n", ended.err)
    assert any(re.fullmatch(r"127\.0\.0\.1:\d+/predict, \d+ queries so far", line) for line in lines), "in between"
    if queries:
        spent = run(*words, "--set", "queries=5000", "--out", "more")
        assert spent.status == 2
        assert "of 2000 queries, the budget of each command" in spent.err
        assert spent.err.endswith("add --resume to the same command to go on\n")


def test_an_endpoint_has_one_worker_so_that_its_budget_is_kept(run: Run, place: Path) -> None:
    pytest.importorskip("httpx")
    refused(
        run, ("audit", described("http://127.0.0.1:9/"), *SMALL, *THREAT, "--workers", "2"), "2 workers for an endpoint"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_a_device_that_is_not_here_is_refused(run: Run) -> None:
    refused(run, (*AUDIT, "--device", "cuda"), "--device cuda")
    refused(run, (*AUDIT, "--device", "meta"), "--device meta")


@pytest.mark.gpu
def test_an_audit_on_a_graphics_card_breaks_what_it_breaks_on_the_processor(run: Run) -> None:
    assert run(*AUDIT, "--out", "cpu").status == run(*AUDIT, "--device", "cuda", "--out", "cuda").status == 0
    here, there = (Result.load(Path(place, "result.json")) for place in ("cpu", "cuda"))
    assert abs(here.robust_accuracy.estimate - there.robust_accuracy.estimate) < 0.05
