"""Attacks: one algorithm or family a file, each readable alone."""
