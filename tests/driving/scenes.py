"""Predictions and labels at random, of which many come close to what the goals ask about."""

from functools import cache

import torch

from sparring.domains.driving.boxes import cornered
from sparring.streams import Streams


def predictions(count, seed, places=12, classes=3):
    """Random predictions `(B, A, 5 + K)` around random labels `(B, N, 5)`: about half of the places lie on objects."""
    rng = Streams.of(seed, range(count))
    labels = objects(count, seed)
    near = labels.gather(1, rng.at("object").integers(labels.shape[1], places).unsqueeze(2).expand(-1, -1, 5))
    moved = near[..., 1:] + 0.03 * rng.at("move").normal(places, 4)
    away = boxes(rng.at("away"), places)
    on = (rng.at("on").uniform(places) < 0.6) & (near[..., 0] >= 0)
    place = torch.where(on.unsqueeze(2), moved, away)
    shares = 2 * rng.at("class").normal(places, classes)
    shares = shares.scatter_add(2, near[..., :1].long().clamp(min=0), 3 * on.unsqueeze(2).float()).log_softmax(2)
    return torch.cat([place, 2 * rng.at("objectness").normal(places, 1) - 1.5, shares], 2), labels


def boxes(rng, count):
    """Boxes of a quarter of the image or so, anywhere in it, `(B, count, 4)`."""
    centre, size = rng.at("centre").uniform(count, 2), 0.2 + 0.4 * rng.at("size").uniform(count, 2)
    return cornered(torch.cat([centre, size], 2))


def objects(count, seed, most=4, classes=3):
    """Labels `(B, most, 5)`; a quarter of the rows are none."""
    rng = Streams.of(seed, range(count)).at("labels")
    kind = rng.at("kind").integers(classes, most)
    kind = torch.where(rng.at("none").uniform(most) < 0.25, -1, kind)
    return torch.cat([kind.unsqueeze(2).float(), boxes(rng, most)], 2)


@cache
def _constants(count, inputs):
    draw = Streams.of(0, range(count))
    return tuple(draw.at(name).normal(inputs) for name in ("stretch", "shift", "weight"))


def waves(z):
    """Six predictions of two classes for images `(B, 3, 4, 4)`, by sums of waves over the pixels.

    Term by term: the same to the last bit in every batch.
    """
    stretch, shift, weight = _constants(42, 48)
    said = (torch.tanh(3 * z.flatten(1).unsqueeze(1) * stretch + shift) * weight).cumsum(2)[..., -1].view(-1, 6, 7)
    size = 0.3 + 0.1 * said[..., 2:4].tanh()
    box = cornered(torch.cat([0.5 + 0.3 * (0.2 * said[..., :2]).tanh(), size], 2))
    lead = said[..., 5:6] - said[..., 6:]
    return torch.cat(
        [box, 0.3 * said[..., 4:5], torch.cat([-torch.log1p((-lead).exp()), -torch.log1p(lead.exp())], 2)], 2
    )
