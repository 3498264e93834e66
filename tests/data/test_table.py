"""CSV tables."""

from __future__ import annotations

import re

import pytest
import torch

from sparring.data import load, table
from sparring.errors import BadInput


def test_numbers_and_a_label_column_are_read(tmp_path):
    (tmp_path / "a.csv").write_text('\ufeffage, "Label" ,income\n1,2,"3e2"\n\n-4,0,0.5\n', encoding="utf-8")
    x, y = load(str(tmp_path / "a.csv")).take([1, 0])
    assert torch.equal(x, torch.tensor([[-4.0, 0.5], [1.0, 300.0]]))
    assert y.tolist() == [0, 2]


def test_words_as_labels_become_classes_in_alphabetical_order(tmp_path):
    (tmp_path / "a.csv").write_text('target,a\ndog,1\n "cat",2\n\ndog,3\n"an eel, long",4\n')
    data = load(str(tmp_path / "a.csv"))
    x, y = data.take(range(4))
    assert data.classes == ("an eel, long", "cat", "dog")
    assert y.tolist() == [2, 1, 2, 0]
    assert x.flatten().tolist() == [1, 2, 3, 4]


def test_numbers_as_labels_have_no_names(tmp_path):
    (tmp_path / "a.csv").write_text("a,target\n1,2\n5,0\n")
    data = load(str(tmp_path / "a.csv"))
    assert data.classes == ()
    assert data.take([0, 1])[1].tolist() == [2, 0]


@pytest.mark.parametrize("label", ["y", "Label"])
def test_a_target_beside_a_label_is_a_feature(tmp_path, label):
    (tmp_path / "a.csv").write_text(f"target,{label},b\n5,1,6\n7,0,8\n")
    x, y = load(str(tmp_path / "a.csv")).take([0, 1])
    assert x.tolist() == [[5, 6], [7, 8]]
    assert y.tolist() == [1, 0]


def test_quotes_that_belong_to_a_word_stay(tmp_path):
    (tmp_path / "a.csv").write_text('a,y\n1,"M6"""\n2,M6\n3, "M6"\n4, "M6"""\n5,"""M6"""\n6, " M6 "\n')
    data = load(str(tmp_path / "a.csv"))
    assert data.classes == ('"M6"', "M6", 'M6"')
    assert data.take(range(6))[1].tolist() == [2, 1, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("501,", "column 'y' of 'a.csv' has '' in line 502; need words or numbers as labels, not both"),
        ("501,nan", "column 'y' of 'a.csv' has 'nan' in line 502; need words or numbers as labels, not both"),
        ("501", "line 502 of 'a.csv' has 1 cells, the header 2; need a cell for every column"),
    ],
)
def test_of_many_labels_the_one_at_fault_is_blamed(tmp_path, row, said):
    rows = "".join(f"{i},cat\n" for i in range(500))
    (tmp_path / "a.csv").write_text(f"i,y\n{rows}{row}\n1,dog\n")
    with pytest.raises(BadInput, match=re.escape(said)):
        load(str(tmp_path / "a.csv"))


def test_no_label_after_the_first_is_looked_at_where_that_is_a_number(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("a,y\n" + "1,0\n" * 99)
    seen = []
    monkeypatch.setattr(table, "_is_word", lambda cell: bool(seen.append(cell)))
    assert len(load(str(tmp_path / "a.csv"))) == 99
    assert seen == ["0"]


def test_a_table_of_one_row_is_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n1,2\n")
    assert load(str(tmp_path / "a.csv")).take([0])[0].shape == (1, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "0 columns called label, y or target (a, b)"),
        ("a,label,y\n1,2,3\n", "2 columns called label, y or target (a, label, y)"),
        ("a;y\n1;2\n", "(a;y); need a header, commas, one label column, and features; separate the cells by commas"),
        ("a\ty\n1\t2\n", r"not by '\t'"),
        (",".join(map(str, range(30))) + "\n", "17, 18, 19, ...)"),
        ("y\n1\n", "and features"),
        ("", "0 columns called label, y or target (no header)"),
        ("a,y\n", "empty"),
        ("a,colour,y\n1,2,0\n1,red,0\n", "column 'colour' of 'a.csv' has 'red' in line 3"),
        ("a,y\n1,cat\n1,2\n", "column 'y' of 'a.csv' has '2' in line 3; need words or numbers as labels, not both"),
        ("a,y\n1,2\n1,cat\n", "column 'y' of 'a.csv' has 'cat' in line 3"),
        ("a,y\n1,\n1,cat\n", "column 'y' of 'a.csv' has '' in line 2"),
        ("a,y\n1\n1,cat\n", "line 2 of 'a.csv' has 1 cells, the header 2; need a cell for every column"),
        ("y,a\ncat,1\ndog,red\n", "column 'a' of 'a.csv' has 'red' in line 3"),
        ("y,a\ncat,1\ndog,nan\n", "column 'a' of 'a.csv' has 'nan' in line 3"),
        ("a,y\n1,cat\n1,dog,3\n", "line 3 of 'a.csv' has 3 cells, the header 2"),
        ("a,b,y\n1,red,0\n1,2\n", "line 3 of 'a.csv' has 2 cells, the header 3"),
        ("a,target,Target\n1,2,3\n", "2 columns called label, y or target"),
        ("a,b,y\n1,,0\n", "column 'b' of 'a.csv' has '' in line 2"),
        ("a,y\n1,0\n1,2,3\n", "line 3 of 'a.csv' has 3 cells, the header 2"),
        ("a,y\n1,2,3\n1,2,3\n", "2 names and 3 columns"),
        ("a,y\n1,0.5\n", "0.5"),
        ("a,y\n1,nan\n", "column 'y' of 'a.csv' has 'nan' in line 2"),
        ("a,b,y\n1,2,0\n1,nan,0\n", "column 'b' of 'a.csv' has 'nan' in line 3"),
        ("a,b,y\n-inf,2,0\n", "column 'a' of 'a.csv' has '-inf' in line 2"),
        ("a,b,y\n1,-1e39,0\n", "column 'b' of 'a.csv' has '-1e39' in line 2"),
        ("a,b,y\n1_000,2,0\n", "column 'a' of 'a.csv' has '1_000' in line 2"),
        ("a,y\n1,1e30\n", "contain 1e+30"),
        ("a,b,y\n1," + "x" * 200_000 + ",0\n", "line 2 of 'a.csv' cannot be read (field larger"),
        (",a,y\n0,5,1\n1,6,0\n", "column 1 of 'a.csv' has no name"),
        ("a,y,\n0,5,\n", "column 3 of 'a.csv' has no name"),
        ("a,y\n1,-1\n", "-1"),
    ],
)
def test_tables_that_cannot_be_used_are_refused_in_one_line(tmp_path, content, said):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(BadInput) as refusal:
        load(str(tmp_path / "a.csv"))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("label", [b"1", b"cat"])
def test_a_table_in_another_encoding_is_refused_wherever_that_shows(tmp_path, label):
    row = b"1," + label + b"\n"
    for content in (b"\xff\xfe\x00\x81", b"a,y\n" + 20_000 * row + b"1,caf\xe9\n" + 20_000 * row):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(BadInput, match=r"cannot be read.*need a UTF-8 CSV; save it again"):
            load(str(tmp_path / "a.csv"))


def test_a_split_of_a_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,y\n1,2\n")
    with pytest.raises(BadInput, match="without a split"):
        load(f"{tmp_path / 'a.csv'}:train")
