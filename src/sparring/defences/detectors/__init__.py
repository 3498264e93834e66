"""Detectors: a score for every input, a calibrated threshold, and the joint goal that beats both."""

from sparring.defences.detectors.attributions import attribution
from sparring.defences.detectors.confidence import energy, max_softmax
from sparring.defences.detectors.detector import Detector, Learned, Score, calibrated, refused
from sparring.defences.detectors.joint import Unnoticed, watched
from sparring.defences.detectors.mahalanobis import mahalanobis
from sparring.defences.detectors.neighbours import kernel_density, lid
from sparring.defences.detectors.squeezed import feature_squeezing_distance
from sparring.defences.detectors.trained import reconstruction, trained

__all__ = [
    "Detector",
    "Learned",
    "Score",
    "Unnoticed",
    "attribution",
    "calibrated",
    "energy",
    "feature_squeezing_distance",
    "kernel_density",
    "lid",
    "mahalanobis",
    "max_softmax",
    "reconstruction",
    "refused",
    "trained",
    "watched",
]
