"""Augmentations: each row by its own stream, and nothing but what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.registry import members
from sparring.streams import Streams
from sparring.training.augmentations import Mixup, cutout, each, flips, shifts, turns
from sparring.training.schedules import RAMPS, cosine, linear


def images(count: int = 64, size: int = 12) -> tuple[Tensor, Streams]:
    rng = Streams.of(3, range(count))
    return 0.1 + 0.9 * rng.at("x").uniform(2, size, size), rng


@pytest.mark.parametrize("name", members("augmentations"))
def test_an_augmentation_keeps_shape_and_box_and_gives_a_row_alone_what_it_gives_it_among_others(name: str) -> None:
    x, rng = images()
    given, augment = x.clone(), members("augmentations")[name].make()
    z = augment(x, rng)
    assert z.shape == x.shape
    assert 0 <= float(z.min()) <= float(z.max()) <= 1
    assert torch.equal(x, given)
    assert not torch.equal(z, x)
    assert torch.equal(z, augment(x, rng))
    rows = torch.tensor([7, 3, 40])
    assert torch.equal(augment(x[rows], rng[rows]), z[rows])


def test_shifts_move_each_image_and_lose_nothing_but_the_border() -> None:
    x, rng = images()
    moved = shifts(1)(x, rng)
    candidates = torch.stack([torch.roll(x, (i, j), (2, 3)) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    inner = (candidates - moved)[..., 1:-1, 1:-1].flatten(2).abs().amax(2)
    assert (inner.amin(0) == 0).all()
    assert len(inner.argmin(0).unique()) == 9


def test_about_every_other_image_is_mirrored() -> None:
    x, rng = images(400)
    z = flips()(x, rng)
    mirrored, same = ((z == v).flatten(1).all(1) for v in (x.flip(3), x))
    assert (mirrored | same).all()
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(flips(1.0)(x, rng), x.flip(3))
    assert torch.equal(flips(0.0)(x, rng), x)


def test_a_square_is_hidden_and_the_rest_stays() -> None:
    x, rng = images(300)
    z = cutout(4, fill=0.05)(x, rng)
    hidden = z == 0.05
    assert torch.equal(hidden[:, 0], hidden[:, 1])
    assert torch.equal(z[~hidden], x[~hidden])
    height, width = (hidden[:, 0].any(axis).sum(1) for axis in (2, 1))
    assert torch.equal(hidden[:, 0].flatten(1).sum(1), height * width)
    assert int(height.max()) == int(width.max()) == 4
    assert int(height.min()) == int(width.min()) == 2
    assert hidden.any(0).all()


def test_images_are_turned_and_resized_about_their_middle() -> None:
    x, rng = images(200, size=13)
    disc = (torch.linspace(-1, 1, 13).square() + torch.linspace(-1, 1, 13).square().unsqueeze(1) < 0.5).float()
    assert torch.allclose(turns(0.0, 0.0)(x, rng), x, atol=1e-5)
    turned = turns(180.0, 0.0)(disc.expand(200, 1, 13, 13), rng)
    assert float((turned - disc).abs().mean()) < 0.08, "a disc is the same from all sides"
    areas = turns(0.0, 0.5)(disc.expand(200, 1, 13, 13), rng).flatten(1).sum(1) / disc.sum()
    assert 0.2 < float(areas.min()) < 0.5
    assert 1.5 < float(areas.max()) < 2.4


def test_augmentations_follow_each_other_with_streams_of_their_own() -> None:
    x, rng = images()
    both = each(shifts(2), cutout(4))
    assert torch.equal(both(x, rng), cutout(4)(shifts(2)(x, rng.at(0)), rng.at(1)))
    assert torch.equal(each()(x, rng), x)


def unused(network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
    return x.sum()


def test_a_mixture_lies_between_two_examples_and_so_do_its_labels() -> None:
    x, rng = images(40)
    labels = torch.arange(40)
    mixed, shares = Mixup(unused, 40, alpha=1.0).mixed(x, labels, rng)
    assert torch.allclose(shares.sum(1), torch.ones(40))
    assert ((shares > 0).sum(1) <= 2).all()
    assert torch.allclose(mixed.flatten(1), shares @ x.flatten(1), atol=1e-6)
    kept = shares[labels, labels]
    assert 0.3 < float(kept.mean()) < 0.7
    assert float(kept.std()) > 0.2
    partners = shares.fill_diagonal_(-1).argmax(1)
    assert len(partners.unique()) == 40


def test_a_small_alpha_leaves_most_examples_nearly_alone() -> None:
    x, rng = images(400)
    shares = Mixup(unused, 10, alpha=0.05).mixed(x, torch.arange(400) % 10, rng)[1]
    assert float((shares.amax(1) > 0.99).float().mean()) > 0.6
    with pytest.raises(BadInput, match="alpha = 0"):
        Mixup(unused, 10, alpha=0.0)


def test_a_single_row_is_mixed_with_itself() -> None:
    x, rng = images(1)
    mixed, shares = Mixup(unused, 3).mixed(x, torch.tensor([2]), rng)
    assert torch.allclose(mixed, x)
    assert shares.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize("name", RAMPS)
def test_ramps_climb_from_nothing_to_the_whole_threat(name: str) -> None:
    ramp = RAMPS[name]
    values = [ramp(i / 20, share=0.5) for i in range(21)]
    assert values[0] == 0
    assert values[10:] == [1.0] * 11
    assert values == sorted(values)
    assert values[5] == pytest.approx(0.5)
    assert ramp(0.0, share=0.0) == 1.0
    assert linear(0.1, share=0.5) == pytest.approx(0.2)
    assert cosine(0.1, share=0.5) < 0.2


@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)])
def test_oblong_images_are_turned_by_the_same_angles(shape: tuple[int, int]) -> None:
    """Of a bar through the middle, by the moments of what is left of it."""
    down, across = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in shape)
    bar = ((down.unsqueeze(1).abs() < 2) & (across.abs() < 12)).double().expand(20, 1, *shape)
    seen = turns(10.0, 0.0)(bar, Streams.of(0, range(20)))[:, 0]
    mass = seen.sum((1, 2))
    i, j = down.unsqueeze(1).expand(shape), across.expand(shape)
    both, flat, steep = ((seen * part).sum((1, 2)) / mass for part in (i * j, j * j, i * i))
    angles = torch.rad2deg(0.5 * torch.atan2(2 * both, flat - steep))
    drawn = 10 * (2 * Streams.of(0, range(20)).at("turn").uniform(2)[:, 0] - 1)
    assert torch.allclose(angles.abs(), drawn.abs().double(), atol=0.3)
