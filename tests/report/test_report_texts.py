"""Terminal, JUnit and SARIF, and what they derive from a result."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import example
import pytest
from rich.console import Console
from scipy.stats import binomtest

from sparring.evaluate.rates import questions
from sparring.evaluate.result import Result
from sparring.report import derive
from sparring.report.junit import junit
from sparring.report.sarif import sarif
from sparring.report.terminal import compare, show
from sparring.report.words import eps_text, p_text, passes_text, percent, seconds_text, threat_plain, threat_text, words


def said(*results: Result) -> str:
    out = io.StringIO()
    console = Console(file=out, width=140, color_system=None)
    if len(results) == 1:
        show(results[0], console)
    else:
        compare(results, console)
    return out.getvalue()


def test_the_terminal_says_the_verdict_and_the_reasons_before_the_numbers() -> None:
    result = example.suspect()
    text = said(result)
    assert text.index("SUSPECT") < text.index(result.reasons[1]) < text.index("74.5%  [67.9%, 80.4%]  in doubt")
    assert "18/193" in text
    assert "attack the view that the defence hands out" in text


def test_the_terminal_shows_no_number_of_an_invalid_result() -> None:
    for text in (said(example.invalid()), said(example.invalid(), example.invalid())):
        assert "not valid" in text
        assert not any(number in text for number in ("96.5%", "74.5%", "24.5%", "18/193", "67.9%"))


def test_the_terminal_prints_markup_in_names_as_it_is() -> None:
    text = said(example.result("[red]name[/red] [/]"), example.natural())
    assert "[red]name[/red] [/]" in text


def test_plain_ascii_terminals_get_plain_ascii() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=out, width=140)
    show(example.suspect(), console)
    compare([example.natural(), example.result()], console)


def test_comparing_counts_what_each_kept() -> None:
    first, second = example.natural(), example.result()
    pair = derive.pair(first, second)
    assert isinstance(pair, derive.Pair)
    assert pair.both + pair.first == round(first.robust_accuracy.estimate * 200)
    assert pair.both + pair.second == round(second.robust_accuracy.estimate * 200)
    assert pair.both + pair.first + pair.second + pair.neither == 200
    assert pair.p == binomtest(pair.first, pair.first + pair.second).pvalue
    assert f"both kept {pair.both}, only natural {pair.first}" in said(first, second)


def test_equal_results_do_not_differ() -> None:
    pair = derive.pair(example.result(), example.result())
    assert isinstance(pair, derive.Pair)
    assert (pair.first, pair.second, pair.p) == (0, 0, 1.0)


def test_results_from_before_there_was_a_digest_of_the_examples_still_compare() -> None:
    for one, other in ((None, None), (None, "a"), ("a", None), ("a", "a")):
        assert isinstance(derive.pair(example.result(digest=one), example.result(digest=other)), derive.Pair)


def test_what_cannot_be_compared_example_by_example_is_said_to_be_so() -> None:
    assert derive.pair(example.result(), example.invalid()) == "invalid"
    assert derive.pair(example.result(), example.result(threat={"norm": "l2", "eps": 1.0})) == "threat"
    assert derive.pair(example.result(), example.result(seed=1)) == "examples"
    assert derive.pair(example.result(digest="a"), example.result(digest="b")) == "examples"
    assert "the threats differ" in said(example.result(), example.result(threat={"norm": "l2", "eps": 1.0}))


def test_the_fates_sum_to_the_examples() -> None:
    for result in (example.result(), example.natural()):
        fates = derive.fates(result)
        assert fates.certified + fates.stood + fates.broken + fates.wrong == result.examples
        assert (fates.certified + fates.stood) / result.examples == result.robust_accuracy.estimate


@pytest.mark.parametrize(
    ("called", "places", "told"),
    [
        ("aba", (), ("a", "b", "a (2)")),
        (("a (2)", "a", "a"), (), ("a (2)", "a", "a (3)")),
        ("aba", ("runs/before", "runs/new", "runs/after"), ("a (before)", "b", "a (after)")),
        ("aa", ("before/result.json", "after/result.json"), ("a (before)", "a (after)")),
        ("aa", ("before/run/result.json", "after/run/result.json"), ("a (before/run)", "a (after/run)")),
        ("aa", ("first.json", "second.json"), ("a (first.json)", "a (second.json)")),
        ("aa", ("run", "run"), ("a (run)", "a (run) (2)")),
        ("ab", ("run", "run"), ("a", "b")),
    ],
)
def test_results_of_one_name_are_told_apart(
    called: Sequence[str], places: Sequence[str], told: tuple[str, ...]
) -> None:
    results = [example.result(name) for name in called]
    apart = derive.told_apart(results, [Path(place) for place in places])
    assert tuple(result.name for result in apart) == derive.names(apart) == told
    assert [result.model_copy(update={"name": ""}) for result in apart] == [
        result.model_copy(update={"name": ""}) for result in results
    ]


def test_comparisons_and_services_name_the_folders_of_equal_names() -> None:
    results = derive.told_apart([example.result("m"), example.result("m")], ["before", "after"])
    assert "m (before) / m (after): both kept" in said(*results)
    assert [suite.get("name") for suite in ET.fromstring(junit(results))] == ["m (before)", "m (after)"]
    assert '"m (after): ' in sarif(results)


def test_junit_counts_failures_and_holds_the_gate() -> None:
    suite = ET.fromstring(junit([example.suspect()], fail_under=0.8))[0]
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["verdict", "black-box", "robust accuracy >= 0.8"]
    assert suite.get("failures") == "3"
    assert suite.get("tests") == str(len(suite))
    clean = ET.fromstring(junit([example.result()], fail_under=0.5))[0]
    assert (clean.get("failures"), clean.get("skipped")) == ("0", "1")


def test_a_result_that_is_not_trusted_fails_every_gate() -> None:
    assert "there is no number" in str(derive.gate(example.invalid(), 0.0))
    assert "in doubt" in str(derive.gate(example.suspect(), 0.0))
    for doubtful in (example.suspect(), example.invalid()):
        case = ET.fromstring(junit([doubtful], fail_under=0.0))[0].find("testcase[@name='robust accuracy >= 0']")
        assert case is not None
        assert case.find("failure") is not None
    assert derive.gate(example.result(), 0.745) is None


def test_what_was_seen_and_what_to_do_are_joined_by_an_arrow_everywhere() -> None:
    result = example.suspect().model_copy(update={"reasons": ("seen → do",)})
    assert "- seen -> do" in said(result), "in ASCII on a terminal"
    case = ET.fromstring(junit([result]))[0].find("testcase[@name='verdict']/failure")
    assert case is not None
    assert case.text == "seen → do"
    messages = [one["message"]["text"] for one in json.loads(sarif([result]))["runs"][0]["results"]]
    assert messages[0] == "bit-depth reduction is suspect: seen → do"


def test_where_nothing_was_attacked_no_examples_are_counted() -> None:
    nothing = example.invalid().model_copy(update={"examples": 0, "per_example": (), "attacks": ()})
    assert "examples" not in said(nothing).splitlines()[0]


def test_sarif_says_in_a_sentence_what_a_rule_looks_at() -> None:
    check = example.result().checks[0]
    checks = [check.model_copy(update={"name": question.name, "threshold": "none"}) for question in questions()]
    checks.append(check.model_copy(update={"name": "of-tomorrow", "threshold": "5 %"}))
    log = json.loads(sarif([example.result(checks=tuple(checks))]))
    rules = {rule["id"]: rule for rule in log["runs"][0]["tool"]["driver"]["rules"]}
    known = [rule for name, rule in rules.items() if name != "of-tomorrow"]
    assert all(rule["shortDescription"]["text"].endswith("?") for rule in known)
    assert rules["finite-inputs"]["shortDescription"]["text"] == "Are there NaN or infinite inputs?"
    assert rules["finite-inputs"]["help"]["text"] == "clean the data"
    assert rules["of-tomorrow"]["shortDescription"]["text"] == "of-tomorrow"


def test_junit_survives_characters_that_xml_cannot_hold() -> None:
    text = junit([example.result("a\x00b\x1b <&\"'>")])
    assert ET.fromstring(text)[0].get("name") == "a\ufffdb\ufffd <&\"'>"


def test_sarif_has_a_rule_for_every_finding() -> None:
    log = json.loads(sarif([example.suspect(), example.invalid()]))
    assert log["version"] == "2.1.0"
    run = log["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    assert {finding["ruleId"] for finding in run["results"]} <= set(rules)
    assert all((finding["kind"] == "fail") == (finding["level"] != "none") for finding in run["results"])
    levels = [finding["level"] for finding in run["results"] if finding["ruleId"] == "verdict"]
    assert levels == ["warning", "error"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (percent(0.8125), "81.2%"),
        (percent(0.8293, 10000), "82.93%"),
        (eps_text(8 / 255), "8/255"),
        (eps_text(0.3), "0.3"),
        (eps_text(0.0), "0"),
        (eps_text(1.0), "1"),
        (passes_text(4007.0), "4,007"),
        (passes_text(1.93), "1.9"),
        (passes_text(0.01), "< 0.1"),
        (passes_text(0), "0"),
        (seconds_text(64.53), "64.5 s"),
        (seconds_text(400), "6 min 40 s"),
        (seconds_text(4000), "1 h 6 min"),
        (p_text(1e-9), "< 0.0001"),
        (p_text(0.0321), "0.032"),
    ],
)
def test_numbers_are_said_as_people_say_them(given: str, text: str) -> None:
    assert given == text


def test_a_threat_is_said_in_one_line() -> None:
    assert threat_text(example.result()) == "ℓ∞ ≤ 0.1 in [0, 1]"
    assert threat_text(example.result(), words("zh")) == "ℓ∞ ≤ 0.1，取值范围 [0, 1]"
    assert threat_plain(example.result()) == "linf <= 0.1 in [0, 1]"
    assert threat_text(example.result(threat={"edits": 3.0, "source": "synonyms"})) == "edits 3, source synonyms"
    assert threat_text(example.result(threat={})) == ""


def test_sarif_gives_a_place_as_an_address() -> None:
    log = json.loads(sarif([example.suspect()], "my runs/50% of #3/result.json"))
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert place == "my%20runs/50%25%20of%20%233/result.json"


def test_class_names_may_have_commas() -> None:
    settings = {**example.result().settings, "classes": json.dumps(["tench, Tinca tinca", "goldfish"])}
    assert derive.classes(example.result(settings=settings)) == ("tench, Tinca tinca", "goldfish")


@pytest.mark.parametrize("eps", [1e-9, 3e-9])
def test_an_eps_that_is_next_to_nothing_is_no_zero(eps: float) -> None:
    assert eps_text(eps) == f"{eps:g}"
