"""Square in torchattacks and ART, on a published network and real digits, at the same number of queries."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sparring.networks import wong_cnn
from sparring.threats import l2, linf

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from square import PEERS, Case, ours

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings(
        "ignore:.* encountered in .*:RuntimeWarning"
    ),  # ART divides by the mass of empty squares
]
QUERIES = 400


@pytest.fixture(scope="module")
def ring(sparring_data):
    model = wong_cnn().eval()
    weights = sparring_data / "models" / "wong_fgsm_mnist_linf0.3.pth"
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    digits = np.load(sparring_data / "mnist" / "mnist.npz", allow_pickle=False)
    x = torch.from_numpy(digits["x_test"][:64]).float().div(255).unsqueeze(1)
    y = torch.from_numpy(digits["y_test"][:64]).long()
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return model, x[right], y[right]


def mean_queries(ask, ring, threat, seeds=2):
    """Until success, or the whole budget where there was none."""
    model, x, y = ring
    return np.mean(
        [sum(ask(Case(model, x, y, threat), QUERIES, seed).stood[:QUERIES]) / len(x) for seed in range(seeds)]
    )


@pytest.mark.parametrize("threat", [linf(0.32), l2(2.5)], ids=str)
@pytest.mark.parametrize("peer", PEERS)
def test_square_needs_no_more_queries_than_its_twins(ring, threat, peer):
    pytest.importorskip({"torchattacks": "torchattacks", "art": "art"}[peer])
    assert mean_queries(ours, ring, threat) <= 1.05 * mean_queries(PEERS[peer], ring, threat)
