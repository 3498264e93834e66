"""Evaluate: a verdict, not a number."""

from sparring.evaluate.audit import audit, judge
from sparring.evaluate.doctor import Diagnosis, examine
from sparring.evaluate.result import Check, Result
from sparring.evaluate.statistics import clopper_pearson

__all__ = ["Check", "Diagnosis", "Result", "audit", "clopper_pearson", "examine", "judge"]
