"""Every example runs, warns of nothing, stays short, and shows what it promises."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from sparring import registry

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def output(name: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What an example prints, run in this process: torch need not be imported again for it.

    What it registers, it registers for itself.
    """
    monkeypatch.setattr(registry, "_MEMBERS", {kind: {**registry.members(kind)} for kind in get_args(registry.Kind)})

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def percents(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", line)]


def story(text: str) -> None:
    """Both networks read digits, and training on the worst case pays."""
    natural, hardened = (percents(line) for line in text.splitlines()[-2:])
    assert min(natural[0], hardened[0]) > 75
    assert natural[2] <= natural[1] < hardened[1]
    assert hardened[2] > natural[2] + 20


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_is_one_idea_under_sixty_lines(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""')


def test_ten_lines_end_in_a_verdict_and_two_numbers() -> None:
    verdict, numbers = output("ten_lines.py").splitlines()
    assert verdict.startswith("trusted: ")
    clean, robust = percents(numbers)
    assert clean > 90
    assert robust < 20


def test_of_one_typing_error_an_audit_of_texts_says_exactly_what_stands(shown: Callable[..., str]) -> None:
    one, two = shown("audit_texts.py").splitlines()
    clean, least, most = percents(one)
    assert "trusted" in one
    assert clean == 100
    assert 0 < least == most < 100
    assert percents(two)[1] <= percents(two)[2] < most


def test_training_on_words_pays_and_is_proved_to() -> None:
    plain, certified = (percents(line) for line in output("train_on_words.py").splitlines())
    assert plain[0] == certified[0] == 100
    assert plain[2] < 50
    assert certified[1] > 90


def test_ten_lines_are_no_more_than_ten() -> None:
    code = (EXAMPLES / "ten_lines.py").read_text(encoding="utf-8").split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_story_in_plain_pytorch_comes_out(shown: Callable[..., str]) -> None:
    story(shown("digits_pytorch.py", "2"))


def test_an_attack_added_in_twenty_lines_breaks_digits_without_gradients(shown: Callable[..., str]) -> None:
    first, second = shown("add_an_attack.py").splitlines()
    counts = [int(re.findall(r"leaves (\d+) of 100", line)[0]) for line in (first, second)]
    assert counts[0] < counts[1] < 75


def test_training_robustly_ends_in_a_network_that_stands(shown: Callable[..., str]) -> None:
    *epochs, said = shown("train_robustly.py", "--examples", "1500", "--epochs", "4").splitlines()
    assert [line.split(":")[0] for line in epochs] == [f"epoch {i}" for i in range(1, 5)]
    clean, robust = percents(said)
    assert clean > 80
    assert robust > 40


@pytest.mark.slow
def test_a_keyword_spotter_hears_noise_and_falls_to_attacks(sparring_data: Path) -> None:
    shares = [percents(line) for line in output("speech.py", "3").splitlines()]
    assert len(shares) == 4
    assert shares[0][0] > 80
    assert all(attacked <= noisy for noisy, attacked in shares)
    assert shares[2][1] < shares[2][0] - 40


def test_models_that_do_not_classify_are_attacked_by_the_same_attack(shown: Callable[..., str]) -> None:
    lines = shown("other_tasks.py", "3").splitlines()
    assert [line.split(":")[0] for line in lines] == ["regression"] * 2 + ["segmentation"] * 2
    for clean, attacked in (lines[:2], lines[2:]):
        assert percents(clean)[0] > 70
        assert percents(attacked)[0] < percents(clean)[0] - 50


def test_what_stands_in_streets_is_hidden_from_a_detector_and_boxes_of_nothing_appear(
    shown: Callable[..., str], tmp_path: Path
) -> None:
    picture = tmp_path / "streets.png"
    clean, hidden, invented, renamed = shown("hide_an_object.py", "150", str(picture)).splitlines()
    assert percents(clean)[0] > 75
    assert percents(hidden)[0] < 20
    assert float(re.findall(r"([\d.]+) boxes", invented)[0]) > 2
    assert percents(renamed)[1] > percents(clean)[1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_attacks_that_fit_break_what_plain_pgd_leaves_standing(shown: Callable[..., str]) -> None:
    lines = shown("adaptive_attack.py").splitlines()
    assert len(lines) == 5
    for line in lines:
        right, plain, fitted = (int(number) for number in re.findall(r"\d+", line.partition(":")[2]))
        assert right > 40
        assert plain > right / 2
        assert fitted < 5


@pytest.mark.frameworks
@pytest.mark.parametrize(
    "backend", ["torch", *(pytest.param(other, marks=pytest.mark.slow) for other in ("jax", "tensorflow"))]
)
def test_the_story_in_keras_comes_out(backend: str) -> None:
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    story(output("digits_keras.py", "2", KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="2"))


@pytest.mark.frameworks
def test_a_support_vector_machine_is_audited_through_its_gradients() -> None:
    pytest.importorskip("sklearn")
    access, verdict, numbers = output("audit_sklearn.py", "1000").splitlines()
    assert access == "SVC gives an attacker its gradients"
    assert verdict.split(":")[0] in ("trusted", "suspect")
    clean, robust = percents(numbers)
    assert clean > 85
    assert robust < clean
