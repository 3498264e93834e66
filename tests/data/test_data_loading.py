"""What can be said after `--data`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sparring.data import DATASETS, Arrays, load, load_split
from sparring.errors import BadInput


def refusal(spec):
    with pytest.raises(BadInput) as error:
        load(spec)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Write a file of factories; return the spec of one."""
    monkeypatch.chdir(tmp_path)

    def write(body, file="mine.py"):
        (tmp_path / file).write_text(f"import numpy as np, torch\nfrom sparring.data import Arrays\n{body}\n")
        return f"{file}:make"

    return write


def test_a_name_may_carry_its_split():
    assert (load("digits").name, load("digits:train").name) == ("digits:test", "digits:train")
    assert load("digits", split="train").name == "digits:train"
    assert load("digits:test", split="train").name == "digits:test"


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Data with splits and without, in the folder in which the test runs."""
    monkeypatch.chdir(tmp_path)
    x, y = np.ones((3, 2)), np.arange(3)
    np.savez("whole.npz", x=x, y=y)
    np.savez("parts.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    (tmp_path / "a.csv").write_text("a,y\n1,0\n")
    (tmp_path / "mine.py").write_text("import numpy as np\ndef make(): return np.ones((3, 2)), np.arange(3)\n")
    for place in ("photos/cat", "photos/dog", "sets/train/cat", "sets/test/cat"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "a.png")


@pytest.mark.parametrize("spec", ["whole.npz", "a.csv", "mine.py:make", "photos"])
def test_a_split_of_data_that_have_none_is_refused_where_it_was_asked_for(sources, spec):
    assert len(load(spec, split="train")), "else it counts only where there are several"
    with pytest.raises(BadInput, match=rf"^--split train for {spec}; need data with splits; leave it out$"):
        load_split(spec, "train")


@pytest.mark.parametrize("spec", ["digits", "parts.npz", "parts.npz:train", "sets", "sets:train", "digits:train"])
def test_a_split_of_data_that_have_some_is_taken(sources, spec):
    assert len(load_split(spec, "train")) == len(load(spec, split="train"))


@pytest.mark.parametrize("spec", ["parts.npz:train", "sets:train", "digits:train"])
def test_two_different_splits_are_one_too_many(sources, spec):
    with pytest.raises(BadInput, match=rf"^--split test for {spec}; need one split"):
        load_split(spec, "test")


def test_a_split_that_contradicts_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(DATASETS, "digits", None)
    with pytest.raises(BadInput, match="need one split"):
        load_split("digits:train", "test")


def test_an_empty_split_is_not_taken_for_none_at_all(sources):
    for spec in ("digits:", "parts.npz:", "sets:"):
        assert "need a split" in refusal(spec)


def test_nothing_is_not_taken_for_the_current_folder(sources, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path / "photos")
    assert refusal("").startswith("no data set, file, folder or module ''; need digits")
    assert len(load(".")) == 2


def test_what_is_not_there_is_said_before_its_splits(sources):
    with pytest.raises(BadInput, match=r"no file 'gone\.npz'"):
        load_split("gone.npz", "train")
    with pytest.raises(BadInput, match="no val"):
        load_split("sets", "val")


def test_an_unknown_name_is_answered_with_the_nearest_one():
    assert "did you mean 'mnist'?" in refusal("minst")
    assert "did you mean 'digits'?" in refusal("digit:train")
    assert "digits, mnist, fashion-mnist" in refusal("nothing-like-it")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("")
    assert "an .npz, a .csv, a .tsv of texts, or a folder" in refusal(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    "body",
    [
        "def make(): return np.ones((3, 2)), np.arange(3)",
        "def make(): return [torch.ones(3, 2), torch.arange(3)]",
        "make = (np.ones((3, 2)), np.arange(3))",
        "def make(): return Arrays('mine', np.ones((3, 2)), np.arange(3))",
        "def make(): return torch.utils.data.TensorDataset(torch.ones(3, 2), torch.arange(3))",
        "def make(): return [(torch.ones(2), i) for i in range(3)]",
    ],
)
def test_a_factory_may_give_data_in_several_forms(factory, body):
    data = load(factory(body))
    x, y = data.take([2, 0])
    assert len(data) == 3
    assert torch.equal(x, torch.ones(2, 2))
    assert y.tolist() == [2, 0]


def test_a_module_on_the_path_gives_data(factory, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    factory("def make(): return np.ones((3, 2)), np.arange(3)", "a_module_of_data.py")
    assert len(load("a_module_of_data:make")) == 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def make(): return 3", "gave int"),
        ("def make(): return {'x': 1}", "gave dict"),
        ("def make(): return np.ones((3, 2))", "gave ndarray"),
        ("def make(): return torch.utils.data.DataLoader([(1, 2)])", "gave DataLoader"),
        ("def make(): return []", "is empty"),
        ("def make(): return [1, 2, 3]", "do not stack"),
        ("class make(list):\n def __len__(self): return 3", "gives no item (IndexError"),
        (
            "class make(list):\n def __len__(self): return 3\n def __getitem__(self, i): raise RuntimeError('a\\nb')",
            "gives no item (RuntimeError: a b)",
        ),
        ("class DataFrame(list): columns = ['a', 'label']\ndef make(): return DataFrame([1])", "gave a DataFrame"),
        ("def make(): return [(torch.eye(2).to_sparse(), 0)]", "the items of mine.py:make are no array"),
        ("def make(): return [([torch.ones(2, requires_grad=True)], 0)]", "requires grad"),
        ("def make(): return [(np.ones(2), 0), (np.ones(2), 'cat'), 3]", None),
        ("def make(): return [[1, 2], [3]], [0, 1]", "unequal"),
        ("def make(): return np.ones((3, 2)), np.arange(2)", "3 inputs and 2 labels"),
        ("def make(): raise RuntimeError('line\\none')", "RuntimeError: line one"),
        ("make: int", "has no 'make'"),
        ("import a_module_that_is_not_there", "on import"),
    ],
)
def test_a_factory_that_gives_something_else_is_refused_in_one_line(factory, body, said):
    spec = factory(body)
    if said is None:
        with pytest.raises(BadInput, match="text"):
            load(spec).take([0, 1])
    else:
        assert said in refusal(spec)


def test_items_may_be_tensors_of_any_type_that_ask_for_gradients(factory):
    body = "def make(): return [(torch.full((2,), 0.5, dtype=torch.bfloat16, requires_grad=True), torch.tensor(1))] * 3"
    x, y = load(factory(body)).take([0, 2])
    assert x.tolist() == [[0.5, 0.5]] * 2
    assert not x.requires_grad
    assert y.tolist() == [1, 1]


def test_pictures_with_a_palette_are_taken_in_their_colours(factory):
    body = "from PIL import Image\ndef make(): return [(Image.new('RGB', (3, 2), (255, 0, 51)).quantize(4), 0)] * 3"
    x, _ = load(factory(body)).take([1])
    assert x.shape == (1, 2, 3, 3)
    assert torch.allclose(x[0, 0, 0], torch.tensor([1.0, 0.0, 0.2]), atol=0.01)


def test_items_of_unequal_shape_are_refused_when_they_are_taken(factory):
    data = load(factory("def make(): return [(np.ones(2), 0), (np.ones(3), 0), (np.ones(2), 0)]"))
    with pytest.raises(BadInput, match="do not stack"):
        data.take([0, 1])


def test_data_of_ones_own_kind_is_handed_through(factory):
    body = """
