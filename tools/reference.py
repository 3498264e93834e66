"""Fill in what the pages take from the code: everything between `<!-- from the code: NAME -->` and `<!-- end -->`.

    python tools/reference.py

Tables come out in the language of the page: every cell is looked up in `tools/chinese.toml`, then among the phrases of
the reports, and stays as it is where it is in neither: right for names, code and numbers; of English a test complains.
Also writes `docs/result.schema.json`. Run by `make docs`.
"""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch

import sparring
from sparring import networks
from sparring.cli import cli
from sparring.data import DATASETS
from sparring.evaluate import Result
from sparring.evaluate.suites import SUITES, Stage
from sparring.explain import METHODS
from sparring.goals import Untargeted
from sparring.models.capabilities import markdown
from sparring.registry import Kind, members
from sparring.report.phrases import sentences
from sparring.streams import Streams
from sparring.tables import TABLES
from sparring.threats import linf
from sparring.training.settings import Settings, recipe
from sparring.training.settings import recipes as shelf
from sparring.views import Counted

ROOT = Path(__file__).resolve().parents[1]
CHINESE: dict[str, str] = tomllib.loads((ROOT / "tools" / "chinese.toml").read_text(encoding="utf-8"))
BLOCK = re.compile(r"(<!-- from the code: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
CELLS = re.compile(r"(?<!\\)\|")
MEASURED = (
    (re.compile(r"(\d+) of (\d+)"), r"\1/\2"),
    (re.compile(r"(\d\.\d\d), trusted"), r"\1，可信"),
    (re.compile(r"(\d\.\d\d), suspect"), r"\1，存疑"),
    (re.compile(r"([\d,]+), ([\d,]+) of them adaptive"), r"\1，其中自适应攻击 \2 次"),
)
"""How cells with measured numbers read in Chinese."""

SCHEMA = ROOT / "docs" / "result.schema.json"
EXTRAS = {
    "keras": "Keras 3",
    "tensorflow": "TensorFlow",
    "jax": "JAX and Flax",
    "sklearn": "scikit-learn",
    "onnx": "ONNX",
    "xgboost": "XGBoost",
    "lightgbm": "LightGBM",
    "http": "endpoints",
    "transformers": "Hugging Face models",
    "gguf": "language models in `.gguf`",
    "safetensors": "weights in `.safetensors`",
    "datasets": "Hugging Face data sets",
    "tensorboard": "the log of a training",
    "frameworks": "models and data of every kind",
    "peers": "comparisons with other libraries",
    "test": "the tests",
    "lint": "the style of the code",
}
"""What each extra is for."""


def pages() -> list[Path]:
    """The pages that take something from the code."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(page for page in found if BLOCK.search(page.read_text(encoding="utf-8")))


def filled(page: Path) -> str:
    """The text of a page, with its blocks as the code has them now."""
    chinese = page.parent.name == "zh" or page.name.endswith(".zh.md")

    def block(match: re.Match[str]) -> str:
        text = BLOCKS[match[2]]()
        return f"{match[1]}\n{translated(text) if chinese else text}\n{match[3]}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def unused() -> set[str]:
    """Lines of `chinese.toml` that no table of an English page needs any more."""
    english = [ROOT / "README.md", *(ROOT / "docs" / "en").rglob("*.md")]
    lines = (line for page in english for line in page.read_text(encoding="utf-8").splitlines())
    return CHINESE.keys() - {cell.strip() for line in lines for cell in CELLS.split(line)}


def translated(text: str) -> str:
    """The same text with every cell of its tables in Chinese, where there is Chinese for it."""
    return "".join(
        "|".join(_cell(cell) for cell in CELLS.split(line)) if line.startswith("|") else line
        for line in text.splitlines(keepends=True)
    )


def _cell(cell: str) -> str:
    said = cell.strip()
    measured = [pattern.sub(chinese, said) for pattern, chinese in MEASURED if pattern.fullmatch(said)]
    return cell.replace(said, CHINESE.get(said) or sentences("zh").get(said) or [*measured, said][0]) if said else cell


def example(name: str) -> str:
    """A file of `examples/`."""
    return f"```python\n{(ROOT / 'examples' / name).read_text(encoding='utf-8')}```\n"


def summary(thing: object) -> str:
    """The first line of what a function says of itself."""
    return (inspect.getdoc(thing) or "").split("\n")[0]


def attacks() -> str:
    """Every registered attack."""
    rows = (
        (f"`{entry.name}`", entry.summary, entry.needs, " ".join(entry.kinds), entry.passes)
        for entry in members("attacks").values()
    )
    return table(("name", "what it does", "needs", "threats", "passes"), rows)


def other_threats() -> str:
    """The threats that no norm describes, and the attacks that search each."""
    rows = []
    for entry in members("threats").values():
        attacks = [f"`{one.name}`" for one in members("attacks").values() if entry.name in one.threats]
        if attacks:
            rows.append((f"`{entry.name}:EPS`", entry.summary, " ".join(attacks)))
    return table(("threat", "what it allows", "attacks"), rows)


def public() -> str:
    """The public names of the package."""
    rows = ((f"`sparring.{name}`", summary(getattr(sparring, name))) for name in sparring.__all__ if name[0] != "_")
    return table(("name", "what it does"), rows)


def extras() -> str:
    """The extras of the package, what each is for, and what it installs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked: dict[str, list[str]] = tomllib.loads(text)["project"]["optional-dependencies"]
    plain = {name: " ".join(f"`{one.partition(';')[0]}`" for one in packages) for name, packages in asked.items()}
    return table(("extra", "what it is for", "installs"), ((f"`{name}`", EXTRAS[name], plain[name]) for name in asked))


def factories() -> str:
    """The factories of `sparring.networks`: what each makes, and how many weights that has."""
    rows = []
    for name, make in vars(networks).items():
        if inspect.isfunction(make) and next(iter(inspect.signature(make).parameters.values())).default == 0:
            with torch.device("meta"):
                weights = sum(weight.numel() for weight in make().parameters())
            rows.append((f"`{name}`", summary(make), f"{weights:,}"))
    return table(("network", "what it is", "weights"), rows)


def attributions() -> str:
    """What `--method` of `sparring explain` takes."""
    rows = (
        (f"`{name}`", summary(method.run), "gradients" if method.gradients else "scores")
        for name, method in METHODS.items()
    )
    return table(("method", "what it shows", "needs"), rows)


def registered(kind: Kind, head: tuple[str, ...]) -> str:
    """Every member of a kind and what it does; in a third column, where the head has one, what it costs."""
    rows = ((f"`{entry.name}`", entry.summary, entry.passes)[: len(head)] for entry in members(kind).values())
    return table(head, rows)


def certificates() -> str:
    """Every certificate, and what it is for."""
    rows = (
        (f"`{one.name}`", " ".join(f"`{kind}`" for kind in one.kinds), one.summary, one.passes)
        for one in members("certificates").values()
    )
    return table(("certificate", "threats", "what it does", "passes"), rows)


def recipes() -> str:
    """What every recipe that was run to its end has reached."""
    found = {name: Settings.of(recipe(name)) for name in shelf()}
    rows = (
        (
            f"`{name}`",
            f"`{one.model.rpartition(':')[2]}`",
            one.threat,
            f"{100 * one.reached['clean']:.1f} %",
            f"{100 * one.reached['robust']:.1f} %",
            f"{one.reached['minutes']:g}",
        )
        for name, one in found.items()
        if "robust" in one.reached
    )
    return table(("recipe", "network", "threat", "clean", "robust", "minutes of training"), rows)


def suites() -> str:
    """Every stage of every suite: whom it attacks, and what it costs on an example that stands."""
    rows = []
    for name, make in SUITES.items():
        suite = make(linf(0.3), "gradients", 10)
        parts = {
            "all that stands": suite.opening,
            f"in rounds, {suite.passes:,} passes an example": (*suite.menu, *suite.longer),
            f"the {suite.hardest} nearest to falling": suite.closing,
        }
        for whom, stages in parts.items():
            for stage in stages:
                passes = "{:,} + {:,}".format(*cost(stage))
                rows.append((f"`{name}`", f"`{stage.name}`", stage.role, whom, passes))
    return table(("suite", "stage", "role", "whom it attacks", "forward + backward"), rows)


@cache
def cost(stage: Stage) -> tuple[int, int]:
    """Forward and backward passes on one example that nothing breaks: measured, on ten classes."""
    weight = torch.linspace(-1, 1, 640).view(64, 10).sin() * 1e-3
    standing = torch.tensor([1.0, *[0.0] * 9])
    model = Counted(lambda x: x.flatten(1) @ weight + standing)
    stage.attack(model, torch.full((1, 1, 8, 8), 0.5), Untargeted(torch.tensor([0])), Streams.of(0, [0]))
    return model.forward, model.backward


def threats() -> str:
    """What `--threat` takes."""
    rows = (*TABLES["threats"].rows(), *TABLES["rewritings"].rows())
    return table(("threat", "what it allows"), ((f"`{name}`", what) for name, what in rows))


def datasets() -> str:
    """What `--data` takes by name."""
    return table(("name", "what it is"), ((f"`{name}`", loader.description) for name, loader in DATASETS.items()))


def schema() -> dict[str, Any]:
    """The JSON schema of `result.json`."""
    return Result.model_json_schema(mode="serialization", by_alias=True)


def result() -> str:
    """The fields of `result.json`, and of the objects in it."""
    top = schema()
    rows = []
    for name, part in ({"Result": top} | top["$defs"]).items():
        for field, facts in part["properties"].items():
            rows.append((f"`{name}`", f"`{field}`", kind(facts), facts.get("description", "")))
    described = any(row[3] for row in rows)
    head = ("object", "field", "type", "what it is")
    return table(head if described else head[:3], (row if described else row[:3] for row in rows))


def kind(facts: dict[str, Any]) -> str:
    """A type of the schema, in a word or two."""
    if "$ref" in facts:
        return f"`{facts['$ref'].rpartition('/')[2]}`"
    if "anyOf" in facts:
        return " or ".join(kind(one) for one in facts["anyOf"])
    if "enum" in facts:
        return " ".join(f"`{value}`" for value in facts["enum"])
    if "const" in facts:
        return f"`{facts['const']}`"
    if facts["type"] == "array":
        return f"list of {kind(facts['items'])}"
    if facts["type"] == "object":
        values = facts.get("additionalProperties")
        return f"object of {kind(values)}" if isinstance(values, dict) else "object"
    limits = f" {facts['minimum']:g} to {facts['maximum']:g}" if "maximum" in facts else ""
    return f"{facts['type']}{limits}"


def commands() -> str:
    """What every command says of itself."""
    whole = click.Context(cli, info_name="sparring", terminal_width=100, **cli.context_settings)
    parts = []
    for name in cli.list_commands(whole):
        command = cli.get_command(whole, name)
        assert command is not None
        said = command.get_help(click.Context(command, parent=whole, info_name=name, terminal_width=100))
        parts.append(f"### sparring {name}\n\n```text\n{said}\n```\n")
    return "\n".join(parts)


BLOCKS: dict[str, Callable[[], str]] = {
    "ten_lines": lambda: example("ten_lines.py"),
    "adaptive_attack": lambda: example("adaptive_attack.py"),
    "public": public,
    "attacks": attacks,
    "other_threats": other_threats,
    "suites": suites,
    "recipes": recipes,
    "objectives": lambda: registered("objectives", ("objective", "what training minimises", "passes")),
    "defences": lambda: registered("defences", ("defence", "what it does")),
    "detectors": lambda: registered("detectors", ("detector", "what it does")),
    "augmentations": lambda: registered("augmentations", ("augmentation", "what it does")),
    "certificates": certificates,
    "networks": factories,
    "attributions": attributions,
    "threats": threats,
    "datasets": datasets,
    "capabilities": markdown,
    "extras": extras,
    "result": result,
    "commands": commands,
}


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page), encoding="utf-8")
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
