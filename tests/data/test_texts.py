"""Texts as rows of numbered words, and files of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.data import first, load, sst2
from sparring.data.lexicon import Lexicon, parted, pieces
from sparring.data.texts import Texts, load_tsv, whole
from sparring.errors import BadInput


@given(st.text())
def test_the_pieces_of_a_text_are_the_text(text):
    assert "".join(pieces(text)) == text


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_what_is_encoded_is_decoded_to_the_letter(texts):
    lexicon = Lexicon.of(texts)
    length = max(1, *(len(pieces(text)) for text in texts)) + 2
    assert lexicon.decode(lexicon.encode(texts, length)) == texts


def test_words_signs_and_characters_are_pieces():
    assert pieces("It's a well-made film, 真好看!") == [
        "It's",
        " a",
        " well-made",
        " film",
        ",",
        " 真",
        "好",
        "看",
        "!",
    ]
    assert parted(" film") == (" ", "film")


def test_texts_are_read_by_index_and_keep_their_labels():
    data = Texts("reviews", ["good film", "a very bad film", "fine"], [1, 0, 1], ("negative", "positive"))
    x, y = data.take([2, 0])
    assert x.shape == (2, 4)
    assert data.words.decode(x) == ["fine", "good film"]
    assert y.tolist() == [1, 1]
    assert x.dtype == torch.float32


def test_the_first_texts_of_some_are_texts_of_their_own():
    data = Texts("reviews", ["good film", "a very bad film", "fine"], [1, 0, 1], ("negative", "positive"))
    some = whole(first(data, 2))
    assert list(some.texts) == ["good film", "a very bad film"]
    assert list(some.y) == [1, 0]
    assert some.classes == data.classes
    assert whole(load("digits")) is None


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        ([], [], "no reviews"),
        (["good", 3], [0, 1], "int among its texts"),
        (["good"], [0, 1], "1 texts and 2 labels"),
        (["good"], [-1], "labels of reviews contain -1"),
    ],
)
def test_what_are_no_texts_is_refused_in_a_line(texts, labels, said):
    with pytest.raises(BadInput, match=said):
        Texts("reviews", texts, labels)


def test_a_tsv_is_read_with_or_without_a_head_and_with_names_for_labels(tmp_path):
    file = tmp_path / "reviews.tsv"
    file.write_text("sentence\tlabel\ngood film\tpositive\nbad film\tnegative\n", encoding="utf-8")
    data = load(str(file))
    assert list(data.texts) == ["good film", "bad film"]
    assert list(data.y) == [1, 0]
    assert data.classes == ("negative", "positive")
    file.write_text("good film\t1\n\nbad film\t0\n", encoding="utf-8")
    assert list(load_tsv(file).y) == [1, 0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"one\ttwo\t1\n", "3 columns in row 1"),
        (b"", "is empty"),
        (b"\xff\xfe\t1\n", "in UTF-8"),
        (None, "cannot read"),
    ],
)
def test_another_file_is_refused_in_a_line(tmp_path, content, said):
    file = tmp_path / "reviews.tsv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match=said):
        load_tsv(file)


def test_sst2_is_found_where_it_was_put_and_asked_for_where_not(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARRING_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"text/sst2_test\.tsv in SPARRING_DATA"):
        load("sst2")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "sst2_train.tsv").write_text("good film\t1\nbad film\t0\n", encoding="utf-8")
    data = sst2("train")
    assert data.name == "sst2:train"
    assert data.classes == ("negative", "positive")
