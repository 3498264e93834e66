"""A result depends on model, data, threat, suite and seed alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring.errors import BadInput
from sparring.evaluate import audit
from sparring.evaluate.result import Result
from sparring.threats import linf

from .networks import THREAT, held_out, honest


def timeless(result: Result | Path) -> dict[str, Any]:
    """A result without what a clock says."""
    text = result.read_text() if isinstance(result, Path) else result.model_dump_json(by_alias=True)
    return json.loads(text, object_hook=lambda row: {key: row[key] for key in row if key != "seconds"})


SUITES = [("quick", 30), ("standard", 20), pytest.param("thorough", 40, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("suite", "count"), SUITES)
def test_batch_sizes_7_and_256_give_the_same_result(tmp_path: Path, suite: str, count: int) -> None:
    model = honest("adversarially trained")
    small = audit(model, held_out(count), THREAT, suite=suite, batch_size=7, out=tmp_path / "small")
    large = audit(model, held_out(count), THREAT, suite=suite, batch_size=256, out=tmp_path / "large")
    assert timeless(small) == timeless(large)
    assert timeless(tmp_path / "small" / "result.json") == timeless(tmp_path / "large" / "result.json")


@pytest.mark.parametrize("suite", ["quick", pytest.param("standard", marks=pytest.mark.slow)])
def test_one_and_two_workers_give_the_same_result(suite: str) -> None:
    model = honest("adversarially trained")
    one = audit(model, held_out(60), THREAT, suite=suite, batch_size=30)
    two = audit(model, held_out(60), THREAT, suite=suite, batch_size=30, workers=2)
    assert timeless(one) == timeless(two)


def test_another_seed_gives_other_points_and_the_same_seed_the_same() -> None:
    model = honest("adversarially trained")
    runs = [audit(model, held_out(60), THREAT, suite="quick", seed=seed) for seed in (0, 0, 1)]
    assert timeless(runs[0]) == timeless(runs[1])
    assert timeless(runs[0])["passes"] != timeless(runs[2])["passes"]


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sparring.evaluate import audit
from sparring.data import digits
from sparring.threats import linf
from torch import nn

model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
def watch(stage, done, total):
    if sys.argv[5] in stage and 0 < done < total:
        print("attacking", flush=True)
audit(model.eval(), digits("test").take(range(48)), linf(0.1), suite="quick", batch_size=16, out=Path(sys.argv[3]),
      resume=sys.argv[4] == "resume", name="net", watch=watch)
assert "torch._dynamo" not in sys.modules, "it takes longer to import than all the rest"
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_killed_again_and_again_resumes_to_the_same_result(tmp_path: Path) -> None:
    torch.save(honest("adversarially trained").state_dict(), tmp_path / "weights.pt")
    (tmp_path / "run.py").write_text(SCRIPT)

    def start(out: str, mode: str, where: str = "nowhere") -> subprocess.Popen[str]:
        command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path), str(tmp_path / "weights.pt")]
        return subprocess.Popen([*command, str(tmp_path / out), mode, where], stdout=subprocess.PIPE, text=True)

    for mode, where in (("new", "#3"), ("resume", "square")):
        killed = start("killed", mode, where)
        assert killed.stdout is not None
        assert killed.stdout.readline() == "attacking\n"
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert not (tmp_path / "killed" / "result.json").exists()
    resumed = start("killed", "resume")
    resumed.communicate()
    assert resumed.returncode == 0
    whole = audit(honest("adversarially trained"), held_out(48), linf(0.1), suite="quick", name="net")
    assert timeless(tmp_path / "killed" / "result.json") == timeless(whole)


def test_an_unfinished_run_is_neither_overwritten_nor_resumed_with_other_settings(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "fgsm":
            raise Stop

    model, data = honest("relu"), held_out(40)
    with pytest.raises(Stop):
        audit(model, data, THREAT, suite="quick", out=tmp_path, watch=stop)
    with pytest.raises(BadInput, match="unfinished run"):
        audit(model, data, THREAT, suite="quick", out=tmp_path)
    with pytest.raises(BadInput, match="differs in seed"):
        audit(model, data, THREAT, suite="quick", out=tmp_path, seed=1, resume=True)
    with pytest.raises(BadInput, match="differs in model"):
        audit(honest("gelu"), data, THREAT, suite="quick", out=tmp_path, resume=True)
    x, y = data
    other = torch.where(torch.arange(40) == 20, (y + 1) % 10, y)
    with pytest.raises(BadInput, match="differs in data"):
        audit(model, (x, other), THREAT, suite="quick", out=tmp_path, resume=True)
    result = audit(model, data, THREAT, suite="quick", out=tmp_path, resume=True)
    assert result.verdict == "trusted"
    again = audit(model, data, THREAT, suite="quick", out=tmp_path, resume=True)  # all of it lies in the ledger
    assert again.seconds > 0.5 * result.seconds  # the time of both: that of the first is in the ledger, to a part
    assert again.seconds >= sum(attack.seconds for attack in again.attacks)


def test_a_ledger_that_was_being_made_when_its_process_was_killed_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").touch()
    model, data = honest("relu"), held_out(20)
    assert audit(model, data, THREAT, suite="quick", out=tmp_path).verdict == "trusted"


def test_what_cannot_be_an_eps_or_a_budget_is_refused() -> None:
    model, data = honest("relu"), held_out(20)
    with pytest.raises(BadInput, match=r"linf:1\.5 on inputs from 0 to 1"):
        audit(model, data, linf(1.5))
    with pytest.raises(BadInput, match="passes=-1"):
        audit(model, data, THREAT, passes=-1)


def test_when_memory_runs_out_the_batch_is_halved_and_nothing_changes() -> None:
    model = honest("relu")

    class Tight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.largest = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 64:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            self.largest = max(self.largest, len(x))
            return self.model(x)

    tight = Tight().eval()
    small = audit(tight, held_out(150), THREAT, suite="quick", batch_size=150, name="net")
    assert tight.largest > 30
    large = audit(model, held_out(150), THREAT, suite="quick", batch_size=150, name="net")
    assert timeless(small)["per_example"] == timeless(large)["per_example"]


def test_the_model_comes_back_as_it_was_given() -> None:
    model = honest("convolutional")
    model[5].train()  # one dropout in train mode: the audit is invalid, and the mode is still the owner's
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad()
    modes = [part.training for part in model.modules()]
    try:
        audit(model, held_out(40), THREAT, suite="quick")
        assert [part.training for part in model.modules()] == modes
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.eval()


def test_passes_are_counted_exactly() -> None:
    calls = {"rows": 0}
    model = honest("relu")

    def watch_rows(module: object, given: tuple[torch.Tensor, ...], outputs: object) -> None:
        calls["rows"] += len(given[0])

    handle = model.register_forward_hook(watch_rows)
    result = audit(model, held_out(64), THREAT, suite="quick", batch_size=64)
    handle.remove()
    counted = result.passes.forward
    assert sum(a.forward for a in (*result.attacks, *result.stages)) < counted  # the doctor's are in the total alone
    assert counted <= calls["rows"]  # batches under 16 rows are filled up, which no example is charged for
