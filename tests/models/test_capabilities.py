from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

from sparring.models.capabilities import CAPABILITIES, markdown
from sparring.models.loading import FILES

HERE = Path(__file__).parent


@cache
def named_in(file: str) -> set[str]:
    tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
    return {part.name for part in ast.walk(tree) if isinstance(part, ast.FunctionDef) and part.name.startswith("test_")}


@pytest.mark.parametrize("row", CAPABILITIES, ids=lambda row: f"{row.framework}: {row.loaded}")
def test_every_capability_names_a_test_that_exists(row):
    file, name = row.test.split("::")
    assert name in named_in(file)


def test_every_extra_named_is_one_of_the_package():
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for row in CAPABILITIES if row.extra for extra in row.extra.split(",")}
    assert named <= set(project["optional-dependencies"])


def test_every_kind_of_file_that_can_be_loaded_is_in_the_table():
    told = " ".join(row.loaded for row in CAPABILITIES)
    assert [suffix for suffix in FILES if f"`{suffix}`" not in told] == []


def test_no_two_rows_say_the_same():
    assert len({(row.framework, row.loaded) for row in CAPABILITIES}) == len(CAPABILITIES)


def test_the_table_has_a_line_for_every_row_and_as_many_cells_in_each():
    lines = markdown().splitlines()
    assert len(lines) == len(CAPABILITIES) + 2
    assert {line.count("|") for line in lines} == {6}