class make:
    name, classes = "own", ()
    def __len__(self): return 2
    def take(self, indices): return torch.zeros(len(indices), 5), torch.zeros(len(indices), dtype=torch.int64)
"""
    assert load(factory(body)).name == "own"


def test_arrays_describe_themselves_in_short():
    assert repr(Arrays("a", np.ones((3, 2)), np.arange(3))) == "Arrays('a', x=(3, 2) float64, y=(3,))"


def test_importing_data_imports_no_optional_framework():
    code = (
        "import sys, sparring.data; print([m for m in ('datasets', 'pandas', 'sklearn', 'httpx') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["uint8", "int32", "bool"])
def test_labels_of_ones_own_data_are_int64(tmp_path: Path, kind: str) -> None:
    lines = (
        "import torch",
        "class Mine:",
        "    name, classes = 'mine', ()",
        "    def __len__(self):",
        "        return 4",
        "    def take(self, rows):",
        f"        return torch.rand(len(rows), 3), torch.ones(len(rows), dtype=torch.{kind})",
        "def data():",
        "    return Mine()",
    )
    (tmp_path / "mine.py").write_text("\n".join(lines))
    with pytest.raises(BadInput, match=f"labels of torch.{kind} in mine; need int64"):
        load(f"{tmp_path / 'mine.py'}:data")
