import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sparring.errors import BadInput
from sparring.functions import unwatched
from sparring.mending import obstacles
from sparring.models import load
from sparring.models import onnx as adapter

pytestmark = pytest.mark.frameworks
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values):
    return np.array(values, dtype=np.int64)


def floats(*values):
    return np.array(values, dtype=np.float32)


def node(kind, *, given=("x",), out=("y",), **attributes):
    return helper.make_node(kind, list(given), list(out), **attributes)


def model(
    nodes, shape, constants=None, *, opset=17, batch="N", dtype=TensorProto.FLOAT, out=TensorProto.FLOAT, domains=()
):
    graph = helper.make_graph(
        nodes,
        "tested",
        [helper.make_tensor_value_info("x", dtype, [batch, *shape])],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 20 else 10)


def reference(proto, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    fixed = session.get_inputs()[0].shape[0]
    parts = x.split(fixed) if isinstance(fixed, int) else [x]
    return torch.cat([torch.from_numpy(session.run(["y"], {"x": part.numpy()})[0]) for part in parts])


def agrees(proto, shape, *, batches=(1, 4), access="gradients"):
    victim = adapter.adopt(proto)
    assert victim.access == access, victim.notes
    for size in batches:
        x = torch.randn(size, *shape, generator=torch.Generator().manual_seed(size))
        want = reference(proto, x)
        torch.testing.assert_close(victim(x).float(), want.float(), rtol=1e-4, atol=1e-5, equal_nan=True)
    return victim


# --- operators one by one: (operator, attributes, further inputs, shape of x without the batch, opset)

FOUR = (4, 7, 6)
CASES = {
    **{
        kind: (kind, {}, [], (5,), opset)
        for kind, opset in [
            ("Relu", 7), ("Sigmoid", 7), ("Tanh", 7), ("Softplus", 7), ("Softsign", 7), ("Erf", 13), ("Neg", 7),
            ("Abs", 7),
            ("Exp", 7), ("Identity", 7), ("Elu", 7), ("Selu", 7), ("Celu", 12), ("LeakyRelu", 7), ("HardSigmoid", 7),
            ("HardSwish", 14), ("Mish", 18), ("Gelu", 20), ("Sin", 7), ("Cos", 7), ("Atan", 7), ("ThresholdedRelu", 10),
            ("Sqrt", 7), ("Log", 7), ("Reciprocal", 13), ("Softmax", 13), ("LogSoftmax", 13), ("Sinh", 9), ("Cosh", 9),
            ("Dropout", 7), ("Dropout", 13), ("Asinh", 9), ("Acosh", 9), ("Atanh", 9),
        ]
    },
    "Elu alpha": ("Elu", {"alpha": 0.3}, [], (5,), 7),
    "Selu alpha": ("Selu", {"alpha": 0.7, "gamma": 1.3}, [], (5,), 7),
    "Celu alpha": ("Celu", {"alpha": 0.7}, [], (5,), 12),
    "LeakyRelu alpha": ("LeakyRelu", {"alpha": 0.2}, [], (5,), 16),
    "HardSigmoid sixth": ("HardSigmoid", {"alpha": 1 / 6}, [], (5,), 13),
    "Gelu tanh": ("Gelu", {"approximate": "tanh"}, [], (5,), 20),
    "PRelu channels": ("PRelu", {}, [weights(4, 1, 1)], FOUR, 9),
    "PRelu one": ("PRelu", {}, [weights(1)], FOUR, 16),
    "PRelu columns": ("PRelu", {}, [weights(6)], FOUR, 16),
    "Clip attributes": ("Clip", {"min": -0.2, "max": 0.4}, [], (5,), 7),
    "Clip inputs": ("Clip", {}, [floats(-0.2).reshape(()), floats(0.4).reshape(())], (5,), 13),
    "Clip low": ("Clip", {}, [floats(-0.2).reshape(())], (5,), 13),
    "Clip six": ("Clip", {}, [floats(0).reshape(()), floats(6).reshape(())], (5,), 13),
    "Softmax axis 1 of 3, opset 11": ("Softmax", {"axis": 1}, [], FOUR, 11),
    "Softmax axis 2, opset 11": ("Softmax", {"axis": 2}, [], FOUR, 11),
    "LogSoftmax default axis, opset 9": ("LogSoftmax", {}, [], (4, 3), 9),
    "Softmax axis 1, opset 13": ("Softmax", {"axis": 1}, [], FOUR, 13),
    # arithmetic
    "Add": ("Add", {}, [weights(5)], (5,), 7),
    "Sub scalar": ("Sub", {}, [floats(0.3).reshape(())], (5,), 7),
    "Mul": ("Mul", {}, [weights(4, 1, 1)], FOUR, 14),
    "Div": ("Div", {}, [np.abs(weights(7, 6)) + 1], FOUR, 14),
    "Pow two": ("Pow", {}, [floats(2).reshape(())], (5,), 13),
    "Pow whole": ("Pow", {}, [ints(3).reshape(())], (5,), 13),
    "Max": ("Max", {}, [weights(5), weights(1)], (5,), 8),
    "Min": ("Min", {}, [weights(5)], (5,), 13),
    "Sum": ("Sum", {}, [weights(5), weights(5)], (5,), 13),
    "Mean": ("Mean", {}, [weights(5)], (5,), 13),
    "Mod": ("Mod", {"fmod": 1}, [floats(0.4).reshape(())], (5,), 13),
    # layers
    "Gemm": ("Gemm", {"transB": 1}, [weights(3, 5), weights(3)], (5,), 9),
    "Gemm scaled": ("Gemm", {"alpha": 0.5, "beta": 2.0}, [weights(5, 3), weights(1, 3)], (5,), 11),
    "Gemm scalar bias": ("Gemm", {}, [weights(5, 3), weights(1)], (5,), 13),
    "Gemm without bias": ("Gemm", {}, [weights(5, 3)], (5,), 13),
    "MatMul": ("MatMul", {}, [weights(6, 3)], FOUR, 13),
    "MatMul batched": ("MatMul", {}, [weights(4, 6, 3)], FOUR, 13),
    "Conv 1d": ("Conv", {"strides": [2], "pads": [1, 1]}, [weights(3, 4, 3), weights(3)], (4, 9), 11),
    "Conv 2d": ("Conv", {"pads": [1, 1, 1, 1], "dilations": [2, 1]}, [weights(3, 4, 3, 3)], FOUR, 11),
    "Conv grouped": ("Conv", {"group": 2}, [weights(6, 2, 3, 3), weights(6)], FOUR, 11),
    "Conv lopsided": ("Conv", {"pads": [0, 1, 2, 0]}, [weights(3, 4, 3, 3), weights(3)], FOUR, 11),
    "Conv same upper": ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [weights(3, 4, 3, 2)], FOUR, 11),
    "Conv same lower": ("Conv", {"auto_pad": "SAME_LOWER", "strides": [2, 3]}, [weights(3, 4, 4, 4)], FOUR, 11),
    "Conv valid": ("Conv", {"auto_pad": "VALID"}, [weights(3, 4, 3, 3)], FOUR, 11),
    "Conv 3d": ("Conv", {}, [weights(3, 2, 2, 2, 2), weights(3)], (2, 4, 4, 3), 11),
    "ConvTranspose": (
        "ConvTranspose", {"strides": [2, 2], "pads": [1, 1, 1, 1]}, [weights(4, 3, 3, 3), weights(3)], FOUR, 11,
    ),
    "ConvTranspose output padding": (
        "ConvTranspose", {"strides": [2, 2], "output_padding": [1, 1]}, [weights(4, 3, 3, 3), weights(3)], FOUR, 11,
    ),
    "ConvTranspose lopsided": (
        "ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 0, 1]}, [weights(4, 3, 3, 3)], FOUR, 11,
    ),
    "ConvTranspose output shape": (
        "ConvTranspose", {"strides": [2, 2], "output_shape": [14, 12]}, [weights(4, 3, 3, 3)], FOUR, 11,
    ),
    "ConvTranspose same": (
        "ConvTranspose", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}, [weights(4, 3, 3, 3)], FOUR, 11,
    ),
    "ConvTranspose grouped 1d": ("ConvTranspose", {"group": 2, "dilations": [2]}, [weights(4, 3, 3)], (4, 9), 11),
    **{
        f"BatchNormalization {rank}": (
            "BatchNormalization", {"epsilon": 1e-3}, [weights(4), weights(4), weights(4), np.abs(weights(4)) + 0.1],
            (4, 5, 3, 2)[:rank], opset,
        )
        for rank, opset in [(1, 9), (2, 15), (3, 7), (4, 14)]
    },
    "InstanceNormalization": ("InstanceNormalization", {}, [weights(4), weights(4)], FOUR, 7),
    "LayerNormalization": ("LayerNormalization", {}, [weights(6), weights(6)], FOUR, 17),
    "LayerNormalization two axes": ("LayerNormalization", {"axis": -2}, [weights(7, 6)], FOUR, 17),
    "LayerNormalization one weight": ("LayerNormalization", {"axis": -2}, [weights(6), weights(6)], FOUR, 17),
    "GroupNormalization": ("GroupNormalization", {"num_groups": 2}, [weights(4), weights(4)], FOUR, 21),
    "LRN": ("LRN", {"size": 3, "alpha": 0.1, "bias": 2.0}, [], FOUR, 13),
    "LpNormalization": ("LpNormalization", {"axis": 1}, [], FOUR, 7),
    # pooling
    "MaxPool": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [], FOUR, 8),
    "MaxPool ceil": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, [], (2, 7, 5), 12),
    "MaxPool ceil padded": (
        "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]}, [], (2, 8, 7), 12,
    ),
    "MaxPool lopsided": ("MaxPool", {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0]}, [], FOUR, 12),
    "MaxPool dilated": ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, [], FOUR, 12),
    "MaxPool same": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, [], FOUR, 12),
    "MaxPool 1d": ("MaxPool", {"kernel_shape": [3]}, [], (4, 9), 12),
    "MaxPool 3d": ("MaxPool", {"kernel_shape": [2, 2, 2]}, [], (2, 4, 5, 3), 12),
    "AveragePool": ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [], FOUR, 11),
    "AveragePool counting": (
        "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, [], FOUR, 7,
    ),
    "AveragePool lopsided": ("AveragePool", {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0]}, [], FOUR, 11),
    "AveragePool lopsided counting": (
        "AveragePool", {"kernel_shape": [3, 2], "pads": [0, 1, 1, 0], "count_include_pad": 1}, [], FOUR, 11,
    ),
    "AveragePool ceil": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, [], (2, 7, 5), 11),
    "AveragePool ceil counting": (
        "AveragePool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1], "count_include_pad": 1},
        [], (2, 8, 6), 19,
    ),
    "AveragePool same": (
        "AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, [], FOUR, 11,
    ),
    "GlobalAveragePool": ("GlobalAveragePool", {}, [], FOUR, 7),
    "GlobalMaxPool": ("GlobalMaxPool", {}, [], FOUR, 7),
    # shapes
    "Flatten": ("Flatten", {}, [], FOUR, 9),
    "Flatten axis 2": ("Flatten", {"axis": 2}, [], FOUR, 9),
    "Flatten axis 0": ("Flatten", {"axis": 0}, [], FOUR, 9),
    "Reshape": ("Reshape", {}, [ints(-1, 42, 4)], FOUR, 7),
    "Reshape keep": ("Reshape", {}, [ints(0, -1)], FOUR, 13),
    "Transpose": ("Transpose", {"perm": [0, 2, 3, 1]}, [], FOUR, 7),
    "Concat": ("Concat", {"axis": -1}, [], FOUR, 7),
    "Slice attributes": ("Slice", {"starts": [1, -3], "ends": [1000, -1], "axes": [1, 3]}, [], FOUR, 9),
    "Slice inputs": ("Slice", {}, [ints(1, -3), ints(2**62, -1), ints(1, 3)], FOUR, 10),
    "Slice steps": ("Slice", {}, [ints(0, 5), ints(4, 1), ints(1, 2), ints(2, -2)], FOUR, 13),
    "Slice reversed": ("Slice", {}, [ints(-1), ints(-(2**62)), ints(3), ints(-1)], FOUR, 13),
    "Slice negative axis": ("Slice", {}, [ints(1), ints(3), ints(-1)], FOUR, 13),
    "Gather one": ("Gather", {"axis": 1}, [ints(2).reshape(())], FOUR, 7),
    "Gather last": ("Gather", {"axis": 2}, [ints(-1).reshape(())], FOUR, 11),
    "Gather several": ("Gather", {"axis": 1}, [ints(2, 0, -1)], FOUR, 11),
    "Gather table": ("Gather", {"axis": 1}, [ints(2, 0, 1, 3).reshape(2, 2)], FOUR, 11),
    "Unsqueeze attribute": ("Unsqueeze", {"axes": [1, 4]}, [], (4, 7), 9),
    "Unsqueeze input": ("Unsqueeze", {}, [ints(-1, 1)], (4, 7), 13),
    "Squeeze attribute": ("Squeeze", {"axes": [2]}, [], (4, 1, 3), 9),
    "Squeeze input": ("Squeeze", {}, [ints(2)], (4, 1, 3), 13),
    "Expand": ("Expand", {}, [ints(1, 4, 7, 6)], (4, 1, 6), 8),
    "Tile": ("Tile", {}, [ints(1, 2, 3)], (4, 7), 13),
    "DepthToSpace": ("DepthToSpace", {"blocksize": 2}, [], (8, 3, 2), 11),
    "DepthToSpace CRD": ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, [], (8, 3, 2), 11),
    "SpaceToDepth": ("SpaceToDepth", {"blocksize": 2}, [], (2, 6, 4), 13),
    "Pad attribute": ("Pad", {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, [], FOUR, 9),
    "Pad input": ("Pad", {}, [ints(0, 1, 1, 2, 0, 0, 3, 0), floats(0.5).reshape(())], FOUR, 11),
    "Pad axes": ("Pad", {}, [ints(1, 2), floats(0.5).reshape(()), ints(-1)], FOUR, 18),
    "Pad crop": ("Pad", {}, [ints(0, 0, -1, 0, 0, 0, 0, -2)], FOUR, 13),
    "Pad reflect": ("Pad", {"mode": "reflect"}, [ints(0, 0, 2, 1, 0, 0, 3, 2)], FOUR, 13),
    "Pad edge": ("Pad", {"mode": "edge"}, [ints(0, 0, 2, 1, 0, 0, 3, 2)], FOUR, 13),
    "Pad wrap": ("Pad", {"mode": "wrap"}, [ints(0, 0, 2, 1, 0, 0, 3, 2)], FOUR, 19),
    "Trilu": ("Trilu", {"upper": 0}, [], (5, 5), 14),
    "Einsum": ("Einsum", {"equation": "bchw,cd->bdhw"}, [weights(4, 3)], FOUR, 12),
    "CumSum": ("CumSum", {}, [ints(1).reshape(())], FOUR, 14),
    # reductions
    **{
        f"{kind} {label}, opset {opset}": (kind, attributes, further, FOUR, opset)
        for kind in ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp",
                     "ReduceSumSquare", "ReduceProd"]
        for label, attributes, further, opset in [
            ("attribute", {"axes": [2, 3], "keepdims": 0}, [], 12),
            ("kept", {"axes": [-1]}, [], 11),
            ("input", {"keepdims": 0}, [ints(1, -1)], 18),
        ]
    },
    "ReduceSum input, opset 13": ("ReduceSum", {}, [ints(1)], FOUR, 13),
    # resizing
    "Upsample 7": ("Upsample", {"scales": [1.0, 1.0, 2.0, 3.0]}, [], FOUR, 7),
    "Upsample 9 linear": ("Upsample", {"mode": "linear"}, [floats(1, 1, 2, 2)], FOUR, 9),
    "Resize 10": ("Resize", {}, [floats(1, 1, 2, 1.5)], FOUR, 10),
    **{
        f"Resize {mode} {coordinates} by {factor}": (
            "Resize", {"mode": mode, "coordinate_transformation_mode": coordinates, **further},
            [floats(), floats(1, 1, *factor)], FOUR, 13,
        )
        for mode, further in [
            ("nearest", {"nearest_mode": "floor"}), ("nearest", {"nearest_mode": "round_prefer_ceil"}), ("nearest", {}),
            ("linear", {}), ("cubic", {}), ("cubic", {"exclude_outside": 1, "cubic_coeff_a": -0.5}),
        ]
        for coordinates in ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
        for factor in [(2, 3), (0.5, 0.6)]
    },
    "Resize to a size": ("Resize", {"mode": "linear"}, [floats(), floats(), ints(1, 4, 9, 5)], FOUR, 13),
    "Resize to a size of axes": (
        "Resize", {"mode": "nearest", "axes": [2, 3]}, [floats(), floats(), ints(9, 5)], FOUR, 18,
    ),
    "Resize symmetric": (
        "Resize", {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
        [floats(), floats(1, 1, 1.3, 0.7)], FOUR, 19,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operator_agrees_with_onnxruntime(name):
    kind, attributes, further, shape, opset = CASES[name]
    names = [f"c{i}" for i in range(len(further))]
    given = ["x", "x"] if kind == "Concat" else ["x", *names]
    constants = dict(zip(names, further, strict=True))
    if kind == "Resize" and opset > 10 and len(further) == 3:
        given = ["x", "", "", "c2"]
    fixes = kind == "Resize" and len(further) == 3 and "axes" not in attributes
    proto = model([node(kind, given=given, **attributes)], shape, constants, opset=opset, batch=1 if fixes else "N")
    agrees(proto, shape)


# --- rows of operators


def row(*steps, opset=13):
    """Nodes that each take the one before as `x`, the last one giving `y`."""
    nodes = []
    for i, (kind, further, attributes) in enumerate(steps):
        before, after = ("x" if i == 0 else f"t{i}"), ("y" if i == len(steps) - 1 else f"t{i + 1}")
        given = [before if one == "-" else one for one in further] if "-" in further else [before, *further]
        nodes.append(helper.make_node(kind, given, [after], **attributes))
    return nodes


@pytest.mark.parametrize("kind", ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
def test_a_comparison_and_a_choice_agree(kind):
    nodes = [
        node(kind, given=["x", "c"], out=["t"]),
        node("Not", given=["t"], out=["n"]),
        node("And", given=["t", "t"], out=["a"]),
        node("Or", given=["a", "n"], out=["o"]),
        node("Xor", given=["o", "n"], out=["b"]),
        node("Where", given=["b", "x", "w"]),
    ]
    agrees(model(nodes, (5,), {"c": floats(0.1), "w": weights(5)}, opset=16), (5,))


@pytest.mark.parametrize("opset", [12, 13, 18])
def test_a_split_agrees(opset):
    constants = {"s": ints(1, 3)} if opset >= 13 else {}
    nodes = [
        node("Split", given=["x", *constants], out=["a", "b"], axis=1, **({} if constants else {"split": [1, 3]})),
        node("Split", given=["b"], out=["c", "d"], axis=-1, **({"num_outputs": 2} if opset >= 18 else {})),
        node("Mul", given=["c", "d"], out=["e"]),
        node("Concat", given=["e", "e"], out=["f"], axis=-1),
        node("Mul", given=["f", "a"]),
    ]
    agrees(model(nodes, FOUR, constants, opset=opset), FOUR)


def test_casts_roundings_and_positions_agree():
    nodes = [
        node("Floor", out=["f"]),
        node("Ceil", out=["c"]),
        node("Round", out=["r"]),
        node("Sign", out=["s"]),
        node("Cast", out=["i"], to=TensorProto.INT64),
        node("Cast", given=["i"], out=["j"], to=TensorProto.FLOAT),
        node("ArgMax", out=["k"], axis=1),
        node("GatherElements", given=["x", "k"], out=["g"], axis=1),
        node("TopK", given=["x", "two"], out=["top", "places"], axis=1),
        node("ReduceSum", given=["top", "one"], out=["t"]),
        node("Sum", given=["f", "c", "r", "s", "j", "x", "g", "t"]),
    ]
    agrees(model(nodes, (5,), {"two": ints(2), "one": ints(1)}, opset=13), (5,))


def test_views_and_checks_look_into_the_file():
    steps = [node("Mul", given=["x", "four"], out=["m"]), node("Round", given=["m"], out=["r"])]
    proto = model([*steps, node("MatMul", given=["r", "w"])], (5,), {"four": floats(4.0), "w": weights(5, 3)})
    victim, x = agrees(proto, (5,)), torch.rand(4, 5)
    assert unwatched(victim, x) == ()
    assert obstacles(victim, x) == ("round",)


def test_a_shape_computed_in_the_file_leaves_no_trace_in_the_graph():
    nodes = [
        node("Shape", out=["shape"]),
        node("Gather", given=["shape", "zero"], out=["batch"], axis=0),
        node("Unsqueeze", given=["batch", "axis"], out=["first"]),
        node("Shape", out=["again"]),
        node("Slice", given=["again", "one", "many"], out=["rest"]),
        node("ReduceProd", given=["rest"], out=["features"]),
        node("Concat", given=["first", "features"], out=["new"], axis=0),
        node("Reshape", given=["x", "new"], out=["flat"]),
        node("MatMul", given=["flat", "w"], out=["m"]),
        node("Add", given=["b", "m"]),
    ]
    constants = {
        "zero": ints(0).reshape(()),
        "axis": ints(0),
        "one": ints(1),
        "many": ints(9),
        "w": weights(12, 3),
        "b": weights(3),
    }
    victim = agrees(model(nodes, (3, 4), constants, opset=13), (3, 4))
    assert [entry.op for entry in victim.module.graph.nodes] == [
        "placeholder",
        "call_function",
        "call_module",
        "output",
    ]
    layer = next(iter(victim.module.children()))
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer.bias, torch.from_numpy(constants["b"]))


def test_a_token_repeated_for_every_example_agrees():
    nodes = [
        node("Shape", out=["shape"]),
        node("Gather", given=["shape", "zero"], out=["batch"], axis=0),
        node("Concat", given=["batch", "rest"], out=["new"], axis=0),
        node("Expand", given=["token", "new"], out=["tokens"]),
        node("ConstantOfShape", given=["new"], out=["ones"], value=numpy_helper.from_array(floats(1.5))),
        node("Mul", given=["tokens", "ones"], out=["scaled"]),
        node("Concat", given=["scaled", "x"], axis=1),
    ]
    agrees(model(nodes, (3, 4), {"zero": ints(0), "rest": ints(1, 4), "token": weights(1, 1, 4)}), (3, 4))


def test_a_mask_repeated_for_every_example_agrees():
    nodes = [
        node("Shape", out=["shape"]),
        node("Gather", given=["shape", "zero"], out=["batch"], axis=0),
        node("Concat", given=["batch", "rest"], out=["new"], axis=0),
        node("Expand", given=["mask", "new"], out=["masks"]),
        node("Reshape", given=["masks", "rows"], out=["flat"]),
        node("Reshape", given=["x", "rows"], out=["windows"]),
        node("Add", given=["windows", "flat"], out=["masked"]),
        node("Reshape", given=["masked", "whole"]),
    ]
    constants = {
        "zero": ints(0), "rest": ints(3, 4), "mask": weights(1, 3, 4), "rows": ints(-1, 4), "whole": ints(-1, 12),
    }  # fmt: skip
    agrees(model(nodes, (3, 4), constants), (3, 4), batches=(1, 4, 7))


@pytest.mark.parametrize(("opset", "settings", "further"), [(9, {"k": 2}, {}), (10, {}, {"k": ints(2)})])
def test_the_largest_agree_however_their_number_is_given(opset, settings, further):
    nodes = [node("TopK", given=["x", *further], out=["y", "places"], **settings)]
    agrees(model(nodes, (5,), further, opset=opset), (5,))


def test_a_matrix_product_used_twice_keeps_its_bias_apart():
    nodes = [
        node("MatMul", given=["x", "w"], out=["m"]),
        node("Add", given=["m", "b"], out=["a"]),
        node("Mul", given=["a", "m"]),
    ]
    agrees(model(nodes, (5,), {"w": weights(5, 3), "b": weights(3)}), (5,))


def test_weights_computed_from_constants_are_folded():
    nodes = [
        node("Transpose", given=["w"], out=["wt"]),
        node("Constant", out=["two"], given=[], value_float=2.0),
        node("Mul", given=["wt", "two"], out=["scaled"]),
        node("Gemm", given=["x", "scaled", "b"]),
    ]
    victim = agrees(model(nodes, (5,), {"w": weights(3, 5), "b": weights(3)}), (5,))
    assert [entry.op for entry in victim.module.graph.nodes] == ["placeholder", "call_module", "output"]


def test_convolution_with_computed_weights_agrees():
    nodes = [node("Mul", given=["x", "zero"], out=["z"]), node("ReduceSum", given=["z"], out=["n"], keepdims=0)]
    nodes += [node("Add", given=["w", "n"], out=["v"]), node("Conv", given=["x", "v"])]
    agrees(model(nodes, FOUR, {"zero": floats(0), "w": weights(3, 4, 3, 3)}, opset=13), FOUR)


# --- the batch size


def test_a_fixed_batch_is_made_free_through_a_reshape():
    nodes = [
        node("Conv", given=["x", "w"], out=["c"], pads=[1, 1, 1, 1]),
        node("Reshape", given=["c", "split"], out=["r"]),
        node("Transpose", given=["r"], out=["t"], perm=[1, 0, 2]),
        node("Reshape", given=["t", "join"], out=["j"]),
        node("Gather", given=["j", "one"], out=["g"], axis=0),
        node("Concat", given=["token", "g"], out=["k"], axis=1),
        node("Reshape", given=["k", "flat"]),
    ]
    constants = {
        "w": weights(4, 4, 3, 3), "split": ints(2, 2, 42), "join": ints(2, -1, 2, 7, 6), "one": ints(1).reshape(()),
        "token": weights(1, 1, 7, 6), "flat": ints(1, -1),
    }  # fmt: skip
    victim = agrees(model(nodes, FOUR, constants, batch=1), FOUR, batches=(1, 4, 7))
    assert any("fixes the batch size at 1; made free" in note for note in victim.notes)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_cannot_be_made_free_is_run_as_it_is_fixed(batch):
    # the mean over the batch means something only at the size that the file fixes
    nodes = row(("ReduceMean", [], {"axes": [0]}), ("Add", ["-", "x"], {}), ("Reshape", ["shape"], {}))
    proto = model(nodes, (5,), {"shape": ints(batch, 5)}, batch=batch)
    victim = adapter.adopt(proto)
    assert victim.access == "gradients"
    assert any(f"fixes the batch size at {batch}, and so it is run" in note for note in victim.notes)
    x = torch.randn(2 * batch, 5)
    torch.testing.assert_close(victim(x), reference(proto, x))
    assert victim(x[:1]).shape == (1, 5)
    assert victim(x[:0]).shape == (0, 5)


def test_outputs_without_a_batch_dimension_are_refused():
    nodes = row(("Squeeze", ["axis"], {}), ("Concat", ["-", "-"], {"axis": 0}))
    with pytest.raises(BadInput, match="batch dimension"):
        adapter.adopt(model(nodes, (5,), {"axis": ints(0)}, batch=1))


# --- trust


def test_a_missing_operator_is_named_and_leaves_scores():
    nodes = [node("Relu", out=["t"]), node("Hardmax", given=["t"])]
    victim = agrees(model(nodes, (5,)), (5,), access="scores")
    assert "no gradients: operator Hardmax is not covered" in victim.notes


def test_an_operator_of_another_domain_is_named_and_leaves_scores():
    nodes = [helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft")]
    victim = agrees(model(nodes, (5,), {"w": weights(5, 3)}, domains=["com.microsoft"]), (5,), access="scores")
    assert any("com.microsoft.FusedMatMul" in note for note in victim.notes)


def test_a_wrong_translation_is_found_out(monkeypatch):
    monkeypatch.setitem(adapter.OPERATORS, "Relu", lambda r, op, x: r.layer(nn.LeakyReLU(0.01), x, op))
    victim = agrees(model([node("Relu")], (5,)), (5,), access="scores")
    assert any("differs from onnxruntime" in note for note in victim.notes)


def test_an_output_without_a_gradient_leaves_scores():
    nodes = [node("Greater", given=["x", "c"], out=["t"]), node("Cast", given=["t"], to=TensorProto.FLOAT)]
    victim = agrees(model(nodes, (5,), {"c": floats(0)}), (5,), access="scores")
    assert any("have a gradient" in note for note in victim.notes)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_import_where_gradients_are_off_has_them_all_the_same(mode):
    proto = model([node("Gemm", given=["x", "w"])], (5,), {"w": weights(5, 3)})
    with mode():
        victim = adapter.adopt(proto)
    x = torch.randn(4, 5, requires_grad=True)
    assert torch.autograd.grad(victim(x).sum(), x)[0].abs().min() > 0


def test_an_import_draws_no_random_numbers_and_asks_for_no_default_type():
    padded = node("AveragePool", given=["g"], out=["p"], kernel_shape=[2], pads=[0, 1], count_include_pad=1)
    nodes = [node("MatMul", given=["x", "w"], out=["g"]), padded, node("PRelu", given=["p", "s"])]
    proto = model(nodes, (2, 5), {"w": weights(5, 3), "s": weights(1)})
    state = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        victim = adapter.adopt(proto)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert victim.access == "gradients", victim.notes


def test_an_open_size_needs_real_inputs(tmp_path):
    proto = model([node("GlobalAveragePool", out=["t"]), node("Flatten", given=["t"])], (4, "h", "w"))
    victim = adapter.adopt(proto)
    assert victim.access == "scores"
    assert any("hand over an example" in note for note in victim.notes)
    onnx.save(proto, tmp_path / "open.onnx")
    victim = adapter.load(tmp_path / "open.onnx", check=torch.rand(6, 4, 9, 8))
    assert (victim.access, victim.name) == ("gradients", "open")
    with pytest.raises(BadInput, match=r"takes \(batch, 4, \?, \?\)"):
        adapter.load(tmp_path / "open.onnx", check=torch.rand(6, 3, 9, 8))


def test_loading_by_name_takes_the_open_size_from_an_example_and_keeps_it_for_workers(tmp_path):
    proto = model([node("GlobalAveragePool", out=["t"]), node("Flatten", given=["t"])], (4, "h", "w"))
    onnx.save(proto, tmp_path / "open.onnx")
    victim = load(str(tmp_path / "open.onnx"), example=torch.rand(1, 4, 9, 8))
    assert victim.access == "gradients"
    assert pickle.loads(pickle.dumps(victim)).access == "gradients"
    assert load(str(tmp_path / "open.onnx")).access == "scores"


def test_a_file_that_takes_one_row_whatever_it_declares_is_run_row_by_row():
    flat = node("Reshape", given=["x", "s"], out=["t"])
    proto = model([flat, node("Erf", given=["t"])], (2, 2), {"s": ints(1, 4)})
    victim = adapter.adopt(proto)
    x = torch.rand(5, 2, 2)
    torch.testing.assert_close(victim(x), torch.erf(x.flatten(1)))


def test_a_file_that_onnxruntime_cannot_run_is_refused_in_one_line():
    conv = node("Conv", given=["x", "w"], auto_pad="SAME_UPPER", dilations=[2, 2])
    with pytest.raises(BadInput, match="fails in onnxruntime") as caught:
        adapter.adopt(model([conv], (2, 8, 8), {"w": weights(1, 2, 3, 3)}))
    assert "\n" not in str(caught.value)


def test_a_softmax_at_the_end_is_kept_and_said():
    gemm = node("Gemm", given=["x", "w"], out=["t"])
    constants = {"w": weights(5, 3)}
    assert agrees(model([gemm, node("Softmax", given=["t"])], (5,), constants), (5,)).probabilities
    assert not agrees(model([gemm, node("Relu", given=["t"])], (5,), constants), (5,)).probabilities


def test_double_precision_is_kept_inside():
    constants, double = {"w": weights(5, 3).astype(np.float64)}, TensorProto.DOUBLE
    proto = model([node("Gemm", given=["x", "w"])], (5,), constants, dtype=double, out=double)
    victim = adapter.adopt(proto)
    assert victim.access == "gradients"
    out = victim(torch.rand(4, 5))
    assert out.dtype == torch.float32


def test_parameters_and_layers_carry_the_names_of_the_file():
    nodes = [node("Conv", given=["x", "w"], out=["t"]), node("Mul", given=["t", "scale"])]
    nodes[0].name = "/features/0/Conv"
    victim = agrees(model(nodes, FOUR, {"w": weights(3, 4, 3, 3), "scale": weights(3, 1, 1)}), FOUR)
    assert set(dict(victim.module.named_parameters())) == {"features_0_Conv.weight", "scale"}


def test_gradients_agree_with_finite_differences_and_the_mode_is_inference():
    nodes = row(
        ("Conv", ["w"], {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["a", "a", "a", "v"], {}),
        ("Sigmoid", [], {}),
        ("GlobalAveragePool", [], {}),
        ("Flatten", [], {}),
    )
    proto = model(nodes, FOUR, {"w": weights(3, 4, 3, 3), "a": weights(3), "v": np.abs(weights(3)) + 0.5})
    victim = adapter.adopt(proto)
    assert not any(part.training for part in victim.module.modules())
    x = torch.randn(2, *FOUR).requires_grad_()
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(victim(x)[:, 1].sum(), x)
    h = 1e-2
    with torch.no_grad():
        difference = (victim(x + h * direction)[:, 1] - victim(x - h * direction)[:, 1]).sum() / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-2, atol=1e-3)


# --- what else may be handed over


def test_bytes_and_sessions_are_taken_too():
    proto = model([node("Gemm", given=["x", "w"])], (5,), {"w": weights(5, 3)})
    x = torch.rand(4, 5)
    want = reference(proto, x)
    torch.testing.assert_close(adapter.adopt(proto.SerializeToString())(x), want)
    victim = adapter.adopt(onnxruntime.InferenceSession(proto.SerializeToString()))
    assert victim.access == "scores"
    torch.testing.assert_close(victim(x), want)
    with pytest.raises(BadInput, match="type int"):
        adapter.adopt(3)
    with pytest.raises(BadInput, match="bytes"):
        adapter.adopt(b"no model")


def test_further_outputs_are_said():
    proto = model([node("ArgMax", out=["label"], axis=1), node("Relu")], (5,))
    proto.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, None))
    victim = adapter.adopt(proto)
    assert victim.access == "gradients"
    assert "attacked by output y, not by label" in victim.notes


def test_inputs_that_are_not_one_tensor_of_floats_are_refused():
    proto = model([node("Add", given=["x", "z"])], (5,))
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 5]))
    with pytest.raises(BadInput, match="one input of floating point"):
        adapter.adopt(proto)
    tokens = model([node("Cast", to=TensorProto.FLOAT)], (5,), dtype=TensorProto.INT64)
    with pytest.raises(BadInput, match="one input of floating point"):
        adapter.adopt(tokens)
    labels = model([node("ArgMax", axis=1)], (5,), out=TensorProto.INT64)
    with pytest.raises(BadInput, match="a tensor of scores"):
        adapter.adopt(labels)


