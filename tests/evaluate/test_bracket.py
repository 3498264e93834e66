"""Brackets: what is proved is not attacked again, never broken, and resumes; the truth lies between the two curves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.evaluate import Result, audit
from sparring.evaluate.assembly import refuse_contradictions
from sparring.evaluate.bracket import rungs
from sparring.evaluate.ledger import Ledger
from sparring.evaluate.result import Example
from sparring.threats import l0, l1, linf
from sparring.zoo import find


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """A classifier by a plane, and points at known distances from it: all right, 40 of them between 0.01 and 0.4."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.bias.copy_(torch.tensor([-0.5, 0.5]))
    x = torch.stack([0.5 + torch.linspace(0.01, 0.4, 60), torch.full((60,), 0.5)], 1)
    return model.eval(), x, torch.zeros(60, dtype=torch.int64)


def test_on_a_linear_model_both_ends_of_the_bracket_meet() -> None:
    model, x, y = linear()
    result = audit(model, (x, y), linf(0.1), suite="quick", certify="crown")
    truth = float((x[:, 0] - 0.5 > 0.1).float().mean())
    assert result.certified_accuracy is not None
    assert result.certified_accuracy.estimate == result.robust_accuracy.estimate == pytest.approx(truth)
    for point in result.curve:
        assert point.certified_accuracy == pytest.approx(point.robust_accuracy)
    for row, reach in zip(result.per_example, (x[:, 0] - 0.5).tolist(), strict=True):
        assert row.proved is not None
        assert row.proved <= reach * (1 + 1e-5)
        assert row.certified == (reach > 0.1)


@pytest.fixture(scope="module")
def robust() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    from sparring.data import digits

    return find("adversarially trained").make(), digits("test").take(range(40))


def test_what_is_proved_is_not_attacked_again_and_the_truth_lies_between(
    robust: tuple[nn.Module, tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    model, data = robust
    plain = audit(model, data, linf(0.05), suite="quick")
    result = audit(model, data, linf(0.05), suite="quick", certify="alpha-crown", out=tmp_path)
    assert plain.certified_accuracy is None
    assert result.certified_accuracy is not None
    assert 0.5 < result.certified_accuracy.estimate <= result.robust_accuracy.estimate <= plain.robust_accuracy.estimate
    assert Result.load(tmp_path / "result.json").certified_accuracy == result.certified_accuracy
    lower = [point.certified_accuracy or 0.0 for point in result.curve]
    assert lower == sorted(lower, reverse=True)
    assert all(point.certified_accuracy <= point.robust_accuracy for point in result.curve if point.certified_accuracy)
    certified = {row.index for row in result.per_example if row.certified}
    with Ledger(tmp_path / "ledger.sqlite", _settings(tmp_path), resume=True) as ledger:
        rounds = [stage for stage in ledger.stages() if re.search(r" #\d+$", stage)]
        for stage in rounds:
            assert not certified & set(ledger.outcomes(stage))


def test_branch_and_bound_is_asked_at_the_audited_eps_alone_and_what_is_proved_all_along_is_not_attacked(
    robust: tuple[nn.Module, tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    model, (x, y) = robust
    audit(model, (x[:20], y[:20]), linf(0.07), suite="quick", certify="branch-and-bound", out=tmp_path)
    with Ledger(tmp_path / "ledger.sqlite", _settings(tmp_path), resume=True) as ledger:
        dear = [stage for stage in ledger.stages() if "branch-and-bound" in stage]
        assert dear == ["certified: branch-and-bound at 0.07"]
    model, x, y = linear()
    result = audit(model, (x, y), linf(0.1), suite="quick", certify="crown", out=tmp_path)
    far = {row.index for row in result.per_example if row.proved == 0.2}
    assert len(far) == int((x[:, 0] > 0.7).sum())
    with Ledger(tmp_path / "ledger.sqlite", _settings(tmp_path), resume=True) as ledger:
        assert not far & set(ledger.outcomes("curve above"))
    for row in result.per_example:
        assert row.index in far or row.distance is not None


class Corner(nn.Module):
    """Right everywhere, but for half a per cent of the box around the middle, from where gradients lead away."""

    def __init__(self) -> None:
        super().__init__()
        self.sum, self.logits = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.sum.weight.copy_(torch.tensor([[20.0, 20.0], [1.0, -1.0]]))
            self.sum.bias.copy_(torch.tensor([-20 * 1.16, 1.0]))
            self.logits.weight.copy_(torch.tensor([[0.0, 0.1], [1.0, 0.0]]))
            self.logits.bias.copy_(torch.tensor([0.3, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.sum(x).relu())
        return logits


def test_what_branch_and_bound_breaks_is_broken(tmp_path: Path) -> None:
    x, y = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0], [1.0, 0.0]]), torch.zeros(4, dtype=torch.int64)
    result = audit(Corner().eval(), (x, y), linf(0.1), suite="quick", certify="branch-and-bound", out=tmp_path)
    middle, far = result.per_example[:2], result.per_example[2:]
    assert {row.broken_by for row in middle} == {"branch-and-bound"}
    assert all(row.distance is not None and 0.09 < row.distance <= 0.1 + 1e-6 for row in middle)
    assert all(row.certified for row in far)
    assert {record.name: record.broke for record in result.attacks}["branch-and-bound"] == 2
    assert Result.load(tmp_path / "result.json") == result


def _settings(folder: Path) -> dict[str, object]:
    import json
    import sqlite3

    base = sqlite3.connect(folder / "ledger.sqlite")
    (text,) = base.execute("SELECT settings FROM run").fetchone()
    base.close()
    settings: dict[str, object] = json.loads(text)
    return settings


def test_certificates_that_were_stopped_go_on_from_the_ledger(
    robust: tuple[nn.Module, tuple[Tensor, Tensor]], tmp_path: Path
) -> None:
    model, data = robust
    whole = audit(model, data, linf(0.05), suite="quick", certify="crown")

    def stop(stage: str, done: int, total: int) -> None:
        if stage.startswith("certified: crown") and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(model, data, linf(0.05), suite="quick", certify="crown", out=tmp_path, watch=stop)
    again = audit(model, data, linf(0.05), suite="quick", certify="crown", out=tmp_path, resume=True)
    assert again.per_example == whole.per_example
    assert again.curve == whole.curve


def test_a_proof_and_an_attack_that_contradict_each_other_are_one_line() -> None:
    rows = [Example(index=7, label=0, clean=0, broken_by="fgsm", distance=0.1, certified=False, proved=0.2)]
    with pytest.raises(BadInput, match=r"example 7, which is proved to stand within 0.2, and broken at 0.1"):
        refuse_contradictions(rows)


def test_what_cannot_be_certified_is_refused_in_one_line() -> None:
    model, x, y = linear()
    with pytest.raises(BadInput, match="one of interval, crown"):
        audit(model, (x, y), linf(0.1), certify="crwn")
    with pytest.raises(BadInput, match="linf, l2 or l1"):
        audit(model, (x, y), l0(1), certify="crown")
    assert rungs("crown", l1(1.0)) == ("interval", "crown")

    class Sorts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sort(1).values

    with pytest.raises(BadInput, match="the operation sort"):
        audit(Sorts(), (x, y), linf(0.1), certify="crown")
