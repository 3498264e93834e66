"""Explain: what the model looked at, before and under attack."""
