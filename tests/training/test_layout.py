"""The layout of images in training is an affair of the trainer alone."""

import pytest
import torch
from torch import Tensor, nn

from sparring.data.arrays import Arrays
from sparring.networks import wong_cnn
from sparring.threats import linf
from sparring.training import fit, standard
from sparring.training.layout import channels_last, gradients_alike
from sparring.training.objectives import ibp

X = torch.rand(32, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 10


class Viewing(nn.Module):
    """Reads its features as most tutorials do, which asks for channels first."""

    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 5, stride=3), nn.Linear(4 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution(x).relu()
        return self.linear(h.view(h.size(0), -1))


def test_a_network_that_needs_channels_first_is_trained_so():
    trained = fit(Viewing(), Arrays("noise", X, LABELS), standard, epochs=1, batch_size=16)
    assert trained(X).shape == (32, 10)


def test_a_network_for_volumes_is_trained():
    network = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 2, 2), nn.Flatten())
    network = nn.Sequential(network, nn.Linear(50, 10))
    x = torch.rand(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert fit(network, Arrays("noise", x, LABELS), standard, epochs=1, batch_size=16)(x).shape == (32, 10)


def test_boxes_go_through_the_same_network():
    trained = fit(wong_cnn(), Arrays("noise", X, LABELS), ibp(linf(0.1)), epochs=1, batch_size=16)
    assert trained(X).isfinite().all()


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_trained_network_is_laid_out_as_it_came(average: float):
    network = wong_cnn()
    trained = fit(network, Arrays("noise", X, LABELS), standard, epochs=1, batch_size=16, average=average)
    for after, before in zip(trained.parameters(), network.parameters(), strict=True):
        assert after.stride() == before.stride()
    assert not any(part._forward_pre_hooks for part in trained.modules())


def test_gradients_arrive_in_the_layout_of_the_values():
    network, layouts = channels_last(wong_cnn(), X[:1]), []

    def watch(relu: nn.Module, inputs: object, output: Tensor) -> None:
        if output.dim() == 4:
            output.grad_fn.register_prehook(  # sees what the hooks of the tensor have made of the gradient
                lambda gradients: layouts.append(gradients[0].is_contiguous(memory_format=torch.channels_last))
            )

    def gradient() -> Tensor:
        layouts.clear()
        x = X.clone().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(network(x), LABELS), x)[0]

    for part in network.modules():
        if isinstance(part, nn.ReLU):
            part.register_forward_hook(watch)
    plain = gradient()
    assert not all(layouts)
    with gradients_alike(network):
        assert torch.allclose(gradient(), plain, rtol=1e-5, atol=1e-9)
        assert all(layouts)
    gradient()
    assert not all(layouts)
