"""`sparring certify` says what it has proved."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sparring.certify import branch_and_bound, crown, graph, interval
from sparring.cli import cli
from sparring.errors import BadInput
from sparring.networks import mlp, small_cnn, wong_cnn
from sparring.threats import linf

GIVEN = ["certify", "sparring.networks:mlp", "--data", "digits", "--limit", "20"]


def test_what_is_right_without_a_threat_is_certified_and_nothing_within_a_large_one():
    small = CliRunner().invoke(cli, [*GIVEN, "--threat", "linf:0"], catch_exceptions=False).output
    right = small.split(" ")[0] if small[0].isdigit() else small.splitlines()[1].split(" ")[0]
    assert int(right) > 0
    assert f"{right} of them cannot be changed within linf:0: crown" in small
    large = CliRunner().invoke(cli, [*GIVEN, "--threat", "linf:0.9", "--method", "interval"], catch_exceptions=False)
    assert "0 of them cannot be changed within linf:0.9: interval" in large.output
    assert "certified accuracy 0.0%, from 0.0% to" in large.output


def test_options_that_a_property_leaves_unused_are_refused(tmp_path):
    given = ["certify", "net.onnx", "prop.vnnlib", "--method", "smoothing", "--out", str(tmp_path)]
    with pytest.raises(BadInput, match="--method, --out with a PROPERTY"):
        CliRunner().invoke(cli, given, catch_exceptions=False)


def test_certificates_are_listed():
    listed = CliRunner().invoke(cli, ["list", "certificates"], catch_exceptions=False).output
    assert "alpha-crown" in listed


def test_no_rows_get_no_bounds():
    assert crown()(mlp(), torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64), linf(0.1)).shape == (0,)


def test_wide_maps_are_walked_through_one_image_at_a_time_to_the_same_bounds():
    x, net = torch.rand(3, 1, 28, 28), wong_cnn()
    labels = torch.arange(3)
    narrow, wide = graph(net, x), graph(small_cnn(), x)
    assert [one.at_once(narrow) for one in (interval(), crown(), branch_and_bound())] == [16, 16, 1]
    assert [one.at_once(wide) for one in (interval(), crown(), branch_and_bound())] == [16, 1, 1]
    threat = linf(0.01)
    alone = torch.cat([crown()(net, some, y, threat) for some, y in zip(x.split(1), labels.split(1), strict=True)])
    assert torch.equal(crown()(net, x, labels, threat), alone)


@pytest.mark.parametrize("value", [np.nan, 255.0])
def test_inputs_that_no_bound_can_hold_for_are_refused(tmp_path, value):
    x = np.full((20, 1, 28, 28), 0.5, dtype=np.float32)
    x[3, 0, 0, 0] = value
    np.savez(tmp_path / "odd.npz", x=x, y=np.arange(20) % 10)
    given = ["certify", "sparring.networks:mlp", "--data", str(tmp_path / "odd.npz"), "--threat", "linf:0.01"]
    with pytest.raises(BadInput, match="not finite, or outside"):
        CliRunner().invoke(cli, given, catch_exceptions=False)
