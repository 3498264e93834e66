"""Views for transfer, for sparse steps and for random models: exact outputs, other gradients; draws as noise asks."""

import pytest
import torch
from torch.nn import functional

from sparring.attacks import eot_pgd, pgd
from sparring.errors import BadInput
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.search import forward
from sparring.streams import Streams
from sparring.threats import linf
from sparring.views import Counted, blurred, boxed, eot_until, pulled, settled, shrink_each

RNG = Streams.of(0, range(5))
IMAGES = RNG.uniform(2, 12, 10)
WEIGHTS = Streams.of(7, range(3)).normal(2, 12, 10)


def model(x):
    return torch.einsum("bchw,kchw->bk", x.square(), WEIGHTS)


def slope(view, x):
    point, outputs = forward(view, x)
    return torch.autograd.grad(outputs[:, 0].sum(), point)[0]


def test_another_pullback_leaves_the_outputs_alone_to_the_last_bit():
    view = pulled(model, lambda g, x: g * x)
    assert torch.equal(view(IMAGES), model(IMAGES))
    assert torch.equal(slope(view, IMAGES), slope(model, IMAGES) * IMAGES)


@pytest.mark.parametrize("size", [1, 3, 7, 15])
def test_a_blurred_gradient_is_the_gradient_convolved_with_a_gaussian(size):
    bell = torch.exp(-0.5 * torch.linspace(-3, 3, size) ** 2) if size > 1 else torch.ones(1)
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    expected = functional.conv2d(slope(model, IMAGES), kernel.expand(2, 1, size, size), padding=size // 2, groups=2)
    view = blurred(model, size=size)
    assert torch.equal(view(IMAGES), model(IMAGES))
    torch.testing.assert_close(slope(view, IMAGES), expected, rtol=0, atol=1e-5)


def test_a_blurred_gradient_is_the_mean_gradient_of_shifted_copies():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1.0
    weights = Streams.of(3, [0]).normal(1, 9, 9)

    def linear(z):
        return (z * weights).flatten(1).sum(1, keepdim=True)

    bell = torch.exp(-0.5 * torch.linspace(-3, 3, 3) ** 2)
    share = torch.outer(bell, bell) / bell.sum() ** 2
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    mean = sum(share[i + 1, j + 1] * slope(lambda z, by=(i, j): linear(z.roll(by, (2, 3))), x) for i, j in shifts)
    inner = slice(1, -1)  # a roll wraps around the edge
    torch.testing.assert_close(slope(blurred(linear, size=3), x)[..., inner, inner], mean[..., inner, inner])


@pytest.mark.parametrize("size", [0, 2, -3])
def test_a_window_without_a_middle_is_refused(size):
    with pytest.raises(BadInput, match="odd"):
        blurred(model, size=size)


def test_a_boxed_gradient_is_zero_where_the_box_stops_the_climb():
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5, 0.5]])
    slopes = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]])
    view = boxed(lambda z: z * slopes)
    point, outputs = forward(view, x)
    (gradient,) = torch.autograd.grad(outputs.sum(), point)
    assert gradient.tolist() == [[1.0, 0.0, 0.0, -1.0, 1.0, -1.0]]
    assert torch.equal(view(x), x * slopes)


def test_each_image_is_shrunk_and_placed_as_interpolation_and_padding_would():
    shrunk = shrink_each(IMAGES, RNG.at("draw"), smallest=0.5, black=0.25)
    sizes = set()
    for row, image in zip(shrunk, IMAGES, strict=True):
        inside = (row != 0.25).all(0)
        top, left = inside.nonzero().amin(0).tolist()
        height, width = int(inside.any(1).sum()), int(inside.any(0).sum())
        small = functional.interpolate(image.unsqueeze(0), size=(height, width), mode="bilinear", align_corners=False)
        padded = functional.pad(small, (left, 10 - width - left, top, 12 - height - top), value=0.25)
        torch.testing.assert_close(row, padded[0], rtol=0, atol=1e-5)
        assert 6 <= height <= 12
        sizes.add((height, width, top, left))
    assert len(sizes) > 1


def test_an_image_is_shrunk_the_same_whatever_is_beside_it():
    together = shrink_each(IMAGES, RNG)
    for row in range(5):
        assert torch.equal(shrink_each(IMAGES[[row]], RNG[torch.tensor([row])]), together[[row]])
    assert shrink_each(IMAGES.double(), RNG).dtype == torch.float64
    torch.testing.assert_close(shrink_each(IMAGES, RNG, smallest=1.0), IMAGES, rtol=0, atol=1e-5)


