"""Training: the outer minimum. An objective says what is minimised, `fit` minimises it."""

from sparring.training.alarms import Alarm, Epoch
from sparring.training.augmentations import shifts
from sparring.training.checkpoints import Checkpoints
from sparring.training.hardware import Hardware
from sparring.training.objectives import Adversarial, Objective, adversarial, inner_pgd, standard
from sparring.training.tensorboard import tensorboard
from sparring.training.trainer import Course, Event, Looked, Progress, Resumed, Trainer, fit
from sparring.training.validation import Validation

__all__ = [
    "Adversarial",
    "Alarm",
    "Checkpoints",
    "Course",
    "Epoch",
    "Event",
    "Hardware",
    "Looked",
    "Objective",
    "Progress",
    "Resumed",
    "Trainer",
    "Validation",
    "adversarial",
    "fit",
    "inner_pgd",
    "shifts",
    "standard",
    "tensorboard",
]
