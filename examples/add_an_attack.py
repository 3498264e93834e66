"""A new attack in twenty lines, registered, and run: `sparring list attacks` and the law tests know it from then on."""

from dataclasses import dataclass

import torch

from sparring.attacks import fgsm
from sparring.data import digits
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.networks import mlp
from sparring.registry import members, register
from sparring.search import Search
from sparring.streams import Streams
from sparring.threats import Ball, linf
from sparring.training import fit, standard


@dataclass(frozen=True, kw_only=True)
class CoordinateSearch:
    """Push one value at a time, up or down, and keep what helps (after SimBA, Guo et al., 2019). No gradients."""

    threat: Ball
    tries: int = 1000

    def __call__(self, model, x, goal, rng):
        search = Search(model, x, goal, margin)
        score, x, z, rng = search.judge(x, x, x, rng)
        for i in search.steps(self.tries):
            place, sign = rng.at(i).integers(x[0].numel(), 1), rng.at(i).at("sign").sign(1)
            push = torch.zeros_like(z).flatten(1).scatter(1, place, 2 * self.threat.eps * sign).view_as(z)
            near = self.threat.project(z + push, x)
            found, score, x, z, near, rng = search.judge(near, score, x, z, near, rng)
            z = torch.where((found > score)[:, None, None, None], near, z)
            score = torch.maximum(found, score)
        return search.best


@register("attacks", "coordinate-search", needs="scores", norms=("linf",), shape="image", passes="tries + 0")
def coordinate_search(threat: Ball, *, tries: int = 1000) -> CoordinateSearch:
    """Push one value at a time, up or down, and keep what helps (after SimBA, Guo et al., 2019)."""
    return CoordinateSearch(threat=threat, tries=tries)


if __name__ == "__main__":
    network = fit(mlp(), digits("train"), standard, epochs=5, lr=1e-2)
    x, labels = digits("test").take(range(100))
    goal, rng = Untargeted(labels), Streams.of(0, range(100))
    for make in (fgsm, members("attacks")["coordinate-search"].make):
        z = make(linf(0.1))(network, x, goal, rng)
        print(f"{make.__name__} leaves {int((~goal.reached(network(z))).sum())} of 100 digits standing")