def test_settled_functions_are_equal_when_their_settings_are():
    view = settled(blurred, size=3)
    assert view == settled(blurred, size=3)
    assert hash(view) == hash(settled(blurred, size=3))
    assert view not in (settled(blurred, size=5), settled(boxed, low=0.0), blurred)
    assert repr(view) == "blurred(size=3)"
    assert torch.equal(slope(view(model), IMAGES), slope(blurred(model, size=3), IMAGES))


class Noisy:
    """A linear model whose weights are drawn anew at every call; how noisy, differs from row to row."""

    def __init__(self, weights, noise):
        self.weights, self.noise, self.calls = weights, noise, 0

    def __call__(self, x):
        self.calls += 1
        draw = Streams.of(self.calls, [99]).normal(*x.shape[1:])[0]
        level = self.noise(x).view(-1, *[1] * (x.dim() - 1))
        lead = (x * (self.weights + level * draw)).flatten(1).sum(1)
        never = torch.full_like(lead, -30.0)
        return torch.stack([-lead / 2, lead / 2, never, never], 1)


def test_a_model_without_noise_agrees_at_once():
    counted = Counted(model)
    view = eot_until(counted, draws=4, most=64)
    torch.testing.assert_close(slope(view, IMAGES), slope(model, IMAGES))
    assert (counted.forward, counted.backward) == (4 * 5, 2 * 5)


def test_only_noisy_rows_draw_until_their_halves_agree():
    weights = Streams.of(1, [0]).normal(30)[0]
    x = Streams.of(2, range(3)).uniform(30)
    quiet = x[:, 0].clone()

    def noise(z):  # the third row alone
        return 4.0 * (z[:, 0].detach() == quiet[2])

    exact = slope(Noisy(weights, lambda z: 0 * z[:, 0]), x)
    counted = Counted(Noisy(weights, noise))
    gradient = slope(eot_until(counted, draws=2, most=64, agree=0.8), x)
    torch.testing.assert_close(gradient[:2], exact[:2])
    assert 2 * 3 + 10 < counted.forward == counted.backward <= 2 * 3 + 62
    single = slope(Noisy(weights, noise), x)
    cosine = functional.cosine_similarity
    assert cosine(gradient[2], exact[2], dim=0) > 0.85
    assert cosine(single[2], exact[2], dim=0) < 0.5


def test_draws_end_when_they_are_spent():
    counted = Counted(Noisy(torch.zeros(30), lambda z: torch.ones(len(z))))
    slope(eot_until(counted, draws=4, most=10), Streams.of(2, range(3)).uniform(30))
    assert (counted.forward, counted.backward) == (30, 30)


def test_outputs_without_gradients_cost_the_draws_alone():
    counted = Counted(model)
    with torch.no_grad():
        torch.testing.assert_close(eot_until(counted, draws=4)(IMAGES), model(IMAGES))
    assert (counted.forward, counted.backward) == (20, 0)


@pytest.mark.parametrize(("draws", "most"), [(1, 64), (8, 4), (0, 0)])
def test_too_few_draws_to_compare_two_halves_are_refused(draws, most):
    with pytest.raises(BadInput, match="draws"):
        eot_until(model, draws=draws, most=most)


def test_eot_pgd_finds_the_optimum_of_a_noisy_model_where_pgd_does_not():
    weights = Streams.of(1, [0]).normal(50)[0]
    x = 0.3 + 0.4 * Streams.of(2, range(3)).uniform(50)
    goal, threat = Never(torch.zeros(3, dtype=torch.int64)), linf(0.1)
    best = 0.1 * weights.abs().sum()

    def gain(attack):
        z = attack(Noisy(weights, lambda z: torch.full((len(z),), 4.0)), x, goal, Streams.of(0, range(3)))
        return ((z - x) @ weights / best).mean()

    assert gain(eot_pgd(threat, steps=10, most=128)) > 0.7
    assert gain(pgd(threat, steps=10)) < 0.4


def test_eot_pgd_does_on_a_model_without_noise_what_pgd_does():
    x, labels = IMAGES, model(IMAGES).argmax(1)
    rng = Streams.of(0, range(5))
    averaged = eot_pgd(linf(0.05), steps=10, draws=2)(model, x, Untargeted(labels), rng)
    plain = pgd(linf(0.05), steps=10)(model, x, Untargeted(labels), rng)
    torch.testing.assert_close(
        margin(model(averaged), Never(labels)), margin(model(plain), Never(labels)), rtol=1e-3, atol=1e-3
    )
