"""The smoothed model as it is deployed: what it is given, and what a model that does not answer makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.certify.smoothing import Asked, Smoothed, Smoothing, every_sample, noisy
from sparring.errors import BadInput
from sparring.streams import Streams

X = Streams.of(0, range(3)).normal(4)


def network() -> nn.Linear:
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4)[:3])
        layer.bias.zero_()
    return layer


def silent(x: torch.Tensor) -> torch.Tensor:
    """A model without a number to say."""
    return torch.full((len(x), 3), torch.nan)


def test_settings_that_make_no_sense_are_refused():
    for settings in ({"sigma": 0.0}, {"sigma": float("inf")}, {"sigma": -1.0}, {"draws": 0}):
        with pytest.raises(BadInput):
            Smoothed(network(), **settings)


def test_no_rows_give_no_rows():
    assert Smoothed(network(), draws=5)(X[:0]).shape == (0, 3)


def test_a_sample_without_an_answer_is_a_vote_for_no_class():
    def sometimes(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 3:] > 0, network()(x), torch.nan)

    shares = Smoothed(sometimes, sigma=1.0, draws=400)(torch.zeros(1, 4))
    assert 0.4 < shares.sum() < 0.6
    assert torch.equal(Smoothed(silent, draws=20)(X), torch.zeros(3, 3))


@pytest.mark.parametrize("rule", [every_sample, Asked(0.1)])
def test_a_model_that_says_nothing_abstains(rule):
    found = Smoothing(n=200, rule=rule)(silent, X, Streams.of(0, range(3)))
    assert found.answer.tolist() == [-1, -1, -1]
    assert not found.radius.any()


@pytest.mark.parametrize("outputs", [lambda x: x[:, 0], lambda x: x[:, :1], lambda x: x.view(-1, 2, 2)])
def test_outputs_that_are_no_scores_are_refused(outputs):
    with pytest.raises(BadInput, match="a score a class"):
        list(noisy(outputs, X[0], 0.25, 10, Streams.of(0, [0])))
    with pytest.raises(BadInput, match="a score a class"):
        Smoothed(outputs)(X)
