"""The field's first story in plain PyTorch: train, attack, train on the attacks, attack again.

python examples/digits_pytorch.py [EPOCHS]
"""

import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparring.attacks import fgsm, pgd
from sparring.data import digits
from sparring.goals import Never, Untargeted
from sparring.streams import Streams
from sparring.threats import linf

THREAT = linf(0.1)  # every pixel may change by 0.1


def train(epochs, worst_case):
    """min E L(f(x), y), or min E max L(f(z), y) over z within the threat (Madry et al., 2018)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    data, attack = digits("train"), pgd(THREAT, steps=5)
    for epoch in range(epochs):
        for rows in torch.randperm(len(data)).split(128):
            x, labels = data.take(rows)
            if worst_case:
                x = attack(network, x, Never(labels), Streams.of(epoch, rows))  # Never: climb to the very end
            loss = cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def report(name, network):
    """Accuracy as the digits are, and under attack."""
    x, labels = digits("test").take(range(2000))
    print(f"{name:>12}", end="")
    for attack in (None, fgsm(THREAT), pgd(THREAT, steps=20)):
        z = x if attack is None else attack(network, x, Untargeted(labels), Streams.of(0, range(len(x))))
        print(f"{(network(z).argmax(1) == labels).float().mean():10.1%}", end="")
    print()


if __name__ == "__main__":
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(" " * 12 + "     clean      FGSM    PGD-20")
    report("natural", train(epochs, worst_case=False))
    report("adversarial", train(epochs, worst_case=True))
