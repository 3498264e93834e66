"""Certificates: lower bounds per example that no attack can pass, never called accuracy."""

from sparring.certify.answers import Answer, Certificate
from sparring.certify.branch import BranchAndBound, branch_and_bound
from sparring.certify.crown import CROWN, AlphaCROWN, Interval, alpha_crown, crown, interval
from sparring.certify.graph import Graph
from sparring.certify.lipschitz import Slopes, slopes
from sparring.certify.masking import PatchCleanser, patch_cleanser
from sparring.certify.reading import graph
from sparring.certify.smoothing import Smoothed, Smoothing

__all__ = [
    "CROWN",
    "AlphaCROWN",
    "Answer",
    "BranchAndBound",
    "Certificate",
    "Graph",
    "Interval",
    "PatchCleanser",
    "Slopes",
    "Smoothed",
    "Smoothing",
    "alpha_crown",
    "branch_and_bound",
    "crown",
    "graph",
    "interval",
    "patch_cleanser",
    "slopes",
]
