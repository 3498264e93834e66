"""Proofs of a data set: a run that is killed goes on to the same result, whatever the method, and no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from sparring.certify import CROWN
from sparring.cli import cli
from sparring.data import Arrays
from sparring.errors import BadInput
from sparring.evaluate.proofs import Proofs, prove
from sparring.going_on import Stopped
from sparring.models.loading import adopt
from sparring.registry import find
from sparring.threats import linf

SETUP = """
import torch
from sparring.certify.smoothing import Asked, Smoothing
from sparring.data import Arrays
from sparring.models.loading import adopt
from sparring.registry import find
from sparring.threats import l2, linf

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
x = torch.rand(40, 4)
wrong = torch.arange(40) % 10 == 0
data = Arrays("points", x, (network(x).argmax(1) + wrong) % 3)
victim = adopt(network, name="net", example=x[:1])
methods = {name: (linf(0.1), find("certificates", name).make()) for name in ("interval", "crown", "alpha-crown")}
methods["branch-and-bound"] = (linf(0.1), find("certificates", "branch-and-bound").make(seconds=60))
methods["smoothing"] = (l2(0.1), Smoothing(sigma=0.25, n=300, rule=Asked(0.1)))
"""

KILLED = """
import os, signal, sys
from pathlib import Path
from sparring.evaluate.proofs import prove

def die(stage, done, total):
    if done >= total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
for name, (threat, how) in methods.items():
    child = os.fork()
    if child == 0:
        prove(victim, data, threat, how, out=Path(sys.argv[1]) / name, watch=die)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


@pytest.fixture(scope="module")
def bout() -> dict[str, Any]:
    made: dict[str, Any] = {}
    exec(SETUP, made)
    return made


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, "-c", SETUP + KILLED, str(folder)], check=True)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("name", ["interval", "crown", "alpha-crown", "branch-and-bound", "smoothing"])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_result(bout: dict[str, Any], killed: Path, name: str) -> None:
    threat, how = bout["methods"][name]
    given, told = (bout["victim"], bout["data"], threat, how), []
    whole = prove(*given)
    assert not (killed / name / "proofs.json").exists()
    again = prove(*given, out=killed / name, resume=True, watch=lambda stage, done, total: told.append(done))
    assert told[0] >= 20
    assert again.per_example == whole.per_example
    assert again == whole.model_copy(update={"environment": again.environment})
    assert Proofs.model_validate_json((killed / name / "proofs.json").read_bytes()) == again


def test_what_was_found_is_told_of_every_example(bout: dict[str, Any]) -> None:
    threat, how = bout["methods"]["branch-and-bound"]
    found = prove(bout["victim"], bout["data"], threat, how)
    assert found.right == 36
    assert found.broken is not None
    assert 0 < found.certified < found.certified + found.broken == found.right
    for one in found.per_example:
        assert one.right == (one.index % 10 != 0)
        assert (one.lower is not None) == one.right
        assert one.certified == (one.lower is not None and one.lower > 0)
        assert one.right or not one.broken
    crown = prove(bout["victim"], bout["data"], threat, find("certificates", "crown").make())
    assert crown.broken is None
    assert {one.broken for one in crown.per_example} == {None}


def test_answers_are_those_of_the_network_where_float32_ties() -> None:
    """The graph, in float64, tells apart what the network does not."""
    network = torch.nn.Linear(1, 2).requires_grad_(False)
    network.weight[:], network.bias[:] = 1.0, torch.tensor([0.0, 1e-9])
    data = Arrays("ties", torch.ones(2, 1), torch.tensor([0, 1]))
    victim = adopt(network, name="net", example=torch.ones(1, 1))
    for name in ("crown", "branch-and-bound"):
        found = prove(victim, data, linf(0.0), find("certificates", name).make())
        assert [(one.answer, one.right, bool(one.broken)) for one in found.per_example] == [
            (0, True, False),
            (0, False, False),
        ], name


GIVEN = ["certify", "sparring.networks:mlp", "--data", "digits", "--limit", "40", "--threat", "linf:0.001"]


def certified(*more: str) -> str:
    return CliRunner().invoke(cli, [*GIVEN, *more], catch_exceptions=False, standalone_mode=False).stdout


def test_inputs_that_are_refused_leave_no_folder(tmp_path: Path, bout: dict[str, Any]) -> None:
    outside = Arrays("outside", bout["x"] + 0.5, bout["network"](bout["x"]).argmax(1))
    threat, how = bout["methods"]["crown"]
    with pytest.raises(BadInput):
        prove(bout["victim"], outside, threat, how, out=tmp_path / "new")
    (tmp_path / "old").mkdir()
    with pytest.raises(BadInput):
        prove(bout["victim"], outside, threat, how, out=tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_run_is_resumed_with_its_own_settings_only_and_overwritten_once_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(CROWN, "__call__", stopped_at_the_second_batch())
        with pytest.raises(Stopped, match="--resume"):
            certified(*out)
    with pytest.raises(BadInput, match="unfinished run"):
        certified(*out)
    with pytest.raises(BadInput, match="differs in method"):
        certified(*out, "--resume", "--method", "interval")
    with pytest.raises(BadInput, match="differs in threat"):
        certified(*out, "--resume", "--threat", "linf:0.002")
    said = certified(*out, "--resume")
    assert said.startswith(certified())
    assert said.endswith(f"written: {tmp_path / 'proofs.json'}\n")
    whole = json.loads((tmp_path / "proofs.json").read_text(encoding="utf-8"))
    assert (whole["schema"], whole["examples"], len(whole["per_example"])) == (1, 40, 40)
    assert certified(*out, "--method", "interval").startswith(f"{whole['right']} of 40")


def stopped_at_the_second_batch() -> Any:
    real, calls = CROWN.__call__, []

    def call(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    return call


def test_there_is_nothing_to_resume_without_a_folder() -> None:
    with pytest.raises(BadInput, match="--resume without --out"):
        certified("--resume")


def test_what_was_refused_leaves_no_run_to_resume(bout: dict[str, Any], tmp_path: Path) -> None:
    threat, how = bout["methods"]["crown"]
    x, labels = bout["data"].take(range(4))
    for place in (0, 3, 3):  # a second time it would else be an unfinished run that stands in the way
        spoiled = x.clone()
        spoiled[place] = torch.nan
        with pytest.raises(BadInput, match="not finite"):
            prove(bout["victim"], Arrays("points", spoiled, labels), threat, how, out=tmp_path)
    prove(bout["victim"], bout["data"], threat, how, out=tmp_path)
