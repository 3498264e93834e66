"""Three numbers for a defence, of which the last one counts."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from click.testing import CliRunner

from sparring import audit_defence
from sparring.cli import cli
from sparring.data import Arrays, digits, first
from sparring.defences import Cleaning, RandomCleaning, Replacement, bit_depth, jpeg, magnet
from sparring.errors import BadInput
from sparring.evaluate import Result
from sparring.evaluate.defended import climb, face, ready
from sparring.threats import linf
from sparring.views import unchanged
from sparring.zoo.honest import relu


@cache
def network():
    return relu().requires_grad_(False)


@pytest.mark.parametrize("defence", [bit_depth(), jpeg()], ids=["bit-depth", "jpeg"])
def test_defences_known_to_fall_do_fall_to_within_five_points_of_the_undefended_model(defence):
    found = face(network(), defence, first(digits("test"), 100), linf(0.1))
    assert found.clean.estimate > 0.9
    assert found.defended.estimate > 0.9
    assert found.adaptive.estimate <= found.bare.estimate + 0.05
    assert found.adaptive.estimate <= found.unaware.estimate


def test_the_same_call_gives_the_same_numbers_for_a_random_defence_and_leaves_random_numbers_alone():
    noisy = RandomCleaning(clean=lambda x, rng: x + 0.1 * rng.normal(*x.shape[1:]), draws=2)
    data, before = first(digits("test"), 10), torch.get_rng_state()
    runs = [face(network(), noisy, data, linf(0.05), attack=climb(linf(0.05), steps=3)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert torch.equal(before, torch.get_rng_state())


def test_an_audit_of_a_defence_rests_on_the_attack_that_knows_it(tmp_path):
    found = audit_defence(network(), "bit-depth", digits("test"), linf(0.1), limit=20, suite="quick", out=tmp_path)
    written = Result.load(tmp_path / "result.json")
    assert written.verdict == found.verdict == found.adaptive.verdict
    assert written.robust_accuracy == found.adaptive.robust_accuracy
    assert written.defence["unaware"] == found.unaware.estimate
    assert Result.load(tmp_path / "bare" / "result.json").robust_accuracy == found.bare.robust_accuracy
    assert "behind bit-depth" in written.name


def test_an_adaptive_view_that_is_beaten_by_an_unaware_attack_makes_the_verdict_suspect():
    x, labels = digits("test").take([0, 1, 2])

    class Blindfold(Replacement):
        def adaptive(self, model):
            return lambda z: (z.unsqueeze(1) - x).abs().flatten(2).mean(2).neg().exp() @ torch.eye(10)[labels]

    found = audit_defence(network(), Blindfold(network()), (x, labels), linf(0.3), suite="quick", passes=0)
    assert found.missed > 0
    assert found.verdict != "trusted"


def test_wrong_use_is_refused_in_one_line():
    data = first(digits("test"), 5)
    with pytest.raises(BadInput, match="did you mean 'jpeg'"):
        audit_defence(network(), "jpg", data, linf(0.1))
    with pytest.raises(BadInput, match="training data"):
        audit_defence(network(), "magnet", data, linf(0.1))
    with pytest.raises(BadInput, match="defend, adaptive and draws"):
        audit_defence(network(), torch.nn.Identity(), data, linf(0.1))
    with pytest.raises(BadInput, match="a torch network"):
        ready("distillation", lambda x: x, data)


def test_a_defence_learns_from_the_training_data():
    x, y = digits("train").take(range(60))
    made = ready(magnet(epochs=1), network(), Arrays("some", x, y))
    assert isinstance(made, Cleaning)
    assert made.differentiable
    assert not Cleaning(clean=torch.round, surrogate=unchanged).differentiable


def test_the_command_line_prints_three_numbers_and_lists_what_there_is(tmp_path):
    (tmp_path / "net.py").write_text("from sparring.zoo.honest import relu as net\n", encoding="utf-8")
    given = ["audit", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--limit", "6", "--threat", "linf:0.1"]
    said = CliRunner().invoke(
        cli,
        [*given, "--budget", "quick", "--passes", "0", "--defence", "gaussian", "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )
    assert "without gaussian:" in said.output
    assert "against one that does:" in said.output
    assert "--defence gaussian" in Result.load(tmp_path / "out" / "result.json").command
    for kind, name in (("defences", "total-variation"), ("detectors", "mahalanobis")):
        assert name in CliRunner().invoke(cli, ["list", kind], catch_exceptions=False).output
