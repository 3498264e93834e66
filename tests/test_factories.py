"""Importing `module:factory` specs."""

from __future__ import annotations

import sys

import pytest
from torch import nn

from sparring.errors import BadInput
from sparring.factories import build


@pytest.fixture
def file(tmp_path):
    def write(body, name="made.py"):
        (tmp_path / name).write_text(body)
        return str(tmp_path / name)

    return write


def refusal(spec):
    path = list(sys.path)
    with pytest.raises(BadInput) as error:
        build(spec)
    assert "\n" not in str(error.value)
    assert sys.path == path
    return str(error.value)


def test_functions_and_classes_are_called_and_everything_else_is_handed_over(file):
    path = file(
        "import functools\nfrom torch import nn\n"
        "def make(): return 1\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(2, 3)\n"
        "net = Net()\npart = functools.partial(int, '7')\ncached = functools.cache(make)\nlist_ = [1]\n"
        "class Holder:\n    make = staticmethod(make)\n"
    )
    assert build(f"{path}:make") == 1
    assert isinstance(build(f"{path}:Net"), nn.Linear)
    assert isinstance(build(f"{path}:net"), nn.Linear)
    assert build(f"{path}:part") == 7
    assert build(f"{path}:cached") == 1
    assert build(f"{path}:list_") == [1]
    assert build(f"{path}:Holder.make") == 1


def test_a_dotted_module_is_imported():
    assert build("collections:OrderedDict") == {}


def test_files_beside_the_file_can_be_imported_even_late(file):
    file("value = 5\n", "a_neighbour_file.py")
    assert build(f"{file('def make():' + chr(10) + '    import a_neighbour_file as n; return n.value')}:make") == 5


def test_a_module_of_the_current_folder_is_found(file, monkeypatch, tmp_path):
    file("def make(): return 6\n", "a_module_right_here.py")
    monkeypatch.chdir(tmp_path)
    assert build("a_module_right_here:make") == 6


@pytest.mark.parametrize("spec", ["no_colon", ":name", "module:", ""])
def test_a_spec_without_both_parts_is_refused(spec):
    assert "package.module:factory" in refusal(spec)


def test_what_is_missing_is_named():
    assert "no file 'nothing.py'" in refusal("nothing.py:make")
    assert "no module 'no_such_package'" in refusal("no_such_package.part:make")
    assert "no module 'json.part'" in refusal("json.part:make")
    assert "did you mean 'loads'?" in refusal("json:lods")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def make(): raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def make(): raise KeyError()", "raised KeyError;"),
        ("def make(x): return x", "missing 1 required positional argument"),
        ("def make(): raise SystemExit(3)", "SystemExit: 3"),
        ("1 / 0", "ZeroDivisionError"),
        ("def make(:", "SyntaxError"),
        ("import no_such_package", "no_such_package"),
        ("import sys; sys.exit()", "SystemExit"),
    ],
)
def test_an_exception_of_the_users_code_becomes_one_line_that_names_it(file, body, said):
    assert said in refusal(f"{file(body)}:make")


def test_a_refusal_by_the_factory_itself_is_passed_on(file):
    body = "from sparring.errors import BadInput\ndef make(): raise BadInput('this', 'that', 'do so')"
    assert refusal(f"{file(body)}:make") == "this; need that; do so"


def test_a_module_that_lacks_a_package_says_which(file, monkeypatch, tmp_path):
    file("import no_such_package\n", "a_module_that_lacks.py")
    monkeypatch.chdir(tmp_path)
    assert "'a_module_that_lacks' imports 'no_such_package'" in refusal("a_module_that_lacks:make")
