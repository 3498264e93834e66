from __future__ import annotations

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
tf = pytest.importorskip("tensorflow", reason="the extra 'tensorflow' is not installed")

from tensorflow.core.protobuf import saved_model_pb2  # noqa: E402

from sparring.errors import BadInput  # noqa: E402
from sparring.models import tensorflow as adapter  # noqa: E402
from sparring.models.loading import adopt, load  # noqa: E402

pytestmark = pytest.mark.frameworks


class Net(tf.Module):
    """12 -> 8 -> 3; noisy while it is trained."""

    def __init__(self):
        super().__init__(name="net")
        rng = np.random.default_rng(0)
        self.w = [tf.Variable(rng.normal(size=s).astype("float32") / 4) for s in ((12, 8), (8, 3))]

    def logits(self, x):
        return tf.tanh(tf.reshape(x, (tf.shape(x)[0], 12)) @ self.w[0]) @ self.w[1]

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 4])])
    def __call__(self, x):
        return self.logits(x)


def by_torch(net, x):
    w = [torch.from_numpy(v.numpy()) for v in net.w]
    return torch.tanh(x.float().flatten(1) @ w[0]) @ w[1]


def compare(victim, net, x):
    z, w = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, want = victim(z), by_torch(net, w)
    g = torch.linspace(-1, 1, want.numel()).reshape(want.shape)
    torch.testing.assert_close(y, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(y, z, g)[0], torch.autograd.grad(want, w, g)[0], atol=1e-5, rtol=1e-5
    )


@pytest.fixture
def net():
    return Net()


def test_a_tf_function_agrees_with_torch_in_outputs_and_gradients(net):
    victim = adopt(tf.function(net.logits))
    assert (victim.framework, victim.access) == ("tensorflow", "gradients")
    for rows in (1, 4, 7):
        compare(victim, net, torch.rand(rows, 3, 4))


def test_a_module_a_concrete_function_and_a_wrapped_function_are_adopted(net):
    concrete = net.__call__.get_concrete_function()
    for victim in (adopt(net), adopt(concrete), adapter.function(net.logits)):
        assert victim.access == "gradients"
        compare(victim, net, torch.rand(2, 3, 4))


def test_a_module_that_takes_training_is_called_with_false():
    class Noisy(Net):
        def __call__(self, x, training=True):
            return self.logits(x) + (tf.random.normal((3,)) if training else 0.0)

    net = Noisy()
    compare(adopt(net), net, torch.rand(2, 3, 4))


def test_tensors_cross_to_and_from_tensorflow_without_a_copy():
    x = torch.rand(8, 5)
    a = adapter.to_tensorflow(x)
    assert adapter.to_torch(a).data_ptr() == x.data_ptr()
    first, second = adapter.to_torch(y := tf.sin(a)), adapter.to_torch(y)  # both alive: one address is one memory
    assert first.data_ptr() == second.data_ptr()
    torch.testing.assert_close(first, torch.sin(x))


def test_a_batch_and_its_gradient_cross_the_bridge_without_a_copy(net, monkeypatch):
    there, back = [], []
    give, take = adapter.to_tensorflow, adapter.to_torch
    monkeypatch.setattr(adapter, "to_tensorflow", lambda x: there.append(x.data_ptr()) or give(x))
    monkeypatch.setattr(adapter, "to_torch", lambda y: back.append(take(y)) or back[-1])
    x = torch.rand(8, 3, 4, requires_grad=True)
    y = adopt(net)(x)
    g = torch.rand_like(y)
    (slope,) = torch.autograd.grad(y, x, g)
    assert there == [x.data_ptr(), g.data_ptr()]
    assert [t.data_ptr() for t in back] == [y.data_ptr(), slope.data_ptr()]


def test_an_unaligned_slice_does_not_end_the_process(net):
    x = torch.rand(9, 3, 4)[1:]
    assert x.data_ptr() % 64
    compare(adopt(net), net, x)


def test_early_exit_traces_twice_at_most(net):
    traced = []

    def counted(x):
        traced.append(x.shape)
        return net.logits(x)

    victim = adapter.function(counted)
    for rows in range(16, 0, -1):
        x = torch.rand(rows, 3, 4, requires_grad=True)
        victim(x).sum().backward()
    assert len(traced) <= 2


def test_one_forward_pass_serves_several_gradients(net):
    x = torch.rand(2, 3, 4, requires_grad=True)
    y = adopt(net)(x)
    first, second = (torch.autograd.grad(y[:, k].sum(), x, retain_graph=True)[0] for k in (0, 1))
    assert not torch.allclose(first, second)


def test_double_precision_input_is_cast_and_gets_a_double_precision_gradient(net):
    x = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    adopt(net)(x).sum().backward()
    assert x.grad.dtype == torch.float64


