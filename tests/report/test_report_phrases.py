"""What audits and trainings say in sentences, in the language of a report."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from string import Formatter

import example
import pytest

import sparring
from sparring.data import Arrays
from sparring.evaluate.doctor import examine
from sparring.evaluate.judging import judge
from sparring.evaluate.result import Check
from sparring.models.loading import adopt
from sparring.report.page import page
from sparring.report.phrases import earlier, phrases, sentences
from sparring.training.alarms import Epoch, exploding_perturbation, gradient_masking
from sparring.zoo import find

PACKAGE = Path(sparring.__file__).parent
SPEAKING = [
    *(PACKAGE / "evaluate" / f"{name}.py" for name in ("checks", "doctor", "patient")),
    PACKAGE / "training" / "alarms.py",
]
BOOK = sentences("zh")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
ROLES = {"after control", "after single step", "black box"}
BROKE = (
    "after gradient attacks, black-box attacks broke 5 examples that stood, of 100 (at least 1.2%, by the 95% interval)"
)
tell = phrases("zh")


def places(sentence: str) -> set[str]:
    return {name for _, name, *_ in Formatter().parse(sentence) if name}


def filled(phrase: str) -> str:
    """A phrase with 7 in every place."""
    return "".join(text + ("7" if name else "") for text, name, *_ in Formatter().parse(phrase))


def written(node: ast.AST) -> str | None:
    """A string of the source, with 7 in every place."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in node.values)
    return None


def said(tree: ast.AST) -> list[str]:
    """Sentences in what a module says to its users: no docstrings, and not what a check asks."""
    if (text := written(tree)) is not None:
        sentence = text.strip(" ,;:")
        return [sentence] if re.search("[a-z] ", sentence) else []
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return []
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "asks":
        tree.args = []
    children = (node for node in ast.iter_child_nodes(tree) if getattr(node, "arg", "") not in {"asks", "bad"})
    return [sentence for node in children for sentence in said(node)]


@pytest.mark.parametrize("module", SPEAKING, ids=lambda path: path.stem)
def test_every_sentence_of_a_check_or_an_alarm_has_its_chinese(module: Path) -> None:
    sentences = said(ast.parse(module.read_text(encoding="utf-8")))
    assert sentences
    unknown = [sentence for sentence in sentences if sentence not in ROLES and not CHINESE.search(tell(sentence))]
    assert unknown == [], "say it in report/phrases.toml"


def test_every_phrase_is_still_said() -> None:
    rest = (PACKAGE / "evaluate" / f"{name}.py" for name in ("bout", "judging", "defended"))
    speaking = [*SPEAKING, *rest, PACKAGE / "tasks.py"]
    text = "\n".join(
        sentence
        for module in speaking
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if (sentence := written(node)) is not None
    )
    gone = [phrase for phrase in BOOK if filled(phrase) not in text]
    assert gone == [], "take it out of report/phrases.toml"


def test_what_stored_results_say_is_understood_though_nothing_says_it_any_more() -> None:
    assert not earlier("zh").keys() & BOOK.keys()
    assert all(CHINESE.search(tell(filled(phrase))) for phrase in earlier("zh"))


@pytest.mark.parametrize("english", [*BOOK, *earlier("zh")])
def test_a_phrase_has_the_same_places_in_both_languages(english: str) -> None:
    assert places(english) == places((earlier("zh") | BOOK)[english])


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (
            "linf:0.001 is 0.001 of the range, 0.255 steps of an 8-bit input: less than 8 bits can store",
            "linf:0.001 是整个范围的 0.001，即 8 位输入的 0.255 级：小于 8 位所能存储的",
        ),
        (
            "40% of the sample is right as it is, 90% times 255: put the normalisation that the model was trained with "
            "into the model, once",
            "按原样，抽样中 40% 判对；乘以 255 后则为 90%：把模型训练时所用的归一化放进模型，只做一次",
        ),
        ("eps is 0: nothing may change → give an eps above 0", "eps 为 0，什么也不能改变 → 给出大于 0 的 eps"),
        ("eps is 0: nothing may change: give an eps above 0", "eps 为 0，什么也不能改变：给出大于 0 的 eps"),
        ("it does not run there (expected: a, b; got: {c})", "它在那里无法运行（expected: a, b; got: {c}）"),
        ("an audit of tomorrow found: nothing", "an audit of tomorrow found: nothing"),
        ("", ""),
    ],
)
def test_sentences_are_looked_up_whole_and_in_parts(english: str, chinese: str) -> None:
    assert tell(english) == chinese
    assert phrases("en")(english) == english


def test_an_alarm_is_said_with_all_that_it_quotes() -> None:
    epoch = Epoch(epoch=3, step=9, seconds=1.0, loss=9.0, lr=0.1, strength=1.0, at_rest=0.1, classes=10)
    alarm = exploding_perturbation([epoch])
    assert tell(str(alarm)).startswith(
        "第 3 个 epoch 出现 exploding-perturbation：扰动后的权重处平均损失为 9，此前为 0.1（阈值："
    )
    result = example.suspect()
    checks = (Check(name="black-box", outcome="fail", evidence=BROKE, threshold="0.2 %"),)
    masked = gradient_masking(result.model_copy(update={"checks": checks}), 3)
    assert "after" not in tell(str(masked))


@pytest.mark.parametrize("name", ["detach", "softmax outputs", "bytes", "shifted labels", "normalised never"])
def test_all_that_the_doctor_says_of_a_broken_model_is_said_in_chinese(name: str) -> None:
    one = find(name)
    found = examine(adopt(one.make()), Arrays("digits", *one.examples(64)), one.threat)
    assert any(check.outcome == "fail" for check in found.checks)
    for check in found.checks:
        assert CHINESE.search(tell(check.evidence)), check.evidence
        assert not check.remedy or CHINESE.search(tell(check.remedy)), check.remedy


def test_a_chinese_page_gives_its_reasons_in_chinese_and_those_of_others_as_they_are() -> None:
    theirs = "a reason of somebody's own"
    failed = Check(name="black-box", outcome="fail", evidence=BROKE, threshold="0.2 %", remedy="clean the data")
    _, reasons = judge([failed])
    result = example.suspect().model_copy(update={"checks": (failed,), "reasons": (*reasons, theirs)})
    text = page([result], {}, title="x", language="zh")
    assert text.count("又攻破了 5 个仍然守住的样本（共 100 个") == 2  # among the reasons, and in the table of checks
    assert "清理数据" in text
    assert "a reason of somebody" in text
    assert BROKE not in text
    assert BROKE in page([result], {}, title="x")
