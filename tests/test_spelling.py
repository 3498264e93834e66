"""What was meant by a name that there is not."""

from __future__ import annotations

import pytest

from sparring.data import DATASETS
from sparring.registry import members
from sparring.spelling import hint, nearest


@pytest.mark.parametrize(
    ("begun", "meant"),
    [
        ("carlini", "carlini-wagner"),
        ("Gaussian", "gaussian-noise"),
        ("uniform", "uniform-noise"),
        ("sparse", "sparse-rs"),
        ("sign", "sign-opt"),
        ("pgd-l0", "pgd-l0-shrinking"),
        ("apgd", "apgd-t"),
        ("hopskip", "hop-skip-jump"),
        ("hop_skip", "hop-skip-jump"),
    ],
)
def test_an_attack_that_is_begun_is_found(begun: str, meant: str) -> None:
    assert nearest(begun, members("attacks")) == meant


def test_a_data_set_that_is_begun_is_found() -> None:
    assert hint("fashion", DATASETS, "check the spelling") == "did you mean 'fashion-mnist'?"


def test_of_names_that_are_begun_the_shortest_is_meant_before_any_with_a_slip() -> None:
    assert nearest("hop", ["top", "hop-skip-jump", "hops"]) == "hops"
    assert nearest("sign", ["sigma", "sin", "Sign-opt"]) == "Sign-opt"
    assert nearest("mean", ["Means", "means"]) == "means"
    assert nearest("pgd", ["pgd-cosine", "PGD"]) == "PGD"


def test_two_letters_begin_nothing() -> None:
    assert nearest("pg", ["pgd-cosine"]) is None
    assert nearest("-p_", ["pgd-cosine"]) is None


@pytest.mark.parametrize("name", ["apgd-ce", "hop-skip-jump", "fab", "carlini-wagner"])
def test_a_name_that_there_is_means_itself(name: str) -> None:
    assert nearest(name, members("attacks")) == name
    assert nearest(name.upper(), members("attacks")) == name


def test_slips_count_where_nothing_is_begun() -> None:
    assert nearest("carlni", ["carlini", "square"]) == "carlini"
    assert nearest("zzzz", ["carlini", "square"]) is None
