"""Error rates: closed cases, and the definition by brute force."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.domains.speech.transcripts import character_error_rate, edits, normal, word_error_rate
from sparring.errors import BadInput


def fewest(a, b):
    """The recursion that defines the distance."""

    @cache
    def d(i, j):
        if not (i and j):
            return i + j
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return d(len(a), len(b))


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edits_are_the_fewest_that_there_are(a, b):
    assert edits(a, b) == edits(b, a) == fewest(a, b)


def test_words_are_counted_without_capitals_and_punctuation():
    said = "The child almost hurt the small dog."
    assert word_error_rate(said, "the child ALMOST hurt, the small dog") == 0
    assert word_error_rate(said, "the child almost heard a small dog") == pytest.approx(2 / 7)
    assert word_error_rate(said, "") == 1
    assert word_error_rate("stop", "please do not stop") == 3
    assert character_error_rate("kitten", "sitting") == pytest.approx(3 / 6)


def test_rates_of_several_texts_weigh_each_word_alike():
    assert word_error_rate(["one two three", "four"], ["one two three", "five"]) == pytest.approx(1 / 4)
    with pytest.raises(BadInput, match="one transcript a text"):
        word_error_rate(["one"], ["one", "two"])
    with pytest.raises(BadInput, match="without a word"):
        word_error_rate("...", "one")


def test_texts_are_normalised_always_in_the_same_way():
    assert normal("  Don’t  stop -- 'now', Zoë_1!") == "don't stop now zoe 1"
    assert normal(normal("It's 5 o'clock.")) == normal("It's 5 o'clock.") == "it's 5 o'clock"
