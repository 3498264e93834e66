"""Checks, verdict and gate as JUnit XML, which every CI service can show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from sparring.evaluate.result import Result
from sparring.report import derive

# What XML 1.0 cannot hold, not even escaped.
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(results: Sequence[Result], fail_under: float | None = None) -> str:
    """A suite for each result, a case for each check, one for the verdict, and one for the gate where there is one.

    A failed check and a verdict other than trusted are failures; a warning passes and says so in its output. The
    gate fails where the robust accuracy is under `fail_under`, or the verdict is another than trusted.
    """
    suites = Element("testsuites", name="sparring")
    for name, result in zip(derive.names(results), results, strict=True):
        suite = SubElement(suites, "testsuite", name=_clean(name), time=f"{result.seconds:.3f}")
        _case(suite, "verdict", "failure" if result.verdict != "trusted" else "", result.verdict, result.reasons)
        for check in result.checks:
            kind = {"pass": "", "fail": "failure", "skipped": "skipped", "warn": "system-out"}[check.outcome]
            needed = f"threshold: {check.threshold}" if check.threshold else ""
            remedy = f"remedy: {check.remedy}" if check.remedy else ""
            _case(suite, check.name, kind, check.evidence, [part for part in (needed, remedy) if part])
        if fail_under is not None:
            broken = derive.gate(result, fail_under)
            _case(suite, f"robust accuracy >= {fail_under:g}", "failure" if broken else "", broken or "", ())
        suite.set("tests", str(len(suite.findall("testcase"))))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
        suite.set("errors", "0")
    indent(suites)
    return tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _case(suite: Element, name: str, kind: str, message: str, lines: Sequence[str]) -> None:
    case = SubElement(suite, "testcase", name=_clean(name), classname=suite.get("name", ""))
    if kind == "system-out":
        SubElement(case, kind).text = _clean("\n".join([f"warning: {message}", *lines]))
    elif kind:
        SubElement(case, kind, message=_clean(message)).text = _clean("\n".join(lines)) or None


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
