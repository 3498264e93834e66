"""Threats that no norm describes, on models and images whose worst case is known: by brute force or in closed form."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from sparring.attacks import corruption_table, corruptions, patch, pose_grid, pose_random, recoloradv, stadv
from sparring.data.arrays import Arrays
from sparring.domains.images.corruptions import KINDS, blurred, corrupted
from sparring.domains.images.patches import patch as square
from sparring.domains.images.patches import side_of
from sparring.domains.images.threats import Corruption, Flow, Pose, Recolour
from sparring.goals import Never
from sparring.losses import margin
from sparring.streams import Streams


def linear(shape, seed=0):
    """Two logits, half of `<w, z>` apart each way: the margin of class 0 is `<w, z>`."""
    w = Streams.of(seed, [99]).normal(*shape)

    def model(z):
        lead = (z * w).flatten(1).sum(1)
        return torch.stack([-lead / 2, lead / 2], 1)

    return model, w


def noise(shape, count, seed=1):
    return Streams.of(seed, range(count)).uniform(*shape)


def gain(model, attack, x, seed=0):
    goal = Never(torch.zeros(len(x), dtype=torch.int64))
    z = attack(model, x, goal, Streams.of(seed, range(len(x))))
    assert attack.threat.contains(z, x).all()
    return margin(model(z), goal) - margin(model(x), goal)


def brute(model, threat, x):
    goal = Never(torch.zeros(len(x), dtype=torch.int64))
    members = [threat.member(x, torch.full((len(x),), i)) for i in range(len(threat.sizes))]
    return torch.stack([margin(model(z), goal) for z in members]).amax(0) - margin(model(x), goal)


# Poses


def test_a_quarter_turn_and_a_whole_move_are_what_they_are_called():
    x = noise((2, 7, 7), 1)
    threat = Pose(90.0, 2 / 7, angles=3, places=3)
    members = {
        (round(turn), round(7 * down), round(7 * right)): threat.member(x, torch.tensor([i]))
        for i, (_, turn, down, right) in enumerate(threat.poses)
    }
    assert len(members) == 27
    torch.testing.assert_close(members[90, 0, 0], x.rot90(-1, (2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(members[-90, 0, 0], x.rot90(1, (2, 3)), atol=1e-6, rtol=0)
    moved = torch.zeros_like(x)
    moved[:, :, 2:, :-2] = x[:, :, :-2, 2:]
    torch.testing.assert_close(members[0, 2, -2], moved, atol=1e-6, rtol=0)


def test_poses_agree_with_scipy():
    x, threat = noise((1, 9, 9), 1), Pose(30.0, 0.1)
    for i in (60, 300, 774):
        _, turn, down, right = threat.poses[i]
        a, centre = np.deg2rad(turn), np.array([4.0, 4.0])
        back = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        shift = centre - back @ (centre + 9 * np.array([down, right]))
        wide = ndimage.affine_transform(
            np.pad(x[0, 0].double().numpy(), 5), back, shift + 5 - back @ [5, 5], order=1, output_shape=(19, 19)
        )
        z = threat.member(x, torch.tensor([i]))
        np.testing.assert_allclose(z[0, 0].numpy(), wide[5:-5, 5:-5], atol=1e-5)


def test_the_grid_of_poses_holds_the_worst_that_trying_all_finds():
    (model, _), x, threat = linear((1, 8, 8)), noise((1, 8, 8), 6), Pose(25.0, 0.2, angles=7, places=5)
    best = brute(model, threat, x)
    torch.testing.assert_close(gain(model, pose_grid(threat), x), best)
    few = gain(model, pose_random(threat), x)
    assert (few <= best + 1e-6).all()
    assert (few > 0.3 * best).float().mean() > 0.6
    assert (gain(model, pose_random(threat, draws=100), x) >= few - 1e-6).all()


# Flows


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.parametrize("pixels", [0.5, 1.0, 1.6])
def test_a_flow_reaches_the_best_that_every_pixel_can_show(shape, pixels):
    """On a linear model pixels do not meet: the optimum is the sum over pixels of the best place in reach of each."""
    (model, w), x = linear(shape), noise(shape, 4)
    line = torch.linspace(-pixels, pixels, 17).tolist() + [-1.0, 0.0, 1.0] * (pixels >= 1)
    best = torch.zeros(4, *shape[1:])
    for down, across in itertools.product(line, line):
        moved = torch.from_numpy(
            np.stack(
                [
                    [ndimage.map_coordinates(c, places(8, down, across), order=1, mode="nearest") for c in image]
                    for image in x.double().numpy()
                ]
            )
        )
        best = torch.maximum(best, (w * (moved - x)).sum(1))
    got = gain(model, stadv(Flow(pixels)), x) / best.flatten(1).sum(1)
    assert (got > 0.98).all(), got
    assert (got < 1.02).all(), got


def places(size, down, across):
    i, j = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    return [np.clip(i + down, 0, size - 1), np.clip(j + across, 0, size - 1)]


def test_a_smooth_flow_is_one():
    """A ramp on which the whole image should move one way: it does, and the price of an uneven flow changes nothing."""
    ramp = torch.linspace(0.2, 0.8, 9).view(1, 1, 1, 9).expand(2, 1, 9, 9).contiguous()

    def model(z):
        lead = z.flatten(1).sum(1)
        return torch.stack([-lead / 2, lead / 2], 1)

    step = 0.6 / 8
    for smooth in (0.0, 0.05, 10.0):
        got = gain(model, stadv(Flow(1.0), smooth=smooth), ramp)
        torch.testing.assert_close(got, torch.full((2,), 9 * 8 * step), rtol=1e-4, atol=0)


# Colours


def test_a_tone_curve_reaches_the_optimum_on_a_few_greys():
    (model, w), levels = linear((1, 10, 10)), torch.tensor([0, 60, 120, 180, 255]) / 255
    pick = Streams.of(3, range(4)).integers(5, 1, 10, 10)
    x, eps = levels[pick], 0.1
    best = torch.zeros(4)
    for level in range(5):
        pull = (w * (pick == level)).flatten(1).sum(1)
        up, down = min(eps, 1 - levels[level].item()), min(eps, levels[level].item())
        best += torch.maximum(pull * up, -pull * down)
    got = gain(model, recoloradv(Recolour(eps)), x) / best
    assert (got > 0.98).all(), got
    assert (got < 1.001).all(), got


def test_colours_of_a_small_palette_move_each_for_itself():
    palette = (torch.tensor(list(itertools.product((2, 7, 12), repeat=3))) / 15)[::4]  # 7 colours on the grid of 16
    pick = Streams.of(4, range(3)).integers(len(palette), 12, 12)
    x = palette[pick].movedim(3, 1).contiguous()
    (model, w), eps = linear((3, 12, 12)), 0.05
    best = torch.zeros(3)
    for colour in range(len(palette)):
        best += eps * (w * (pick == colour).unsqueeze(1)).flatten(2).sum(2).abs().sum(1)
    got = gain(model, recoloradv(Recolour(eps)), x) / best
    assert (got > 0.98).all(), got
    assert (got < 1.001).all(), got


# Patches


def test_a_patch_is_put_where_it_does_most():
    (model, w), x, threat = linear((3, 9, 9)), noise((3, 9, 9), 5), square(0.12)
    assert side_of(threat.eps, x) == 3
    worth = (w.abs() * torch.where(w > 0, 1 - x, x)).sum(1)
    best = torch.nn.functional.avg_pool2d(worth.unsqueeze(1), 3, 1).flatten(1).amax(1) * 9
    got = gain(model, patch(threat), x) / best
    assert (got > 0.999).all(), got
    assert (got < 1.001).all(), got


@pytest.mark.parametrize(("shape", "share", "side"), [((3, 8, 64), 0.25, 11), ((1, 40, 4), 0.5, 8)], ids=str)
def test_a_patch_larger_than_the_image_one_way_is_put_where_it_does_most(shape, share, side):
    (model, w), x, threat = linear(shape), noise(shape, 4), square(share)
    assert side_of(threat.eps, x) == side
    worth = (w.abs() * torch.where(w > 0, 1 - x, x)).sum(1)
    window = min(side, shape[1]), min(side, shape[2])
    best = torch.nn.functional.avg_pool2d(worth.unsqueeze(1), window, 1).flatten(1).amax(1) * window[0] * window[1]
    got = gain(model, patch(threat), x) / best
    assert (got > 0.999).all(), got
    assert (got < 1.001).all(), got


# Corruptions


def test_there_are_fifteen_at_five_severities_and_each_grows():
    x = ndimage.gaussian_filter(Streams.of(0, range(16)).uniform(3, 32, 32).numpy(), (0, 0, 3, 3))
    x = torch.from_numpy((x - x.min()) / (x.max() - x.min()))
    threat = Corruption(5)
    assert len(KINDS) == 15
    for kind in KINDS:
        size = [(threat.corrupted(x, kind, severity) - x).square().mean().sqrt().item() for severity in range(1, 6)]
        assert size[0] > 1e-4, kind
        if kind not in ("glass-blur", "elastic"):  # whose constants do not all grow
            assert size[4] > 1.2 * size[0], (kind, size)


def test_the_worst_corruption_is_what_trying_all_finds():
    (model, _), x, threat = linear((1, 10, 10)), noise((1, 10, 10), 3), Corruption(2)
    torch.testing.assert_close(gain(model, corruptions(threat), x), brute(model, threat, x))


def test_an_image_has_its_own_noise_and_only_one():
    x = noise((1, 12, 12), 4)
    same = torch.cat([x, x])
    z = Corruption(3).corrupted(same, "gaussian-noise", 3) - same
    assert torch.equal(z[:4], z[4:])
    assert not torch.allclose(z[0], z[1], atol=1e-3)
    assert not torch.equal(Corruption(3, seed=1).corrupted(x, "gaussian-noise", 3), z[:4] + x)


def test_noise_has_the_published_size():
    grey, rng = torch.full((40, 1, 32, 32), 0.5), Streams.of(0, range(40))
    for severity, deviation in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        assert corrupted(grey, "gaussian-noise", severity, rng).std().item() == pytest.approx(deviation, rel=0.03)
    for severity, photons in enumerate((500, 250, 100, 75, 50), 1):
        z = corrupted(grey, "shot-noise", severity, rng) * photons
        torch.testing.assert_close(z, z.round(), atol=1e-3, rtol=0)
        assert z.mean().item() == pytest.approx(photons / 2, rel=0.01)
        assert z.var().item() == pytest.approx(photons / 2, rel=0.05)
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        z = corrupted(grey, "impulse-noise", severity, rng)
        assert (z != 0.5).float().mean().item() == pytest.approx(share, rel=0.1)
        assert (z == 1).sum().item() == pytest.approx((z == 0).sum().item(), rel=0.2)
    assert (corrupted(torch.zeros(2, 1, 32, 32), "shot-noise", 5, rng[torch.arange(2)]) == 0).all()


def test_what_has_a_formula_follows_it():
    x, rng = noise((3, 32, 32), 3), Streams.of(0, range(3))
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupted(x, "contrast", 4, rng), (x - mean) * 0.3 + mean)
    brighter = corrupted(x, "brightness", 2, rng)
    torch.testing.assert_close(brighter.amax(1), (x.amax(1) + 0.1).clamp(max=1))
    torch.testing.assert_close(brighter.amin(1) / brighter.amax(1), x.amin(1) / x.amax(1))  # saturation stays
    fog = corrupted(x, "fog", 5, rng)
    assert (fog.flatten(1).amax(1) <= x.flatten(1).amax(1) + 1e-6).all()
    assert fog.std() < x.std()


def test_blur_agrees_with_scipy_and_pixels_with_pillow():
    x, rng = noise((1, 32, 32), 2), Streams.of(0, range(2))
    ours = blurred(x, 1.7)
    np.testing.assert_allclose(
        ours.numpy(), ndimage.gaussian_filter(x.numpy(), (0, 0, 1.7, 1.7), mode="mirror"), atol=1e-5
    )
    z = corrupted(x, "pixelate", 5, rng)
    small = Image.fromarray(x[0, 0].numpy()).resize((20, 20), Image.Resampling.BOX)  # int(32 * 0.65)
    np.testing.assert_allclose(z[0, 0].numpy(), np.asarray(small.resize((32, 32), Image.Resampling.BOX)), atol=1e-5)
    colour = noise((3, 32, 32), 1)
    file = io.BytesIO()
    bytes_ = (colour[0] * 255).round().byte().movedim(0, 2).numpy()
    Image.fromarray(bytes_).save(file, "JPEG", quality=58)
    stored = torch.from_numpy(np.asarray(Image.open(file)).copy()).movedim(2, 0) / 255
    torch.testing.assert_close(corrupted(colour, "jpeg", 3, rng)[0], stored)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (4, 6, 6), (3, 100, 90)], ids=str)
def test_every_corruption_takes_images_of_any_size(shape):
    x, rng = noise(shape, 2), Streams.of(0, range(2))
    for kind in KINDS:
        z = corrupted(x, kind, 3, rng)
        assert z.shape == x.shape, kind
        assert z.isfinite().all(), kind
        assert ((z >= 0) & (z <= 1)).all(), kind


def test_the_table_has_the_accuracy_under_each():
    x = noise((1, 12, 12), 30)
    y = (x.flatten(1).mean(1) > 0.5).long()

    def model(z):
        lead = 100 * (z.flatten(1).mean(1) - 0.5)
        return torch.stack([-lead, lead], 1)

    table = corruption_table(model, Arrays("noise", x.numpy(), y.numpy()), batch_size=7)
    assert list(table) == list(KINDS)
    assert all(len(row) == 5 for row in table.values())
    assert table["contrast"] == (1.0,) * 5  # the mean stays
    bright = [((x + c).clamp(max=1).flatten(1).mean(1) > 0.5).long() for c in (0.05, 0.1, 0.15, 0.2, 0.3)]
    assert table["brightness"] == pytest.approx([(each == y).float().mean().item() for each in bright])
