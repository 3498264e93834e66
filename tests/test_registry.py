from typing import get_args

import pytest

from sparring import registry
from sparring.errors import BadInput
from sparring.registry import find, members, register
from sparring.tables import TABLES


def test_every_attack_says_what_it_is():
    for name, entry in members("attacks").items():
        assert entry.name == name == name.lower()
        assert entry.summary.endswith("."), name
        assert entry.passes, name
        assert entry.paper or entry.aims == "control", name
        assert set(entry.norms) <= {"linf", "l2", "l1", "l0"}


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(BadInput, match="did you mean 'apgd-ce'"):
        find("attacks", "apgdce")
    with pytest.raises(BadInput, match="sparring list attacks"):
        find("attacks", "zzz")


@pytest.mark.parametrize("kind", get_args(registry.Kind))
def test_the_list_that_an_unknown_name_is_sent_to_is_there(kind):
    with pytest.raises(BadInput, match=f"sparring list {kind}"):
        find(kind, "zzz")
    assert [row[0].partition(":")[0] for row in TABLES[kind].rows()] == list(members(kind))


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setattr(registry, "_MEMBERS", {})
    register("defences", "one")(list)
    assert find("defences", "one").make is list
    with pytest.raises(ValueError, match="has a member 'one' already"):
        register("defences", "one")(dict)
