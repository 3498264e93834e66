"""TensorFlow graphs, run by torch: the same values and gradients, and the same checks as of the network in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alike import alike

from sparring.data import Arrays
from sparring.evaluate import examine
from sparring.functions import unwatched
from sparring.mending import mended
from sparring.views import smoothed
from sparring.zoo import find

pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")

from sparring.models import tensorflow as adapter

tf = adapter.tensorflow()

pytestmark = pytest.mark.frameworks

RNG = np.random.default_rng(0)
SQUARE, WIDE, KERNEL, DEEP = (
    RNG.normal(size=size).astype("float32") / 3 for size in ((6, 6), (6, 4), (2, 3, 2, 4), (2, 2, 2, 3))
)


def image(x):
    return tf.transpose(tf.reshape(tf.concat([x, -x, 2 * x], 1), (-1, 2, 3, 3)), (0, 2, 3, 1))


def flat(x):
    return tf.reshape(x, (tf.shape(x)[0], -1))


def normalised(x):
    mean, variance, shift = tf.constant([0.1, 0.2]), tf.constant([1.0, 2.0]), tf.constant([0.5, -0.5])
    return tf.compat.v1.nn.fused_batch_norm(image(x), variance, shift, mean, variance, is_training=False)[0]


FUNCTIONS = {
    "layers": lambda x: tf.nn.log_softmax(tf.nn.relu(tf.nn.bias_add(x @ SQUARE, SQUARE[0])) @ WIDE),
    "activations": lambda x: tf.nn.gelu(x) + tf.nn.silu(x) + tf.nn.softplus(x) + tf.nn.relu6(9 * x) + tf.nn.softsign(x),
    "pieces": lambda x: tf.nn.elu(x) + tf.nn.leaky_relu(x, 0.1) + tf.nn.selu(x) + tf.clip_by_value(x, -0.3, 0.4),
    "norms": lambda x: x / tf.norm(x, axis=1, keepdims=True) + tf.math.reduce_std(x, 1, keepdims=True),
    "powers": lambda x: x**3 + tf.sqrt(tf.abs(x) + 1) + (1 + x * x) ** 0.3 + tf.math.rsqrt(2 + x) + x % 0.7,
    "special": lambda x: tf.math.erf(x) + tf.math.log1p(x * x) + tf.math.expm1(x) + tf.sin(x) / tf.exp(tf.cos(x)),
    "extremes": lambda x: tf.reduce_max(x, 1, keepdims=True) * tf.reduce_min(x, 1, True) + tf.maximum(x, 0.1),
    "stairs": lambda x: (
        tf.round(4 * x) + tf.floor(3 * x) + tf.sign(x) + x + tf.cast(tf.cast(5 * x, tf.int32), tf.float32)
    ),
    "choices": lambda x: tf.where((x > 0) & ~(x > 0.5), 2 * x, x / 3) + tf.cast(x >= 0.1, tf.float32) * x,
    "cumulated": lambda x: tf.cumsum(x, 1) + tf.cumsum(x, 1, reverse=True) + tf.reduce_prod(x, 1, keepdims=True),
    "sorted": lambda x: tf.sort(x, 1) + x[:, ::-1] + tf.cast(tf.argmax(x, 1), tf.float32)[:, None],
    "taken": lambda x: tf.gather(x, [5, 4, 3, 2, 1, 0], axis=1) + x[:, 2:3] + x[..., 1, tf.newaxis] + x[:, -1][:, None],
    "one-hot": lambda x: tf.one_hot(tf.argmin(x, 1), 6) * x + tf.tile(x[:, :2], (1, 3)) + tf.stack([x[:, 0]] * 6, 1),
    "parts": lambda x: tf.concat(tf.split(x, 3, 1)[::-1], 1) + tf.add_n(tf.split(x, [2, 2, 2], 1))[:, :1],
    "padded": lambda x: tf.pad(x, ((0, 0), (2, 1)))[:, 1:7] + tf.pad(x, ((0, 0), (1, 0)), constant_values=2.0)[:, :6],
    "convolved": lambda x: flat(tf.nn.conv2d(image(x), KERNEL, (1, 2), "SAME")),
    "convolved in a frame": lambda x: flat(tf.nn.conv2d(image(x), KERNEL, 1, ((0, 0), (2, 1), (0, 1), (0, 0)))),
    "convolved by channels": lambda x: flat(tf.nn.depthwise_conv2d(image(x), DEEP, (1, 1, 1, 1), "SAME")),
    "pooled": lambda x: flat(tf.nn.max_pool2d(image(x), 2, 1, "SAME") + tf.nn.avg_pool2d(image(x), (2, 3), 1, "SAME")),
    "normalised": lambda x: flat(normalised(x)) + tf.reduce_mean(x) + tf.linspace(0.0, 1.0, 18),
    "products": lambda x: (
        tf.einsum("bi,ij,bj->b", x, SQUARE, x)[:, None] + tf.linalg.matmul(x, SQUARE, transpose_b=True)
    ),
    "branches": lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: 2 * x, lambda: -x),
    "convolved backwards": lambda x: flat(tf.nn.conv2d_transpose(image(x), KERNEL[..., :2], (8, 5, 6, 2), 2, "SAME")),
    "resized": lambda x: flat(tf.image.resize(image(x), (5, 4)) + tf.image.resize(image(x), (5, 4), "nearest")),
    "recurrent": lambda x: tf.transpose(tf.scan(lambda h, z: tf.tanh(h + z), tf.transpose(x), tf.zeros(8))),
    "cut off": lambda x: tf.stop_gradient(x) * x,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_says_what_tensorflow_says_and_has_the_same_gradients(name: str) -> None:
    victim = adapter.function(FUNCTIONS[name])
    x = torch.from_numpy(RNG.normal(size=(8, 6)).astype("float32"))
    alike(victim, x)


@pytest.mark.parametrize(
    "function",
    [lambda x: x + tf.random.normal(tf.shape(x)), lambda x: tf.linalg.inv(tf.linalg.diag(1 + x * x))[:, 0]],
    ids=["random numbers", "inverse"],
)
def test_what_torch_cannot_run_is_said_and_runs_in_tensorflow(function) -> None:
    victim, x = adapter.function(function), torch.rand(4, 6)
    assert unwatched(victim, x) == ("tensorflow",)
    assert mended(victim)(x.requires_grad_()).shape == (4, 6)


def in_tensorflow(network, between):
    """A network of layers in torch as a function in TensorFlow, with `between` after each but the last."""
    parts = [m for m in network if isinstance(m, torch.nn.Linear)]
    *layers, last = [(tf.Variable(m.weight.detach().T.numpy()), tf.Variable(m.bias.detach().numpy())) for m in parts]

    def run(x):
        x = tf.reshape(x, (-1, 784))
        for weight, bias in layers:
            x = between(x @ weight + bias)
        return x @ last[0] + last[1]

    return adapter.function(run)


def test_smoothed_gradients_are_those_of_the_same_network_in_torch() -> None:
    network, x = find("adversarially trained").make(), find("relu").examples(9)[0].requires_grad_()
    models = network, in_tensorflow(network, tf.nn.relu)
    slopes = [torch.autograd.grad(smoothed(model)(x)[:, 3].sum(), x)[0] for model in models]
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-5)


def test_the_doctor_sees_in_tensorflow_what_it_sees_in_torch() -> None:
    one = find("relu")
    data, network = Arrays("digits", *one.examples(60)), one.make()

    def bad(between) -> set[str]:
        found = examine(in_tensorflow(network, between), data, one.threat)
        return {check.name for check in found.checks if check.outcome in ("fail", "warn")}

    assert bad(tf.nn.relu) == bad(tf.nn.gelu) == set()
    assert {"gradients", "hidden-paths"} <= bad(lambda h: tf.nn.relu(tf.round(4 * h) / 4))
    assert "hidden-paths" in bad(lambda h: tf.nn.relu(h) * tf.cast(h > tf.math.top_k(h, 13)[0][:, -1:], tf.float32))
    steep = find("steep units")
    found = examine(
        in_tensorflow(steep.make(), lambda h: tf.math.erf(60 * h)), Arrays("digits", *steep.examples(60)), steep.threat
    )
    assert {check.name: check.outcome for check in found.checks}["steep-units"] == "warn"
