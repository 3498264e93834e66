"""Quantised ONNX files: each operator within a level of onnxruntime, gradients straight through, audits that hold."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import sparring
from sparring.data import digits, first
from sparring.models import onnx as adapter
from sparring.zoo.honest import convolutional, relu

pytestmark = pytest.mark.frameworks
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
quantization = pytest.importorskip("onnxruntime.quantization")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)
MICROSOFT = "com.microsoft"
SCALES = {"xs": 0.04, "ys": 0.05, "ws": 0.02}
X, W, Y = ["xq", "xs", "xz"], ["w", "ws", "wz"], ["ys", "yz"]


def whole(*shape, low=-127, high=128, dtype=np.int8):
    return RNG.integers(low, high, shape).astype(dtype)


def between(kind, given, *, shape, constants=None, domain="", signed=False, **attributes):
    """A file of one operator of levels, between the rounding of `x` and the reading of its result."""
    dtype, middle = (np.int8, 3) if signed else (np.uint8, 128)
    constants = {
        **{name: np.float32(scale) for name, scale in SCALES.items()},
        **{name: np.array(middle, dtype) for name in ("xz", "yz")},
        "wz": np.array(0, np.int8),
        **(constants or {}),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node(kind, given, ["yq"], domain=domain, **attributes),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return file(nodes, shape, constants)


def file(nodes, shape, constants, *, opset=19):
    graph = helper.make_graph(
        nodes,
        "tested",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def answered(proto, x, *, fused=False):
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])


def level_by_level(proto, shape, step):
    """Nothing is further off than a level, and little is that far."""
    victim = adapter.adopt(proto)
    assert victim.access == "gradients", victim.notes
    assert victim.rounds
    assert victim.module is None
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
    want = answered(proto, x)
    asked = x.clone().requires_grad_()
    told, graph = victim(asked), victim.call.graph(x)
    torch.testing.assert_close(told.detach(), want, rtol=0, atol=0)
    apart = (graph - want).abs()
    assert apart.max() <= 1.001 * step
    assert (apart > 1e-4 * step).float().mean() < 0.02
    (slope,) = torch.autograd.grad(told.square().sum(), asked)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0
    return victim


FOUR = (3, 6, 6)
OPERATORS = {
    "QLinearConv": (["xq", "xs", "xz", "w", "ws", "wz", *Y, "b"], FOUR, {"pads": [1, 1, 1, 1]}, ""),
    "QLinearMatMul": (["xq", "xs", "xz", "m", "ws", "wz", *Y], (8,), {}, ""),
    "QGemm": (["xq", "xs", "xz", "m", "ws", "wz", "c", *Y], (8,), {"alpha": 0.5}, MICROSOFT),
    "QLinearAdd": (["xq", "xs", "xz", *X, *Y], (8,), {}, MICROSOFT),
    "QLinearMul": (["xq", "xs", "xz", *X, *Y], (8,), {}, MICROSOFT),
    "QLinearSigmoid": ([*X, *Y], (8,), {}, MICROSOFT),
    "QLinearLeakyRelu": ([*X, *Y], (8,), {"alpha": 0.2}, MICROSOFT),
    "QLinearSoftmax": ([*X, "ps", "pz"], (8,), {"axis": -1, "opset": 13}, MICROSOFT),
    "QLinearAveragePool": ([*X, *Y], FOUR, {"kernel_shape": [2, 2], "strides": [2, 2]}, MICROSOFT),
    "QLinearGlobalAveragePool": ([*X, *Y], FOUR, {}, MICROSOFT),
    "QLinearConcat": ([*Y, *X, *X], (8,), {"axis": 1}, MICROSOFT),
    "QLinearWhere": (["which", *X, *X, *Y], (8,), {}, MICROSOFT),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_of_levels_is_within_a_level(kind, signed):
    given, shape, attributes, domain = OPERATORS[kind]
    dtype = np.int8 if signed else np.uint8
    constants = {
        "w": whole(4, 3, 3, 3),
        "b": whole(4, low=-300, high=300, dtype=np.int32),
        "m": whole(8, 5),
        "c": whole(5, low=-300, high=300, dtype=np.int32),
        "which": np.arange(8) % 2 == 0,
        "ps": np.float32(1 / 256),
        "pz": np.array(-128 if signed else 0, dtype),
    }
    proto = between(kind, given, shape=shape, constants=constants, domain=domain, signed=signed, **attributes)
    if "ps" in given:
        del proto.graph.node[2].input[1:]
        proto.graph.node[2].input.extend(["ps", "pz"])
    level_by_level(proto, shape, 1 / 256 if "ps" in given else SCALES["ys"])


@pytest.mark.parametrize("axis", [1, -1])
def test_scales_along_an_axis_are_read_along_it(axis):
    scales, zeros = np.linspace(0.02, 0.09, 6).astype(np.float32), np.arange(6).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    level_by_level(file(nodes, (6, 6), {"s": scales, "z": zeros}), (6, 6), 0.09)


def test_a_convolution_with_a_scale_for_each_channel_and_a_product_with_one_for_each_column():
    per = {"ws": np.linspace(0.005, 0.03, 4).astype(np.float32), "wz": np.zeros(4, np.int8), "w": whole(4, 3, 3, 3)}
    level_by_level(between("QLinearConv", [*X, *W, *Y], shape=FOUR, constants=per), FOUR, SCALES["ys"])
    per["w"] = whole(8, 4)
    level_by_level(between("QLinearMatMul", [*X, *W, *Y], shape=(8,), constants=per), (8,), SCALES["ys"])
    both = per | {"w": whole(4, 8), "b": whole(4, dtype=np.int32)}
    proto = between("QGemm", [*X, *W, "b", *Y], shape=(8,), constants=both, domain=MICROSOFT, transB=1)
    level_by_level(proto, (8,), SCALES["ys"])


def test_a_product_without_a_scale_of_its_own_is_real():
    proto = between("QGemm", [*X, *W, "b"], shape=(8,), constants={"w": whole(8, 4), "b": whole(4, dtype=np.int32)},
                    domain=MICROSOFT)  # fmt: skip
    del proto.graph.node[2]
    proto.graph.node[1].output[0] = "y"
    level_by_level(proto, (8,), SCALES["ys"])


@pytest.mark.parametrize("product", ["ConvInteger", "MatMulInteger"])
def test_levels_that_span_each_row_are_set_row_by_row(product):
    shape, w = ((3, 6, 6), whole(4, 3, 3, 3)) if product == "ConvInteger" else ((8,), whole(8, 5))
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node(product, ["q", "w", "z", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["t"]),
        helper.make_node("Mul", ["f", "t"], ["y"]),
    ]
    proto = file(nodes, shape, {"w": w, "wz": np.array(2, np.int8), "ws": np.float32(0.01)})
    victim = adapter.adopt(proto)
    assert victim.access == "gradients", victim.notes
    x = 3 * torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([answered(proto, row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(victim(x), alone, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(victim.call.graph(x), alone, rtol=0.02, atol=0.02 * float(alone.abs().max()))
    assert "run row by row: rows of a batch share scales" in victim.notes


@pytest.mark.parametrize("kind", ["MatMul", "Conv"])
def test_weights_alone_are_read_and_rounded_only_where_onnxruntime_rounds(kind):
    """It multiplies matrices of stored weights in whole numbers, whatever the file says of what these meet."""
    shape, w = ((8,), whole(8, 5)) if kind == "MatMul" else (FOUR, whole(4, 3, 3, 3))
    nodes = [helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"]), helper.make_node(kind, ["x", "v"], ["y"])]
    proto = file(nodes, shape, {"w": w, "ws": np.float32(0.02), "wz": np.array(1, np.int8)})
    victim, x = adapter.adopt(proto), torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    assert victim.access == "gradients", victim.notes
    graph = victim.call.graph if victim.rounds else victim.module
    (layer,) = [part for part in graph.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    weight = 0.02 * (torch.from_numpy(w).float() - 1)
    torch.testing.assert_close(layer.weight, weight.T if kind == "MatMul" else weight)
    torch.testing.assert_close(victim(x), answered(proto, x, fused=True), rtol=1e-4, atol=1e-5)
    assert kind == "MatMul" or not victim.rounds


def test_gradients_go_straight_through_and_stop_where_a_relu_was_left_out():
    w = np.diag([-1.0, 1.0]).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["v"]),
        helper.make_node("QuantizeLinear", ["v", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x = torch.tensor([[0.55, 0.26], [-0.31, 40.0]])
    for zero, expected in ((np.uint8(0), [[0.0, 1.0], [-1.0, 1.0]]), (np.uint8(9), [[-1.0, 1.0], [-1.0, 1.0]])):
        victim = adapter.adopt(file(nodes, (2,), {"w": w, "s": np.float32(0.1), "z": np.array(zero)}))
        asked = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(victim(asked).sum(), asked)
        torch.testing.assert_close(slope, torch.tensor(expected))
    assert not victim(x).requires_grad


@pytest.mark.parametrize(
    ("case", "complaint"),
    [("blocks", "scales of blocks"), ("channels last", "the channels last"), ("bit", "differs from onnxruntime")],
)
def test_what_is_not_covered_leaves_scores_and_is_said(case, complaint, monkeypatch):
    if case == "blocks":
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1, block_size=2),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1, block_size=2),
        ]
        sizes = {"s": np.full((1, 2), 0.1, np.float32), "z": np.zeros((1, 2), np.int8)}
        proto = file(nodes, (4,), sizes, opset=21)
        proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    elif case == "channels last":
        proto = between("QLinearGlobalAveragePool", [*X, *Y], shape=(4, 4, 3), domain=MICROSOFT, channels_last=1)
    else:
        monkeypatch.setitem(adapter.OPERATORS, "DequantizeLinear", lambda r, op, x, *rest: x)
        proto = between("QLinearMatMul", [*X, *W, *Y], shape=(8,), constants={"w": whole(8, 5)})
    victim = adapter.adopt(proto)
    assert victim.access == "scores"
    assert any(complaint in note for note in victim.notes), victim.notes


# --- whole networks


class Calibration(quantization.CalibrationDataReader):
    def __init__(self, x):
        self.batches = ({"x": row.unsqueeze(0).numpy()} for row in x)

    def get_next(self):
        return next(self.batches, None)


WAYS = {
    "QDQ": {"quant_format": quantization.QuantFormat.QDQ},
    "QDQ by channel": {"quant_format": quantization.QuantFormat.QDQ, "per_channel": True},
    "operators": {"quant_format": quantization.QuantFormat.QOperator},
    "dynamic": None,
}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """Files of two networks that were trained on digits, by how they were quantised."""
    folder, x = tmp_path_factory.mktemp("quantised"), first(digits("train"), 100).take(range(100))[0]
    files = {}
    for (name, make), (way, settings) in itertools.product({"relu": relu, "conv": convolutional}.items(), WAYS.items()):
        whole_one, path = folder / f"{name}.onnx", folder / f"{name}-{way}.onnx"
        torch.onnx.export(
            make(), x[:1], whole_one, dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
        if settings is None:
            quantization.quantize_dynamic(whole_one, path, weight_type=quantization.QuantType.QUInt8)
        else:
            kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
            quantization.quantize_static(whole_one, path, Calibration(x), **settings, **kinds)
        files[name, way] = path
    return files


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("name", "way"), [*(("relu", way) for way in WAYS), ("conv", "QDQ by channel")])
def test_a_quantised_network_is_audited_as_the_whole_one_is(quantised, name, way):
    """Clean and robust accuracy are those of the network before, within what rounding changes."""
    data = first(digits(), 50)
    found = sparring.audit(adapter.load(quantised[name, way]), data, "linf:0.1", suite="quick")
    real = sparring.audit({"relu": relu, "conv": convolutional}[name](), data, "linf:0.1", suite="quick")
    assert found.verdict == "trusted", found.reasons
    assert abs(found.clean_accuracy.estimate - real.clean_accuracy.estimate) < 0.04
    assert abs(found.robust_accuracy.estimate - real.robust_accuracy.estimate) < 0.06
    outcomes = {check.name: check.outcome for check in found.checks}
    assert outcomes["quantised-inputs"] in ("warn", "pass")
    assert outcomes["finite-differences"] == "skipped"