def test_damaged_files_are_refused_in_one_line(tmp_path):
    whole = model([node("Gemm", given=["x", "w"])], (5,), {"w": weights(5, 3)}).SerializeToString()
    invalid = model([node("Gemm", given=["x"])], (5,)).SerializeToString()
    contents = {
        "half": whole[: len(whole) // 2],
        "start": whole[:10],
        "empty": b"",
        "text": b"no\n",
        "invalid": invalid,
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(BadInput) as caught:
            adapter.load(tmp_path / f"{name}.onnx")
        assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="is not a file"):
        adapter.load(tmp_path / "missing.onnx")


def test_weights_outside_the_file_are_read_and_missed(tmp_path):
    proto = model([node("Gemm", given=["x", "w"])], (64,), {"w": weights(64, 32)})
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = torch.rand(3, 64)
    want = x @ torch.tensor(numpy_helper.to_array(onnx.load(path).graph.initializer[0]))
    torch.testing.assert_close(adapter.load(path)(x), want, rtol=1e-4, atol=1e-5)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BadInput, match="weight files") as caught:
        adapter.load(path)
    assert "\n" not in str(caught.value)


# --- whole networks


class Square(nn.Module):
    def forward(self, x):
        return x.view(x.size(0), 4, 2, 2)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(-2, -1) / math.sqrt(c // 2)).softmax(-1)
        x = x + nn.functional.gelu((weight @ v).transpose(1, 2).reshape(b, n, c))
        return self.head(x[:, 0])


NETWORKS = {
    "convolutional": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, stride=2),
            nn.LeakyReLU(0.1), nn.Upsample(scale_factor=2, mode="bilinear"), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(0.5), nn.Linear(8, 5),
        ),
        (1, 16, 16),
    ),
    "attention": (Attention, (1, 16, 16)),
    "decoder": (
        lambda: nn.Sequential(
            nn.Linear(6, 16), nn.ELU(), Square(), nn.ConvTranspose2d(4, 3, 3, stride=2),
            nn.InstanceNorm2d(3), nn.Hardswish(), nn.PixelShuffle(1), nn.GroupNorm(3, 3), nn.Flatten(),
            nn.LogSoftmax(1),
        ),
        (6,),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_exported_from_torch_comes_back(name, opset, free, tmp_path):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = make().eval()
    path = tmp_path / "network.onnx"
    torch.onnx.export(
        network, torch.randn(1, *shape), path, dynamo=False, opset_version=opset, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}} if free else None,
    )  # fmt: skip
    victim = adapter.load(path)
    assert victim.access == "gradients", victim.notes
    x = torch.randn(5, *shape).requires_grad_()
    y, want = victim(x), network(x)
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    ours, theirs = (torch.autograd.grad(out[:, 1].sum(), x)[0] for out in (y, want))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("depth", [2, 4, 6])
def test_the_networks_of_the_verification_competition_are_plain_linear_layers(depth, sparring_data):
    victim = adapter.load(sparring_data / f"vnncomp/mnist_fc/onnx/mnist-net_256x{depth}.onnx")
    assert victim.access == "gradients"
    assert victim(torch.rand(3, 784, 1)).shape == (3, 10)
    kinds = [type(layer).__name__ for layer in victim.module.children()]
    assert kinds == ["Flatten", *["Linear", "ReLU"] * depth, "Linear"]


def test_a_detector_gives_gradients_at_any_batch_size(sparring_data):
    victim = adapter.load(sparring_data / "models/FastestDet.onnx")
    assert victim.access == "gradients", victim.notes
    x = torch.rand(2, 3, 352, 352, requires_grad=True)
    out = victim(x)
    assert out.shape == (2, 85, 22, 22)
    (gradient,) = torch.autograd.grad(out[0, 0].sum(), x)
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0  # one example does not see another
