from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from sparring.errors import BadInput
from sparring.functions import unwatched
from sparring.models import bridge as module
from sparring.models.bridge import ALIGNMENT, environment, in_batches_of, layout, pad

bridge = partial(module.bridge, framework="jax")


class Recorder:
    """A framework of its own: y = 3 x^2 summed over features, and what it was handed."""

    def __init__(self):
        self.given, self.slopes, self.outputs, self.gradients = [], [], [], []

    def values(self, x):
        self.given.append(x)
        return torch.stack([3 * (x**2).flatten(1).sum(1), x.flatten(1).sum(1)], 1)

    def vjp(self, x):
        y = self.values(x)
        self.outputs.append(y.data_ptr())

        def pullback(g):
            self.slopes.append(g)
            slope = (6 * x.flatten(1) * g[:, :1] + g[:, 1:]).reshape(x.shape)
            self.gradients.append(slope.data_ptr())
            return slope

        return y, pullback


@pytest.fixture
def recorder():
    return Recorder()


def test_the_gradient_is_that_of_the_function(recorder):
    model = bridge(recorder.values, recorder.vjp)
    x = torch.rand(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, x)


def test_tensors_cross_without_a_copy_in_both_directions(recorder):
    model = bridge(recorder.values, recorder.vjp)
    x = torch.rand(4, 16, requires_grad=True)
    y = model(x)
    g = torch.rand(4, 2)
    (slope,) = torch.autograd.grad(y, x, g)
    assert recorder.given[0].data_ptr() == x.data_ptr()
    assert y.data_ptr() == recorder.outputs[0]
    assert recorder.slopes[0].data_ptr() == g.data_ptr()
    assert slope.data_ptr() == recorder.gradients[0]


@pytest.mark.parametrize("ask", [lambda m, x: m(x), lambda m, x: torch.no_grad()(m)(x.requires_grad_())])
def test_no_pullback_is_built_when_no_gradient_is_asked_for(recorder, ask):
    def refuse(x):
        raise AssertionError("asked for a gradient")

    assert not ask(bridge(recorder.values, refuse), torch.rand(3, 4)).requires_grad


def test_the_framework_always_sees_contiguous_aligned_tensors(recorder):
    model = bridge(recorder.values, recorder.vjp)
    whole = torch.rand(9, 5, 3)
    for x in (whole[1:], whole[:, 1:], whole.permute(0, 2, 1), whole[::2]):
        z = x.detach().requires_grad_()
        model(z)[:, 0].sum().backward()
        assert torch.allclose(z.grad, 6 * x)
    for seen in (*recorder.given, *recorder.slopes):
        assert seen.is_contiguous()
        assert seen.data_ptr() % ALIGNMENT == 0


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_types_are_widened_and_the_gradient_comes_back_in_the_type_of_x(recorder, given, seen):
    x = torch.rand(2, 3).to(given).requires_grad_()
    y = bridge(recorder.values, recorder.vjp)(x)
    y.sum().backward()
    assert recorder.given[0].dtype == y.dtype == seen
    assert x.grad.dtype == given


def test_integers_pass_as_they_are(recorder):
    bridge(recorder.values, recorder.vjp)(torch.ones(2, 3, dtype=torch.int64))
    assert recorder.given[0].dtype == torch.int64


def test_one_forward_pass_serves_several_gradients(recorder):
    x = torch.rand(2, 3, requires_grad=True)
    y = bridge(recorder.values, recorder.vjp)(x)
    slopes = [torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0] for k in (0, 1)]
    assert torch.allclose(slopes[0], 6 * x)
    assert torch.allclose(slopes[1], torch.ones_like(x))
    assert len(recorder.given) == 1


def test_an_input_changed_before_the_backward_pass_is_an_error_not_a_wrong_gradient(recorder):
    x = torch.rand(2, 3, requires_grad=True)
    y = bridge(recorder.values, recorder.vjp)(x)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_a_framework_that_gives_its_input_back_does_not_alias_it():
    x = torch.rand(2, 3, requires_grad=True)
    model = bridge(lambda x: x, lambda x: (x.reshape(2, 3), lambda g: g))
    assert model(x).data_ptr() != x.data_ptr()
    assert model(x.detach()).data_ptr() != x.data_ptr()


