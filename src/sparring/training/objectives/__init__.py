"""Objectives: what training minimises over the weights, `(network, x, labels, strength, rng) -> loss`, a scalar.

`labels` are classes `(B,)`, or shares of all classes `(B, K)`. `strength` grows from 0 to 1 while training warms up:
the share of the threat that is already in force. `rng` holds a stream for each row. An objective that remembers
something from one update to the next is an `nn.Module`: its state belongs in a checkpoint. Each training works on a
copy, which `forget()` has made fresh.

Most are a `MinMax`: `worst` finds the inputs, `loss` is taken there. Any other that searches is `Searching`, and says
in `pinned` what is found once. The search sees the network in inference mode, and
leaves no trace in it.
"""

from sparring.training.contract import Objective, Searching, pinned
from sparring.training.objectives.adversarial import (
    Adversarial,
    Average,
    LogitPairing,
    TowardsOthers,
    WorstOf,
    adversarial,
    alp,
    fgsm_rs,
    mixup,
    multi_average,
    multi_max,
    n_fgsm,
    targeted,
)
from sparring.training.objectives.boxes import Box
from sparring.training.objectives.certified import CROWNIBP, IBP, MTLIBP, SABR, crown_ibp, ibp, mtl_ibp, sabr
from sparring.training.objectives.ensemble import EnsembleAdversarial, ensemble_adversarial
from sparring.training.objectives.fast import Aligned, Free, free, grad_align
from sparring.training.objectives.gaussian import Consistency, Gaussian, SmoothAdv, consistency, gaussian, smooth_adv
from sparring.training.objectives.generator import AgainstGenerator, against_generator
from sparring.training.objectives.inner import (
    INNER,
    Ascent,
    inner_pgd,
    maximiser,
    noisy,
    random_start,
    single_step,
)
from sparring.training.objectives.minmax import Apart, Maximiser, MinMax
from sparring.training.objectives.plain import (
    Distillation,
    LabelSmoothing,
    distillation,
    label_smoothing,
    natural,
    standard,
)
from sparring.training.objectives.smoothness import MART, SCORE, TRADES, VAT, Labelled, mart, score, trades, vat

__all__ = [
    "CROWNIBP",
    "IBP",
    "INNER",
    "MART",
    "MTLIBP",
    "SABR",
    "SCORE",
    "TRADES",
    "VAT",
    "Adversarial",
    "AgainstGenerator",
    "Aligned",
    "Apart",
    "Ascent",
    "Average",
    "Box",
    "Consistency",
    "Distillation",
    "EnsembleAdversarial",
    "Free",
    "Gaussian",
    "LabelSmoothing",
    "Labelled",
    "LogitPairing",
    "Maximiser",
    "MinMax",
    "Objective",
    "Searching",
    "SmoothAdv",
    "TowardsOthers",
    "WorstOf",
    "adversarial",
    "against_generator",
    "alp",
    "consistency",
    "crown_ibp",
    "distillation",
    "ensemble_adversarial",
    "fgsm_rs",
    "free",
    "gaussian",
    "grad_align",
    "ibp",
    "inner_pgd",
    "label_smoothing",
    "mart",
    "maximiser",
    "mixup",
    "mtl_ibp",
    "multi_average",
    "multi_max",
    "n_fgsm",
    "natural",
    "noisy",
    "pinned",
    "random_start",
    "sabr",
    "score",
    "single_step",
    "smooth_adv",
    "standard",
    "targeted",
    "trades",
    "vat",
]
