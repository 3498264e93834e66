from typing import get_args

import pytest

from sparring import registry
from sparring.errors import BadInput
from sparring.registry import attack, find, members, register
from sparring.spelling import nearest
from sparring.tables import TABLES
from sparring.threats import linf


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


@pytest.mark.parametrize(
    ("given", "meant"),
    [("pdg", "pgd"), ("PGD", "pgd"), ("sqaure", "square"), ("APGD_CE", "apgd-ce"), ("deepfol", "deepfool")],
)
def test_a_swap_is_one_slip_and_capitals_are_none(given, meant):
    with pytest.raises(BadInput) as refusal:
        find("attacks", given)
    assert str(refusal.value).endswith(f"did you mean {meant!r}? (see: sparring list attacks)")
    assert len(str(refusal.value)) < 120, "the guess alone"


def test_what_is_like_nothing_gets_no_guess_and_only_a_short_list_is_printed():
    assert nearest("zzz", ["pgd", "fgsm"]) is None
    assert nearest("pgd", []) is None
    assert nearest("FW", ["fw", "FW"]) == "FW"
    with pytest.raises(BadInput, match=r"one of interval, crown, .*; see: sparring list certificates"):
        find("certificates", "zzz")
    with pytest.raises(BadInput, match=rf"one of {len(members('attacks'))} names"):
        find("attacks", "zzz")


OWN = """
from sparring.attacks import pgd

def mine(threat, *, steps: int = 3):
    return pgd(threat, steps=steps)

class Family:
    @staticmethod
    def other(threat):
        return pgd(threat, steps=4)

number = 3
"""


def test_an_attack_may_be_a_factory_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_attacks_of_a_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    for spec in ("own_attacks_of_a_test.py:mine", "own_attacks_of_a_test:mine"):
        entry = attack(spec)
        assert entry.name == "mine"
        assert set(entry.kinds) == set(members("threats"))
        assert entry.make(linf(0.1), steps=2).steps == 2
    assert attack("own_attacks_of_a_test.py:Family.other").make(linf(0.1)).steps == 4
    assert attack("pgd") is members("attacks")["pgd"]
    assert attack("sparring.attacks:pgd") is members("attacks")["pgd"], "what is registered is known"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("a.py:mien", "'a.py' has no 'mien'; .* did you mean 'mine'"),
        ("a.py:number", "'a.py:number' is of type int; need a factory"),
        ("a.py:mine.gone", "'a.py' has no 'mine.gone'"),
        ("gone.py:mine", "no file 'gone.py'"),
        ("no_such_package:mine", "no module 'no_such_package'"),
        (":mine", "unknown attack ':mine'"),
        ("pgdd", "did you mean 'pgd'"),
    ],
)
def test_what_is_no_factory_is_refused_in_one_line(tmp_path, monkeypatch, spec, said):
    (tmp_path / "a.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=said):
        attack(spec)


def test_a_name_is_given_once(monkeypatch):
    monkeypatch.setattr(registry, "_MEMBERS", {})
    register("defences", "one")(list)
    assert find("defences", "one").make is list
    with pytest.raises(ValueError, match="has a member 'one' already"):
        register("defences", "one")(dict)
