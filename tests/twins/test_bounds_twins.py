"""Bounds agree with auto_LiRPA's, where it is on the path.

Its version 0.3, the newest on PyPI, asks for a torch below 1.13: three names that torch and numpy no longer have are
put back here for as long as it runs.
"""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sparring.certify import CROWN, Interval, graph
from sparring.certify.region import Region
from sparring.norms import NORMS
from sparring.streams import Streams
from sparring.threats import Ball

pytestmark = pytest.mark.frameworks


@pytest.fixture
def lirpa(monkeypatch):
    import torch.onnx.symbolic_helper as symbols

    old = types.ModuleType("numpy.lib.arraysetops")
    old.isin = np.isin
    monkeypatch.setitem(sys.modules, "numpy.lib.arraysetops", old)
    monkeypatch.setattr(symbols, "_set_opset_version", lambda version: None, raising=False)
    monkeypatch.setattr(torch._C.Node, "__getitem__", lambda one, k: getattr(one, one.kindOf(k))(k), raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("auto_LiRPA", exc_type=ImportError)


def networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5))
        yield nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
        )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bounds_agree_with_auto_lirpa(lirpa, norm):
    from auto_LiRPA.perturbations import PerturbationLpNorm

    x, eps = Streams.of(0, range(3)).uniform(1, 8, 8), {"linf": 0.02, "l2": 0.1}[norm]
    for net in networks():
        net.eval().requires_grad_(False)
        bounded = lirpa.BoundedModule(net, x.clone(), verbose=False)
        ball = PerturbationLpNorm(norm={"linf": np.inf, "l2": 2.0}[norm], eps=eps)
        ours, region = graph(net, x), Region.of(Ball(NORMS[norm], eps, -9.0, 9.0), x)
        rows = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
        for method, one in (("IBP", Interval()), ("CROWN", CROWN())):
            want, _ = bounded.compute_bounds(x=(lirpa.BoundedTensor(x, ball),), method=method)
            got = one.bound(ours, region, rows)
            if norm == "linf":
                torch.testing.assert_close(got, want.double(), rtol=0, atol=1e-4)
            elif method == "CROWN":  # where lines are worse than the box, theirs stay
                assert (got >= want - 1e-4).all()
                assert (got - want).max() < 5e-3
