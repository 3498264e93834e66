"""Attributions: the closed form on linear models, determinism, and a model that comes back as it was given."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparring.data.named import digits
from sparring.errors import BadInput
from sparring.explain import METHODS, attribute, cosine, explain, overlap
from sparring.explain.figure import draw
from sparring.models.torch import function
from sparring.networks import mlp, small_cnn, wong_cnn


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def some(count: int = 4) -> tuple[Tensor, Tensor]:
    return digits("test").take(range(count))


def test_on_a_linear_model_attributions_are_the_weights_times_the_input() -> None:
    model, (x, labels) = linear(), some()
    weight = model[1].weight.detach()[labels].view_as(x)
    assert torch.allclose(attribute(model, x, labels, "saliency"), weight)
    assert torch.allclose(attribute(model, x, labels, "integrated-gradients"), weight * x, atol=1e-6)
    shap = attribute(model, x, labels, "gradient-shap")
    assert cosine(shap, weight * x).min() > 0.97
    assert torch.allclose(shap, weight * x, atol=0.02)


def test_integrated_gradients_add_up_to_what_the_output_gains_over_zero() -> None:
    model, (x, labels) = mlp(), some(40)
    total = attribute(model, x, labels).flatten(1).sum(1)
    gain = (model(x) - model(torch.zeros_like(x))).gather(1, labels[:, None])[:, 0]
    assert torch.allclose(total, gain, atol=0.02)


def test_occlusion_names_the_part_whose_loss_hurts() -> None:
    def model(x: Tensor) -> Tensor:
        seen = x[:, 0, 4:8, 4:8].sum((1, 2))
        return torch.stack([seen, 0 * seen], 1)

    x, labels = torch.ones(2, 1, 28, 28), torch.zeros(2, dtype=torch.int64)
    found = attribute(function(model), x, labels, "occlusion")
    assert found[:, 0, 4:8, 4:8].min() > 0
    assert found[:, 0, 12:, 12:].abs().max() == 0


def test_grad_cam_is_nowhere_negative_and_as_large_as_the_input() -> None:
    x, labels = some()
    found = attribute(wong_cnn(), x, labels, "grad-cam")
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_attributions_are_deterministic_and_rows_do_not_see_each_other(method: str) -> None:
    model, (x, labels) = wong_cnn(), some()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    whole = attribute(model, x, labels, method)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(whole, attribute(model, x, labels, method))
    assert torch.allclose(whole[2:3], attribute(model, x[2:3], labels[2:3], method), atol=1e-6)
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("method", METHODS)
def test_the_model_and_the_inputs_come_back_as_they_were(method: str) -> None:
    model, (x, labels) = small_cnn().train(), some()
    model.classifier.drop.eval()
    model.classifier.fc1.weight.requires_grad_(False)
    modes, copy = [part.training for part in model.modules()], x.clone()
    found = attribute(model, x, labels, method)
    assert modes == [part.training for part in model.modules()]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["classifier.fc1.weight"]
    assert all(p.grad is None for p in model.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in model.modules())
    assert torch.equal(x, copy)
    assert not x.requires_grad
    assert not found.requires_grad
    assert found.dtype == x.dtype


def test_what_cannot_be_explained_is_refused_in_one_line() -> None:
    x, labels = some()
    with pytest.raises(BadInput, match="one of integrated-gradients"):
        attribute(mlp(), x, labels, "intuition")
    with pytest.raises(BadInput, match="a convolution"):
        attribute(mlp(), x, labels, "grad-cam")
    with pytest.raises(BadInput, match="0 to 9"):
        attribute(mlp(), x, labels + 10)
    with pytest.raises(BadInput, match="one label an input"):
        attribute(mlp(), x, labels[:2])
    with pytest.raises(BadInput, match="floating point"):
        attribute(mlp(), (255 * x).byte(), labels)
    with pytest.raises(BadInput, match="whole labels"):
        attribute(mlp(), x, labels.float())
    with pytest.raises(BadInput, match=r"\(B, K\)"):
        attribute(function(lambda x: x.flatten(1).sum(1)), x, 0 * labels)


@pytest.mark.parametrize("method", METHODS)
def test_attributions_are_the_same_in_half_precision_and_under_inference_mode(method: str) -> None:
    model, (x, labels) = small_cnn(), some()
    want = attribute(model, x, labels, method)
    with torch.inference_mode():
        assert torch.equal(attribute(model, x, labels.int(), method), want)
    half = attribute(model.half(), x.half(), labels, method)
    assert half.dtype == torch.float16
    assert cosine(half.float(), want).min() > 0.98


def test_grad_cam_takes_the_last_convolution_that_is_asked() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = wong_cnn(), nn.Conv2d(1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x)
            return out

    model, (x, labels) = Spare(), some()
    assert torch.equal(attribute(model, x, labels, "grad-cam"), attribute(model.net, x, labels, "grad-cam"))


def test_a_model_that_gives_scores_alone_can_be_explained_by_occlusion() -> None:
    weight = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)

    def scores(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) @ weight

    x, labels = some()
    assert attribute(scores, x, labels, "occlusion").shape == x.shape
    with pytest.raises(BadInput, match="use occlusion"):
        attribute(scores, x, labels)


def test_cosine_and_overlap_are_one_for_the_same_and_low_for_unrelated_attributions() -> None:
    a, b = torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.zeros(6, 1, 28, 28)
    assert torch.allclose(cosine(a, 3 * a), torch.ones(6))
    assert torch.allclose(cosine(a, -a), -torch.ones(6))
    assert torch.equal(cosine(a, b), torch.zeros(6))
    assert torch.equal(overlap(a, -2 * a), torch.ones(6))
    assert overlap(a, a.flip(3)).max() < 0.3


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e30])
def test_the_cosine_of_attributions_has_no_unit(size: float) -> None:
    a = torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cosine(size * a, size * a.flip(3)), cosine(a, a.flip(3)))


def test_zeros_are_never_what_two_attributions_have_in_common() -> None:
    a, b = torch.zeros(1, 784), torch.zeros(1, 784)
    a[0, 100:105], b[0, 200:205] = 1, 1
    assert overlap(a, b).item() == overlap(0 * a, 0 * b).item() == 0
    b[0, 100:110] = 1
    assert overlap(a, b).item() == pytest.approx(5 / 15)


def test_overlap_counts_the_values_in_common() -> None:
    a, b = torch.zeros(1, 20), torch.zeros(1, 20)
    a[0, [3, 7, 11, 15]] = torch.tensor([4.0, -3.0, 2.0, 1.0])
    b[0, [3, 7, 12, 16]] = torch.tensor([-1.0, 1.0, 5.0, 5.0])
    assert overlap(a, b, share=0.2).item() == 0.5


def test_an_explanation_is_stable_where_nothing_was_attacked_and_its_figure_shows_all_panels() -> None:
    import matplotlib.pyplot as plt

    x, labels = some(3)
    z = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    calm = explain(mlp(), x, x, labels, name="calm")
    shaken = explain(mlp(1), x, z, labels, name="shaken")
    assert torch.allclose(calm.cosine, torch.ones(3))
    assert torch.equal(calm.overlap, torch.ones(3))
    assert shaken.cosine.max() < 1
    figure = draw([calm, shaken], classes=tuple("abcdefghij"))
    assert [group._suptitle.get_text() for group in figure.subfigs] == ["calm", "shaken"]
    assert all(len(group.axes) == 12 for group in figure.subfigs)
    titles = [axes.get_title() for axes in figure.subfigs[0].axes]
    assert titles[0].split("\n\n")[0] == "clean"
    assert titles[0][-1] in "abcdefghij"
    assert titles[4] in [*"abcdefghij"]
    assert not plt.get_fignums()
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    assert len(picture.getvalue()) > 10_000


def test_a_long_name_is_seen_whole_and_half_precision_is_drawn() -> None:
    x, labels = some(1)
    name = "a_package.with_a_long_name.and_modules:and_a_factory_of_networks"
    figure = draw([explain(mlp().bfloat16(), x.bfloat16(), x.bfloat16(), labels, name=name)])
    figure.canvas.draw()
    title = figure.subfigs[0]._suptitle
    box = title.get_window_extent()
    assert title.get_text().replace("\n", "") == name
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_a_figure_of_what_is_no_image_is_refused() -> None:
    x, labels = torch.rand(2, 784), torch.zeros(2, dtype=torch.int64)
    flat = explain(mlp(), x, x, labels)
    with pytest.raises(BadInput, match="explain images"):
        draw([flat])
    images = explain(mlp(), x.view(2, 1, 28, 28), x.view(2, 1, 28, 28), labels)
    with pytest.raises(BadInput, match="explain images"):
        draw([images[:0]])
