"""Evaluate: a verdict, not a number."""

from sparring.evaluate.doctor import Diagnosis, examine
from sparring.evaluate.judging import judge
from sparring.evaluate.result import Check, Result
from sparring.evaluate.statistics import clopper_pearson
from sparring.evaluate.verdict import audit

__all__ = ["Check", "Diagnosis", "Result", "audit", "clopper_pearson", "examine", "judge"]
