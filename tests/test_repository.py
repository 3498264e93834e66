"""What holds for the repository as a whole: names, documentation in two languages, light imports, safe loading."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparring import audit_defence
from sparring.defences import bit_depth
from sparring.evaluate import Check, audit
from sparring.registry import members
from sparring.threats import linf

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

HEAVY = """
    tensorflow jax keras sklearn onnx onnxruntime xgboost lightgbm skops matplotlib captum transformers datasets
    scipy.stats pandas httpx
"""


def pages(language: str) -> set[str]:
    folder = ROOT / "docs" / language
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")}


def test_every_page_exists_in_english_and_in_chinese() -> None:
    assert pages("en")
    assert pages("en") == pages("zh")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_index_leads_to_every_page(language: str) -> None:
    index = text(ROOT / "docs" / language / "index.md")
    assert not [page for page in pages(language) - {"index.md"} if f"]({page})" not in index]


def test_what_pages_take_from_the_code_is_what_the_code_says() -> None:
    written = reference()
    stale = [str(page.relative_to(ROOT)) for page in written["pages"]() if text(page) != written["filled"](page)]
    assert not stale, "run: make docs"
    assert json.loads(text(written["SCHEMA"])) == written["schema"](), "run: make docs"


def test_nothing_is_translated_that_no_page_needs() -> None:
    assert not reference()["unused"](), "translate what stands there now, in tools/chinese.toml"


def test_no_table_that_a_chinese_page_takes_from_the_code_has_english_in_it() -> None:
    written = reference()
    chinese = [page for page in written["pages"]() if page.parent.name == "zh" or page.name.endswith(".zh.md")]
    blocks = [match[0] for page in chinese for match in written["BLOCK"].finditer(text(page))]
    blocks += re.findall(r"<!-- measured: .*?<!-- end -->", text(ROOT / "docs/zh/checks.md"), re.DOTALL)
    lines = "\n".join(blocks).splitlines()
    cells = {cell.strip() for line in lines if line.startswith("|") for cell in written["CELLS"].split(line)}
    assert len(cells) > 500
    assert not sorted(filter(is_english, cells)), "translate them in tools/chinese.toml, and run: make docs"


@pytest.mark.parametrize(
    "cell",
    [
        "Uniform draws from the ball: a control, not an attack.",
        "passes",
        "0 of 4",
        "`Interval` or null",
        "2 steps + 2 steps",
        "Few coordinates, changed to the edge (Papernot 等，2016)。",
        "用差分进化: bred by scores",
    ],
)
def test_english_in_a_cell_is_noticed(cell: str) -> None:
    assert is_english(cell)


@pytest.mark.parametrize(
    "cell",
    [
        "以 DLR 为损失的 Auto-PGD（Croce 与 Hein，2020）。",
        "从强噪声走一步（de Jorge 等，2022）。",
        "去掉 dropout 和第二个线性层",
        "`a model of scores`",
        "linf l2 recolour",
        "linf:8/255",
        "Hugging Face transformers",
        "scikit-learn",
        "160,866",
        "---",
        "",
    ],
)
def test_names_code_and_numbers_are_no_english(cell: str) -> None:
    assert not is_english(cell)


NAMES = {"transformers", "scikit-learn", "torch.export"}
"""What is written in small letters in every language; threats are, too."""


def is_english(cell: str) -> bool:
    """Whether words of English stand in a cell, besides names and code.

    One in small letters is enough where nothing is Chinese; else two in a row, for Chinese borrows `dropout` as well.
    """
    names = NAMES | members("threats").keys() | members("rewritings").keys()
    said = re.sub(r"`[^`]*`", "`", cell)
    said = re.sub(r"[A-Za-z][\w.-]*\w", lambda word: "`" if word[0] in names else word[0], said)
    chinese = re.search(r"[\u4e00-\u9fff]", said)
    return bool(re.search(r"[A-Za-z]{2},? +[a-z]{2}" if chinese else r"(?<![A-Za-z])[a-z]{2}", said))


@cache
def reference() -> dict[str, Any]:
    """What tools/reference.py defines, read once: it remembers what stages cost."""
    return runpy.run_path(str(ROOT / "tools" / "reference.py"))


def test_the_pages_on_checks_have_every_check_with_its_threshold() -> None:
    checks = {check.name: check for check in every_check()}
    for language in ("en", "zh"):
        page = text(ROOT / "docs" / language / "checks.md")
        asked = page.partition("<!-- measured: asked -->")[2].partition("<!-- end -->")[0]
        rows = {match[1]: match[2] for match in re.finditer(r"^\| `([a-z-]+)` \| (.*) \|$", asked, re.MULTILINE)}
        assert checks.keys() == rows.keys(), language
        fixed = {name: check.threshold for name, check in checks.items() if name not in ("input-range", "unbounded")}
        missing = [name for name, said in fixed.items() for n in re.findall(r"\d\S*", said) if n not in rows[name]]
        assert not missing, "bounds and chance decide about the other two"


def every_check() -> list[Check]:
    """All checks that an audit can make: of a network, texts, rounding, a defence, a NaN amid the data."""
    draws = torch.Generator().manual_seed(0)
    x, weight = torch.rand(120, 8, generator=draws), torch.randn(8, 5, generator=draws)
    weight -= weight.mean(0)
    y = (x @ weight).argmax(1)
    model, threat = nn.Linear(8, 5, bias=False), linf(0.2)
    model.weight.data = weight.T.contiguous()
    spoiled, few, short = x.clone(), (x[:40], y[:40]), {"suite": "quick", "passes": 0}
    spoiled[1] = torch.nan
    runs = [audit(model, data, threat, **short) for data in ((x, y), (spoiled, y))]
    runs.append(audit(lambda z: model((8 * z).round() / 8), few, linf(0.05), suite="quick"))  # adapted to, that is
    texts = [
        f"a {judgement} film with a {other} end" for judgement, other in permutations(("good", "great", "poor"), 2)
    ]
    liked = audit(
        lambda some: [[10.0 * text.count("poor"), 5 + 0.1 * len(text)] for text in some],
        (texts, [int("poor" not in text) for text in texts]),
        "typos:3",
        suite="quick",
    )
    runs.append(liked)
    runs.append(audit_defence(model, bit_depth(), few, threat, **short).adaptive)
    return [check for run in runs for check in run.checks]


def test_the_attack_for_contributors_does_what_the_page_on_attacks_says(tmp_path: Path) -> None:
    """Which shows it with its imports, and is carried out by `test_documentation.py`."""
    (alone,) = python(ROOT / "CONTRIBUTING.md")
    attack, use, *_ = python(ROOT / "docs" / "en" / "add-an-attack.md")
    (tmp_path / "frank_wolfe.py").write_text(attack.partition("@dataclass")[0] + alone, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-c", use]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_chinese_page_shows_the_same_attack() -> None:
    english, chinese = (ROOT / "docs" / language / "add-an-attack.md" for language in ("en", "zh"))
    assert python(english) == python(chinese)


def python(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", text(page), re.DOTALL)


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", text(page))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_no_module_is_named_after_nothing_in_particular() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "base", "misc"}
    assert not [str(p.relative_to(ROOT)) for p in (ROOT / "src").rglob("*") if p.stem in vague]


def test_importing_sparring_imports_no_framework_and_nothing_heavier_than_torch() -> None:
    code = f"import sys, sparring; print(*[m for m in {HEAVY.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_source_never_runs_code_hidden_in_a_file() -> None:
    unsafe = [f"{path.relative_to(ROOT)}:{line}: {why}" for path in SOURCES for line, why in unsafe_loading(text(path))]
    assert not unsafe


def test_trust_is_asked_for_and_is_off_unless_given() -> None:
    careless = [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in unasked_trust(text(path))]
    assert not careless


def test_trust_that_nobody_asked_for_is_noticed() -> None:
    body = f"pickle.load(f)  # {TRUSTED}"
    assert list(unasked_trust(body)) == [1]
    assert list(unasked_trust(f"def load(f, *, trust=True):\n    {body}")) == [2]
    assert list(unasked_trust(f"def load(f, trust=True):\n    {body}")) == [2]
    assert not list(unasked_trust(f"def load(f, *, trust=False):\n    {body}"))
    assert not list(unasked_trust(f"def load(f, trust):\n    {body}"))


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(f)",
        "joblib.load(f)",
        "from pickle import loads",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=not safe)",
        "np.load(f, allow_pickle=True)",
        "keras.models.load_model(f, safe_mode=False)",
        "AutoModel.from_pretrained(f, trust_remote_code=True)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_each_way_to_run_hidden_code_is_noticed(source: str) -> None:
    assert list(unsafe_loading(source))
    assert not list(unsafe_loading(f"{source}  # {TRUSTED}: --trust"))


@pytest.mark.parametrize(
    "source", ["model.eval()", "torch.load(f, weights_only=True)", "np.load(f, allow_pickle=False)", "re.compile('x')"]
)
def test_safe_loading_passes(source: str) -> None:
    assert not list(unsafe_loading(source))


TRUSTED = "trusted by the user"
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
LOADERS = {"load", "loads", "open", "Unpickler"}
SAFE = {"weights_only": True, "allow_pickle": False, "safe_mode": True, "trust_remote_code": False}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


parsed = cache(ast.parse)


def unsafe_loading(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, reason) for every way to run code hidden in a file, unless its lines say who trusts it."""
    lines = source.splitlines()
    for node in ast.walk(parsed(source)):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                why = f"{name} of a string"
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in PICKLES and name in LOADERS:
                why = f"{module}.{name}"
            case ast.ImportFrom(module=module, names=names) if module in PICKLES and LOADERS & {n.name for n in names}:
                why = f"a loader out of {module}"
            case ast.keyword(arg=name, value=value) if name in SAFE and not is_constant(value, SAFE[name]):
                why = f"{name} other than {SAFE[name]}"
            case _:
                continue
        if not any(TRUSTED in line for line in lines[node.lineno - 1 : node.end_lineno]):
            yield node.lineno, why


def unasked_trust(source: str) -> Iterator[int]:
    """Yield the lines that claim the user's trust outside of a function that is told of it, and not by default."""
    asked: set[int] = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef) and asks(node.args):
            asked.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    yield from (n for n, line in enumerate(source.splitlines(), 1) if TRUSTED in line and n not in asked)


def asks(args: ast.arguments) -> bool:
    """Whether there is a parameter `trust`, that is False or that every caller must give."""
    named = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(named) - len(args.defaults)), *args.defaults, *args.kw_defaults]
    settings = zip([*named, *args.kwonlyargs], defaults, strict=True)
    return any(arg.arg == "trust" and (default is None or is_constant(default, False)) for arg, default in settings)


def is_constant(value: ast.expr, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted
