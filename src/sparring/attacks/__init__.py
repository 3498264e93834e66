"""Attacks: one algorithm or family a file, each readable alone."""

from sparring.attacks.acg import ACG, acg
from sparring.attacks.adaptive import Climb, Halving, adaptive
from sparring.attacks.advgan import AdvGAN, advgan
from sparring.attacks.apgd import APGD, TargetedAPGD, apgd_ce, apgd_dlr, apgd_t
from sparring.attacks.apgd_l1 import Shrinking, apgd_l1, apgd_l1_shrinking, pgd_l0_shrinking, slide
from sparring.attacks.bandits import Bandits, bandits
from sparring.attacks.bisection import Bisection, bisection
from sparring.attacks.boundary import Boundary, boundary
from sparring.attacks.carlini_wagner import CarliniWagner, carlini_wagner
from sparring.attacks.cma_es import CMAES, cma_es
from sparring.attacks.corruptions import corruption_table, corruptions
from sparring.attacks.ddn import DDN, ddn
from sparring.attacks.deepfool import DeepFool, deepfool
from sparring.attacks.ead import ead
from sparring.attacks.edits import Edited
from sparring.attacks.every_wording import EveryWording, every_wording
from sparring.attacks.fab import FAB, TargetedFAB, fab, fab_t
from sparring.attacks.flow import stadv
from sparring.attacks.fmn import FMN, fmn, smallest
from sparring.attacks.gen_attack import GenAttack, gen_attack
from sparring.attacks.geoda import GeoDA, geoda
from sparring.attacks.grid import Grid
from sparring.attacks.hop_skip_jump import HopSkipJump, hop_skip_jump
from sparring.attacks.hops import Hops, hops
from sparring.attacks.hotflip import HotFlip, hotflip
from sparring.attacks.jsma import JSMA, jsma, jsma_single
from sparring.attacks.nes import EstimatedPGD, estimated, nes, spsa
from sparring.attacks.noise import Noise, gaussian_noise, uniform_noise
from sparring.attacks.one_pixel import OnePixel, one_pixel
from sparring.attacks.one_way import OneWay, each_way
from sparring.attacks.patch import BestPatch, UniversalPatch, patch, universal_patch
from sparring.attacks.pdpgd import PDPGD, pdpgd
from sparring.attacks.pgd import PGD, bim, fgsm, mi_fgsm, ni_fgsm, pgd, pgd_cosine
from sparring.attacks.rays import RayS, rays
from sparring.attacks.recolour import recoloradv
from sparring.attacks.restarts import Restarts
from sparring.attacks.runner_up import RunnerUp
from sparring.attacks.sigma_zero import SigmaZero, sigma_zero
from sparring.attacks.sign_opt import SignOPT, sign_opt
from sparring.attacks.simba import SimBA, simba, simba_dct
from sparring.attacks.sparse_rs import sparse_rs
from sparring.attacks.spatial import Exhaustive, Sampled, pose_grid, pose_random
from sparring.attacks.square import RandomSearch, square
from sparring.attacks.stochastic import eot_pgd
from sparring.attacks.surfree import SurFree, surfree
from sparring.attacks.textfooler import TextFooler, textfooler
from sparring.attacks.through import Through
from sparring.attacks.transfer import Gallery, Transfer, admix, di_fgsm, si_ni_fgsm, ti_fgsm, vmi_fgsm
from sparring.attacks.universal import Learned, Universal, universal
from sparring.attacks.word_beam import Beam, word_beam, word_greedy
from sparring.attacks.word_genetic import WordGenetic, word_genetic

__all__ = [
    "ACG",
    "APGD",
    "CMAES",
    "DDN",
    "FAB",
    "FMN",
    "JSMA",
    "PDPGD",
    "PGD",
    "AdvGAN",
    "Bandits",
    "Beam",
    "BestPatch",
    "Bisection",
    "Boundary",
    "CarliniWagner",
    "Climb",
    "DeepFool",
    "Edited",
    "EstimatedPGD",
    "EveryWording",
    "Exhaustive",
    "Gallery",
    "GenAttack",
    "GeoDA",
    "Grid",
    "Halving",
    "HopSkipJump",
    "Hops",
    "HotFlip",
    "Learned",
    "Noise",
    "OnePixel",
    "OneWay",
    "RandomSearch",
    "RayS",
    "Restarts",
    "RunnerUp",
    "Sampled",
    "Shrinking",
    "SigmaZero",
    "SignOPT",
    "SimBA",
    "SurFree",
    "TargetedAPGD",
    "TargetedFAB",
    "TextFooler",
    "Through",
    "Transfer",
    "Universal",
    "UniversalPatch",
    "WordGenetic",
    "acg",
    "adaptive",
    "admix",
    "advgan",
    "apgd_ce",
    "apgd_dlr",
    "apgd_l1",
    "apgd_l1_shrinking",
    "apgd_t",
    "bandits",
    "bim",
    "bisection",
    "boundary",
    "carlini_wagner",
    "cma_es",
    "corruption_table",
    "corruptions",
    "ddn",
    "deepfool",
    "di_fgsm",
    "each_way",
    "ead",
    "eot_pgd",
    "estimated",
    "every_wording",
    "fab",
    "fab_t",
    "fgsm",
    "fmn",
    "gaussian_noise",
    "gen_attack",
    "geoda",
    "hop_skip_jump",
    "hops",
    "hotflip",
    "jsma",
    "jsma_single",
    "mi_fgsm",
    "nes",
    "ni_fgsm",
    "one_pixel",
    "patch",
    "pdpgd",
    "pgd",
    "pgd_cosine",
    "pgd_l0_shrinking",
    "pose_grid",
    "pose_random",
    "rays",
    "recoloradv",
    "si_ni_fgsm",
    "sigma_zero",
    "sign_opt",
    "simba",
    "simba_dct",
    "slide",
    "smallest",
    "sparse_rs",
    "spsa",
    "square",
    "stadv",
    "surfree",
    "textfooler",
    "ti_fgsm",
    "uniform_noise",
    "universal",
    "universal_patch",
    "vmi_fgsm",
    "word_beam",
    "word_genetic",
    "word_greedy",
]
