"""Texts: sentences as rows of numbered words, and threats that put other words in their places."""
