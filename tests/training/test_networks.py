"""The networks: published weights fit, and the first weights come from the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparring.data.named import mnist
from sparring.models.torch import load_weights
from sparring.networks import mlp, small_cnn, wong_cnn


@pytest.mark.parametrize(
    ("make", "file", "correct"),
    [
        (wong_cnn, "wong_fgsm_mnist_linf0.3.pth", 983),
        (wong_cnn, "wong_kolter_mnist_linf0.1.pth", 982),
        (small_cnn, "trades_smallcnn_mnist_linf0.3.pt", 994),
    ],
)
def test_published_weights_give_the_published_accuracy(make, file: str, correct: int, sparring_data: Path) -> None:  # type: ignore[no-untyped-def]
    network = make()
    load_weights(network, sparring_data / "models" / file)
    x, labels = mnist("test").take(range(1000))
    with torch.no_grad():
        assert int((network(x).argmax(1) == labels).sum()) == correct


@pytest.mark.parametrize("make", [mlp, wong_cnn, small_cnn])
def test_the_first_weights_come_from_the_seed_alone(make) -> None:  # type: ignore[no-untyped-def]
    a, b, c = make(0).state_dict(), make(0).state_dict(), make(1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.parametrize(("make", "count"), [(mlp, 101_770), (wong_cnn, 166_406), (small_cnn, 312_202)])
def test_each_network_has_the_number_of_weights_that_its_paper_implies(make, count: int) -> None:  # type: ignore[no-untyped-def]
    assert sum(p.numel() for p in make().parameters()) == count
    assert make().eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
