"""Transfer attacks against their papers' equations, and on models that differ from the surrogate in a known way."""

from dataclasses import dataclass, field

import pytest
import torch

from sparring.attacks import Gallery, Transfer, admix, di_fgsm, mi_fgsm, si_ni_fgsm, ti_fgsm, vmi_fgsm
from sparring.goals import Never, Targeted
from sparring.losses import cross_entropy
from sparring.streams import Streams
from sparring.threats import linf
from sparring.views import Counted, shrink_each

ROWS = 4
X = Streams.of(0, range(ROWS)).uniform(1, 8, 8)
GOAL = Never(torch.tensor([0, 1, 2, 0]))
RNG = Streams.of(1, range(ROWS))
THREAT = linf(0.1)


def model(z):
    weights = Streams.of(2, range(3))
    hidden = torch.tanh(3 * z.flatten(1) @ weights.at("in").normal(64, 20).sum(0) / 8)
    return 3 * hidden @ weights.at("out").normal(20).T


@dataclass(frozen=True)
class Still:
    """A step that goes nowhere, and keeps the gradients that it was given."""

    seen: list = field(default_factory=list, hash=False)

    def init(self, x):
        return None

    def update(self, g, state, i):
        self.seen.append(g)
        return torch.zeros_like(g), None


def slope(copy):
    """The gradient at X of the loss at a copy of it."""
    point = X.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(copy(point)), GOAL).sum(), point)[0]


def gradients(attack, steps=1):
    still = Still()
    Transfer(threat=attack.threat, step=still, copies=attack.copies, now=attack.now, before=attack.before, steps=steps)(
        model, X, GOAL, RNG
    )
    return still.seen


def test_the_gradient_of_si_is_the_mean_over_the_scales_of_the_image():
    expected = sum(slope(lambda z, i=i: z / 2**i) for i in range(5)) / 5
    torch.testing.assert_close(gradients(si_ni_fgsm(THREAT))[0], expected)


def test_darker_means_nearer_to_the_lower_bound():
    (halved,) = si_ni_fgsm(linf(0.1, low=-1.0, high=1.0), scales=2).copies
    assert halved(torch.tensor([1.0, -1.0, 0.0]), RNG).tolist() == [0.0, -1.0, -0.5]


def test_the_gradient_of_vmi_is_the_points_own_and_the_variance_of_the_step_before():
    first, second = gradients(vmi_fgsm(THREAT, neighbours=3), steps=2)
    own = slope(lambda z: z)
    open_ball = linf(0.15, low=-torch.inf, high=torch.inf)
    neighbours = [open_ball.sample(X, RNG.at(0).at(j)) for j in range(3)]
    around = sum(slope(lambda z, n=n: n + 0 * z + (z - z.detach())) for n in neighbours) / 3
    torch.testing.assert_close(first, own)
    torch.testing.assert_close(second, own + (around - own))


def test_the_gradient_of_di_is_half_the_points_own_and_half_that_of_a_shrunk_copy():
    expected = (slope(lambda z: z) + slope(lambda z: shrink_each(z, RNG.at(0).at(0)))) / 2
    torch.testing.assert_close(gradients(di_fgsm(THREAT))[0], expected)


def test_the_gradient_of_admix_is_the_mean_over_mixes_at_every_scale():
    gallery = Gallery(Streams.of(9, range(6)).uniform(1, 8, 8))
    (seen,) = gradients(admix(THREAT, scales=2, mixes=2, pool=gallery))
    draws = [gallery(X, RNG.at(0).at(j)) for j in range(4)]
    mixed = [slope(lambda z, n=n, s=s: (z + 0.2 * n) / s) for n, s in zip(draws, (1, 1, 2, 2), strict=True)]
    torch.testing.assert_close(seen, (slope(lambda z: z) + sum(mixed)) / 5)


def test_galleries_are_equal_when_their_images_are():
    images = Streams.of(9, range(6)).uniform(1, 8, 8)
    assert Gallery(images) == Gallery(images.clone())
    assert hash(Gallery(images)) == hash(Gallery(images.clone()))
    assert Gallery(images) != Gallery(images[:5])
    assert admix(THREAT, pool=Gallery(images)) == admix(THREAT, pool=Gallery(images))
    assert "6 images" in repr(admix(THREAT, pool=Gallery(images)))
    drawn = Gallery(images)(X, RNG)
    assert all(any(torch.equal(row, image) for image in images) for row in drawn)


@pytest.mark.parametrize(("make", "each"), [(ti_fgsm, 1), (di_fgsm, 2), (si_ni_fgsm, 5), (vmi_fgsm, 6), (admix, 16)])
def test_a_step_costs_what_the_table_says(make, each):
    counted = Counted(model)
    make(THREAT, steps=3)(counted, X, GOAL, RNG)
    assert counted.forward == ROWS * (3 * each + 1)
    assert counted.backward == ROWS * 3 * each


def test_blurred_gradients_hold_for_models_that_see_the_image_shifted_and_others_do_not():
    weights = Streams.of(5, [0]).normal(1, 20, 20)[0]
    x = 0.3 + 0.4 * Streams.of(6, range(6)).uniform(1, 20, 20)

    def lead(z, shift=(0, 0)):
        return (z.roll(shift, (2, 3)) * weights).flatten(1).sum(1)

    def linear(z):
        return torch.stack([-lead(z), lead(z)], 1) / 40

    def gain(attack):
        z = attack(linear, x, Never(torch.zeros(6, dtype=torch.int64)), Streams.of(0, range(6)))
        shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
        gains = torch.stack([lead(z, by) - lead(x, by) for by in shifts])
        return (gains / (0.1 * weights.abs().sum())).mean()

    assert gain(ti_fgsm(THREAT, size=7)) > 0.2
    assert gain(mi_fgsm(THREAT)) < 0.05


@pytest.mark.parametrize("make", [di_fgsm, si_ni_fgsm, vmi_fgsm, admix])
def test_a_target_is_climbed_towards(make):
    goal = Targeted((GOAL.labels + 1) % 3)
    z = make(linf(0.3))(model, X, goal, RNG)
    assert (cross_entropy(model(z), goal) > cross_entropy(model(X), goal)).all()
