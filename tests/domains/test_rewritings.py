"""What may stand in place of a word, the threat made of it, and what cleans it away."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparring.data.texts import Texts
from sparring.domains.text.cleaning import Corrector, behind, latin
from sparring.domains.text.rewritings import BESIDE, Synonyms, lookalikes, typing_errors
from sparring.domains.text.threats import Rewrites, rewriting
from sparring.errors import BadInput
from sparring.streams import Streams
from sparring.threats import linf, parse

WORDS = st.text(alphabet="abcdefgEFG", min_size=0, max_size=9)


@given(WORDS)
def test_a_typing_error_keeps_the_ends_of_a_word_and_is_one_slip(word):
    for error in typing_errors(word):
        assert (error[0], error[-1]) == (word[0], word[-1])
        assert abs(len(error) - len(word)) <= 1
        if len(error) == len(word):
            off = [i for i, (one, other) in enumerate(zip(word, error, strict=True)) if one != other]
            assert len(off) <= 2


def test_typing_errors_are_those_of_the_paper_on_a_word_done_by_hand():
    found = list(typing_errors("film"))
    assert found == ["flim", "flm", "fiilm"] + [f"f{key}lm" for key in BESIDE["i"]] + ["fim", "fillm"] + [
        f"fi{key}m" for key in BESIDE["l"]
    ]
    assert set(BESIDE["i"]) == set("uojk")
    assert set(BESIDE["l"]) == set("opk")
    assert not list(typing_errors("the"))
    assert not list(typing_errors("3.14159"))


def test_lookalikes_are_other_letters_that_nfkc_does_not_join():
    assert "fіlm" in set(lookalikes("film"))
    assert all(error != "film" for error in lookalikes("film") if error != "film")
    assert all(ord(letter) > 127 for letter in set(list(lookalikes("ace"))[-1]))


def test_synonyms_keep_the_case_and_leave_function_words_alone(tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"good": ["fine", "nice"], "at": ["under"]}), encoding="utf-8")
    found = Synonyms.read(table)
    assert list(found("good")) == ["fine", "nice"]
    assert list(found("Good")) == ["Fine", "Nice"]
    assert list(found("GOOD")) == ["FINE", "NICE"]
    assert list(found("at")) == []
    assert list(Synonyms(found.table, all_words=True)("at")) == ["under"]
    table.write_text("[1]", encoding="utf-8")
    with pytest.raises(BadInput, match="holds something else"):
        Synonyms.read(table)
    with pytest.raises(BadInput, match="cannot read"):
        Synonyms.read(tmp_path / "none.json")


def swaps(word):
    return {"good": ["fine", "nice"], "film": ["movie"]}.get(word, [])


TEXTS = Texts("reviews", ["a good film", "good good film.", "bad"], [1, 1, 0])


def test_a_text_over_a_threat_holds_just_the_texts_that_it_says():
    data, threat = Rewrites("swaps", 1, swaps).over(TEXTS)
    x, _ = data.take([0])
    allowed = {"a good film", "a fine film", "a nice film", "a good movie"}
    everything = [f"{a}{b}{c}" for a in ("a", "bad") for b in (" good", " fine", " nice") for c in (" film", " movie")]
    words = data.words
    some = [text for text in everything if all(piece in words.numbers for piece in (text.split(" ")[0], " film"))]
    z = torch.cat([words.encode([text], x.shape[1]) for text in some])
    inside = threat.contains(z, x.expand_as(z))
    assert {text for text, held in zip(some, inside.tolist(), strict=True) if held} == allowed
    two = threat.at(2).contains(z, x.expand_as(z))
    assert {text for text, held in zip(some, two.tolist(), strict=True) if held} == {
        f"a{b}{c}" for b in (" good", " fine", " nice") for c in (" film", " movie")
    }
    assert threat.distance(z, x.expand_as(z))[some.index("bad good film")] == torch.inf


@given(st.integers(0, 3), st.integers(0, 2**31))
def test_draws_are_inside_and_use_up_the_words_that_there_are(eps, seed):
    data, threat = Rewrites("swaps", eps, swaps).over(TEXTS)
    x, _ = data.take([0, 1, 2])
    z = threat.sample(x, Streams.of(seed, range(3)))
    assert threat.contains(z, x).all()
    assert threat.distance(z, x).tolist() == [min(eps, 2), min(eps, 3), 0]
    assert torch.equal(threat.project(z, x), z)
    assert torch.equal(threat.project(z + 1000, x), x)


def test_draws_fill_the_threat_evenly():
    data, threat = Rewrites("swaps", 1, swaps).over(TEXTS)
    x, _ = data.take([0])
    z = threat.sample(x.repeat(6000, 1), Streams.of(0, range(6000)))
    texts = data.words.decode(z)
    counts = [texts.count(text) for text in ("a good movie", "a fine film", "a nice film")]
    assert sum(counts) == 6000
    for count, share in zip(counts, (1 / 2, 1 / 4, 1 / 4), strict=True):
        assert abs(count / 6000 - share) < 0.03


def test_anything_goes_in_the_whole_threat():
    data, threat = Rewrites("swaps", 1, swaps).over(TEXTS)
    x, _ = data.take([0, 2])
    whole = threat.whole(x)
    assert whole.eps == x.shape[1]
    assert (whole.norm.choices(x)[x > 0] > 0).any()
    assert (whole.norm.choices(x)[x == 0] == 0).all()


def test_two_tables_make_two_threats():
    one, other = (Rewrites("swaps", 1, f).over(TEXTS)[1] for f in (swaps, lambda word: swaps(word)[:1]))
    assert one.identity != other.identity
    assert str(one) == str(other) == "swaps:1"


def test_threats_on_words_are_read_from_a_line(tmp_path):
    assert str(rewriting("typos:2")) == "typos:2"
    assert rewriting("linf:0.1") is None
    table = tmp_path / "table.json"
    table.write_text('{"good": ["fine"]}', encoding="utf-8")
    assert list(rewriting(f"synonyms:1:{table}").rewriting("good")) == ["fine"]
    for text, said in (
        ("typos:1.5", "whole number of words"),
        ("typos:", "whole number of words"),
        ("typos:1:table.json", "a table for typos"),
    ):
        with pytest.raises(BadInput, match=said):
            rewriting(text)
    with pytest.raises(BadInput, match="which replaces words"):
        parse("typos:2")


def test_synonyms_without_a_table_are_refused_in_a_line(monkeypatch):
    monkeypatch.delenv("SPARRING_DATA", raising=False)
    with pytest.raises(BadInput, match="counterfitted_neighbors"):
        rewriting("synonyms:2")


def test_texts_without_a_word_to_rewrite_are_refused():
    with pytest.raises(BadInput, match="texts with words that it can rewrite"):
        rewriting("typos:1").over(Texts("short", ["a b", "c"], [0, 1]))


def test_words_have_no_gradient_and_no_noise():
    data, threat = Rewrites("swaps", 1, swaps).over(TEXTS)
    x, _ = data.take([0])
    for direction in (threat.norm.steepest, threat.norm.ascent):
        with pytest.raises(BadInput, match="an attack on words"):
            direction(x)
    assert not linf(0.1).discrete


def test_look_alike_letters_are_made_latin_and_other_alphabets_left_alone():
    for word in ("film", "Paxo", "scope"):
        assert {latin([error])[0] for error in lookalikes(word)} == {word}
    assert latin(["Привет, мир", "αβγ"]) == ["Привет, мир", "αβγ"]
    assert latin(["ｆｉｌｍ", "fi\u200blm"]) == ["film", "film"]


def test_the_corrector_undoes_typing_errors_of_words_it_knows():
    corrector = Corrector.of(["the film was wonderful", "a wonderful film"] * 2)
    for error in typing_errors("wonderful"):
        assert corrector([f"A {error} film."]) == ["A wonderful film."]
    assert corrector(["Wodnerful", "unknown words stay"]) == ["Wonderful", "unknown words stay"]
    assert behind(lambda texts: texts, corrector, latin)(["a wodnerful fіlm"]) == ["a wonderful film"]
