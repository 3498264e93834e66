"""Views: what they leave alone, and the gradients that they promise instead."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparring.streams import Streams
from sparring.views import ensemble, eot, eot_until, smoothed, steady

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


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS)
def test_smoothed_gives_rows_by_themselves_what_it_gives_them_together(window):
    net, x = nn.Sequential(nn.ReLU(), nn.MaxPool2d(**window)), pictures()
    together = smoothed(net, beta=4.0, temperature=3.0)
    alone = smoothed(torch.vmap(net), beta=4.0, temperature=3.0)
    assert torch.equal(alone(x.clone().requires_grad_()), net(x))
    g = torch.ones_like(net(x))
    torch.testing.assert_close(pullback(alone, x, g), pullback(together, x, g))


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


class Block(nn.Module):
    """A residual block that activates first, and reads again what it activated."""

    def __init__(self, relu):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relu = relu

    def forward(self, z):
        h = self.first(z)
        return self.last(self.second(self.relu(h)) + h)


class Twin(Block):
    """The same, written without anything in place."""

    def forward(self, z):
        h = functional.relu(self.first(z))
        return self.last(self.second(h) + h)


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(inplace=True),
        lambda h: functional.relu(h, True),
        lambda h: functional.relu(h, inplace=True),
        functional.relu_,
        torch.relu_,
        lambda h: torch.relu_(input=h),
        lambda h: h.relu_(),
    ],
)
def test_smoothed_relu_in_place_leaves_its_output_where_its_input_was(relu):
    model, twin = Block(relu), Twin(None)
    x = Streams.of(0, range(4)).normal(5)
    assert torch.equal(smoothed(model, beta=4.0)(x.requires_grad_()), model(x))
    g = Streams.of(1, range(4)).normal(3)
    torch.testing.assert_close(pullback(smoothed(model, beta=4.0), x, g), pullback(smoothed(twin, beta=4.0), x, g))
    assert not torch.equal(pullback(smoothed(model, beta=4.0), x, g), pullback(model, x, g))


def test_smoothed_takes_the_input_of_a_function_by_its_name_too():
    def model(z):
        return torch.max_pool2d(input=torch.relu(input=z), kernel_size=2)

    def twin(z):
        return torch.max_pool2d(torch.relu(z), 2)

    x, g = Streams.of(0, range(2)).normal(1, 4, 4), Streams.of(1, range(2)).normal(1, 2, 2)
    assert torch.equal(smoothed(model, temperature=5.0)(x.requires_grad_()), model(x))
    same = (pullback(smoothed(each, temperature=5.0), x, g) for each in (model, twin))
    assert torch.equal(*same)


@pytest.mark.parametrize(
    "view", [lambda model: eot(model, 8), lambda model: eot_until(model, draws=8), lambda model: ensemble([model] * 8)]
)
@pytest.mark.parametrize("count", [1, 3, 7, 13])
def test_means_over_draws_do_not_depend_on_the_batch(view, count):
    def noisy():
        draws = iter(Streams.of(0, range(8)).at("noise").normal(10))
        return lambda z: z * next(draws)

    x = Streams.of(1, range(16)).normal(10)
    x.requires_grad_()
    assert torch.equal(view(noisy())(x[:count]), view(noisy())(x)[:count])


def test_steady_leaves_no_rows_alone():
    asked = []

    def model(z):
        asked.append(len(z))
        return z

    assert [len(steady(model)(torch.ones(count, 2))) for count in (0, 1, 16, 17)] == [0, 1, 16, 17]
    assert asked == [0, 16, 16, 17]


def test_smoothed_leaves_other_models_as_they_are():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(162, 3), nn.GELU()).double(), pictures()
    g = torch.ones(3, 3).double()
    assert torch.equal(pullback(smoothed(model, temperature=20.0), x, g), pullback(model, x, g))
