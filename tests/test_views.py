"""Views: what they leave alone, and the gradients that they promise instead."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparring.streams import Streams
from sparring.views import smoothed

WINDOWS = {
    "tiles": {"kernel_size": 2},
    "a row": {"kernel_size": (1, 3), "stride": (1, 3)},
    "overlapping": {"kernel_size": 3, "stride": 2, "padding": 1},
    "past the edge": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "dilated": {"kernel_size": 2, "stride": 2, "dilation": 2},
}


def pictures(height=9, width=9):
    return Streams.of(0, range(3)).normal(2, height, width).double()


def pullback(model, x, g):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x), x, g)[0]


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_smoothed_pooling_gives_the_same_outputs_and_shares_gradients_over_the_window(window):
    pool, x = nn.MaxPool2d(**window), pictures()
    y = pool(x)
    g = Streams.of(1, range(3)).normal(*y.shape[1:]).double()
    soft = smoothed(pool, temperature=3.0)
    assert torch.equal(soft(x.clone().requires_grad_()), y)
    torch.testing.assert_close(pullback(soft, x, g).sum((2, 3)), g.sum((2, 3)))  # nothing is lost, nothing is added
    torch.testing.assert_close(pullback(smoothed(pool, temperature=1e6), x, g), pullback(pool, x, g), atol=1e-3, rtol=0)


def test_a_window_is_shared_by_the_softmax_of_what_is_in_it():
    x = torch.tensor([[[[0.1, 0.4], [0.3, -0.2]]]])
    shares = pullback(smoothed(nn.MaxPool2d(2), temperature=5.0), x, torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(shares.flatten(), (5 * x.flatten()).softmax(0))


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), functional.relu, torch.relu, torch.Tensor.relu])
def test_smoothed_relu_passes_a_sigmoid_of_its_input(relu):
    x = pictures()
    view = smoothed(lambda z: relu(z * 1.0), beta=4.0)
    assert torch.equal(view(x.clone().requires_grad_()), x.clamp(min=0))
    torch.testing.assert_close(pullback(view, x, torch.ones_like(x)), torch.sigmoid(4 * x))


def test_smoothed_leaves_other_models_as_they_are():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(162, 3), nn.GELU()).double(), pictures()
    g = torch.ones(3, 3).double()
    assert torch.equal(pullback(smoothed(model, temperature=20.0), x, g), pullback(model, x, g))
