"""Properties in VNN-LIB are read as they are meant, refused in one line, and answered."""

from __future__ import annotations

import copy
import gzip
import itertools

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from sparring.certify import Answer, BranchAndBound
from sparring.certify.vnnlib import read, solve
from sparring.cli import cli
from sparring.errors import BadInput

DECLARED = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
BOX = "(assert (<= X_0 0.75)) (assert (>= X_0 0.25)) (assert (and (<= 0 X_1) (<= X_1 1e-1)))\n"


def written(folder, text):
    path = folder / "prop.vnnlib"
    path.write_text("; a comment (with brackets\n" + DECLARED + text)
    return path


class Difference(nn.Module):
    """`Y_0 = X_0 + X_1`, `Y_1 = relu(X_0 - X_1)`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        self.second.weight.data = torch.eye(2)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_boxes_and_cases_are_read(tmp_path):
    asked = read(
        written(tmp_path, BOX + "(assert (or (and (>= Y_0 Y_1) (<= Y_0 0.5)) (and (>= (- (* 2 Y_1) 1) Y_0))))")
    )
    assert (asked.inputs, asked.outputs, len(asked.cases)) == (2, 2, 2)
    first, second = asked.cases
    assert first.low.tolist() == [0.25, 0.0]
    assert first.high.tolist() == [0.75, 0.1]
    assert (first.rows.tolist(), first.at.tolist()) == ([[-1.0, 1.0], [1.0, 0.0]], [0.0, -0.5])
    assert (second.rows.tolist(), second.at.tolist()) == ([[1.0, -2.0]], [1.0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(assert (<= X_0 1)", "bracket is left open"),
        ("(assert (<= X_0 1)))", "not open"),
        (BOX + "(assert (<= Y_2 1))", "Y_2, which is not declared"),
        ("(assert (<= X_0 1))", "without bounds"),
        (BOX + "(assert (<= X_0 X_1))", "more than a number"),
        (BOX + "(assert (<= X_0 Y_0))", "more than a number"),
        (BOX + "(assert (< Y_0 Y_1))", "<= and >= only"),
        (BOX + "(assert (> X_0 0.3))", "<= and >= only"),
        (BOX + "(assert (<= Y_0 1e400))", "too large or too small"),
        (BOX + "(assert (<= Y_0 1e-999999999))", "too large or too small"),
        (BOX + f"(assert (<= Y_0 0.{'1' * 5000}))", "5002 characters"),
        (BOX + "(assert (<= Y_0 (* 1e300 1e300)))", "too large"),
        (BOX + f"(assert {'(and ' * 5000}(<= Y_0 1){')' * 5000})", "nested too deeply"),
        (BOX + "(assert (<= (* Y_0 Y_1) 1))", "not linear"),
        (BOX + "(assert (not Y_0))", "where a comparison"),
        (BOX + "(assert (<= Y_0 high))", "where a number"),
        ("(check-sat)", "where a declaration"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(tmp_path, text, why):
    with pytest.raises(BadInput, match=why) as caught:
        read(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        ("(>= Y_1 (+ Y_0 0.01))", "unsat"),
        ("(>= Y_1 Y_0)", "sat"),  # where X_1 is zero
        ("(>= Y_1 (+ Y_0 0e30000000))", "sat"),
        ("(or (and (<= Y_0 0.2)) (and (>= Y_0 0.86)))", "unsat"),
        ("(and (<= Y_0 0.4) (>= Y_1 0.35))", "sat"),
        ("(and (<= Y_0 0.4) (>= Y_1 0.45))", "unsat"),
        ("(or (and (<= X_0 0.3) (>= Y_0 0.45)) (and (>= Y_1 0.7) (>= X_1 0.01)))", "sat"),
    ],
)
def test_questions_are_answered(tmp_path, claim, verdict):
    net = Difference().requires_grad_(False)
    found = solve(net, (2,), read(written(tmp_path, f"{BOX}(assert {claim})")), BranchAndBound(seconds=5.0))
    assert found.verdict == verdict
    if verdict == "sat":
        x = found.x
        assert 0.25 <= x[0] <= 0.75
        assert 0.0 <= x[1] <= 0.1
        torch.testing.assert_close(found.y, net(x.unsqueeze(0))[0])
        assert str(found).startswith("sat\n((X_0 ")


def test_what_holds_with_nothing_left_over_is_not_ruled_out_by_the_rounding_of_a_mean(tmp_path):
    """In float64 `-1 - tiny + 1 + tiny` leaves `tiny`: more than zero, for sums that can all be zero at once."""
    tiny = 2.0**-60
    held = f"(<= {{0}}_0 1) (<= {{0}}_1 {tiny!r}) (>= {{0}}_0 1) (>= {{0}}_1 {tiny!r})"
    path = written(tmp_path, f"(assert (and {held.format('X')}))\n(assert (and {held.format('Y')}))")
    same = nn.Linear(2, 2, bias=False).requires_grad_(False)
    same.weight.copy_(torch.eye(2))
    assert solve(same, (2,), read(path), BranchAndBound(seconds=5.0)).verdict == "sat"


def test_comparisons_that_take_turns_are_ruled_out_by_the_weights_that_show_it(tmp_path):
    """`3 x + 0.1 <= 0` and `0.01 - x <= 0`: where both were so, the first plus three times the second were too."""
    net = nn.Linear(2, 2).requires_grad_(False)
    net.weight.copy_(torch.tensor([[3.0, 0.0], [-1.0, 0.0]]))
    net.bias.copy_(torch.tensor([0.1, 0.01]))
    box = "(assert (and (<= -1 X_0) (<= X_0 1) (<= 0 X_1) (<= X_1 1)))"
    path = written(tmp_path, f"{box}\n(assert (and (<= Y_0 0) (<= Y_1 0)))")
    assert solve(net, (2,), read(path), BranchAndBound(seconds=20.0)).verdict == "unsat"


def test_no_point_of_a_grid_does_what_was_ruled_out(tmp_path):
    axis = torch.linspace(0.2, 0.7, 101)
    grid, verdicts = torch.cartesian_prod(axis, axis), []
    for seed in range(12):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
        with torch.no_grad():
            outputs = net(grid)
        least = int(outputs.mean(0).argsort()[seed % 4])
        text = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2", "Y_3"))
        text += "".join(f"(assert (>= X_{i} 0.2))(assert (<= X_{i} 0.7))" for i in range(2))
        text += "".join(f"(assert (<= Y_{least} Y_{j}))" for j in range(4) if j != least)
        path = tmp_path / "least.vnnlib"
        path.write_text(text)
        verdicts.append(solve(net, (2,), read(path), BranchAndBound(seconds=20.0)).verdict)
        assert verdicts[-1] == ("sat" if bool((outputs.argmin(1) == least).any()) else "unsat")
    assert set(verdicts) == {"sat", "unsat"}


@pytest.mark.parametrize("value", ["0.1", "0.3", "0.5"])
def test_an_input_that_a_decimal_fixes_is_the_float32_next_to_it(tmp_path, value):
    box = f"(assert (= X_0 {value})) (assert (and (<= 0 X_1) (<= X_1 1)))\n"
    net = Difference().requires_grad_(False)
    found = solve(net, (2,), read(written(tmp_path, f"{box}(assert (>= Y_0 Y_1))")), BranchAndBound(seconds=5.0))
    assert found.verdict == "sat"
    assert found.x[0] == torch.tensor(float(value))


def test_the_seconds_are_for_all_boxes_together(tmp_path):
    ticks = itertools.count()
    boxes = " ".join(f"(and (>= X_0 {k / 10}) (<= X_0 {k / 10 + 0.05}) (>= Y_1 Y_0))" for k in range(1, 6))
    text = f"(assert (and (<= 0.01 X_1) (<= X_1 1)))\n(assert (or {boxes}))"
    how = BranchAndBound(seconds=1000.0, clock=lambda: next(ticks))
    assert solve(Difference(), (2,), read(written(tmp_path, text)), how).verdict == "unsat"
    asked = []

    def deciding(self, question):
        asked.append(self.seconds)
        return Answer("unknown", -1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BranchAndBound, "decide", deciding)
        assert solve(Difference(), (2,), read(tmp_path / "prop.vnnlib"), how).verdict == "timeout"
    assert len(asked) == 5
    assert all(950 / (5 - i) <= one <= 1000 / (5 - i) for i, one in enumerate(asked))  # equal shares of what is left


def test_a_file_may_be_compressed(tmp_path):
    path = written(tmp_path, BOX)
    packed = tmp_path / "prop.vnnlib.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert torch.equal(read(packed).cases[0].high, read(path).cases[0].high)
    packed.write_bytes(path.read_bytes())
    with pytest.raises(BadInput, match="is not text"):
        read(packed)


def test_a_file_from_windows_is_read(tmp_path):
    path = written(tmp_path, BOX)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(path).inputs == 2


def test_a_property_of_another_network_is_refused(tmp_path):
    with pytest.raises(BadInput, match="2 inputs"):
        solve(nn.Linear(3, 2), (3,), read(written(tmp_path, BOX)), BranchAndBound())
    with pytest.raises(BadInput, match="2 outputs"):
        solve(nn.Linear(2, 3), (2,), read(written(tmp_path, BOX)), BranchAndBound())


@pytest.mark.frameworks
def test_the_command_answers_questions_about_onnx_files(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = [("w", (2, 2), [1.0, 1.0, 1.0, -1.0]), ("b", (2,), [0.0, 0.0])]
    made = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "difference",
        [helper.make_tensor_value_info("x", kind, [1, 2])],
        [helper.make_tensor_value_info("y", kind, [1, 2])],
        [helper.make_tensor(name, kind, shape, values) for name, shape, values in weights],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    two = copy.deepcopy(model)  # a batch of two, and the label before the scores
    for one in (two.graph.input[0], two.graph.output[0]):
        one.type.tensor_type.shape.dim[0].dim_value = 2
    two.graph.node.append(helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0))
    two.graph.output.insert(0, helper.make_tensor_value_info("label", onnx.TensorProto.INT64, [2]))
    onnx.save(two, tmp_path / "two.onnx")
    given = ["certify", str(tmp_path / "two.onnx"), str(written(tmp_path, f"{BOX}(assert (>= Y_1 Y_0))"))]
    assert CliRunner().invoke(cli, given, standalone_mode=False, catch_exceptions=False).stdout.startswith("sat\n")

    def asked(claim):
        given = [
            "certify",
            str(tmp_path / "net.onnx"),
            str(written(tmp_path, f"{BOX}(assert {claim})")),
            "--seconds",
            "5",
        ]
        return CliRunner().invoke(cli, given, catch_exceptions=False).output

    assert asked("(>= Y_1 (+ Y_0 0.01))").split() == ["unsat"]
    assert asked("(<= Y_0 0.3)").startswith("sat\n((X_0 0.")
