"""Recipes: each is complete, says its own command, and its objective can be taken on its network."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

from sparring.models import load
from sparring.networks import mlp
from sparring.streams import Streams
from sparring.training.settings import Settings, recipe

SHELF = resources.files("sparring").joinpath("recipes")
NAMES = sorted(file.name.removesuffix(".toml") for file in SHELF.iterdir())
SHAPES = {"cifar10": (3, 32, 32), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_complete_and_says_its_own_command(name: str) -> None:
    said = SHELF.joinpath(f"{name}.toml").read_text(encoding="utf-8")
    assert f"--recipe {name}" in said
    settings = Settings.of(recipe(name))
    assert Settings.of(settings.model_dump()) == settings
    if name == "finetune":
        assert not settings.model
        assert not settings.threat
        settings = Settings.of(recipe(name), {"threat": "linf:0.1", "data": {"name": "mnist"}})
    network = load(settings.model).module if settings.model else mlp()
    assert network is not None
    rng = Streams.of(0, range(4))
    x, labels = rng.uniform(*SHAPES[settings.data.name]), rng.integers(10)
    augment = settings.augmentation()
    x = x if augment is None else augment(x, rng)
    objective, remedy = settings.objectives(settings.ball(), 10)
    assert objective(network.train(), x, labels, 1.0, rng).isfinite()
    assert remedy is not None
    assert settings.optimizer()(network.parameters(), lr=settings.optimiser.lr)
    assert torch.tensor([settings.strength()(0.0), settings.strength()(1.0)]).tolist() == [0.0, 1.0]


def test_what_a_recipe_has_reached_can_be_listed() -> None:
    reached = [found for name in NAMES if (found := Settings.of(recipe(name)).reached)]
    assert len(reached) >= 3
    for found in reached:
        assert 0 < found["robust"] <= found["clean"] <= 1
        assert found["minutes"] > 0
        assert found["by"]


def test_a_recipe_whose_momentum_moves_says_so() -> None:
    for settings in (Settings.of(recipe(name)) for name in NAMES):
        if settings.optimiser.name == "sgd" and settings.schedule["name"] == "one-cycle":
            assert settings.schedule["momentum"] == [0.85, 0.95], "what its figures were measured with"
