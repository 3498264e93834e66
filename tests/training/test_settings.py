"""Settings of a run: layers, TOML and back, what they stand for, and one line for each mistake."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from sparring.errors import BadInput
from sparring.networks import mlp
from sparring.registry import members
from sparring.threats import linf
from sparring.training import Adversarial, inner_pgd, standard
from sparring.training.augmentations import Mixup, each, shifts
from sparring.training.objectives import TRADES
from sparring.training.rates import RATES, Rate, cosine, flat, one_cycle, piecewise
from sparring.training.settings import Settings, assigned, recipe
from sparring.training.weights import AWP, SAM, swa

EVERYTHING: dict[str, Any] = {
    "model": "sparring.networks:mlp",
    "threat": "linf:8/255",
    "data": {"name": "digits", "limit": 100, "extra": "mnist"},
    "objective": {"name": "trades", "beta": 4.0, "attack": {"name": "pgd", "steps": 3}},
    "optimiser": {"name": "sgd", "lr": 1e-5, "weight_decay": 5e-4},
    "schedule": {"name": "piecewise", "at": [0.25, 0.5]},
    "augment": ["flip", {"name": "shift", "pixels": 4}, {"name": "mixup", "alpha": 0.3}],
    "average": {"swa": 0.5},
    "neighbourhood": {"awp": 0.01},
    "clip": 2.0,
    "reached": {"clean": 0.99, "said": 'a "quoted"\nline'},
}


def test_settings_survive_the_way_through_toml(tmp_path: Path) -> None:
    without = {"remedy": None, "audit": {"limit": None}, "average": {}, "data": {"limit": None}}
    for settings in map(Settings.of, ({}, EVERYTHING, without, {"remedy": {"name": "none"}})):
        (tmp_path / "a.toml").write_text(settings.toml(), encoding="utf-8")
        assert Settings.of(recipe(str(tmp_path / "a.toml"))) == settings


def test_later_layers_win_and_a_table_of_another_name_is_another_table() -> None:
    below = {"epochs": 3, "objective": {"name": "trades", "beta": 4.0}, "optimiser": {"lr": 0.1, "name": "sgd"}}
    merged = Settings.of(below, {"objective": {"name": "mart"}, "optimiser": {"lr": 0.2}}, {"average": {"swa": 0.5}})
    assert merged.epochs == 3
    assert merged.objective == {"name": "mart"}
    assert (merged.optimiser.name, merged.optimiser.lr) == ("sgd", 0.2)
    assert merged.average == {"swa": 0.5}
    assert Settings.of(below, {"objective": {"beta": 2.0}}).objective == {"name": "trades", "beta": 2.0}


def test_none_leaves_out_whatever_may_be_left_out() -> None:
    below = {"clip": 2.0, "validation": {"patience": 3}, "data": {"extra": "mnist"}}
    words = {"clip": "none", "validation": {"patience": "none"}, "data": {"extra": "none"}, "remedy": "none"}
    settings = Settings.of(below, words, assigned("audit.limit=none"))
    assert settings.clip is settings.validation.patience is settings.data.extra is None
    assert settings.remedy is settings.audit.limit is None
    with pytest.raises(BadInput, match="epochs = 'none'"):
        Settings.of({"epochs": "none"})


def test_a_table_without_a_name_changes_the_one_that_there_is() -> None:
    settings = Settings.of(
        {"ramp": {"share": 0.5}, "validation": {"attack": {"steps": 3}}, "objective": {"attack": "pgd"}}
    )
    assert settings.ramp == {"name": "linear", "share": 0.5}
    assert settings.validation.attack == {"name": "pgd", "steps": 3}
    assert settings.objective == {"name": "adversarial", "attack": "pgd"}
    assert Settings.of({"ramp": {"name": "cosine"}}).ramp == {"name": "cosine"}


def test_settings_stand_for_what_they_say() -> None:
    settings = Settings.of(EVERYTHING)
    threat = settings.ball()
    assert threat == linf(8 / 255)
    objective, remedy = settings.objectives(threat, 10)
    assert isinstance(objective, Mixup)
    assert objective.alpha == 0.3
    assert isinstance(objective.objective, TRADES)
    assert objective.objective.beta == 4.0
    assert isinstance(remedy, Adversarial)
    made = settings.optimizer()([nn.Parameter(torch.zeros(1))], lr=settings.optimiser.lr)
    assert isinstance(made, SGD)
    assert made.defaults["weight_decay"] == 5e-4
    assert made.defaults["momentum"] == 0.9
    assert settings.averaging() == (swa, 0.5)
    assert settings.neighbour() == AWP(0.01)
    assert settings.augmentation() == each(*(members("augmentations")["flip"].make(), shifts(4)))


def test_training_faces_the_stretched_threat_and_the_audit_the_one_that_was_named() -> None:
    settings = Settings.of({"threat": "linf:0.1", "stretch": 1.1, "remedy": {"name": "trades"}})
    objective, remedy = settings.objectives(settings.ball(), 10)
    assert isinstance(objective, Adversarial)
    assert isinstance(remedy, TRADES)
    assert objective.threat == remedy.threat == linf(1.1 * 0.1)
    assert settings.ball() == linf(0.1)


def test_what_is_not_said_is_what_the_trainer_does() -> None:
    settings = Settings.of({"threat": "linf:0.1"})
    objective, _ = settings.objectives(linf(0.1), 10)
    assert objective == Adversarial(threat=linf(0.1), attack=inner_pgd)
    assert isinstance(settings.optimizer()([nn.Parameter(torch.zeros(1))], lr=0.1), Adam)
    assert settings.neighbour() is None
    assert settings.augmentation() is None
    assert [settings.strength()(share) for share in (0.0, 0.15, 0.3, 1.0)] == pytest.approx([0, 0.5, 1, 1])
    assert Settings.of({"neighbourhood": {"sam": 0.1}}).neighbour() == SAM(0.1)
    assert Settings.of({"average": {}}).averaging() == (0.0, 0.0)
    assert Settings.of({"objective": {"name": "standard"}}).objectives(linf(0.1), 10)[0] is standard
    assert Settings.of({"remedy": {"name": "none"}}).objectives(linf(0.1), 10)[1] is None
    adamw = Settings.of({"optimiser": {"name": "adamw"}}).optimizer()
    assert isinstance(adamw([nn.Parameter(torch.zeros(1))], lr=0.1), AdamW)


def test_a_checkpoint_goes_with_what_decides_the_weights_and_with_nothing_else() -> None:
    plain = Settings.of({"epochs": 3}).digest
    same = ({"audit": {"suite": "quick"}}, {"checkpoint": {"steps": 3}}, {"reached": {"clean": 1.0}})
    assert all(Settings.of({"epochs": 3}, layer).digest == plain for layer in same)
    assert Settings.of({"epochs": 4}).digest != plain


def test_numbers_of_numpy_are_numbers_and_those_of_bits_may_be_written_as_text_is() -> None:
    settings = Settings.of({"epochs": np.int64(3), "clip": np.float32(2), "stretch": 1}, assigned("precision=32"))
    assert (settings.epochs, settings.clip, settings.stretch, settings.precision) == (3, 2.0, 1.0, "32")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("epochs=3", {"epochs": 3}),
        ("optimiser.lr = 1e-2", {"optimiser": {"lr": 0.01}}),
        ("objective.attack.name=pgd", {"objective": {"attack": {"name": "pgd"}}}),
        ('augment=["flip", {name="shift", pixels=4}]', {"augment": ["flip", {"name": "shift", "pixels": 4}]}),
        ("threat=linf:8/255", {"threat": "linf:8/255"}),
    ],
)
def test_a_setting_on_the_command_line_is_toml_in_which_text_needs_no_quotes(text: str, found: dict[str, Any]) -> None:
    assert assigned(text) == found


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"epoch": 3}, "the setting 'epoch'; need one that there is; did you mean 'epochs'?"),
        ({"data": {"splits": "train"}}, "the setting 'data.splits'.*did you mean 'split'"),
        ({"epochs": 0}, "epochs = 0; need greater than or equal to 1"),
        ({"epochs": "many"}, "epochs = 'many'"),
        ({"optimiser": {"name": "adagrad"}}, "optimiser.name = 'adagrad'"),
        ({"average": {"emma": 0.9}}, "average.emma"),
        ({"bounds": [0]}, r"bounds = \[0\]; need two numbers, low < high"),
        ({"bounds": [False, 2]}, "need two numbers"),
        ({"average": {"ema": 0.9, "swa": 0.5}}, "average = .*; need one of them"),
        ({"neighbourhood": {"awp": 0.01, "sam": 0.05}}, "neighbourhood = .*; need one of them"),
        ({"average": {"ema": -0.9}}, "average.ema = -0.9"),
        ({"neighbourhood": {"sam": -0.05}}, "neighbourhood.sam = -0.05"),
        ({"neighbourhood": {"awp": float("inf")}}, "neighbourhood.awp = inf"),
        ({"optimiser": {"weight_decay": float("inf")}}, "optimiser.weight_decay = inf"),
        ({"seed": 2**70}, "seed = .*; need less than or equal to"),
        ({"epochs": True}, "epochs = True; need a whole number"),
        ({"epochs": "3"}, "epochs = '3'; need a whole number"),
        ({"data": {"limit": 3.0}}, "data.limit = 3.0; need a whole number"),
        ({"data": {"labelled": 1}}, "data.labelled = 1; need true or false"),
        ({"average": {"ema": False}}, "average.ema = False; need a number"),
        ({"optimiser": {"lr": float("inf")}}, "optimiser.lr = inf; need a finite number"),
        ({"checkpoint": {"seconds": float("nan")}}, "checkpoint.seconds = nan; need a finite number"),
        ({"model": 3}, "model = 3; need text"),
        ({"objective": "trades"}, "objective = 'trades'; need a table; see docs"),
        ({"data": "digits"}, "data = 'digits'; need a table; see docs"),
        ({"augment": "shift"}, "augment = 'shift'; need a list; see docs"),
        ({"augment": [3]}, "augment.0 = 3; need text"),
    ],
)
def test_what_there_is_not_is_refused_in_one_line(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        Settings.of(layer)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"objective": {"name": "trade"}}, "unknown objective 'trade'.*did you mean 'trades'"),
        ({"objective": {"name": "trades", "betta": 1}}, "'objective.betta'.*did you mean 'beta'"),
        ({"augment": [{"pixels": 2}]}, "a name"),
        ({"objective": {"name": "trades", "beta": "x"}}, "objective.beta = 'x'; need a number"),
        ({"objective": {"name": "trades", "beta": True}}, "objective.beta = True; need a number"),
        ({"objective": {"threat": 3}}, "'objective.threat'"),
        ({"objective": {"name": "multi-max", "others": 3}}, "not iterable"),
        ({"objective": {"attack": {"name": "ascent", "stepz": 3}}}, "'ascent.stepz'.*did you mean 'steps'"),
        ({"objective": {"attack": {"name": "ascent", "steps": "3"}}}, "ascent.steps = '3'; need a whole number"),
        ({"objective": {"attack": {"name": "ascent", "steps": 0}}}, "0 steps"),
        ({"objective": {"attack": {"name": "pgd-cosine", "steps": -1}}}, "pgd-cosine.steps = -1; need 1 or more"),
        ({"objective": {"attack": {"name": "pgd", "loss": "ce"}}}, "pgd.loss = 'ce'; need a function"),
        ({"objective": {"name": "ibp", "attack": "pgd"}}, "'objective.attack'"),
        ({"validation": {"attack": {"steps": -1}}}, "validation.attack.steps = -1; need 1 or more"),
        ({"validation": {"attack": {"name": "advgan"}}}, "'advgan', which learns from many; need one that"),
        ({"ramp": {"progress": 0.5}}, "'ramp.progress'"),
        ({"schedule": {"name": "piecewise", "at": 3}}, "schedule = "),
        ({"objective": {"name": "adversarial", "attack": {"name": "pdg"}}}, "unknown inner attack 'pdg'"),
        ({"augment": ["flap"]}, "unknown augmentation 'flap'"),
        ({"augment": [{"name": "shift", "pixel": 4}]}, "'augment.pixel'"),
        ({"schedule": {"name": "twocycle"}}, "schedule = 'twocycle'; need one of one-cycle"),
        ({"schedule": {"name": "cosine", "warmup": 1.5}}, "warmup = 1.5"),
        ({"ramp": {"name": "linear", "shares": 1}}, "'ramp.shares'"),
        ({"validation": {"attack": {"name": "pgd", "step": 5}}}, "'validation.attack.step'.*did you mean 'steps'"),
        ({"threat": "pose:30"}, "threat pose:30; need a norm"),
        ({"bounds": [1, 0]}, r"bounds = \[1, 0\]; need two numbers, low < high"),
        ({"schedule": {"momentum": 0.9}}, "momentum 0.9; need two shares below 1"),
        (
            {"schedule": {"momentum": [0.95, 0.85]}},
            r"momentum \[0.95, 0.85\]; need two shares below 1, the lower first",
        ),
        ({"schedule": {"momentum": [0.85, 1.0]}}, "two shares below 1"),
        ({"schedule": {"momentum": ["a", "b"]}}, "schedule.momentum.0 = 'a'; need a number"),
        ({"schedule": {"momentum": [False, 0.9]}}, "schedule.momentum.0 = False; need a number"),
        ({"schedule": {"name": "piecewise", "at": ""}}, "schedule.at = ''; need a list"),
        ({"schedule": {"name": "piecewise", "at": [0.5, False]}}, "schedule.at.1 = False; need a number"),
        ({"schedule": {"name": "cosine", "momentum": [0.85, 0.95]}}, "'schedule.momentum'"),
        (
            {"schedule": {"momentum": [0.85, 0.95]}, "optimiser": {"name": "sgd", "momentum": 0.0}},
            r"schedule.momentum = \[0.85, 0.95\] for an sgd of momentum 0",
        ),
        ({"schedule": {"name": "piecewise", "factor": -1.0}}, "factor = -1"),
        ({"ramp": {"share": -1.0}}, "share = -1; need a share"),
        ({"augment": [{"name": "shift", "pixels": -1}]}, "pixels = -1"),
        ({"augment": [{"name": "flip", "share": 1.5}]}, "share = 1.5"),
        ({"augment": [{"name": "cutout", "side": -1}]}, "side = -1"),
        ({"augment": [{"name": "turn", "scale": 2.0}]}, "scale = 2"),
        ({"objective": {"name": "label-smoothing", "smoothing": 2.0}}, "smoothing = 2; need a share"),
        ({"objective": {"attack": {"name": "fgsm-rs", "alpha": -1.0}}}, "alpha = -1"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(layer: dict[str, Any], said: str) -> None:
    settings = Settings.of({"threat": "linf:0.1"}, layer)
    with pytest.raises(BadInput, match=said) as refused:
        built(settings)
    assert "\n" not in str(refused.value)


def built(settings: Settings) -> None:
    """Make all that the settings stand for."""
    settings.objectives(settings.ball(), 10)
    for make in (settings.augmentation, settings.rate, settings.strength, settings.challenger):
        make()


@pytest.mark.parametrize("layer", [{"validation": {"attack": {"name": "admix"}}}, {"objective": {"attack": "admix"}}])
def test_an_attack_on_images_is_refused_where_the_inputs_are_none(layer: dict[str, Any]) -> None:
    settings = Settings.of({"threat": "linf:0.1"}, layer)
    settings.suit((1, 28, 28))
    with pytest.raises(BadInput, match=r"admix on inputs of shape \(8,\); need images"):
        settings.suit((8,))


def test_mixtures_are_of_the_classes_that_there_are() -> None:
    objective, remedy = Settings.of({"objective": {"name": "mixup"}, "remedy": {"name": "mixup"}}).objectives(
        linf(0.1), 3
    )
    assert isinstance(objective, Mixup)
    assert isinstance(remedy, Mixup)
    assert objective.classes == remedy.classes == 3


def test_a_recipe_that_is_not_there_or_no_toml_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no recipe 'nowhere'"):
        recipe("nowhere")
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    with pytest.raises(BadInput, match="is no TOML"):
        recipe(str(tmp_path / "bad.toml"))
    with pytest.raises(BadInput, match="key=value"):
        assigned("epochs")


def rates(rate: Any, steps: int = 20) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, seen = rate(optimizer, steps), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_learning_rates_have_the_shapes_of_their_names() -> None:
    assert rates(flat()) == [1.0] * 20
    assert rates(flat(warmup=0.25))[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rates(piecewise(at=(0.5, 0.75))) == pytest.approx([1.0] * 10 + [0.1] * 5 + [0.01] * 5)
    half = rates(cosine())
    assert (half[0], half[10]) == pytest.approx((1.0, 0.5))
    assert half[19] < 0.01
    shortest = rates(partial(RATES["one-cycle"], warmup=0.05)())
    assert shortest == pytest.approx(rates(partial(RATES["one-cycle"], warmup=0.0499)()), abs=1e-3)
    assert rates(one_cycle(warmup=0)) == rates(one_cycle(warmup=0.0))  # TOML has whole numbers
    cycle = rates(partial(RATES["one-cycle"], warmup=0.3)())
    assert max(cycle) == pytest.approx(1.0, rel=0.02)
    assert cycle[0] < 0.1
    assert cycle[-1] < 0.01


def moved(rate: Rate, make: Callable[..., Optimizer], steps: int = 20) -> list[float | None]:
    """The momentum, or Adam's first beta, of every update; none of an optimiser that has neither."""
    optimizer = make([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, seen = rate(optimizer, steps), []
    for _ in range(steps):
        (group,) = optimizer.param_groups
        seen.append(group["betas"][0] if "betas" in group else group.get("momentum"))
        optimizer.step()
        schedule.step()
    return seen


def test_one_cycle_moves_a_momentum_between_what_it_says_and_leaves_optimisers_without_one_alone() -> None:
    for make in (Adam, partial(SGD, momentum=0.5), partial(RMSprop, momentum=0.5)):
        assert moved(one_cycle(momentum=(0.6, 0.7)), make)[0] == pytest.approx(0.7)
        assert min(moved(one_cycle(momentum=(0.6, 0.7)), make)) == pytest.approx(0.6, abs=0.01)  # type: ignore[type-var]
    assert moved(one_cycle(momentum=None), partial(SGD, momentum=0.5)) == [0.5] * 20
    assert moved(one_cycle(momentum=None), Adam) == [0.9] * 20
    assert moved(one_cycle(), SGD) == moved(one_cycle(), RMSprop) == [0] * 20
    assert moved(one_cycle(), Adagrad) == [None] * 20


def test_sgd_has_the_momentum_that_was_asked_for_unless_the_schedule_says_otherwise() -> None:
    def asked(**layer: Any) -> list[float | None]:
        settings = Settings.of({"threat": "linf:0.1"}, layer)
        return moved(settings.rate(), settings.optimizer())

    sgd = {"name": "sgd", "momentum": 0.3}
    assert asked(optimiser=sgd) == [0.3] * 20
    assert asked(optimiser=sgd, schedule={"momentum": "none"}) == [0.3] * 20
    assert asked(optimiser=sgd, schedule={"momentum": [0.85, 0.95]}) == moved(one_cycle(), partial(SGD, momentum=0.3))
    assert asked() == moved(one_cycle(), Adam)
    assert asked(schedule={"momentum": "none"}) == [0.9] * 20
    assert asked(optimiser={"name": "sgd", "momentum": 0.0}) == [0] * 20


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"threat": "l0:3", "objective": {"name": "free"}}, "free for l0:3; need a norm of linf, l2"),
        ({"threat": "l1:1", "objective": {"name": "vat"}}, "vat for l1:1; need a norm of linf, l2"),
        ({"threat": "l2:1", "objective": {"name": "generator"}}, "generator for l2:1; need a norm of linf"),
        ({"threat": "l2:1", "objective": {"name": "ibp"}}, "ibp for l2:1; need a norm of linf"),
        ({"threat": "l1:1", "remedy": {"name": "free"}}, "free for l1:1"),
        ({"threat": "linf:0.1", "objective": {"attack": "simba"}}, "simba for linf:0.1; need a norm of l2"),
        ({"threat": "linf:0.1", "validation": {"attack": {"name": "ddn"}}}, "ddn for linf:0.1; need a norm of l2"),
        ({"threat": "linf:0.1", "objective": {"attack": "stadv"}}, "stadv for linf:0.1; need the threat flow"),
    ],
)
def test_what_is_not_for_the_threat_that_was_named_is_refused_in_one_line(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        built(Settings.of(layer))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("said", ["mixup", {"name": "mixup"}])
def test_mixup_is_mixup_as_text_and_as_a_table(said: object) -> None:
    settings = Settings.of({"threat": "linf:0.1", "augment": [said, "shift"]})
    assert isinstance(settings.objectives(linf(0.1), 10)[0], Mixup)
    assert str(settings.augmentation()).count("shifts") == 1


@pytest.mark.parametrize("key", ["clean accuracy", "a.b", "", "clean %"])
def test_keys_that_toml_wants_in_quotes_are_in_quotes(key: str) -> None:
    settings = Settings.of({"threat": "linf:0.1", "reached": {key: 0.97}, "model": "a\x7fb"})
    assert Settings.of(tomllib.loads(settings.toml())) == settings


def test_what_was_made_in_python_is_said_in_words_and_told_apart() -> None:
    one, other = (
        Settings.of({"threat": "linf:0.1", "objective": {"name": "distillation", "teacher": mlp(seed)}})
        for seed in (1, 2)
    )
    assert one.digest != other.digest
    assert "Linear(in_features=784" in one.toml()
