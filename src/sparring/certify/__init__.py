"""Certificates: lower bounds per example that no attack can pass, never called accuracy."""

from sparring.certify.crown import CROWN, AlphaCROWN, Interval, alpha_crown, crown, interval
from sparring.certify.graph import Graph, graph

__all__ = ["CROWN", "AlphaCROWN", "Graph", "Interval", "alpha_crown", "crown", "graph", "interval"]
