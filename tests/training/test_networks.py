"""The networks: published weights fit, and the first weights come from the seed alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from sparring.data.named import mnist
from sparring.errors import BadInput
from sparring.models.torch import load_weights
from sparring.networks import (
    Normalise,
    PreActivation,
    certified_ink_cnn,
    ink_cnn,
    mlp,
    preact_resnet18,
    slim_cnn,
    slim_ink_cnn,
    slim_resnet18,
    small_cnn,
    wide_resnet,
    wong_cnn,
)


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


@pytest.mark.parametrize("make", [mlp, wong_cnn, ink_cnn, small_cnn, slim_cnn, slim_resnet18])
def test_the_first_weights_come_from_the_seed_alone(make) -> None:  # type: ignore[no-untyped-def]
    a, b, c = make(0).state_dict(), make(0).state_dict(), make(1).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_a_layer_of_ink_is_steep_between_the_thresholds_and_leaves_a_network_smaller() -> None:
    first = torch.relu(certified_ink_cnn()[0](torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]).view(4, 1, 1, 1))).flatten(1)
    assert first.sub(torch.tensor([[0, 0, 1, 2], [0, 0, 0, 1], [1, 0, 0, 0], [2, 1, 0, 0]]).T).abs().max() < 1e-6
    for small, large in ((ink_cnn, wong_cnn), (slim_ink_cnn, small_cnn), (ink_cnn, certified_ink_cnn)):
        assert sum(p.numel() for p in small().parameters()) < sum(p.numel() for p in large().parameters())
        assert small().eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize(
    ("make", "count"), [(mlp, 101_770), (wong_cnn, 166_406), (small_cnn, 312_202), (slim_cnn, 272_002)]
)
def test_each_network_has_the_number_of_weights_that_its_paper_implies(make, count: int) -> None:  # type: ignore[no-untyped-def]
    assert sum(p.numel() for p in make().parameters()) == count
    assert make().eval()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (preact_resnet18, 11_172_170),
        (partial(wide_resnet, depth=28, width=10), 36_479_194),
        (partial(wide_resnet, depth=34, width=10), 46_160_474),
    ],
)
def test_residual_networks_have_the_number_of_weights_that_is_published(make, count: int) -> None:  # type: ignore[no-untyped-def]
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == count


@pytest.mark.parametrize(
    "make", [partial(preact_resnet18, width=4), partial(wide_resnet, depth=10, width=1), slim_resnet18]
)
def test_residual_networks_take_pictures_and_shrink_them_by_their_strides(make) -> None:  # type: ignore[no-untyped-def]
    network = make().eval()
    x = torch.rand(2, 3, 32, 32)
    assert network(x).shape == (2, 10)
    before_the_mean = network[:-3](x)
    assert before_the_mean.shape[2] in (4, 8)
    assert network(torch.rand(2, 3, 24, 24)).shape == (2, 10)


def test_residual_networks_take_other_channels_and_classes() -> None:
    for make in (partial(preact_resnet18, width=2), partial(wide_resnet, depth=10, width=1)):
        assert make(channels=1, classes=7).eval()(torch.rand(2, 1, 28, 28)).shape == (2, 7)
    with pytest.raises(BadInput, match="depth 29"):
        wide_resnet(depth=29)


def test_normalisation_is_part_of_the_network_and_travels_with_its_weights() -> None:
    network = slim_resnet18()
    assert isinstance(network[0], Normalise)
    assert {"0.mean", "0.std"} <= set(network.state_dict())
    x = torch.rand(2, 3, 4, 4)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2471, 0.2435, 0.2616])
    assert torch.allclose(network[0](x), (x - mean[:, None, None]) / std[:, None, None])
    grey = preact_resnet18(width=2, channels=1)[0](torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert grey.flatten().tolist() == [-1.0, 1.0]


def test_a_block_whose_convolutions_are_zero_hands_its_input_on() -> None:
    block = PreActivation(4, 4, 1).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x)
    assert block.past is None
    narrower = PreActivation(4, 6, 2).eval()
    assert narrower(x).shape == (2, 6, 3, 3)
