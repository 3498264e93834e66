"""Attacks: one algorithm or family a file, each readable alone."""

from sparring.attacks.apgd import APGD, TargetedAPGD, apgd_ce, apgd_dlr, apgd_t
from sparring.attacks.ddn import DDN, ddn
from sparring.attacks.grid import Grid
from sparring.attacks.noise import Noise, gaussian_noise, uniform_noise
from sparring.attacks.pgd import PGD, bim, fgsm, mi_fgsm, ni_fgsm, pgd, pgd_cosine
from sparring.attacks.restarts import Restarts
from sparring.attacks.square import Square, square
from sparring.attacks.through import Through

__all__ = [
    "APGD",
    "DDN",
    "PGD",
    "Grid",
    "Noise",
    "Restarts",
    "Square",
    "TargetedAPGD",
    "Through",
    "apgd_ce",
    "apgd_dlr",
    "apgd_t",
    "bim",
    "ddn",
    "fgsm",
    "gaussian_noise",
    "mi_fgsm",
    "ni_fgsm",
    "pgd",
    "pgd_cosine",
    "square",
    "uniform_noise",
]
