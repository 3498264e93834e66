"""Training: the outer minimum. An objective says what is minimised, `fit` minimises it."""

from sparring.training.augmentations import shifts
from sparring.training.fitting import Progress, fit
from sparring.training.objectives import Adversarial, Objective, adversarial, inner_pgd, standard
from sparring.training.tensorboard import tensorboard

__all__ = [
    "Adversarial",
    "Objective",
    "Progress",
    "adversarial",
    "fit",
    "inner_pgd",
    "shifts",
    "standard",
    "tensorboard",
]
