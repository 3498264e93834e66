"""What the checks found as SARIF 2.1.0, which code hosts show beside the code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sparring.evaluate.rates import questions
from sparring.evaluate.result import Result
from sparring.report import derive

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"fail": "error", "warn": "warning", "pass": "none", "skipped": "none"}
KINDS = {"fail": "fail", "warn": "fail", "pass": "pass", "skipped": "notApplicable"}


def sarif(results: Sequence[Result], location: str = "result.json") -> str:
    """A log with one run: a rule for each check and the verdict, a result for each outcome.

    Findings point at `location`, a path relative to the repository: an audit has no line of code to blame.
    """
    asked = {question.name: question for question in questions()}
    rules = [_rule("verdict", "Can the numbers of the audit be trusted?")]
    for check in {check.name: check for result in results for check in result.checks}.values():
        question = asked.get(check.name)
        said, remedy = (question.asks, question.remedy) if question else (check.name, check.remedy)
        rules.append(_rule(check.name, said, remedy))
    findings = []
    for name, result in zip(derive.names(results), results, strict=True):
        if result.verdict != "trusted":
            level = "error" if result.verdict == "invalid" else "warning"
            said = f"{name} is {result.verdict}: {'; '.join(result.reasons)}"
            findings.append(_finding("verdict", "fail", level, said, location))
        for check in result.checks:
            said = f"{name}: {check.evidence or check.outcome}"
            findings.append(_finding(check.name, KINDS[check.outcome], LEVELS[check.outcome], said, location))
    version = results[0].environment.get("sparring", "") if results else ""
    driver: dict[str, Any] = {"name": "Sparring", "rules": rules}
    if version:
        driver["version"] = version
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": findings}]}
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"


def _rule(name: str, said: str, remedy: str = "") -> dict[str, Any]:
    rule: dict[str, Any] = {"id": name, "shortDescription": {"text": said}}
    return rule | ({"help": {"text": remedy}} if remedy else {})


def _finding(rule: str, kind: str, level: str, said: str, location: str) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": quote(location)}}}
    return {"ruleId": rule, "kind": kind, "level": level, "message": {"text": said}, "locations": [place]}
