"""Spectrograms in mel, checked against numpy, scipy and Hugging Face."""

import numpy as np
import pytest
import torch
from scipy import fft

from sparring.domains.speech.features import MFCC, SCALES, LogMel, Mel, mel_filters
from sparring.domains.speech.networks import keyword_spotter
from sparring.errors import BadInput
from sparring.streams import Streams


def sounds(count=2, length=2000):
    return 0.1 * Streams.of(0, range(count)).normal(length)


def test_scales_agree_with_what_is_known_of_them():
    hertz = torch.tensor([0.0, 200.0, 1000.0, 6400.0], dtype=torch.float64)
    assert SCALES["slaney"].mel(hertz).tolist() == pytest.approx([0, 3, 15, 42])
    assert SCALES["htk"].mel(hertz)[2].item() == pytest.approx(999.9855, abs=1e-3)  # 1000 Hz is 1000 mel, nearly
    for scale in SCALES.values():
        torch.testing.assert_close(scale.hertz(scale.mel(hertz)), hertz)


def test_triangles_overlap_by_half_and_peak_at_one():
    filters = mel_filters(8000, 2048, 20, low=100.0).double()
    between = filters.argmax(1)[[0, -1]].tolist()
    inside = filters[:, between[0] + 1 : between[1]].sum(0)
    torch.testing.assert_close(inside, torch.ones_like(inside), atol=1e-6, rtol=0)
    assert (filters.amax(1) > 0.9).all()
    slaney = mel_filters(8000, 2048, 20, scale="slaney")
    area = slaney.sum(1) * 8000 / 2048
    torch.testing.assert_close(area, torch.ones(20), atol=0.02, rtol=0)


def test_energies_are_those_of_a_transform_written_out():
    mel = Mel(8000, n_fft=64, hop=20, mels=6, low=50.0)
    x = sounds(1, 200)
    wide = np.pad(x[0].double().numpy(), 32, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    frames = np.stack([wide[i : i + 64] * window for i in range(0, len(wide) - 63, 20)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = mel.filters.double().numpy() @ power.T
    assert mel(x).shape == (1, 6, 200 // 20 + 1)
    np.testing.assert_allclose(mel(x)[0].numpy(), expected, rtol=1e-4, atol=1e-6)


def test_coefficients_are_an_orthonormal_cosine_transform():
    log_mel = LogMel(Mel(8000, n_fft=256, hop=128, mels=24))
    x = sounds()
    expected = fft.dct(log_mel(x).numpy(), type=2, norm="ortho", axis=1)[:, :13]
    np.testing.assert_allclose(MFCC(log_mel)(x).numpy(), expected, atol=1e-4)


def test_gradients_are_right_and_finite_where_there_is_silence():
    features = MFCC(LogMel(Mel(8000, n_fft=64, hop=32, mels=8)), coefficients=5)
    assert torch.autograd.gradcheck(features, (sounds(2, 100).double().requires_grad_(),), fast_mode=True)
    x = torch.zeros(1, 100, requires_grad=True)
    features(x).sum().backward()
    assert x.grad.isfinite().all()


def test_a_sound_is_heard_alike_alone_and_in_company_and_of_any_length():
    network = keyword_spotter().eval()
    x = sounds(5, 8000)
    assert network(x).shape == (5, 10)
    torch.testing.assert_close(network(x[2:3]), network(x)[2:3], atol=1e-5, rtol=1e-5)
    assert network(x[:, :3000]).shape == (5, 10)
    assert torch.equal(keyword_spotter(0).named.weight, keyword_spotter(0).named.weight)
    assert keyword_spotter(classes=12, rate=16000)(sounds(1, 16000)).shape == (1, 12)


def test_what_is_no_spectrogram_is_refused_in_one_line():
    for make, said in (
        (lambda: mel_filters(8000, 256, 20, high=5000.0), "Hz"),
        (lambda: mel_filters(8000, 256, 20, scale="bark"), "htk, slaney"),
        (lambda: mel_filters(8000, 64, 60), "fewer mels"),
        (lambda: MFCC(LogMel(Mel(8000, n_fft=256, hop=128, mels=8)), coefficients=9), "coefficients"),
        (lambda: Mel(8000, n_fft=256, hop=128, mels=8)(torch.zeros(1, 1, 8000)), "waveforms"),
        (lambda: Mel(8000, n_fft=256, hop=128, mels=8)(torch.zeros(1, 128)), "more than 128 samples"),
    ):
        with pytest.raises(BadInput, match=said) as refusal:
            make()
        assert "\n" not in str(refusal.value)


@pytest.mark.frameworks
@pytest.mark.parametrize(("scale", "norm"), [("htk", None), ("slaney", "slaney")])
@pytest.mark.parametrize(("n_fft", "mels"), [(400, 40), (1024, 80)])
def test_filters_are_those_of_hugging_face(scale, norm, n_fft, mels):
    audio_utils = pytest.importorskip("transformers.audio_utils")
    theirs = audio_utils.mel_filter_bank(n_fft // 2 + 1, mels, 20.0, 8000.0, 16000, norm=norm, mel_scale=scale).T
    np.testing.assert_allclose(mel_filters(16000, n_fft, mels, low=20.0, scale=scale).numpy(), theirs, atol=1e-7)
