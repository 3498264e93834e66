"""Attacks that fit: models on which plain PGD fails, and for each the view, the loss or the goal that it falls to."""

import torch

from sparring.attacks import Through, pgd
from sparring.data import digits
from sparring.goals import Never, Untargeted
from sparring.losses import margin
from sparring.mending import mended
from sparring.streams import Streams
from sparring.threats import linf
from sparring.views import bpda, eot, preprocessed, settled, stand
from sparring.zoo import find

THREAT = linf(0.15)


def around(model):
    """BPDA: forward what the model does to its input, backward the identity in its place."""
    return preprocessed(model.network, bpda(model.change))


def before(model):
    """The model's outputs, with the gradient of another part: of the logits that its last layer rounds."""
    part = model[:-1]
    return lambda x: stand(model(x), part(x))


FITTED = {
    "input rounding": (Through(view=around, attack=pgd(THREAT)), Untargeted),
    "rounded scores": (Through(view=before, attack=pgd(THREAT)), Untargeted),
    "binary activations": (Through(view=mended, attack=pgd(THREAT)), Untargeted),  # finds what stops gradients
    "temperature": (pgd(THREAT, loss=margin), Untargeted),  # logits times 1000: the cross-entropy has no gradient
    "random resize": (Through(view=settled(eot, draws=8), attack=pgd(THREAT)), Never),  # a success may be luck: go on
}


def standing(model, z, labels):
    """How many are right, by the mean of 32 calls of the model itself: no attack is believed."""
    with torch.no_grad():
        return int((eot(model, 32)(z).argmax(1) == labels).sum())


if __name__ == "__main__":
    torch.manual_seed(0)  # a random model draws from torch's own numbers
    x, labels = digits("test").take(range(50))
    rng = Streams.of(0, range(50))
    for name, (fitted, goal) in FITTED.items():
        model = find(name).make()
        plain = pgd(THREAT)(model, x, Untargeted(labels), rng)
        left = [standing(model, z, labels) for z in (x, plain, fitted(model, x, goal(labels), rng))]
        print(f"{name}: of {left[0]} right PGD leaves {left[1]}, the attack that fits {left[2]}")
