"""Recommenders: what fake users do to them. The data set is the input, and training is a part of the model."""