def test_an_output_that_does_not_depend_on_x_has_gradient_zero():
    x = torch.rand(2, 3, requires_grad=True)
    adapter.function(lambda x: tf.sign(x) + tf.stop_gradient(x))(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_a_savedmodel_is_loaded_by_its_signature(net, tmp_path):
    tf.saved_model.save(net, str(tmp_path / "net"), signatures=net.__call__.get_concrete_function())
    victim = load(str(tmp_path / "net"))
    assert (victim.framework, victim.access, victim.name) == ("tensorflow", "gradients", "net")
    compare(victim, net, torch.rand(3, 3, 4))
    torch.testing.assert_close(victim(torch.ones(2, 12)), victim(torch.ones(2, 3, 4)))
    with pytest.raises(BadInput, match=r"inputs of shape \(5,\)"):
        victim(torch.rand(2, 5))


def test_a_savedmodel_without_a_signature_is_loaded_by_its_call(net, tmp_path):
    tf.saved_model.save(net, str(tmp_path / "net"), signatures={})
    compare(load(str(tmp_path / "net")), net, torch.rand(3, 3, 4))


def test_a_savedmodel_of_a_fixed_batch_size_serves_any_number_of_rows(net, tmp_path):
    fixed = tf.function(net.logits).get_concrete_function(tf.TensorSpec([4, 3, 4], name="image"))
    tf.saved_model.save(net, str(tmp_path / "net"), signatures=fixed)
    victim = load(str(tmp_path / "net"))
    assert "batches of exactly 4" in " ".join(victim.notes)
    compare(victim, net, torch.rand(6, 3, 4))


def test_a_savedmodel_that_writes_files_is_refused_without_trust(tmp_path):
    class Thief(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            tf.io.write_file(str(tmp_path / "stolen"), "x")
            return x

    tf.saved_model.save(Thief(), str(tmp_path / "thief"))
    with pytest.raises(BadInput, match=r"reaches beyond the model \(WriteFile\)"):
        load(str(tmp_path / "thief"))
    assert load(str(tmp_path / "thief"), trust=True).access == "gradients"


@pytest.mark.parametrize("op", ["PrintV2", "SaveV2", "CreateSummaryFileWriter", "DebugIdentityV2", "ReadFile"])
def test_a_savedmodel_that_reaches_for_files_by_any_operation_is_refused(op, tmp_path):
    raw = tf.raw_ops
    place = str(tmp_path / "stolen")
    reach = {
        "PrintV2": lambda x: raw.PrintV2(input="x", output_stream=f"file://{place}"),
        "SaveV2": lambda x: raw.SaveV2(prefix=place, tensor_names=["x"], shape_and_slices=[""], tensors=[x]),
        "CreateSummaryFileWriter": lambda x: raw.CreateSummaryFileWriter(
            writer=raw.SummaryWriter(), logdir=place, max_queue=1, flush_millis=1, filename_suffix=""
        ),
        "DebugIdentityV2": lambda x: raw.DebugIdentityV2(input=x, tensor_debug_mode=2, debug_urls=[f"file://{place}"]),
        "ReadFile": lambda x: raw.ReadFile(filename=place),
    }

    class Thief(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            reach[op](x)
            return x

    tf.saved_model.save(Thief(), str(tmp_path / "thief"))
    with pytest.raises(BadInput, match=rf"reaches beyond the model \({op}"):
        load(str(tmp_path / "thief"))


def test_a_savedmodel_with_dropout_recurrence_and_a_table_is_no_thief(tmp_path):
    class Plain(tf.Module):
        def __init__(self):
            self.weight = tf.Variable(tf.ones([3, 2]))
            keys, values = tf.constant([0, 1], tf.int64), tf.constant([0.0, 1.0])
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            x = tf.while_loop(lambda i, z: i < 2, lambda i, z: (i + 1, tf.tanh(z)), (0, x))[1]
            return tf.nn.dropout(x, 0.1) @ self.weight + self.table.lookup(tf.constant([1], tf.int64))

    tf.saved_model.save(Plain(), str(tmp_path / "plain"))
    assert load(str(tmp_path / "plain"))(torch.rand(2, 3)).shape == (2, 2)


def test_a_savedmodel_whose_saving_is_called_by_its_signature_is_refused(tmp_path):
    class Thief(tf.Module):
        def __init__(self):
            self.weight = tf.Variable(tf.ones([3, 2]))

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def __call__(self, x):
            return x @ self.weight

    folder = tmp_path / "thief"
    tf.saved_model.save(Thief(), str(folder))
    proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = proto.meta_graphs[0].graph_def
    saving = next(f for f in graph.library.function if any(node.op == "SaveV2" for node in f.node_def))
    call = next(f for f in graph.library.function if any(node.op == "MatMul" for node in f.node_def))
    call.node_def.add(op="StatefulPartitionedCall", name="stolen").attr["f"].func.name = saving.signature.name
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    with pytest.raises(BadInput, match="MergeV2Checkpoints, SaveV2"):
        load(str(folder))


def test_a_signature_of_whole_numbers_is_refused(tmp_path):
    class Bytes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.uint8)])
        def __call__(self, x):
            return tf.cast(x, tf.float32)

    model = Bytes()
    tf.saved_model.save(model, str(tmp_path / "bytes"), signatures={"serving_default": model.__call__})
    with pytest.raises(BadInput, match="signature of uint8 inputs"):
        load(str(tmp_path / "bytes"))


def test_signatures_that_are_not_one_input_to_one_output_are_refused_in_one_line(tmp_path):
    class Two(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3])])
        def add(self, a, b):
            return a + b

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def split(self, a):
            return {"one": a, "two": a}

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])
        def named(self, a):
            return {"features": a, "logits": 2 * a}

    two = Two()
    for signature in ("add", "split", "named"):
        tf.saved_model.save(two, str(tmp_path / signature), signatures=getattr(two, signature))
    with pytest.raises(BadInput, match="inputs a, b; need one input"):
        load(str(tmp_path / "add"))
    with pytest.raises(BadInput, match="2 outputs"):
        load(str(tmp_path / "split"))(torch.rand(2, 3))
    torch.testing.assert_close(load(str(tmp_path / "named"))(torch.ones(2, 3)), torch.full((2, 3), 2.0))


def test_a_damaged_savedmodel_is_refused_in_one_line(net, tmp_path):
    with pytest.raises(BadInput, match=r"no saved_model\.pb"):
        load(str(tmp_path))
    (tmp_path / "saved_model.pb").write_bytes(b"not a graph")
    with pytest.raises(BadInput, match=r"does not parse|does not load"):
        load(str(tmp_path))
