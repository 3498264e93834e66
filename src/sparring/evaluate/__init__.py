"""Evaluate: a verdict, not a number."""
