"""Explanations: what a network looks at, and whether it still looks there under attack."""

from sparring.explain.attributions import METHODS, attribute
from sparring.explain.stability import Explanation, cosine, explain, overlap

__all__ = ["METHODS", "Explanation", "attribute", "cosine", "explain", "overlap"]
