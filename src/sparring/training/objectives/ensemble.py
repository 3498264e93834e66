"""Adversarial training on examples made on other networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sparring.errors import BadInput
from sparring.goals import Never
from sparring.registry import register
from sparring.streams import Streams
from sparring.threats import Ball
from sparring.training.objectives.inner import single_step
from sparring.training.objectives.minmax import Maximiser, MinMax, both, loaded, searched


class EnsembleAdversarial(MinMax, nn.Module):
    """Be right on the data, and on examples made on the network itself or on one trained before: half the loss each.

    Tramèr et al. (2018), section 4: which network makes an example is drawn anew every time, so that the one being
    trained cannot make its own attack weak and be done; for each example of a batch, where the paper draws for all of
    them, so that nothing depends on how a batch is shared. It holds against transfer; against an attack on the network
    itself, the papers that followed broke it where the step was single.
    """

    def __init__(self, threat: Ball, models: Sequence[nn.Module | str], attack: Maximiser = single_step) -> None:
        super().__init__()
        if not models:
            raise BadInput("no networks trained before", "one or more", "give models = [...]")
        self.threat, self.attack = threat, attack
        self.models = nn.ModuleList(map(loaded, models))

    def worst(self, network: nn.Module, x: Tensor, labels: Tensor, strength: float, rng: Streams) -> Tensor:
        """What the attack finds for every row on the network whose turn it is."""
        attack = self.attack(self.threat.times(strength))
        sources = [*self.models, network]
        turns, z = rng.at("turn").integers(len(sources), device=x.device), x.clone()
        for k, source in enumerate(sources):
            if len(rows := (turns == k).nonzero()[:, 0]):
                z[rows] = searched(attack, source, x[rows], Never(labels[rows]), rng[rows])
        return z

    def loss(self, network: nn.Module, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The mean of both cross-entropies."""
        return both(network, x, z, labels)


@register("objectives", "ensemble", family="adversarial", passes="k + 2", paper="Tramèr et al., 2018")
def ensemble_adversarial(
    threat: Ball, attack: Maximiser = single_step, *, models: Sequence[nn.Module | str] = ()
) -> EnsembleAdversarial:
    """Be right on examples made on other networks as well, trained before (Tramèr et al., 2018).

    Raises:
        BadInput: no such networks.
    """
    return EnsembleAdversarial(threat, models, attack)
