"""JAX programs, run by torch: the same values and gradients, and the same checks as of the network in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alike import alike
from torch import nn
from torch.overrides import BaseTorchFunctionMode

from sparring.data import Arrays
from sparring.evaluate import audit, examine
from sparring.functions import unwatched
from sparring.mending import mended
from sparring.models.loading import adopt
from sparring.views import smoothed
from sparring.zoo import find

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed")
jnp, lax = jax.numpy, jax.lax

from sparring.models import jax as adapter  # noqa: E402

pytestmark = pytest.mark.frameworks

RNG = np.random.default_rng(0)
SQUARE, WIDE, KERNEL = (RNG.normal(size=size).astype("float32") / 3 for size in ((6, 6), (6, 4), (3, 3, 2, 4)))
PLACES = np.array([[0, 2], [5, 1]])


def image(x):
    return jnp.concatenate([x, -x], 1).reshape(len(x), 2, 2, 3).transpose(0, 2, 3, 1)


def recurrent(x):
    def step(h, part):
        h = jnp.tanh(h @ SQUARE + part[:, None])
        return h, h.sum(1)

    h, told = lax.scan(step, jnp.zeros((len(x), 6)), x.T)
    return h + told.T


FUNCTIONS = {
    "layers": lambda x: jax.nn.log_softmax(jax.nn.relu(x @ SQUARE) @ WIDE),
    "activations": lambda x: sum(
        f(x) for f in (jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.relu6, jax.nn.sigmoid)
    ),
    "pieces": lambda x: jax.nn.elu(x) + jax.nn.leaky_relu(x) + jax.nn.hard_tanh(3 * x) + jax.nn.hard_sigmoid(x),
    "norms": lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True) + jnp.std(x, 1, keepdims=True) + jnp.var(x),
    "powers": lambda x: x**3 + jnp.sqrt(jnp.abs(x) + 1) + (1 + x * x) ** 0.3 + jnp.exp2(x) + jnp.cbrt(2 + x) + x % 0.7,
    "special": lambda x: jax.scipy.special.erf(x) + jnp.log1p(x * x) + jnp.expm1(x) + jnp.arctan2(x, 2.0) + jnp.sinh(x),
    "extremes": lambda x: (
        x.max(1, keepdims=True) * x.min(1, keepdims=True) + jnp.clip(x, -0.3, 0.4) + jnp.maximum(x, 0.1)
    ),
    "stairs": lambda x: jnp.round(4 * x) + jnp.floor(3 * x) + jnp.sign(x) + x + lax.round(5 * x),
    "choices": lambda x: jnp.where((x > 0) & ~(x > 0.5), 2 * x, x / 3) + jnp.isfinite(x) + lax.select_n(x > 0, x, -x),
    "cumulated": lambda x: (
        jnp.cumsum(x, 1) + lax.cumsum(x, 1, reverse=True) + jnp.cumprod(x, 1) + jnp.prod(x, 1)[:, None]
    ),
    "sorted": lambda x: jnp.sort(x, 1) + x[:, ::-1] + lax.top_k(x, 6)[0] + jnp.argmax(x, 1)[:, None],
    "taken": lambda x: (
        x[:, PLACES].sum(2).repeat(3, 1) + jnp.take(x, jnp.array([5, 4, 3, 2, 1, 0]), axis=1) + x[:, 2:3]
    ),
    "taken along": lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1) + jax.nn.one_hot(jnp.argmin(x, 1), 6) * x,
    "padded": lambda x: jnp.pad(x, ((0, 0), (2, 1)))[:, 1:7] + lax.pad(x[:, :3], 1.0, ((0, 0, 0), (0, 1, 1)))[:, :6],
    "convolved": lambda x: lax.conv_general_dilated(
        image(x), KERNEL, (1, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(len(x), -1),
    "convolved in groups, with gaps": lambda x: lax.conv_general_dilated(
        image(x), KERNEL[:, :, :1], (1, 1), ((2, 1), (1, 3)), (2, 1), (1, 2), ("NHWC", "HWIO", "NHWC"), 2
    ).reshape(len(x), -1),
    "pooled": lambda x: (
        lax.reduce_window(image(x), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
        + lax.reduce_window(image(x), 0.0, lax.add, (1, 2, 3, 1), (1, 1, 1, 1), "SAME")
    ).reshape(len(x), -1),
    "products": lambda x: jnp.einsum("bi,bj->bij", x, x).sum(2) + jnp.einsum("bi,ij,bj->b", x, SQUARE, x)[:, None],
    "recurrent": recurrent,
    "branches": lambda x: (
        lax.cond(x.sum() > 0, lambda z: 2 * z, lambda z: -z, x) + lax.fori_loop(0, 3, lambda i, z: z * 0.9, x)
    ),
    "saved": lambda x: jax.checkpoint(lambda z: jnp.sin(z) @ SQUARE)(x) + lax.stop_gradient(x),
    "normalised": lambda x: jnp.mean(x, axis=0) + lax.dynamic_slice(x, (0, 2), (len(x), 1)) + jnp.linspace(0.0, 1.0, 6),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_says_what_jax_says_and_has_the_same_gradients(name: str) -> None:
    victim = adapter.function(FUNCTIONS[name])
    x = torch.from_numpy(RNG.normal(size=(8, 6)).astype("float32"))
    alike(victim, x)


@jax.custom_vjp
def through(x):
    return jnp.round(x)


through.defvjp(lambda x: (jnp.round(x), None), lambda kept, g: (g,))


@pytest.mark.parametrize(
    "program",
    [
        lambda x: x + through(x),
        lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
        lambda x: x.at[:, 0].set(x[:, 1] ** 2),
    ],
    ids=["a derivative of one's own", "random numbers", "scatter"],
)
def test_what_torch_cannot_run_is_said_and_runs_in_jax(program) -> None:
    victim, x = adapter.function(program), torch.rand(4, 6)
    assert unwatched(victim, x) == ("jax",)
    assert torch.equal(mended(victim)(x.requires_grad_()), victim(x))


def test_weights_that_change_are_seen_and_any_number_of_rows_is_answered() -> None:
    live = {"w": jnp.asarray(SQUARE), "key": jax.random.key(0)}
    call = adapter.crossing(lambda w, x: jax.nn.relu(x @ w["w"]), lambda: live)
    for rows in (1, 3, 8):
        x = torch.rand(rows, 6)
        with BaseTorchFunctionMode():
            assert torch.allclose(call(x), (x @ torch.tensor(SQUARE)).relu(), atol=1e-6)
    live["w"] = -live["w"]
    with BaseTorchFunctionMode():
        assert torch.allclose(call(x), (-x @ torch.tensor(SQUARE)).relu(), atol=1e-6)


def in_jax(network: nn.Module, between):
    """A network of layers in torch as a function in JAX, with `between` after each but the last."""
    *layers, last = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in network if isinstance(m, nn.Linear)]

    def run(x):
        x = x.reshape(len(x), -1)
        for weight, bias in layers:
            x = between(x @ weight.T + bias)
        return x @ last[0].T + last[1]

    return adapter.function(run)


def test_smoothed_gradients_are_those_of_the_same_network_in_torch() -> None:
    network, x = find("adversarially trained").make(), find("relu").examples(9)[0].requires_grad_()
    slopes = [
        torch.autograd.grad(smoothed(model)(x)[:, 3].sum(), x)[0] for model in (network, in_jax(network, jax.nn.relu))
    ]
    assert torch.allclose(*slopes, rtol=1e-3, atol=1e-5)
    plain = torch.autograd.grad(network(x)[:, 3].sum(), x)[0]
    assert not torch.allclose(plain, slopes[0], rtol=0.1, atol=1e-3)


def test_the_doctor_sees_in_jax_what_it_sees_in_torch() -> None:
    one = find("relu")
    data, network = Arrays("digits", *one.examples(60)), one.make()

    def bad(between) -> set[str]:
        found = examine(in_jax(network, between), data, one.threat)
        return {check.name for check in found.checks if check.outcome in ("fail", "warn")}

    assert bad(jax.nn.relu) == bad(jax.nn.gelu) == set()
    assert "hidden-paths" not in bad(jax.nn.elu) | bad(lambda h: jax.nn.leaky_relu(h, 0.01))
    assert {"gradients", "hidden-paths"} <= bad(lambda h: jax.nn.relu(jnp.round(4 * h) / 4))
    assert "hidden-paths" in bad(lambda h: jax.nn.relu(h) * (h > jnp.quantile(h, 0.8, axis=1, keepdims=True)))


def test_what_cannot_be_watched_in_jax_is_skipped_in_a_sentence() -> None:
    one = find("relu")
    victim = in_jax(one.make(), lambda h: jax.nn.relu(through(8 * h) / 8))
    found = {check.name: check for check in examine(victim, Arrays("digits", *one.examples(60)), one.threat).checks}
    for name in ("hidden-paths", "steep-units"):
        assert found[name].outcome == "skipped"
        assert found[name].evidence == "what runs in jax cannot be watched"


def test_an_audit_in_jax_ends_where_that_of_the_network_in_torch_does() -> None:
    one = find("steep units")
    x, y = one.examples(60)
    network = one.make()
    victims = adopt(network), in_jax(network, lambda h: jax.scipy.special.erf(60 * h))
    found, plain = (audit(victim, (x, y), one.threat, suite="quick", passes=0) for victim in victims)
    for result in (found, plain):
        assert [check.outcome for check in result.checks if check.name == "steep-units"] == ["warn"]
        assert [attack.name for attack in result.attacks if attack.name.startswith("adaptive")] != []
    assert abs(found.robust_accuracy.estimate - plain.robust_accuracy.estimate) <= 0.05
