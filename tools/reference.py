"""Write the tables of docs/en/reference.md and docs/zh/reference.md from the registry. Run by `make docs`."""

from pathlib import Path
from typing import get_args

from sparring.registry import Entry, Kind, members

DOCS = Path(__file__).resolve().parents[1] / "docs"

WORDS = {
    "en": {
        "title": "# Reference\n\nGenerated from the code by `make docs`. Passes are forward + backward, per example.",
        "attacks": "Attacks",
        "defences": "Defences",
        "suites": "Suites",
        "columns": ("name", "what it does", "needs", "norms", "passes"),
    },
    "zh": {
        "title": "# 参考\n\n由 `make docs` 从代码生成。次数为每个样例的前向 + 反向。",
        "attacks": "攻击",
        "defences": "防御",
        "suites": "攻击组合",
        "columns": ("名字", "作用", "需要", "范数", "次数"),
    },
}


def row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def describe(entry: Entry) -> tuple[str, ...]:
    return f"`{entry.name}`", entry.summary, entry.needs, " ".join(entry.norms), entry.passes


def page(language: str) -> str:
    words = WORDS[language]
    parts = [words["title"]]
    for kind in get_args(Kind):
        entries = members(kind).values()
        if entries:
            columns = words["columns"]
            table = [row(columns), row(("---",) * len(columns)), *(row(describe(entry)) for entry in entries)]
            parts.append(f"## {words[kind]}\n\n" + "\n".join(table))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for language in WORDS:
        (DOCS / language / "reference.md").write_text(page(language), encoding="utf-8")