def test_a_second_derivative_is_refused_rather_than_wrong(recorder):
    x = torch.rand(2, 3, requires_grad=True)
    y = bridge(recorder.values, recorder.vjp)(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()


@pytest.mark.parametrize(
    ("given", "shape", "want"),
    [
        ((2, 28, 28, 1), (28, 28, 1), (2, 28, 28, 1)),
        ((2, 1, 28, 28), (28, 28, 1), (2, 28, 28, 1)),
        ((2, 3, 8, 9), (8, 9, 3), (2, 8, 9, 3)),
        ((2, 3, 8, 9), (None, None, 3), (2, 8, 9, 3)),
        ((2, 1, 28, 28), (784,), (2, 784)),
        ((2, 784), (28, 28, 1), (2, 28, 28, 1)),
        ((2, 28, 28), (28, 28, 1), (2, 28, 28, 1)),
        ((2, 1, 28, 28), (28, 28), (2, 28, 28)),
        ((2, 5), (5,), (2, 5)),
        ((0, 1, 28, 28), (784,), (0, 784)),
    ],
)
def test_inputs_come_into_the_shape_that_the_model_reads(given, shape, want):
    arrange, _ = layout(shape)
    assert arrange(torch.rand(given)).shape == want


def test_channels_first_images_are_transposed_not_reshaped():
    arrange, notes = layout((8, 9, 3))
    x = torch.rand(2, 3, 8, 9)
    assert torch.equal(arrange(x), x.permute(0, 2, 3, 1))
    assert "transposed" in notes[0]


def test_inputs_of_another_shape_are_refused_in_one_line():
    arrange, _ = layout((28, 28, 1))
    with pytest.raises(BadInput, match=r"inputs of shape \(1, 32, 32\); need \(28, 28, 1\)"):
        arrange(torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 7, 8])
def test_a_model_of_fixed_batch_size_serves_any_number_of_rows(rows):
    def fixed(x):
        assert len(x) == 4
        return 2 * x

    x = torch.rand(rows, 3, requires_grad=True)
    y = in_batches_of(4, fixed)(x)
    y.sum().backward()
    assert torch.equal(y, 2 * x)
    assert torch.equal(x.grad, torch.full_like(x, 2))


def test_a_full_batch_is_not_padded():
    x = torch.rand(4, 3)
    assert pad(x, 4) is x
    assert torch.equal(pad(x, 6)[4:], x[-1:].expand(2, 3))


def test_settings_are_put_back_and_those_of_the_user_win(monkeypatch):
    monkeypatch.setenv("SPARRING_TEST_SET", "theirs")
    monkeypatch.delenv("SPARRING_TEST_UNSET", raising=False)
    with environment(SPARRING_TEST_SET="ours", SPARRING_TEST_UNSET="ours"):
        assert os.environ["SPARRING_TEST_SET"] == "theirs"
        assert os.environ["SPARRING_TEST_UNSET"] == "ours"
    assert os.environ["SPARRING_TEST_SET"] == "theirs"
    assert "SPARRING_TEST_UNSET" not in os.environ


def test_what_runs_elsewhere_is_said_to_those_who_listen_and_run_by_torch_where_it_can_be():
    x, doubled = torch.rand(3, 2), lambda x: (2 * x, lambda g: 2 * g)
    assert unwatched(bridge(lambda x: 2 * x, doubled), x) == ("jax",)
    assert unwatched(bridge(lambda x: 2 * x, doubled, steps=lambda x: x + x), x) == ()

    def refused(x):
        raise module.Unreadable("fft")

    known = bridge(lambda x: 2 * x, doubled, steps=refused)
    assert unwatched(known, x) == ("jax",)
    assert torch.equal(known(x), 2 * x)
