"""Neighbourhoods and averages of weights: closed forms, and weights that come back to the bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sparring.errors import BadInput
from sparring.streams import Streams
from sparring.threats import linf
from sparring.training.objectives import adversarial, pinned
from sparring.training.weights import AWP, SAM, Average, Neighbourhood, content, ema, refilled, refreshed, swa


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()


def batch() -> tuple[Tensor, Tensor]:
    rng = Streams.of(2, range(16))
    return rng.at("x").normal(6), rng.at("y").integers(3)


def taken(model: nn.Module) -> Callable[[], Tensor]:
    x, labels = batch()
    return lambda: functional.cross_entropy(model(x), labels)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


NEIGHBOURHOODS = [AWP(0.01), SAM(0.05)]


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS, ids=repr)
def test_the_weights_come_back_to_the_bit_and_the_gradient_stays(neighbourhood: Neighbourhood) -> None:
    model = network()
    loss, before = taken(model), weights(model)
    with neighbourhood.around(model, loss):
        assert not all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
        loss().backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(RuntimeError), neighbourhood.around(model, loss):
        raise RuntimeError
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS, ids=repr)
def test_the_loss_is_higher_in_the_neighbourhood(neighbourhood: Neighbourhood) -> None:
    model = network()
    loss = taken(model)
    here = loss()
    with neighbourhood.around(model, loss):
        there = loss()
    assert there > here + 1e-3


@pytest.mark.parametrize("neighbourhood", [AWP(0.0), SAM(0.0)], ids=repr)
def test_a_neighbourhood_of_no_size_changes_no_gradient(neighbourhood: Neighbourhood) -> None:
    model = network()
    loss = taken(model)
    plain = torch.autograd.grad(loss(), list(model.parameters()))
    with neighbourhood.around(model, loss):
        around = torch.autograd.grad(loss(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(plain, around, strict=True))


def test_awp_moves_each_matrix_up_its_gradient_by_gamma_of_its_length_and_no_bias() -> None:
    model = network()
    loss, before = taken(model), weights(model)
    slopes = torch.autograd.grad(loss(), list(model.parameters()))
    with AWP(0.02).around(model, loss):
        moves = [now - old for now, old in zip(weights(model), before, strict=True)]
    for move, old, g in zip(moves, before, slopes, strict=True):
        expected = 0.02 * old.norm() * g / g.norm() if old.dim() > 1 else torch.zeros_like(old)
        assert torch.allclose(move, expected, atol=1e-6)


def test_sam_moves_all_weights_as_one_vector_up_the_gradient_by_rho() -> None:
    model = network()
    loss, before = taken(model), weights(model)
    slopes = torch.autograd.grad(loss(), list(model.parameters()))
    with SAM(0.1).around(model, loss):
        moves = [now - old for now, old in zip(weights(model), before, strict=True)]
    length = torch.stack([g.norm() for g in slopes]).norm()
    for move, g in zip(moves, slopes, strict=True):
        assert torch.allclose(move, 0.1 * g / length, atol=1e-6)


def test_sam_on_a_quadratic_takes_the_gradient_where_the_closed_form_says() -> None:
    """For `L(w) = w' A w / 2` the gradient is `A (w + rho A w / |A w|)`."""
    model = nn.Linear(3, 1, bias=False)
    curvature = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.5]])
    w = model.weight.detach().flatten().clone()

    def loss() -> Tensor:
        return model.weight.flatten() @ curvature @ model.weight.flatten() / 2

    with SAM(0.3).around(model, loss):
        (g,) = torch.autograd.grad(loss(), [model.weight])
    slope = curvature @ w
    assert torch.allclose(g.flatten(), curvature @ (w + 0.3 * slope / slope.norm()), atol=1e-5)


@pytest.mark.parametrize("neighbourhood", NEIGHBOURHOODS, ids=repr)
def test_looking_around_leaves_running_statistics_to_the_pass_that_teaches(neighbourhood: Neighbourhood) -> None:
    model = network()
    loss = taken(model)
    with neighbourhood.around(model, loss):
        assert int(model[1].num_batches_tracked) == 0
        loss().backward()  # type: ignore[no-untyped-call]
    assert int(model[1].num_batches_tracked) == 1


def test_frozen_weights_stay_where_they_are() -> None:
    model = network()
    model[0].requires_grad_(False)
    loss, before = taken(model), weights(model)
    for neighbourhood in NEIGHBOURHOODS:
        with neighbourhood.around(model, loss):
            assert torch.equal(model[0].weight, before[0])
            assert not torch.equal(model[3].weight, before[4])


def test_awp_on_adversarial_training_searches_for_the_worst_inputs_once() -> None:
    x, labels = batch()
    model, rng = network(), Streams.of(0, range(16))
    x = x.sigmoid()
    loss = pinned(adversarial(linf(0.1)), model, x, labels, 1.0, rng)
    before = weights(model)
    with AWP().around(model, loss):
        loss().backward()  # type: ignore[no-untyped-call]
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert int(model[1].num_batches_tracked) == 1


# Averages


def constant(value: float) -> nn.Linear:
    model = nn.Linear(2, 1, bias=False).double()
    nn.init.constant_(model.weight, value)
    return model


def value(average: Average) -> float:
    return float(next(average.network.parameters())[0, 0])


def test_the_average_of_constant_decay_is_the_closed_form() -> None:
    """For weights w_n = n: a_T = T - (1 - d^T) d / (1 - d), started from a_0 = 0."""
    decay, steps = 0.9, 40
    average = ema(constant(0.0), decay)
    average.seen = 10**9
    for n in range(1, steps + 1):
        average.update(constant(float(n)))
    assert value(average) == pytest.approx(steps - decay * (1 - decay**steps) / (1 - decay), rel=1e-12)


def test_the_average_forgets_the_first_weights_as_fast_as_it_says() -> None:
    """With d_n = n / (n + 9) for as long as that is smaller, the first weights keep the product of d_n."""
    average, kept = ema(constant(7.0), 0.999), 1.0
    average.update(constant(1.0))
    for n in range(1, 101):
        average.update(constant(0.0))
        kept *= n / (n + 9)
    assert value(average) == pytest.approx(kept)
    assert kept < 1e-8


def test_no_decay_gives_the_last_weights() -> None:
    average = ema(constant(0.0), 0.0)
    for n in range(5):
        average.update(constant(float(n)))
    assert value(average) == 4.0
    for decay in (-0.1, 1.0):
        with pytest.raises(BadInput, match="decay"):
            ema(constant(0.0), decay)


def test_stochastic_weight_averaging_is_the_plain_mean() -> None:
    average = swa(constant(100.0))
    for n in (3.0, 5.0, 10.0):
        average.update(constant(n))
    assert value(average) == pytest.approx(6.0)


def test_an_average_is_a_network_of_its_own_in_inference_mode() -> None:
    model = network()
    average = ema(model, 0.9)
    model(batch()[0])
    average.update(model)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert torch.equal(average.network[1].running_mean, model[1].running_mean)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert not torch.equal(average.network[0].weight, model[0].weight)
    assert model.training


def test_running_statistics_are_averaged_as_the_weights_are() -> None:
    model = network()
    average, means = ema(model, 0.5), []
    for _ in range(2):
        model(batch()[0])
        average.update(model)
        means.append(model[1].running_mean.clone())
    kept = 1 / 10  # n / (n + 9) of the second network; the first is taken over whole
    assert torch.allclose(average.network[1].running_mean, kept * means[0] + (1 - kept) * means[1])
    assert average.network[1].num_batches_tracked == model[1].num_batches_tracked == 2


def test_an_average_goes_on_from_a_file_with_the_same_bits() -> None:
    model, one = network(), ema(network(), 0.99)
    for _ in range(3):
        one.update(model)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = ema(network(), 0.99)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    for average in (one, other):
        average.update(model)
    assert one.seen == other.seen == 4
    assert torch.equal(one.network[0].weight, other.network[0].weight)


def test_refreshed_statistics_are_the_means_over_the_batches() -> None:
    model = network().eval()
    model[1].momentum = 0.3
    modes = [part.training for part in model.modules()]
    batches = [batch()[0], 2 * batch()[0] + 1, batch()[0].flip(0)]
    hidden = [model[0](x).detach() for x in batches]
    assert refreshed(model, batches) is model
    assert torch.allclose(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0), atol=1e-6)
    assert torch.allclose(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0), atol=1e-6)
    assert modes == [part.training for part in model.modules()]
    assert model[1].momentum == 0.3
    plain = nn.Linear(6, 2)
    assert refreshed(plain, iter(())) is plain


make = partial(ema, decay=0.9)
"""As settings hand it over: a function of the network."""


def test_averages_are_made_by_functions_of_the_network() -> None:
    assert isinstance(make(network()), Average)


def test_the_content_of_a_network_has_the_buffers_that_its_state_dict_lacks() -> None:
    model = network()
    model.register_buffer("seen", torch.tensor([1.0, 2.0]), persistent=False)
    model[0].register_buffer("grown", torch.zeros(1), persistent=False)
    file = io.BytesIO()
    torch.save(content(model), file)
    file.seek(0)
    held = torch.load(file, weights_only=True)
    assert "seen" not in held["state"]
    model.seen.zero_()
    model[0].grown = torch.zeros(3)
    buffer = model.seen
    assert refilled(model, held) is model
    assert model.seen is buffer
    assert buffer.tolist() == [1.0, 2.0]
    assert model[0].grown.tolist() == [0.0]
    average = ema(model)
    other = ema(network().requires_grad_(False))
    other.network.register_buffer("seen", torch.zeros(2), persistent=False)
    other.network[0].register_buffer("grown", torch.zeros(1), persistent=False)
    other.load_state_dict(average.state_dict())
    assert other.network.seen.tolist() == [1.0, 2.0]


def test_statistics_that_are_to_stand_still_are_not_refreshed() -> None:
    model = network()
    before = model[1].running_mean.clone()
    refreshed(model, [batch()[0]], still={"1"})
    assert torch.equal(before, model[1].running_mean)
    refreshed(model, [batch()[0]], still={"0"})
    assert not torch.equal(before, model[1].running_mean)


def test_a_buffer_that_grows_is_taken_over_and_put_back() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)
            self.register_buffer("seen", torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.seen = torch.ones(len(x))
            found: Tensor = self.last(x)
            return found

    network, x = Growing(), torch.rand(5, 4)
    average = ema(network, 0.5)
    with SAM(0.05).around(network, lambda: network(x).square().mean()):
        assert network.seen.shape == (0,)
    network(x)
    average.update(network)
    assert torch.equal(average.network.get_buffer("seen"), torch.ones(5))
