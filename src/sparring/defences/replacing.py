"""Defences that train another network in the model's place: ensembles, distillation, label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparring.defences.cleaning import Cleaned, Learning, climbed
from sparring.defences.learning import AnyPrecision, afresh, retrained, trainable
from sparring.limits import one_or_more, positive
from sparring.registry import register
from sparring.threats import linf
from sparring.types import Defence, Model
from sparring.views import Transform, log_mean, mean, unchanged

if TYPE_CHECKING:
    from sparring.training import Objective


@dataclass(frozen=True, eq=False)
class Replacement:
    """Another network in the model's place, behind a transform if there is one, with what stands in for that."""

    network: nn.Module
    clean: Transform = unchanged
    surrogate: Transform | None = None
    draws: int = 1

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass as they are."""
        return self.surrogate is None

    def defend(self, model: Model) -> Model:
        """The network that was trained for it."""
        return Cleaned(AnyPrecision(self.network), self.clean)

    def adaptive(self, model: Model) -> Model:
        """The same outputs, with the gradient of the stand-in."""
        return Cleaned(AnyPrecision(self.network), climbed(self.clean, self.surrogate))


class Mean(nn.Module):
    """The mean of the logits of several networks."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The mean logits."""
        return mean([network(x) for network in self.networks])


class MeanOfProbabilities(Mean):
    """The logarithm of the mean of the probabilities of several networks."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits whose softmax is the mean probability."""
        return log_mean([network(x).log_softmax(1) for network in self.networks])


def _members(model: Model, x: Tensor, labels: Tensor, count: int, epochs: int) -> list[nn.Module]:
    from sparring.training import standard

    one_or_more(members=count)
    with torch.enable_grad():
        network = trainable(model, x)
        fresh = [afresh(network, seed) for seed in range(count)]
        return [retrained(one, x, labels, standard, epochs=epochs, seed=k) for k, one in enumerate(fresh)]


@register("defences", "ensemble", paper="Strauss et al., 2017")
def ensemble(*, members: int = 3, epochs: int = 8) -> Learning:
    """Average the logits of several networks, each trained from other weights (Strauss et al., 2017)."""
    return Learning(
        lambda model, x, labels: Replacement(Mean(_members(model, x, labels, members, epochs))),
    )


@register("defences", "ensemble-of-probabilities", paper="Strauss et al., 2017")
def ensemble_of_probabilities(*, members: int = 3, epochs: int = 8) -> Learning:
    """Average the probabilities of several networks, each trained from other weights (Strauss et al., 2017)."""
    return Learning(
        lambda model, x, labels: Replacement(MeanOfProbabilities(_members(model, x, labels, members, epochs))),
    )


def _anew(model: Model, x: Tensor, labels: Tensor, objective: Objective, epochs: int) -> nn.Module:
    with torch.enable_grad():
        return retrained(afresh(trainable(model, x), 0), x, labels, objective, epochs=epochs)


@register("defences", "distillation", paper="Papernot et al., 2016")
def distillation(*, temperature: float = 20.0, epochs: int = 8) -> Learning:
    """Train a network on the softened answers of another one of its kind (Papernot et al., 2016).

    Its logits are large, so that a cross-entropy has no gradient left; attacks on the margin go straight through
    (Carlini and Wagner, 2017).
    """
    positive(temperature=temperature)

    def fit(model: Model, x: Tensor, labels: Tensor) -> Defence:
        from sparring.training.objectives.plain import Distillation

        teacher = _anew(model, x, labels, Distillation(None, temperature), epochs)
        return Replacement(_anew(model, x, labels, Distillation(teacher, temperature), epochs))

    return Learning(fit)


@register("defences", "label-smoothing", paper="Szegedy et al., 2016")
def label_smoothing(*, smoothing: float = 0.1, epochs: int = 8) -> Learning:
    """Train a network to be a little unsure of every label (Szegedy et al., 2016)."""

    def fit(model: Model, x: Tensor, labels: Tensor) -> Defence:
        from sparring.training.objectives.plain import label_smoothing as objective

        return Replacement(_anew(model, x, labels, objective(linf(0.0), smoothing=smoothing), epochs))

    return Learning(fit)
