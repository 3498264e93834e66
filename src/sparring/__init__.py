"""Sparring finds out how robust a model really is, and makes it more robust."""

__version__ = "0.1.0"
