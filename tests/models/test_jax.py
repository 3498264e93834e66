from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed")
jnp = jax.numpy

from sparring.errors import BadInput  # noqa: E402
from sparring.models import jax as adapter  # noqa: E402
from sparring.models.loading import adopt  # noqa: E402

pytestmark = pytest.mark.frameworks


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") / 4 for shape in ((12, 8), (8, 3))]


def logits(weights, x):
    return jnp.tanh(x.reshape(len(x), -1) @ weights[0]) @ weights[1]


def by_torch(weights, x):
    return torch.tanh(x.flatten(1) @ torch.from_numpy(weights[0])) @ torch.from_numpy(weights[1])


def compare(victim, twin, x):
    """Outputs and gradients of a weighted sum of them agree."""
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, want = victim(z), twin(w)
    g = torch.linspace(-1, 1, want.numel()).reshape(want.shape)
    torch.testing.assert_close(y, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(y, z, g)[0], torch.autograd.grad(want, w, g)[0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 13])
def test_outputs_and_gradients_agree_with_torch(weights, rows):
    victim = adapter.function(partial(logits, weights))
    assert victim.access == "gradients"
    compare(victim, partial(by_torch, weights), torch.rand(rows, 3, 4))


def test_tensors_cross_to_and_from_jax_without_a_copy():
    x = torch.rand(8, 5)
    a = adapter.to_jax(x)
    assert a.unsafe_buffer_pointer() == x.data_ptr()
    assert adapter.to_torch(a).data_ptr() == x.data_ptr()
    y = jnp.sin(a)
    assert adapter.to_torch(y).data_ptr() == y.unsafe_buffer_pointer()


def test_a_full_batch_enters_the_compiled_function_without_a_copy(weights, monkeypatch):
    crossed = []
    to_jax = adapter.to_jax
    monkeypatch.setattr(adapter, "to_jax", lambda x: crossed.append(x.data_ptr()) or to_jax(x))
    x = torch.rand(8, 3, 4, requires_grad=True)
    y = adapter.function(partial(logits, weights))(x)
    g = torch.rand_like(y)
    y.backward(g)
    assert crossed == [x.data_ptr(), g.data_ptr()]


def test_early_exit_compiles_once_for_every_power_of_two_of_rows(weights):
    traced = []

    def counted(x):
        traced.append(x.shape)
        return logits(weights, x)

    victim = adapter.function(counted)
    for rows in range(32, 0, -1):
        x = torch.rand(rows, 12, requires_grad=True)
        victim(x).sum().backward()
    assert [shape[0] for shape in traced] == [32, 16, 8, 4, 2, 1]
    assert [adapter.bucket(rows) for rows in (0, 1, 2, 3, 4, 5, 250, 256, 257)] == [1, 1, 2, 4, 4, 8, 256, 256, 512]


def test_an_empty_batch_is_answered(weights):
    assert adapter.function(partial(logits, weights))(torch.rand(0, 3, 4)).shape == (0, 3)


def test_double_precision_input_gets_a_double_precision_gradient(weights):
    x = torch.rand(2, 12, dtype=torch.float64, requires_grad=True)
    adapter.function(partial(logits, weights))(x).sum().backward()
    assert x.grad.dtype == torch.float64


def test_a_jitted_function_and_a_partial_of_one_are_recognised(weights):
    jitted = jax.jit(logits)
    for model in (jax.jit(partial(logits, weights)), partial(jitted, weights)):
        victim = adopt(model)
        assert (victim.framework, victim.access) == ("jax", "gradients")
        compare(victim, partial(by_torch, weights), torch.rand(3, 12))


def test_a_function_of_several_outputs_is_refused_in_one_line():
    with pytest.raises(BadInput, match="a JAX function that returns tuple; need one array"):
        adapter.function(lambda x: (x, x))(torch.rand(2, 3))


def test_weights_handed_in_are_read_at_every_call(weights):
    live = {"w": jnp.asarray(weights[0])}
    model = adapter.crossing(lambda w, x: x @ w["w"], lambda: live)
    x = torch.rand(4, 12)
    before = model(x)
    live["w"] = 2 * live["w"]
    torch.testing.assert_close(model(x), 2 * before)


def test_a_flax_nnx_module_is_used_in_eval_mode_and_not_changed():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(12, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.out = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.drop(self.norm(x)))

    net = Net(nnx.Rngs(0))
    net.norm.mean[...] = jnp.linspace(0, 1, 12)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState))))
    victim = adopt(net)
    assert (victim.framework, victim.access) == ("flax", "gradients")

    def twin(x):
        kernel, bias = (torch.tensor(np.array(v[...])) for v in (net.out.kernel, net.out.bias))
        return (x - torch.linspace(0, 1, 12)) / (1 + net.norm.epsilon) ** 0.5 @ kernel + bias

    compare(victim, twin, torch.rand(5, 12))
    assert net.drop.deterministic is False
    assert net.norm.use_running_average is False
    after = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    old = victim(torch.ones(1, 12))
    net.out.bias[...] = net.out.bias[...] + 1
    torch.testing.assert_close(victim(torch.ones(1, 12)), old + 1)


def test_a_bound_flax_linen_module_is_adopted_and_an_unbound_one_refused():
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")
    net = linen.Dense(3)
    variables = net.init(jax.random.key(0), jnp.ones((1, 12)))
    kernel, bias = (torch.tensor(np.array(variables["params"][key])) for key in ("kernel", "bias"))
    compare(adopt(net.bind(variables)), lambda x: x @ kernel + bias, torch.rand(3, 12))
    with pytest.raises(BadInput, match="without its variables"):
        adopt(net)
