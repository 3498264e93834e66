"""Folders of recordings, and the spoken digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from sparring.data import first, fsdd, load, load_sounds
from sparring.data.sounds import sixteen_bits
from sparring.errors import BadInput
from sparring.evaluate.run import as_stored
from sparring.threats import linf


def recording(file, values, rate=8000):
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, rate, values)


def tone(seconds, rate=8000, hertz=440):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "words"
    recording(root / "stop" / "a.wav", np.array([0, 16384, -32768, 32767], dtype=np.int16))
    recording(root / "go" / "b.wav", np.array([0.25, -0.5], dtype=np.float32))
    return root


def refusal(spec):
    with pytest.raises(BadInput) as error:
        load(str(spec))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_subfolders_are_classes_and_levels_lie_between_minus_one_and_one(folder):
    data = load(str(folder))
    x, y = data.take([0, 1])
    assert (data.name, data.classes, y.tolist()) == ("words", ("go", "stop"), [0, 1])
    assert x.tolist() == [[0.25, -0.5, 0, 0], [0, 0.5, -1, 32767 / 32768]]
    assert x.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.array([0, 128, 255], dtype=np.uint8), [-1, 0, 127 / 128]),
        (np.array([-(2**31), 0, 2**30], dtype=np.int32), [-1, 0, 0.5]),
        (np.array([[0.5, 0.0], [-1.0, 1.0], [1.0, 1.0]], dtype=np.float32), [0.25, 0, 1]),
    ],
    ids=["8 bits", "32 bits", "two channels"],
)
def test_every_kind_of_wav_file_is_read(tmp_path, values, levels):
    recording(tmp_path / "a" / "1.wav", values)
    assert load(str(tmp_path)).take([0])[0][0].tolist() == pytest.approx(levels)


def test_recordings_of_other_rates_are_resampled_to_that_of_most_and_it_is_said(tmp_path):
    for name, rate in (("1", 8000), ("2", 8000), ("3", 16000), ("4", 11025)):
        recording(tmp_path / "a" / f"{name}.wav", tone(0.5, rate), rate)
    data = load(str(tmp_path))
    x, _ = data.take(range(4))
    assert data.notes == ("2 of 4 recordings were resampled to 8000 Hz",)
    assert x.shape == (4, 4000)
    torch.testing.assert_close(x[2:, 200:-200], x[:2, 200:-200], rtol=0, atol=0.005)


def test_recordings_are_cut_or_filled_with_silence_to_the_length_asked_for(tmp_path):
    recording(tmp_path / "a" / "1.wav", tone(0.2))
    recording(tmp_path / "a" / "2.wav", tone(0.7))
    data = load_sounds(tmp_path, seconds=0.5)
    x, _ = data.take([0, 1])
    assert x.shape == (2, 4000)
    assert (x[0, 1600:] == 0).all()
    assert data.notes == ("1 of 2 recordings were cut to 0.5 seconds",)
    assert load_sounds(tmp_path, rate=4000, seconds=0.5).take([0])[0].shape == (1, 2000)


def test_a_table_of_labels_and_splits_work_as_for_images(tmp_path):
    recording(tmp_path / "set" / "train" / "yes" / "1.wav", tone(0.1))
    recording(tmp_path / "set" / "test" / "no" / "2.wav", tone(0.1))
    assert load(str(tmp_path / "set")).classes == ("no", "yes")
    assert load(f"{tmp_path / 'set'}:train").take([0])[1].tolist() == [1]
    recording(tmp_path / "table" / "x.wav", tone(0.1))
    (tmp_path / "table" / "labels.csv").write_text("file,label\nx.wav,yes\n")
    assert load(str(tmp_path / "table")).classes == ("yes",)


def test_what_is_no_recording_is_refused_in_one_line(folder, tmp_path):
    (folder / "go" / "c.wav").write_bytes(b"RIFF, but not really")
    assert "c.wav' cannot be read" in refusal(folder)
    (folder / "go" / "c.wav").write_bytes((folder / "stop" / "a.wav").read_bytes()[:20])
    assert "c.wav' cannot be read" in refusal(folder)
    recording(folder / "go" / "c.wav", np.zeros(0, dtype=np.int16))
    assert "no sound in it" in refusal(folder)
    recording(folder / "go" / "c.wav", np.array([np.nan], dtype=np.float32))
    with pytest.raises(BadInput, match="NaN"):
        load(str(folder)).take([0, 1])
    for settings in ({"rate": 0}, {"seconds": 0.0}, {"seconds": float("nan")}):
        with pytest.raises(BadInput, match=next(iter(settings)).replace("seconds", "length")):
            load_sounds(folder, **settings)


def test_sounds_are_stored_in_16_bits_and_a_subset_of_them_too(folder):
    data = load(str(folder))
    z = torch.tensor([[0.3, -1.0, 1.0, 0.4 / 32768]])
    stored = as_stored(z, linf(0.1, low=-1), first(data, 1))
    assert torch.equal(stored, sixteen_bits(z))
    assert (stored * 32768).tolist() == [[round(0.3 * 32768), -32768, 32767, 0]]
    assert torch.equal(sixteen_bits(stored), stored)
    x, _ = data.take([0, 1])
    assert torch.equal(sixteen_bits(x), x)


def test_the_spoken_digits_have_the_official_split_and_go_from_take_to_take(sparring_data):
    train, test = fsdd("train"), load("fsdd")
    assert (train.name, test.name, len(train), len(test)) == ("fsdd:train", "fsdd:test", 2700, 300)
    x, y = test.take(range(60))
    assert x.shape == (60, 8000)
    assert (y.bincount() == 6).all()
    assert 0.5 < x.abs().max() <= 1
    assert torch.equal(sixteen_bits(x), x)
    rows = {row.numpy().tobytes() for part in (train, test) for row in part.take(range(len(part)))[0]}
    assert len(rows) >= 2990  # two or three were recorded twice


def test_without_the_file_the_spoken_digits_say_where_it_belongs(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"fsdd\.npz in SPARRING_DATA"):
        fsdd()
    with pytest.raises(BadInput, match="train or test"):
        fsdd("dev")
