"""Transforms do what their names say, by other means."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage
from torch import nn

from sparring.defences.deflection import moved, pixel_deflection, shrunk
from sparring.defences.depth import bit_depth, rounded
from sparring.defences.diffusion import Denoiser, diffusion, signal
from sparring.defences.jpeg import _tables, compressed, cosines, jpeg, softly
from sparring.defences.learning import afresh
from sparring.defences.noise import noise
from sparring.defences.quilting import Quilt, bank_of, quilting
from sparring.defences.replacing import Mean, MeanOfProbabilities, distillation
from sparring.defences.resizing import random_resize
from sparring.defences.shifts import shifts
from sparring.defences.smoothing import (
    alike_mean,
    bell,
    bilateral,
    bilateral_mean,
    gaussian,
    medians,
    near_medians,
    non_local_means,
)
from sparring.defences.thermometer import coded, ramped, thermometer, widened
from sparring.defences.variation import gathered, least_variation, slopes, total_variation, variation
from sparring.errors import BadInput
from sparring.networks import mlp, wong_cnn
from sparring.streams import Streams

GREY = Streams.of(0, range(4)).uniform(1, 13, 10)
COLOUR = Streams.of(1, range(4)).uniform(3, 16, 16)


@pytest.mark.parametrize(("x", "mode"), [(GREY, "L"), (COLOUR, "RGB")])
def test_jpeg_is_pillows(x, mode):
    got = (compressed(x, quality=60) * 255).round().to(torch.uint8)
    for row, one in zip(x, got, strict=True):
        levels = (row * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(2).numpy()
        file = BytesIO()
        Image.fromarray(levels, mode=None).save(file, "JPEG", quality=60)
        read = Image.open(file)
        assert read.mode == mode
        assert np.array_equal(np.asarray(read), one.permute(1, 2, 0).squeeze(2).numpy())


@pytest.mark.parametrize("x", [GREY, COLOUR])
def test_the_jpeg_with_a_gradient_is_pillows_but_for_the_rounding(x):
    smooth = bell(x, sigma=2.0)
    for quality in (95, 75, 30):
        levels = 255 * (softly(smooth, quality=quality) - compressed(smooth, quality=quality)).abs().mean()
        assert levels < 1.5  # rounded softly there, and to whole levels of each pixel in the file


def test_the_waves_of_a_jpeg_are_scipys_and_orthonormal():
    waves = cosines().view(64, 64)
    torch.testing.assert_close(waves @ waves.T, torch.eye(64), atol=1e-6, rtol=0)
    block = GREY[0, 0, :8, :8]
    ours, theirs = (waves @ block.flatten()).view(8, 8), fft.dctn(block.numpy(), norm="ortho")
    assert np.allclose(ours, theirs, atol=1e-5)


def test_what_a_jpeg_throws_away_has_no_slope_and_what_it_keeps_has():
    flat, waves = torch.full((1, 1, 8, 8), 128 / 255), cosines()
    x = flat.clone().requires_grad_()
    (g,) = torch.autograd.grad(softly(x, quality=75)[0, 0, 0, 1], x)
    fine, coarse = ((g * waves[k]).sum().abs() for k in (63, 0))
    assert fine == coarse == 0  # on a multiple of every step: the nearest file is the same
    x = (flat + 0.4 / 255 * _tables(75)[0][9] * waves[9]).requires_grad_()
    (g,) = torch.autograd.grad(softly(x, quality=75)[0, 0, 0, 1], x)
    assert (g * waves[9]).sum().abs() > 100 * (g * waves[63]).sum().abs()


def test_medians_and_blurs_are_scipys():
    for row, mid, soft in zip(GREY, medians(GREY, size=3), bell(GREY, sigma=1.0), strict=True):
        assert np.allclose(ndimage.median_filter(row[0].numpy(), size=3, mode="mirror"), mid[0])
        assert np.allclose(ndimage.gaussian_filter(row[0].numpy(), 1.0, mode="nearest", truncate=3), soft[0], atol=1e-5)


def test_the_stand_in_of_a_median_shares_its_gradient_among_what_is_near_it():
    window = torch.tensor([0.0, 0.49, 0.5, 0.5, 0.5, 0.51, 0.52, 0.9, 1.0]).view(1, 1, 3, 3)
    x = window.clone().requires_grad_()
    (g,) = torch.autograd.grad(near_medians(x, size=3)[0, 0, 1, 1], x)
    torch.testing.assert_close(g.sum(), torch.tensor(1.0))
    assert g.flatten()[1:7].sum() > 0.999
    assert (near_medians(GREY, size=3, reach=1e-5) - medians(GREY, size=3)).abs().max() < 1e-4


def test_the_bilateral_filter_blurs_but_not_across_an_edge():
    step = torch.zeros(1, 1, 9, 9)
    step[..., 5:] = 1
    noise = 0.02 * Streams.of(2, range(1)).normal(1, 9, 9)
    got = bilateral_mean(step + noise, size=5, space=2.0, tone=0.2)
    assert (got - step).abs().max() < 0.04
    assert (got - step).std() < 0.6 * noise.std()
    assert (bell(step, sigma=2.0) - step).abs().max() > 0.3
    averaged = alike_mean(step + noise, patch=3, search=5, h=0.1)
    assert (averaged - step).std() < 0.6 * noise.std()


def test_slopes_and_their_transpose_belong_together():
    p = Streams.of(3, range(2)).normal(4, 1, 13, 10)
    torch.testing.assert_close((slopes(GREY) * p).sum(), -(GREY * gathered(p)).sum(), rtol=1e-4, atol=1e-4)


def test_total_variation_falls_to_where_no_small_change_lowers_the_sum():
    kept = (Streams.of(4, range(4)).uniform(13, 10) < 0.8).unsqueeze(1).float()

    def cost(z):
        return 0.5 * (kept * (z - GREY)).square().flatten(1).sum(1) + 0.1 * variation(z)

    z = least_variation(GREY, kept, weight=0.1, steps=300)
    assert (variation(z) < 0.8 * variation(GREY)).all()
    for k in range(20):
        assert (cost(z) <= cost(z + 0.02 * Streams.of(k, range(4)).normal(1, 13, 10)) + 1e-4).all()
    half = least_variation(GREY, kept, weight=0.1, steps=30)
    assert (cost(half) <= 1.02 * cost(z)).all()


def test_few_bits_are_few_levels():
    assert rounded(GREY, bits=2).unique().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    with pytest.raises(BadInput, match="one or more"):
        bit_depth(bits=0)
    with pytest.raises(BadInput, match="1 to 95"):
        jpeg(quality=0)
    with pytest.raises(BadInput, match="1 or 3 for JPEG"):
        jpeg().defend(lambda x: x)(torch.rand(1, 2, 8, 8))


def test_a_thermometer_counts_the_levels_that_a_value_is_above():
    codes = coded(GREY, levels=8).view(4, 8, 13, 10)
    assert torch.equal(codes.sum(1), (8 * GREY[:, 0]).ceil())
    assert torch.equal(codes, codes.sort(1, descending=True).values)
    ramps = ramped(GREY, levels=8).view_as(codes)
    assert torch.equal(ramps > 0.5, codes > 0.5)
    inside = GREY[:, 0] < 1 - 0.5 / 8
    torch.testing.assert_close(ramps.sum(1)[inside], (8 * GREY[:, 0] + 0.5)[inside])  # one level has a slope at a time
    wide = widened(wong_cnn(), 8)
    assert wide(torch.zeros(1, 8, 28, 28)).shape == (1, 10)
    assert widened(mlp(), 8)(torch.zeros(1, 8, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize(
    ("first", "shape"),
    [
        (nn.Linear(6, 4), (6,)),
        (nn.Conv1d(2, 4, 3), (2, 8)),
        (nn.Conv2d(2, 4, 3, groups=2), (2, 8, 8)),
        (nn.Conv3d(2, 4, 3, bias=False), (2, 5, 5, 5)),
    ],
)
def test_whatever_layer_comes_first_is_told_to_read_the_codes(first, shape):
    x = Streams.of(8, range(3)).uniform(*shape)
    for network in (first, nn.Sequential(first, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))):
        before = network(x)
        assert widened(network, 4)(coded(x, levels=4)).shape == before.shape
        assert torch.equal(network(x), before)


@pytest.mark.parametrize(
    "network",
    [
        nn.Flatten(),
        nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)),
    ],
)
def test_a_network_that_begins_otherwise_has_no_layer_to_read_the_codes(network):
    with pytest.raises(BadInput, match=r"begins with .*first layer"):
        widened(network, 8)


def test_wavelets_without_noise_to_remove_change_nothing_and_pixels_move_a_little():
    x = Streams.of(5, range(3)).uniform(3, 8, 12)
    torch.testing.assert_close(shrunk(x, 0.0), x)
    noisy = 0.5 + 0.05 * Streams.of(6, range(3)).normal(1, 16, 16)
    assert shrunk(noisy, 0.05).std() < 0.5 * noisy.std()
    z = moved(COLOUR, Streams.of(0, range(4)), share=0.1, reach=2)
    assert 0.05 < (z != COLOUR).any(1).float().mean() <= 0.11
    values = [set(map(tuple, one.flatten(1).T.tolist())) for one in (z[0], COLOUR[0])]
    assert values[0] <= values[1]


@pytest.mark.parametrize("side", [1, 2, 4, 5])
def test_pixels_of_small_images_are_deflected_into_the_box(side):
    x = Streams.of(7, range(3)).uniform(1, side, side)
    z = pixel_deflection().clean(x, Streams.of(0, range(3)))
    assert z.min() >= 0
    assert z.max() <= 1  # and not NaN: a variance of one coefficient is none


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (gaussian, {"sigma": 0.0}),
        (gaussian, {"sigma": float("nan")}),
        (shifts, {"reach": -1}),
        (non_local_means, {"patch": 2}),
        (non_local_means, {"h": 0.0}),
        (bilateral, {"tone": 0.0}),
        (bilateral, {"space": float("nan")}),
        (quilting, {"stride": 0}),
        (diffusion, {"steps": 0}),
        (distillation, {"temperature": 0.0}),
        (noise, {"sigma": float("nan")}),
        (pixel_deflection, {"sigma": -0.1}),
        (pixel_deflection, {"reach": -1}),
        (total_variation, {"keep": 0.0}),
        (total_variation, {"keep": float("nan")}),
        (total_variation, {"steps": 0}),
        (pixel_deflection, {"share": 2.0}),
        (total_variation, {"weight": 0.0}),
        (noise, {"draws": 0}),
        (random_resize, {"draws": -1}),
        (random_resize, {"smallest": 0.0}),
        (random_resize, {"smallest": 1.5}),
        (thermometer, {"levels": 0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, settings):
    with pytest.raises(BadInput, match="; need "):
        make(**settings)


def test_a_quilt_of_an_images_own_patches_is_the_image():
    x = GREY[:1]
    patches = torch.nn.functional.unfold(x, 4).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(Quilt(patches, 4, 3)(x), x)
    bank = bank_of(GREY, 30, 4)
    assert bank.shape == (30, 16)
    assert torch.equal(bank, bank_of(GREY, 30, 4))
    for meet in (lambda: bank_of(GREY, 30, 11), lambda: Quilt(bank, 4, 3)(GREY[..., :3])):
        with pytest.raises(BadInput, match="no larger than the image"):
            meet()


@pytest.mark.parametrize("sides", [(1, 1), (4, 5), (13, 10), (30, 30)])
def test_a_denoiser_takes_images_of_any_size(sides):
    z = Streams.of(9, range(3)).normal(2, *sides)
    with torch.no_grad():
        assert Denoiser(2)(z).shape == z.shape


@pytest.mark.parametrize("clean", [lambda x: compressed(x, quality=60), Quilt(torch.rand(5, 16), 4, 3)])
def test_no_images_give_no_images(clean):
    assert clean(GREY[:0]).shape == GREY[:0].shape


def test_image_and_noise_share_one_variance():
    kept, added = signal(torch.linspace(0, 1, 5))
    torch.testing.assert_close(kept.square() + added.square(), torch.ones(5, 1, 1, 1))
    assert kept[0] == 1
    assert kept[-1].abs() < 1e-6


def test_a_mean_of_probabilities_is_one_and_fresh_weights_come_from_the_seed():
    nets, x = [mlp(0), mlp(1)], torch.rand(3, 1, 28, 28)
    want = (nets[0](x).softmax(1) + nets[1](x).softmax(1)) / 2
    torch.testing.assert_close(MeanOfProbabilities(nets)(x).exp(), want)
    torch.testing.assert_close(Mean(nets)(x), (nets[0](x) + nets[1](x)) / 2)
    assert torch.equal(afresh(nets[0], 5)(x), afresh(nets[1], 5)(x))
    assert not torch.equal(afresh(nets[0], 5)(x), afresh(nets[0], 6)(x))


def test_no_share_moves_no_pixel() -> None:
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(moved(x, Streams.of(0, range(3)), share=0.0, reach=2), x)
    assert ((moved(x, Streams.of(0, range(3)), share=1e-6, reach=2) != x).flatten(1).sum(1) <= 1).all()


def test_patches_leave_no_gaps_between_them() -> None:
    with pytest.raises(BadInput, match="no gaps"):
        quilting(size=2, stride=3)
