"""What holds for the repository as a whole: names, documentation in two languages, light imports, safe loading."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_reference_is_what_the_code_says(language: str) -> None:
    page = runpy.run_path(str(ROOT / "tools" / "reference.py"))["page"]
    assert text(ROOT / "docs" / language / "reference.md") == page(language), "run: make docs"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_attack_in_the_documentation_does_what_the_page_says(language: str, tmp_path: Path) -> None:
    page = text(ROOT / "docs" / language / "add-an-attack.md")
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
    assert not list(unasked_trust(f"def load(f, *, trust=False):\n    {body}"))


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


def unsafe_loading(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, reason) for every way to run code hidden in a file, unless its lines say who trusts it."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
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
    """Yield the lines that claim the user's trust outside of a function with `*, trust=False`."""
    asked: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            settings = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            if any(arg.arg == "trust" and default and is_constant(default, False) for arg, default in settings):
                asked.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    yield from (n for n, line in enumerate(source.splitlines(), 1) if TRUSTED in line and n not in asked)


def is_constant(value: ast.expr, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted
