"""Detectors that are trained: one on features of clean and attacked inputs, one on clean images alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks import pgd
from sparring.defences.autoencoder import rebuilder
from sparring.defences.detectors.detector import Learned, Score
from sparring.defences.detectors.layers import features_of, quietly
from sparring.defences.learning import AnyPrecision, afresh, retrained
from sparring.goals import Untargeted
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import linf
from sparring.types import Model


@register("detectors", "trained", paper="Metzen et al., 2017")
def trained(*, eps: float = 0.1, hidden: int = 32, epochs: int = 10) -> Learned:
    """A small network that has learned to tell attacked inputs from clean ones by their features (Metzen et al., 2017).

    It learns from PGD's examples in the Linf ball of `eps`, on the features of all layers, standardised.
    """

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        from sparring.training import standard

        attacked = pgd(linf(eps))(model, x, Untargeted(labels), Streams.of(0, range(len(x))))
        features = features_of(model)
        clean, broken = (torch.cat(quietly(features, part), 1) for part in (x, attacked))
        mean, deviation = clean.mean(0), clean.std(0).clamp(min=1e-3)
        told = torch.arange(2).repeat_interleave(len(x))
        network = afresh(nn.Sequential(nn.Linear(clean.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, 2)), 0)
        with torch.enable_grad():
            seen = (torch.cat([clean, broken]) - mean) / deviation
            network = AnyPrecision(retrained(network, seen, told, standard, epochs=epochs))

        def score(z: Tensor) -> Tensor:
            said: Tensor = network((torch.cat(features(z), 1) - mean) / deviation)
            return said[:, 1] - said[:, 0]

        return score

    return Learned(scoring)


@register("detectors", "reconstruction", shape="image", paper="Meng and Chen, 2017")
def reconstruction(*, sigma: float = 0.1, epochs: int = 5) -> Learned:
    """How badly an autoencoder of clean images rebuilds the input (MagNet's detector; Meng and Chen, 2017)."""

    def scoring(model: Model, x: Tensor, labels: Tensor) -> Score:
        with torch.enable_grad():
            network = rebuilder(x, sigma=sigma, epochs=epochs)
        return lambda z: (z - network(z)).abs().flatten(1).mean(1)

    return Learned(scoring)
