"""The demo, told short: everything appears at the end or not at all, and the numbers are the same each time."""

from __future__ import annotations

import io
import re
import tomllib
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
import torch
from rich.console import Console

from sparring import demo, report
from sparring.errors import BadInput
from sparring.models.torch import load_weights
from sparring.networks import mlp

FILES = ["adversarial.png", "attributions.png", "report.html"] + [
    f"{name}/{file}" for name in ("natural", "robust") for file in ("gallery.npz", "result.json", "weights.pt")
]


def told(out: Path, *, terminal: bool = False, **settings: Any) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=terminal)
    short = {"limit": 192, "epochs": 9, "suite": "quick", "workers": 1}
    return demo.run(out, console, **{**short, **settings}), text.getvalue()


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "made" / "on the way"
    status, text = told(out)
    assert status == 0
    return out, text


def test_the_demo_leaves_a_report_of_both_networks_and_says_where(once: tuple[Path, str]) -> None:
    out, text = once
    assert [name for name in FILES if not (out / name).is_file()] == []
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert str(out / "report.html") in text
    assert all(f"{i}/6" in text for i in range(1, 7))
    (natural, pictures), (robust, _) = (report.read(out / name) for name in ("natural", "robust"))
    assert pictures
    assert (natural.name, robust.name, natural.command) == ("natural", "robust", "sparring demo")
    assert robust.robust_accuracy.estimate > natural.robust_accuracy.estimate
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Adversarial examples" in page
    assert "What the networks look at" in page
    assert page.count("<svg") > 3
    network = mlp()
    load_weights(network, out / "natural" / "weights.pt")
    x, labels = demo.digits("test").take(range(192))
    with torch.no_grad():
        right = float((network(x).argmax(1) == labels).float().mean())
    assert right == pytest.approx(natural.clean_accuracy.estimate)


def test_told_again_over_the_last_one_it_gives_the_same_numbers_and_spares_what_is_not_its_own(
    once: tuple[Path, str],
) -> None:
    out, _ = once
    notes = out / "natural" / "notes.txt"
    notes.write_text("mine")
    first = [report.read(out / name)[0] for name in ("natural", "robust")]
    status, _ = told(out, terminal=True)
    assert status == 0
    for before in first:
        after = report.read(out / before.name)[0]
        assert after.seconds != before.seconds
        assert after.per_example == before.per_example
        assert after.curve == before.curve
        assert after.passes == before.passes
    assert notes.read_text() == "mine"


def test_in_chinese_it_speaks_chinese(tmp_path: Path) -> None:
    status, text = told(tmp_path / "zh", language="zh", limit=128, epochs=3)
    assert status == 0
    assert "鲁棒准确率" in text
    page = (tmp_path / "zh" / "report.html").read_text(encoding="utf-8")
    assert "对抗样本" in page
    assert report.read(tmp_path / "zh" / "robust")[0].name == "对抗训练"


@pytest.mark.parametrize("at", ["fit", "audit", "explain"])
def test_interrupted_it_leaves_nothing_and_says_so(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, at, stop)
    status, text = told(tmp_path / "out", limit=64, epochs=1)
    assert status == 130
    assert text.rstrip().endswith("Stopped. Nothing was written.")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BadInput, match="is a file"):
        told(tmp_path / "out")
    with pytest.raises(BadInput, match="cannot be written"):
        told(tmp_path / "out" / "below")


def test_both_languages_say_the_same_things_with_the_same_facts() -> None:
    said = tomllib.loads(resources.files("sparring").joinpath("demo.toml").read_text(encoding="utf-8"))
    assert list(said["en"]) == list(said["zh"])
    for key, sentence in said["en"].items():
        other = said["zh"][key]
        assert type(other) is type(sentence)
        if isinstance(sentence, str):
            assert facts(sentence) == facts(other), key
        else:
            assert len(sentence) == len(other), key


def test_every_sentence_is_said_somewhere() -> None:
    said = tomllib.loads(resources.files("sparring").joinpath("demo.toml").read_text(encoding="utf-8"))
    source = Path(demo.__file__).read_text(encoding="utf-8")
    assert not [key for key in said["en"] if not re.search(f"[\"']{key}[\"']", source)]


def facts(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}
