from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import example
import pytest
from matplotlib.figure import Figure

from sparring.evaluate.result import Defended, Forecast
from sparring.report import derive, read, write
from sparring.report.gallery import save
from sparring.report.page import Section, page
from sparring.report.words import Language, words

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Reader(HTMLParser):
    """Checks that every tag is closed in order, and gathers what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]


def one(language: Language = "en") -> str:
    result = example.result()
    return page([result], {result.name: example.gallery()}, title="Digits", language=language)


def two() -> str:
    results = [example.natural(), example.result()]
    return page(results, {r.name: example.gallery(count=2) for r in results}, title="Before and after")


@pytest.mark.parametrize("make", [one, two])
def test_a_page_is_self_contained_balanced_and_has_no_id_twice(make: object) -> None:
    text = make()  # type: ignore[operator]
    reader = Reader(text)
    links = reader.values("src", "href", "xlink:href", "srcset", "poster", "data", "action")
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\(\s*['\"]?\s*(?!['\"]?(#|data:))", text)
    assert "<script" not in text
    ids = reader.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in reader.values("href", "xlink:href") if link.startswith("#")} <= set(ids)
    assert set(reader.values("aria-labelledby")) <= set(ids)
    assert not re.search(r"\{\w+\}", reader.text), "a placeholder was not filled"


def test_pictures_have_alternative_texts_and_table_headers_a_scope() -> None:
    reader = Reader(two())
    assert all(attrs.get("alt") for tag, attrs in reader.tags if tag == "img")
    assert all(attrs.get("scope") in {"row", "col"} for tag, attrs in reader.tags if tag == "th")
    assert all(attrs.get("aria-label") for _, attrs in reader.tags if attrs.get("role") == "img")
    assert [attrs["lang"] for tag, attrs in reader.tags if tag == "html"] == ["en"]


def test_the_verdict_and_its_reasons_come_before_every_number() -> None:
    result = example.suspect()
    text = Reader(page([result], {}, title="t")).text
    assert text.index("Suspect") < text.index(result.reasons[0]) < text.index("74.5%")
    assert "in doubt" in text


def test_an_invalid_result_shows_no_number_of_its_own() -> None:
    invalid = example.invalid()
    text = page([invalid], {}, title="t")
    numbers = [invalid.clean_accuracy, invalid.robust_accuracy, invalid.certified_accuracy]
    for number in numbers:
        assert number is not None
        for part in (number.estimate, number.low, number.high):
            assert f"{100 * part:.1f}%" not in text
    assert not any(f"{attack.broke} / {attack.attacked}" in text for attack in invalid.attacks)
    assert text.count("not valid") >= 3 + 2 * len(invalid.attacks)
    assert '<div role="img"' not in text, "no curve is drawn"


def test_an_invalid_result_beside_a_valid_one_is_not_compared() -> None:
    text = Reader(page([example.result(), example.invalid()], {}, title="t")).text
    assert "not compared: a verdict is invalid" in text
    assert "McNemar" in text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_hostile_names_stay_text(language: Language) -> None:
    evil = "<script>alert(1)</script> $\\frac{ _'\" onload=x & \x07"
    honest = example.result()
    check = honest.checks[0].model_copy(update={"name": evil, "evidence": evil, "remedy": evil, "outcome": "fail"})
    attack = honest.attacks[0].model_copy(update={"name": evil, "config": evil})
    changes = {
        "reasons": (evil,),
        "command": evil,
        "threat": {"norm": evil, "eps": 0.1, evil: evil},
        "checks": (check,),
        "attacks": (attack,),
        "settings": {evil: evil, "classes": ",".join([evil] * 10)},
        "environment": {evil: evil, "sparring": evil},
    }
    results = [example.result(evil, verdict="suspect", **changes), example.result("_hidden", **changes)]
    sections = [Section(title=evil, text=evil, caption=evil, figure=f"<svg><script>{evil}</script></svg>")]
    galleries = {evil: example.gallery(count=1), "_hidden": example.gallery(count=1, shape=(50,))}
    text = page(results, galleries, title=evil, sections=sections, language=language)
    reader = Reader(text)
    assert "<script" not in text.lower()
    assert "onload" not in {name for _, attrs in reader.tags for name in attrs}
    assert "_hidden</text>" in text, "the legend leaves out names that begin with an underscore"


def test_every_word_exists_in_both_languages_with_the_same_places_to_fill() -> None:
    english, chinese = words("en"), words("zh")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"\{(\w+)\}", text)) == sorted(re.findall(r"\{(\w+)\}", chinese[key])), key
        assert chinese[key]
    same = {key for key in english if english[key] == chinese[key]}
    assert same == set()


def test_every_word_is_said_somewhere() -> None:
    source = Path(__file__).parents[2] / "src/sparring/report"
    text = "".join(
        (source / name).read_text(encoding="utf-8")
        for name in ("page.py", "page.html.j2", "figures.py", "training.py", "words.py", "../hardening.py")
    )
    built = ("_means", "_accuracy", "_note", "fate_", "pair_invalid", "pair_threat", "pair_examples")
    for key in words():
        assert re.search(rf"w\.{key}\b|\"{key}\"", text) or any(part in key for part in built) or key in OUTCOMES, key


OUTCOMES = {"pass", "warn", "fail", "skipped", "trusted", "suspect", "invalid"}


def test_the_chinese_page_speaks_chinese() -> None:
    reader = Reader(one("zh"))
    assert [attrs["lang"] for tag, attrs in reader.tags if tag == "html"] == ["zh-Hans"]
    assert "鲁棒准确率" in reader.text
    assert "Robust accuracy" not in reader.text


def test_a_chinese_page_has_no_punctuation_of_english() -> None:
    results = [example.result("自然训练"), example.result("对抗训练")]
    forecast = Forecast(passes=4000, broke_late=1, examples=3.5, confidence=0.95)
    results = [result.model_copy(update={"outlook": forecast}) for result in results]
    text = page(results, {}, title="t", language="zh")
    assert "每种攻击的贡献：自然训练" in text
    assert "ℓ∞ ≤ 0.1，取值范围 [0, 1]" in text
    shown = Reader(text).text + "".join(re.findall(r'(?:alt|aria-label)="([^"]*)"', text))
    assert not re.search(r"[\u4e00-\u9fff] ?[:,;]|[，。：；] +[\u4e00-\u9fff]|%[,;]", shown)
    assert "投入：" in shown


def test_results_of_one_name_go_by_their_folders_wherever_they_are_named() -> None:
    same = [example.invalid(), example.result("m"), example.natural()]
    same = [result.model_copy(update={"name": "m"}) for result in same]
    results = derive.told_apart(same, ["new", "after", "before"])
    galleries = {name: example.gallery(count=1) for name in derive.names(results)}
    text = page(results, galleries, title="t")
    headings = re.findall(r"<h3[^>]*>(.*?)</h3>", text)
    for place in ("new", "after", "before"):
        assert headings.count(f"m ({place})") >= 3
    assert "What each attack added: m (before)" in headings
    assert ">m (after)</text>" in text.replace("\n", ""), "the legend"
    assert not {"m", "m (2)"} & set(headings)


def test_numbered_names_stay_with_their_results_where_some_are_not_drawn() -> None:
    results = [result.model_copy(update={"name": "m"}) for result in (example.invalid(), example.result())]
    text = page(results, {}, title="t")
    assert "accuracy under attack against eps, for m (2)." in text


def test_configurations_are_folded_and_printed_in_full() -> None:
    text = one()
    assert text.count("<details><summary>Configuration</summary>") == len(example.ATTACKS)
    assert f"<code>{example.ATTACKS[1][1]}</code></details>" in text
    assert "::details-content { content-visibility: visible" in text[text.index("@media print") :]


def test_back_ticks_stand_for_code_and_for_nothing_else() -> None:
    check = example.result().checks[0].model_copy(update={"evidence": "`<b>` and `a`", "remedy": "one ` alone"})
    sections = [Section(title="`t`", text="give `--trust`")]
    text = page([example.result("`n`", checks=(check,))], {}, title="t", sections=sections)
    assert "<code>&lt;b&gt;</code> and <code>a</code>" in text
    assert "one ` alone" in text
    assert "<p>give <code>--trust</code></p>" in text
    assert "<code>n</code>" not in text, "names are quoted as they are"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_where_nothing_was_attacked_no_examples_are_counted(language: Language) -> None:
    nothing = example.invalid().model_copy(update={"examples": 0, "per_example": (), "attacks": (), "checks": ()})
    say = words(language)
    text = Reader(page([nothing], {}, title="t", language=language)).text
    assert say["no_attacks"] in text
    assert f" · {say['examples'].format(n=0)}" not in text
    assert say["attacks_caption"].format(n=0) not in text
    both = Reader(page([nothing, example.result()], {}, title="t", language=language)).text
    assert say["attacks_caption"].format(n=200) in both


def test_equal_input_gives_an_equal_page() -> None:
    assert two() == two()


def test_sections_stand_where_they_were_asked_to() -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1], [0, 1])
    sections = [
        Section(title="Before it", text="First.\n\nSecond.", figure=figure, caption="A line."),
        Section(title="After it", figure=b"\x89PNG", alt="a picture", place="after"),
    ]
    text = page([example.result()], {}, title="t", sections=sections)
    reader = Reader(text)
    places = ("Before it", "Trusted", ">Checks</h2>", "After it", ">Settings</h2>")
    assert [text.index(place) for place in places] == sorted(text.index(place) for place in places)
    assert "<p>Second.</p>" in text
    assert any(v.startswith("data:image/png") for v in reader.values("src"))


def test_inputs_that_are_no_images_are_drawn_as_lines() -> None:
    result = example.result()
    for shape in ((30,), (4000,), (2, 9, 11, 3)):
        text = page([result], {result.name: example.gallery(count=1, shape=shape)}, title="t")
        reader = Reader(text)
        assert "as a line" in " ".join(reader.values("aria-label"))
        assert not [tag for tag, _ in reader.tags if tag == "img"]


def test_a_nan_in_a_prediction_is_shown_as_such() -> None:
    result = example.result()
    picture = example.gallery(count=1)[0]
    broken = type(picture)(0, 3, (float("nan"),) * 10, picture.attacked, picture.x * float("nan"), picture.z)
    assert "NaN" in Reader(page([result], {result.name: (broken,)}, title="t")).text


def test_a_result_without_attacks_checks_or_curve_still_makes_a_page() -> None:
    bare = example.result(examples=1, attacks=(), checks=(), curve=(), threat={}, settings={}, environment={})
    text = Reader(page([bare], {}, title="t")).text
    assert "No check ran" in text
    assert "No attack ran" in text


def test_a_report_is_written_beside_the_result_and_read_again(tmp_path: Path) -> None:
    result = example.result()
    result.save(tmp_path / "result.json")
    assert read(tmp_path) == (result, ())
    save(example.gallery(), tmp_path / "gallery.npz")
    back, pictures = read(tmp_path)
    path = write(tmp_path, [back], {back.name: pictures})
    assert path == tmp_path / "report.html"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gallery.npz", "report.html", "result.json"]
    assert "Example 5" in path.read_text(encoding="utf-8")


def test_a_real_browser_shows_the_page_without_a_complaint(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium in PATH: the page was not opened in a browser")
    path = tmp_path / "report.html"
    path.write_text(two(), encoding="utf-8")
    options = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
        "--disable-sync --no-first-run --disable-extensions --enable-logging=stderr --window-size=420,900 --dump-dom"
    )
    shown = subprocess.run(
        [chromium, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr, [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert "adversarially trained" in shown.stdout
    assert shown.stdout.count('<article class="bout') == 2
    assert shown.stdout.count("<svg") == two().count("<svg")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_defence_has_its_three_numbers_and_none_where_they_are_not_valid(language: Language) -> None:
    say = words(language)
    titles = [say[f"{kind}_accuracy"] for kind in ("clean", "bare", "unaware", "adaptive", "certified")]
    numbers = Defended(name="jpeg", bare=0.155, unaware=0.75, adaptive=0.26, missed=0)
    text = page([example.result(defence=numbers)], {}, title="A defence", language=language)
    assert re.findall(r"<dt>(.*?)</dt>", text)[:5] == titles
    assert "15.5%" in text
    behind = example.result("net.py:make behind jpeg", defence=numbers)
    text = page([behind], {behind.name: example.gallery()}, title="A defence", language=language)
    assert f'id="r0-name">net.py:make{say["behind"].format(defence="jpeg")}<' in text
    assert "Example 5" in text or "样本 5" in text
    assert "75.0%" in text
    nothing = Defended(name="jpeg", bare=None, unaware=None, adaptive=None, missed=0)
    text = page([example.invalid().model_copy(update={"defence": nothing})], {}, title="None", language=language)
    assert re.findall(r'<dd class="value none">(.*?)</dd>', text)[:5] == [say["not_valid"]] * 5
