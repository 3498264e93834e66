"""Attacks: one algorithm or family a file, each readable alone."""

from sparring.attacks.adaptive import Climb, Halving, adaptive
from sparring.attacks.advgan import AdvGAN, advgan
from sparring.attacks.apgd import APGD, TargetedAPGD, apgd_ce, apgd_dlr, apgd_t
from sparring.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from sparring.attacks.corruptions import corruption_table, corruptions
from sparring.attacks.ddn import DDN, ddn
from sparring.attacks.edits import Edited
from sparring.attacks.flow import stadv
from sparring.attacks.grid import Grid
from sparring.attacks.hops import Hops, hops
from sparring.attacks.noise import Noise, gaussian_noise, uniform_noise
from sparring.attacks.patch import BestPatch, UniversalPatch, patch, universal_patch
from sparring.attacks.pgd import PGD, bim, fgsm, mi_fgsm, ni_fgsm, pgd, pgd_cosine
from sparring.attacks.recolour import recoloradv
from sparring.attacks.restarts import Restarts
from sparring.attacks.runner_up import RunnerUp
from sparring.attacks.spatial import Exhaustive, Sampled, pose_grid, pose_random
from sparring.attacks.square import RandomSearch, square
from sparring.attacks.through import Through
from sparring.attacks.universal import Learned, Universal, universal

__all__ = [
    "APGD",
    "DDN",
    "PGD",
    "AdvGAN",
    "BestPatch",
    "CarliniWagner",
    "Climb",
    "Edited",
    "Exhaustive",
    "Grid",
    "Halving",
    "Hops",
    "Learned",
    "Noise",
    "RandomSearch",
    "Restarts",
    "RunnerUp",
    "Sampled",
    "TargetedAPGD",
    "Through",
    "Universal",
    "UniversalPatch",
    "adaptive",
    "advgan",
    "apgd_ce",
    "apgd_dlr",
    "apgd_t",
    "bim",
    "carlini_wagner",
    "corruption_table",
    "corruptions",
    "ddn",
    "fgsm",
    "gaussian_noise",
    "hops",
    "mi_fgsm",
    "ni_fgsm",
    "patch",
    "pgd",
    "pgd_cosine",
    "pose_grid",
    "pose_random",
    "recoloradv",
    "square",
    "stadv",
    "uniform_noise",
    "universal",
    "universal_patch",
]
