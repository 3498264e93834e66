"""Models of every framework as torch callables."""

from sparring.models.loading import adopt, load
from sparring.models.victim import Victim, inference

__all__ = ["Victim", "adopt", "inference", "load"]
