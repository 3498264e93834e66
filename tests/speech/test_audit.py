"""A keyword spotter from the data to the verdict, on real recordings, and from the command line."""

import numpy as np
import pytest
import torch

import sparring
from sparring.cli import main
from sparring.data import Arrays, first, fsdd
from sparring.data.sounds import sixteen_bits
from sparring.domains.speech.networks import keyword_spotter
from sparring.domains.speech.threats import decibels, snr
from sparring.evaluate.doctor import examine
from sparring.models import adopt
from sparring.training import adversarial, fit, standard


@pytest.fixture(scope="module")
def spotter(sparring_data):
    network = fit(keyword_spotter(width=8), first(fsdd("train"), 900), standard, epochs=5, batch_size=32, lr=1e-2)
    return network.eval().requires_grad_(False)


@pytest.mark.slow
def test_an_audit_within_decibels_ends_in_a_verdict_that_can_be_trusted(spotter):
    data = first(fsdd(), 16)
    found = sparring.audit(spotter, data, snr(35), suite="quick", passes=5)
    assert found.verdict == "trusted", found.reasons
    share = pytest.approx(10**-1.75)
    assert found.threat == {"norm": "snr", "eps": share, "low": -1.0, "high": 1.0, "decibels": 35}
    assert found.clean_accuracy.estimate > 0.7
    assert found.robust_accuracy.estimate < 0.6
    curve = [point.robust_accuracy for point in sorted(found.curve, key=lambda point: point.eps)]
    assert curve == sorted(curve, reverse=True)
    distances = [row.distance for row in found.per_example if row.broken_by is not None]
    assert distances
    assert max(distances) <= 10**-1.75 * (1 + 1e-5)


def test_differences_are_as_fine_as_what_a_wav_file_keeps(spotter):
    """In steps of 8 bits a keyword spotter bends, and its true gradients would look false."""
    data = first(fsdd(), 24)
    x, labels = data.take(range(24))
    victim = adopt(spotter, example=x)
    said = {
        name: {check.name: check.outcome for check in examine(victim, subject, snr(35), seed=0).checks}
        for name, subject in (("sounds", data), ("numbers", Arrays("numbers", x, labels)))
    }
    assert said["sounds"]["finite-differences"] == "pass"
    assert said["numbers"]["finite-differences"] == "fail"


def test_the_command_line_attacks_and_writes_what_it_found(spotter, tmp_path, monkeypatch, capsys):
    torch.save(spotter.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "made.py").write_text(
        "from sparring.domains.speech.networks import keyword_spotter\n\n\ndef make():\n"
        "    return keyword_spotter(width=8)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = "attack made.py:make --weights weights.pt --data fsdd --limit 20 --bounds -1 1 --threat snr:30"
    monkeypatch.setattr(
        "sys.argv", ["sparring", *words.split(), "--attack", "pgd", "--set", "steps=10", "--out", "run"]
    )
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "pgd on snr:30: broke" in said
    assert "survive storage in 16 bits" in said
    with np.load(tmp_path / "run" / "adversarial.npz") as found:
        x, z, distance = (torch.from_numpy(found[name]) for name in ("x", "z", "distance"))
    assert len(z) >= 5
    ratios = [decibels(float(share)) for share in (z - x).norm(dim=1) / x.norm(dim=1)]
    assert min(ratios) > 30 - 1e-3
    torch.testing.assert_close(distance, (z - x).norm(dim=1) / x.norm(dim=1))
    assert (sixteen_bits(z) - z).abs().max() <= 1 / 65536 + 1e-7


def test_training_within_decibels_is_done_as_within_a_norm(sparring_data):
    data = first(fsdd("train"), 64)
    network = fit(keyword_spotter(width=4), data, adversarial(snr(30)), epochs=1, batch_size=32)
    assert all(weight.isfinite().all() for weight in network.state_dict().values() if weight.is_floating_point())
    trained = sparring.train(network, {"name": "fsdd:train", "limit": 40, "validation": 8}, snr(25), epochs=1,
                             audit={"suite": "none"})  # fmt: skip
    assert trained.settings.threat == "snr:25.0"
    assert trained.settings.ball() == snr(25)
