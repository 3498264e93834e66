"""Three numbers for a defence, of which the last one counts."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sparring import audit, audit_defence
from sparring.cli import cli
from sparring.data import Arrays, digits, first
from sparring.defences import (
    Chain,
    Cleaning,
    RandomCleaning,
    Replacement,
    Shifts,
    bit_depth,
    jpeg,
    magnet,
    noise,
)
from sparring.defences.detectors import trained
from sparring.defences.learning import afresh
from sparring.defences.quilting import Quilt
from sparring.errors import BadInput
from sparring.evaluate import Result, defended
from sparring.evaluate.defended import climb, face, ready
from sparring.evaluate.identity import of_attack
from sparring.evaluate.run import AGAIN, Ring
from sparring.models.loading import adopt
from sparring.models.torch import function
from sparring.registry import find
from sparring.report import derive
from sparring.streams import Streams
from sparring.threats import linf
from sparring.views import bpda, unchanged
from sparring.zoo.honest import attention, relu


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
    assert written.defence.unaware == found.unaware.estimate
    assert Result.load(tmp_path / "bare" / "result.json").robust_accuracy == found.bare.robust_accuracy
    assert "behind bit-depth" in written.name
    assert written.attacks[-1].name == "unaware transfer"
    other = {"limit": 20, "suite": "quick", "out": tmp_path, "resume": True}
    with pytest.raises(BadInput, match=r"differs in (model, )?defence;"):  # the parameters are the network's
        audit_defence(network(), bit_depth(bits=1), digits("test"), linf(0.1), **other)
    with pytest.raises(BadInput, match=r"differs in (model, )?defence;"):
        audit(network(), digits("test"), linf(0.1), **other)


class Plain:
    """A defence without a text of its own."""

    differentiable, draws = True, 1

    def __init__(self, width):
        self.width = width

    def defend(self, model):
        return model

    adaptive = defend


def made():
    """Defences, no two of them alike."""
    bank = torch.arange(32.0).view(8, 4)
    quilts = Quilt(bank, 2, 1), Quilt(bank, 2, 2), Quilt(bank + 1, 2, 1)
    yield from (Cleaning(clean=quilt, surrogate=quilt.soft) for quilt in quilts)
    yield from (jpeg(), jpeg(quality=50), bit_depth(), noise(), noise(draws=2), Plain(1), Plain(2))
    yield from (Cleaning(clean=lambda x: x * 0.5), Cleaning(clean=lambda x: x * 0.25))
    yield from (Cleaning(clean=lambda x, by=by: x * by) for by in (0.5, 0.25))
    yield from (Chain((jpeg(), noise())), Chain((noise(), jpeg())), Shifts(((0, 0),)), Replacement(torch.nn.ReLU()))


def test_a_ledger_tells_defences_apart_and_knows_one_again():
    texts = [of_attack(defence) for defence in made()]
    assert len(set(texts)) == len(texts)
    assert texts == [of_attack(defence) for defence in made()]


class Backwards(Replacement):
    """A view whose gradients lead away from what breaks it."""

    def adaptive(self, model):
        return bpda(network(), lambda z: -network()(z))


def test_an_adaptive_view_that_is_beaten_by_an_unaware_attack_makes_the_verdict_suspect():
    data = first(digits("test"), 60)
    found = audit_defence(network(), Backwards(network()), data, linf(0.05), suite="quick", passes=0)
    assert found.missed > 0
    assert found.verdict == "suspect"
    assert any("does not know the defence" in reason for reason in found.reasons)
    assert next(check for check in found.adaptive.checks if check.name == "unaware").outcome == "fail"
    whole, robust = found.adaptive, found.adaptive.robust_accuracy.estimate
    assert robust <= found.unaware.estimate
    assert [row.broken_by for row in whole.per_example].count("unaware transfer") == found.missed
    assert all(row.distance <= 0.0501 for row in whole.per_example if row.broken_by == "unaware transfer")
    at_eps = next(point for point in whole.curve if point.eps == whole.threat["eps"])
    assert robust == at_eps.robust_accuracy == derive.standing(whole)[-1] == derive.course(whole)[-1].accuracy


def test_an_adaptive_view_of_another_model_is_refused():
    class Forgotten(Replacement):
        def adaptive(self, model):
            return model

    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    with pytest.raises(BadInput, match="gives other outputs than the model that it deploys"):
        audit_defence(network(), Forgotten(other), first(digits("test"), 5), linf(0.1))


def test_nothing_is_said_to_have_fallen_where_nothing_was_attacked():
    x, labels = digits("test").take([0, 1, 2])
    x[1, 0, 5, 5] = torch.nan
    found = audit_defence(network(), bit_depth(), (x, labels), linf(0.3), suite="quick", passes=0)
    assert found.verdict == "invalid"
    assert found.missed == 0
    assert not any("does not know" in reason for reason in found.reasons)


@pytest.mark.parametrize(("asked", "draws"), [(2, 8), (12, 12)])
def test_a_random_defence_is_averaged_over_as_many_calls_as_it_asks_for(asked, draws, tmp_path):
    x = torch.tensor([0.2, 0.8]).repeat(4).view(8, 1) + 0.05 * Streams.of(0, range(8)).uniform(4)

    def halves(z):
        return 5 * torch.stack([z.sum(1) - 2, 2 - z.sum(1)], 1)

    def stop(stage, done, total):
        if done == total:
            raise InterruptedError(stage)

    data, defence = Arrays("few", x, halves(x).argmax(1)), noise(draws=asked)
    with pytest.raises(InterruptedError, match="clean"):
        audit(defence.adaptive(halves), data, linf(0.02), suite="quick", out=tmp_path, watch=stop, behind=defence)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as ledger:
        assert ledger.execute("SELECT forward FROM bouts WHERE stage = 'clean'").fetchall() == [(AGAIN * draws * 8,)]


def test_wrong_use_is_refused_in_one_line():
    data = first(digits("test"), 5)
    with pytest.raises(BadInput, match="did you mean 'jpeg'"):
        audit_defence(network(), "jpg", data, linf(0.1))
    with pytest.raises(BadInput, match="training data"):
        audit_defence(network(), "magnet", data, linf(0.1))
    levels = Arrays("levels", 255 * torch.rand(5, 1, 28, 28), torch.arange(5))
    for run in (audit_defence, face):
        with pytest.raises(BadInput, match="from 0 to 255 for a defence"):
            run(network(), jpeg(), levels, linf(12, low=0, high=255))
    for spoilt in (levels.x, torch.full((5, 1, 28, 28), torch.nan)):  # which no attack could hand over
        with pytest.raises(BadInput, match="outside of 0 to 1"):
            face(network(), jpeg(), (spoilt, torch.arange(5)), linf(0.1))
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


def test_the_command_line_prints_three_numbers_and_leaves_the_global_random_numbers_alone(tmp_path):
    (tmp_path / "net.py").write_text("from sparring.zoo.honest import relu as net\n", encoding="utf-8")
    given = ["audit", f"{tmp_path / 'net.py'}:net", "--data", "digits", "--limit", "12", "--threat", "linf:0.1"]
    before = torch.random.get_rng_state()
    said = CliRunner().invoke(
        cli,
        [*given, "--budget", "quick", "--passes", "0", "--defence", "gaussian", "--out", str(tmp_path / "out")],
        catch_exceptions=False,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "without gaussian, under attack:" in said.output
    assert "against one that does:" in said.output
    assert "--defence gaussian" in Result.load(tmp_path / "out" / "result.json").command


def test_the_command_line_lists_defences_and_detectors():
    for kind, name in (("defences", "total-variation"), ("detectors", "mahalanobis")):
        assert name in CliRunner().invoke(cli, ["list", kind], catch_exceptions=False).output


def asked(folder, *options):
    """What the command line says to an audit on some data."""
    (folder / "net.py").write_text("from sparring.zoo.honest import relu as net\n", encoding="utf-8")
    given = ["audit", f"{folder / 'net.py'}:net", "--threat", "linf:0.1", "--out", str(folder / "out")]
    return CliRunner().invoke(cli, [*given, *map(str, options)])


def test_on_the_command_line_nothing_learns_from_what_is_audited(tmp_path, monkeypatch):
    x, y = digits("test").take(range(30))
    audited, other, taught = tmp_path / "audited.npz", tmp_path / "other.npz", []
    np.savez(audited, x=x, y=y)
    np.savez(tmp_path / "copy.npz", x_train=x, y_train=y)
    np.savez(other, x=x.flip(0), y=y.flip(0))
    monkeypatch.setattr(defended, "audit_defence", lambda *given, train, **settings: 1 / taught.append(train))
    learns = ["--defence", "magnet", "--limit", "5"]
    for data in (["--data", audited], ["--data", "digits:test"], ["--data", audited, "--train", tmp_path / "copy.npz"]):
        assert "give --train DATA" in str(asked(tmp_path, *data, *learns).exception)
    for data in (["--data", "digits"], ["--data", audited, "--train", other], ["--data", audited, "--train", "digits"]):
        asked(tmp_path, *data, *learns)
    assert [part.name for part in taught] == ["digits:train", "other.npz", "digits:train"]
    for wrong in ([], ["--defence", "jpeg"]):
        assert "a defence that learns" in str(asked(tmp_path, "--data", audited, "--train", "digits", *wrong).exception)


def test_a_softmax_at_the_end_hides_nothing():
    data, soft = first(digits("test"), 30), torch.nn.Sequential(network(), torch.nn.Softmax(1)).eval()
    plain, hidden = (face(one, Cleaning(clean=unchanged), data, linf(0.1)) for one in (network(), soft))
    assert abs(hidden.bare.estimate - plain.bare.estimate) < 0.05
    assert abs(hidden.adaptive.estimate - plain.adaptive.estimate) < 0.05
    with pytest.raises(BadInput, match="leave the softmax out"):
        ready("ensemble", soft, digits("train"))


def test_a_model_without_gradients_is_attacked_by_what_it_gives(tmp_path):
    victim = replace(adopt(network()), access="scores", module=None, call=lambda x: network()(x).detach())
    data = first(digits("test"), 12)
    found = audit_defence(victim, "gaussian", data, linf(0.3), suite="quick", passes=0, out=tmp_path)
    assert found.adaptive.settings["access"] == "scores"
    assert found.adaptive.attacks[-1].name == "unaware transfer"
    assert found.unaware is not None


def test_what_a_defence_refuses_is_refused_before_the_bare_model_is_audited(tmp_path):
    x, y = digits("test").take(range(12))
    flat, given = Arrays("flat", x.flatten(1), y), {"suite": "quick", "out": tmp_path / "out"}
    model = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 28, 28)), network()).eval()
    with pytest.raises(BadInput, match="images"):
        audit_defence(model, "jpeg", flat, linf(0.1), **given)
    small, bytes_ = Arrays("small", x[:, :, 4:24, 4:24], y), Arrays("bytes", 255 * x, y)
    for train, why in ((small, "training inputs of shape"), (bytes_, "outside of 0 to 1")):
        with pytest.raises(BadInput, match=why):
            audit_defence(network(), "magnet", (x, y), linf(0.1), train=train, **given)
    assert not (tmp_path / "out" / "bare").exists()


def test_a_random_defence_of_a_single_draw_is_judged_by_many_calls_all_the_same():
    data = first(digits("test"), 40)
    one, many = (
        face(network(), noise(sigma=0.3, draws=draws), data, linf(0.004), attack=climb(linf(0.004), steps=3))
        for draws in (1, 4)
    )
    assert abs(one.defended.estimate - many.defended.estimate) <= 0.05
    assert abs(one.adaptive.estimate - many.adaptive.estimate) <= 0.05


def test_lucky_draws_break_nothing():
    """A random model that is right on average, asked again and again by an attack that does nothing."""

    def shaky(x):
        lead = 0.5 + 2 * torch.randn(len(x))
        return torch.stack([lead, -lead], 1)

    x, y = torch.full((32, 4), 0.5), torch.zeros(32, dtype=torch.int64)
    ring = Ring(victim=function(shaky), data=Arrays("same", x, y), threat=linf(0.1), seed=0, draws=8)
    still = find("attacks", "uniform-noise").make(linf(0.1))
    with torch.no_grad():
        means = torch.stack([shaky(x.repeat(200, 1)) for _ in range(8)]).mean(0)
        lucky = float((means.argmax(1) != 0).float().mean())  # by the normal distribution 0.24
    broken = sum(one.counts for k in range(20) for one in ring.fight(f"{k}", still, range(32))[0])
    assert lucky > 0.1
    assert broken <= 3


def test_modules_in_a_defence_are_asked_in_inference_mode_and_keep_what_they_know():
    clean = torch.nn.Sequential(torch.nn.BatchNorm2d(1, affine=False), torch.nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in clean.state_dict().items()}
    found = face(network(), Cleaning(clean=clean), first(digits("test"), 20), linf(0.05), attack=climb(linf(0.05), 2))
    assert found.defended.estimate > 0.8
    assert clean[1].training
    assert all(torch.equal(value, before[name]) for name, value in clean.state_dict().items())


def test_a_chain_of_nothing_or_of_what_has_to_learn_is_refused():
    with pytest.raises(BadInput, match="a chain of no defences"):
        Chain(())
    with pytest.raises(BadInput, match=r"call fit\(model, x, labels\)"):
        Chain((jpeg(), magnet()))


def test_a_fresh_copy_shares_no_weights_and_leaves_random_numbers_alone():
    model, before = attention(), torch.get_rng_state()
    one, other = (afresh(model, seed).state_dict() for seed in (0, 1))
    ready(magnet(epochs=1), network(), first(digits("train"), 60))
    trained().fit(network(), *digits("train").take(range(60)))
    assert torch.equal(before, torch.get_rng_state())
    assert not [name for name, value in one.items() if torch.equal(value, other[name]) and value.unique().numel() > 1]
    assert torch.equal(afresh(model, 0).state_dict()["place"], one["place"])
