"""Audits of detectors: as of any model, with objects that are found in place of classes that are right."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from sparring import audit, cli
from sparring.domains.driving.tasks import Fabrication, Vanishing
from sparring.streams import Streams
from sparring.threats import linf

LEFT, RIGHT = [0.1, 0.2, 0.4, 0.8], [0.6, 0.2, 0.9, 0.8]
EPS, LEAST = 0.03, float(np.log(0.25 / 0.75))


class Sides(nn.Module):
    """Looks at either side of small images, with one linear function for each: an object is there, or not."""

    def __init__(self):
        super().__init__()
        weight = Streams.of(0, [0, 1]).normal(3, 4, 2)
        self.weight = nn.Parameter(1.5 * (weight - weight.mean((1, 2, 3), keepdim=True)))

    def seen(self, x):
        return torch.stack(
            [(part * one).flatten(1).sum(1) - 1.5 for part, one in zip(x.split(2, 3), self.weight, strict=True)], 1
        )

    def forward(self, x):
        box = x.new_tensor([LEFT, RIGHT]).expand(len(x), -1, -1)
        classes = x.new_tensor([[0.0, -9.0], [-9.0, 0.0]]).expand(len(x), -1, -1)
        return torch.cat([box, self.seen(x).unsqueeze(2), classes], 2)


@pytest.fixture(scope="module")
def scenes():
    """The model, and images with an object on the side of which it says more."""
    model, x = Sides(), 0.1 + 0.8 * Streams.of(1, range(200)).uniform(3, 4, 4)
    x = x[model.seen(x).amax(1) >= LEAST - 0.2][:40]
    side = model.seen(x).detach().argmax(1)
    rows = torch.tensor([[0.0, *LEFT], [1.0, *RIGHT]])[side]
    return model, x, rows.unsqueeze(1), side


def test_an_audit_leaves_exactly_the_objects_that_no_change_within_the_threat_hides(scenes):
    model, x, labels, side = scenes
    reach = EPS * model.weight.detach().abs().sum((1, 2, 3))[side]
    said = model.seen(x).detach().gather(1, side.unsqueeze(1)).squeeze(1)
    found = audit(model, (x, labels), linf(EPS), task=Vanishing(1.0), suite="quick")
    assert found.verdict in ("trusted", "suspect")
    assert found.settings["task"] == "vanishing:1.0"
    assert found.clean_accuracy.estimate == pytest.approx(float((said >= LEAST).float().mean()))
    assert found.robust_accuracy.estimate == pytest.approx(float((said - reach >= LEAST).float().mean()))
    assert 0.1 < found.robust_accuracy.estimate < found.clean_accuracy.estimate - 0.1


def test_boxes_of_nothing_are_audited_though_a_blind_detector_has_none(scenes):
    model, x, labels, side = scenes
    reach = EPS * model.weight.detach().abs().sum((1, 2, 3)).gather(0, 1 - side)
    other = model.seen(x).detach().gather(1, 1 - side.unsqueeze(1)).squeeze(1)
    found = audit(model, (x, labels), linf(EPS), task=Fabrication(1), suite="quick")
    skipped = {check.name for check in found.checks if check.outcome == "skipped"}
    assert {"labels", "scaling"} <= skipped
    assert found.robust_accuracy.estimate == pytest.approx(float((other + reach < LEAST).float().mean()))


def test_the_command_line_audits_a_detector_from_a_file_of_boxes(scenes, tmp_path, monkeypatch, capsys):
    model, x, labels, side = scenes
    np.savez(tmp_path / "street.npz", x=x.numpy(), y=labels.numpy())
    torch.save(model.state_dict(), tmp_path / "sides.pt")
    command = [
        "audit",
        f"{__file__}:Sides",
        "--weights",
        str(tmp_path / "sides.pt"),
        "--data",
        str(tmp_path / "street.npz"),
    ]
    command += ["--threat", f"linf:{EPS}", "--task", "vanishing:0.5", "--budget", "quick", "--limit", "20"]
    monkeypatch.setattr("sys.argv", ["sparring", *command, "--out", str(tmp_path / "audit")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    result = json.loads((tmp_path / "audit" / "result.json").read_text(encoding="utf-8"))
    assert result["settings"]["task"] == "vanishing:0.5"
    right = (model(x).detach()[torch.arange(40), side, 4] >= LEAST)[:20]
    assert result["clean_accuracy"]["estimate"] == pytest.approx(float(right.float().mean()))
    assert result["robust_accuracy"]["estimate"] < result["clean_accuracy"]["estimate"]
    assert Vanishing.measures in (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
