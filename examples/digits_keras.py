"""The same story in Keras 3, on any of its backends: train, attack, train on the attacks, attack again.

KERAS_BACKEND=jax python examples/digits_keras.py [EPOCHS]
"""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

from sparring.attacks import fgsm, pgd
from sparring.data import digits
from sparring.goals import Never, Untargeted
from sparring.models.loading import adopt
from sparring.streams import Streams
from sparring.threats import linf

THREAT = linf(0.1)  # every pixel may change by 0.1


def train(epochs, worst_case):
    """min E L(f(x), y), or min E max L(f(z), y) over z within the threat (Madry et al., 2018)."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((1, 28, 28)), keras.layers.Flatten(), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
    network = keras.Sequential(layers)
    network.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data, attack, victim = digits("train"), pgd(THREAT, steps=5), adopt(network)  # a victim is a torch function
    for epoch in range(epochs):
        for rows in torch.randperm(len(data)).split(128):
            x, labels = data.take(rows)
            if worst_case:
                x = attack(victim, x, Never(labels), Streams.of(epoch, rows))  # Never: climb to the very end
            network.train_on_batch(x.numpy(), labels.numpy())
    return victim


def report(name, victim):
    """Accuracy as the digits are, and under attack."""
    x, labels = digits("test").take(range(2000))
    print(f"{name:>12}", end="")
    for attack in (None, fgsm(THREAT), pgd(THREAT, steps=20)):
        z = x if attack is None else attack(victim, x, Untargeted(labels), Streams.of(0, range(len(x))))
        print(f"{(victim(z).argmax(1) == labels).float().mean():10.1%}", end="")
    print()


if __name__ == "__main__":
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(" " * 12 + "     clean      FGSM    PGD-20")
    report("natural", train(epochs, worst_case=False))
    report("adversarial", train(epochs, worst_case=True))
