"""Training: the outer minimum."""
