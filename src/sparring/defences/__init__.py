"""Defences: each hands out the view through which it must be attacked. Registered on import."""

from sparring.defences.autoencoder import Autoencoder, magnet
from sparring.defences.cleaning import Chain, Cleaned, Cleaning, Learning, RandomCleaning
from sparring.defences.deflection import pixel_deflection
from sparring.defences.depth import bit_depth
from sparring.defences.detectors import Detector, Unnoticed, calibrated, watched
from sparring.defences.diffusion import Denoiser, diffusion
from sparring.defences.jpeg import jpeg
from sparring.defences.noise import noise
from sparring.defences.quilting import quilting
from sparring.defences.replacing import Replacement, distillation, ensemble, ensemble_of_probabilities, label_smoothing
from sparring.defences.resizing import random_resize
from sparring.defences.shifts import Shifts, shifts
from sparring.defences.smoothing import bilateral, gaussian, median, non_local_means
from sparring.defences.squeezing import feature_squeezing
from sparring.defences.thermometer import thermometer
from sparring.defences.variation import total_variation

__all__ = [
    "Autoencoder",
    "Chain",
    "Cleaned",
    "Cleaning",
    "Denoiser",
    "Detector",
    "Learning",
    "RandomCleaning",
    "Replacement",
    "Shifts",
    "Unnoticed",
    "bilateral",
    "bit_depth",
    "calibrated",
    "diffusion",
    "distillation",
    "ensemble",
    "ensemble_of_probabilities",
    "feature_squeezing",
    "gaussian",
    "jpeg",
    "label_smoothing",
    "magnet",
    "median",
    "noise",
    "non_local_means",
    "pixel_deflection",
    "quilting",
    "random_resize",
    "shifts",
    "thermometer",
    "total_variation",
    "watched",
]
