"""What the pages print is run: files that a page says to write, commands in blocks of `sh`, in order; some Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import sparring
from sparring.evaluate import Result
from sparring.models.endpoint import PLACES, SETTINGS, Endpoint

ROOT = Path(__file__).resolve().parents[1]
ENGLISH = ROOT / "docs" / "en"
CHINESE = ROOT / "docs" / "zh"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w.]+\.\w+)`[:：]\s*\Z")


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """The fenced blocks of a page: the language, the name of the file that it is to be put into, and the text."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        named = FILE.search(text, 0, match.start())
        found.append((match[1], named[1] if named else "", match[2]))
    return found


def carry_out(page: Path, folder: Path, **environment: str) -> dict[str, str]:
    """Do what the page says, in an empty folder; returns what every block of commands printed."""
    printed = {}
    place = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for language, name, text in blocks(page):
        if name:
            (folder / name).write_text(text, encoding="utf-8")
        elif language == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=folder,
                env={**os.environ, **place, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            printed[text.strip()] = done.stdout
    return printed


def test_the_tutorial_can_be_followed_and_python_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    printed = carry_out(ENGLISH / "tutorial.md", tmp_path, PYTHONWARNINGS="error")
    result = Result.load(tmp_path / "audit" / "result.json")
    numbers = f"{result.clean_accuracy.estimate} {result.robust_accuracy.estimate}"
    assert printed["python ask.py"].split("\n")[0] == f"{result.verdict} {numbers}"
    for page in (ENGLISH, CHINESE):
        assert f"  - {result.reasons[0]}\n" in (page / "tutorial.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_gates_fail_as_the_page_says(tmp_path: Path) -> None:
    printed = "".join(carry_out(ENGLISH / "gate-in-ci.md", tmp_path).values())
    assert "status 1" in printed
    assert "failures" in (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert "2.1.0" in (tmp_path / "sparring.sarif").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_page_says(tmp_path: Path) -> None:
    carry_out(ENGLISH / "resume-a-long-run.md", tmp_path)
    assert Result.load(tmp_path / "long" / "result.json").examples == 300


@pytest.mark.slow
def test_texts_are_audited_attacked_and_defended_as_the_page_says(tmp_path: Path) -> None:
    printed = carry_out(ENGLISH / "texts.md", tmp_path)
    bare, corrected = (line.split() for line in printed["python defended.py"].splitlines())
    assert bare[0] == corrected[0] == "trusted"
    assert float(bare[1]) < float(corrected[1])
    proved = Result.load(tmp_path / "typed" / "result.json")
    assert proved.certified_accuracy == proved.robust_accuracy
    assert (tmp_path / "found" / "adversarial.tsv").read_text(encoding="utf-8").count("\n") > 10


@pytest.mark.slow
def test_networks_of_words_are_attacked_certified_and_trained_as_the_page_says(tmp_path: Path) -> None:
    printed = "".join(carry_out(ENGLISH / "word-networks.md", tmp_path).values())
    assert "cannot be changed within synonyms:2: crown" in printed
    plain, sparred = (Result.load(tmp_path / name / "result.json") for name in ("plain", "sparred"))
    assert plain.settings["access"] == "gradients"
    assert plain.robust_accuracy.estimate < sparred.robust_accuracy.estimate
    assert sparred.certified_accuracy is not None
    assert sparred.certified_accuracy.estimate > 0.5


@pytest.mark.slow
def test_every_other_threat_has_an_attack_that_runs_as_the_page_says(tmp_path: Path) -> None:
    printed = carry_out(ENGLISH / "other-threats.md", tmp_path)
    folders = {"poses", "flows", "colours", "patches", "corruptions", "frames"}
    assert {path.parent.name for path in tmp_path.glob("*/adversarial.npz")} == folders
    assert "broke 0 of" not in "".join(printed.values())


@pytest.mark.slow
def test_fake_users_are_counted_as_the_page_says(tmp_path: Path) -> None:
    printed = carry_out(ENGLISH / "recommenders.md", tmp_path)
    assert "10 fake users (3.3%) put item 396 into the top 10 of 50%" in "".join(printed.values())
    assert (tmp_path / "promoted" / "promote.png").is_file()


@pytest.mark.slow
def test_a_chatbot_is_taken_over_as_the_page_says(tmp_path: Path) -> None:
    found, defended = carry_out(ENGLISH / "chatbots.md", tmp_path).values()
    assert "taken over in 100.0% of the cases at least" in found
    assert [line.split(": ")[1].split()[0] for line in defended.splitlines()[-4:-1]] == ["100.0%"] * 3
    assert (tmp_path / "injected" / "inject.png").is_file()


@pytest.mark.slow
def test_certificates_prove_something_as_the_page_says(tmp_path: Path) -> None:
    printed = carry_out(ENGLISH / "certify.md", tmp_path)
    assert "certified accuracy 0.0%" not in "".join(printed.values())
    assert (tmp_path / "proofs" / "proofs.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "adaptive-attack.md",
        "certify.md",
        "chatbots.md",
        "defences.md",
        "detectors.md",
        "other-threats.md",
        "recommenders.md",
    ],
)
def test_blocks_of_python_run_as_they_are(page: str) -> None:
    parts = [*blocks(ENGLISH / page), ("", "", "")]
    texts = [(text, after) for (language, name, text), after in pairwise(parts) if language == "python" and not name]
    assert texts
    for text, (language, _, prints) in texts:
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        if language == "text":  # numbers may differ by one or two where another processor rounds
            assert re.sub(r"\d+", "0", done.stdout) == re.sub(r"\d+", "0", prints), text


@pytest.mark.slow
@pytest.mark.frameworks
def test_a_model_of_every_framework_is_audited_as_the_page_says(tmp_path: Path) -> None:
    for module in ("keras", "sklearn", "skops", "onnx", "onnxruntime", "httpx"):
        pytest.importorskip(module)
    carry_out(ENGLISH / "audit-your-own-model.md", tmp_path)
    audited = {path.parent.name for path in tmp_path.glob("*/result.json")}
    assert audited == {"torch", "keras", "sklearn", "onnx", "endpoint", "templates"}


def test_the_commands_for_an_attack_of_ones_own_run_as_the_page_says(tmp_path: Path) -> None:
    printed = carry_out(ENGLISH / "add-an-attack.md", tmp_path, PYTHONWARNINGS="error")
    assert "frank-wolfe on linf:0.1: broke " in "".join(printed.values())
    record = json.loads((tmp_path / "mine" / "attack.json").read_text(encoding="utf-8"))
    assert record["settings"]["steps"] == 20
    for page in (ENGLISH, CHINESE):
        described = (page / "reference.md").read_text(encoding="utf-8")
        assert not [name for name in record.keys() - {"sparring"} if f"`{name}`" not in described]


@pytest.mark.parametrize(
    "page", [ENGLISH / "reference.md", CHINESE / "reference.md"], ids=lambda page: page.parent.name
)
def test_every_setting_of_an_endpoint_stands_in_the_reference_with_its_default(page: Path) -> None:
    section = re.split(r"^## (?:Endpoints|端点)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1]
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)` )?\| \S.*\|$", section, re.MULTILINE)
    assert rows == [(one.name, default(one)) for one in fields(Endpoint) if one.name in SETTINGS]
    assert not [place for place in PLACES if place not in section]


def default(one: Field[Any]) -> str:
    """The default of a setting as TOML has it; empty where there is none."""
    value = one.default if one.default_factory is MISSING else one.default_factory()
    if value is MISSING or value is None:
        return ""
    if isinstance(value, dict):
        return "{ " + ", ".join(f'{key} = "{part}"' for key, part in value.items()) + " }" if value else "{}"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def test_a_result_is_read_as_the_reference_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    sparring.audit(model, (x, model(x).argmax(1)), sparring.linf(0.1), suite="quick", out=tmp_path / "audit")
    texts = [
        text for language, _, text in blocks(ENGLISH / "reference.md") if language == "python" and "Result" in text
    ]
    assert len(texts) == 1
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(texts[0], {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith(Result.load(tmp_path / "audit" / "result.json").verdict)


PAIRS = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    *((p, ROOT / "docs" / "zh" / p.name) for p in ENGLISH.glob("*.md")),
]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda path: path.parent.name + "/" + path.name)
def test_both_languages_have_the_same_headings_code_and_pictures(english: Path, chinese: Path) -> None:
    assert outline(chinese) == outline(english)


def outline(page: Path) -> dict[str, object]:
    """What a page must have in common with its translation."""
    text = page.read_text(encoding="utf-8")
    prose = FENCE.sub("", text)
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)],
        "code": [block for block in blocks(page) if block[0] != "text"],
        "texts": len([block for block in blocks(page) if block[0] == "text"]),
        "commands": re.findall(r"^    ((?:make|pip|source|sparring) .*?) *(?:#.*)?$", prose, re.MULTILINE),
        "images": len(re.findall(r"!\[", prose)),
        "rows": len(re.findall(r"^\|", prose, re.MULTILINE)),
    }
