"""Spoken digits: train a small keyword spotter, and ask how loud noise must be to make it hear another digit.

SPARRING_DATA=FOLDER python examples/speech.py [EPOCHS]
"""

import sys

import torch

from sparring.attacks import gaussian_noise, pgd
from sparring.data import load
from sparring.data.sounds import sixteen_bits
from sparring.domains.speech.networks import keyword_spotter
from sparring.domains.speech.threats import snr
from sparring.goals import Untargeted
from sparring.losses import margin
from sparring.streams import Streams
from sparring.training import fit, standard

if __name__ == "__main__":
    torch.set_num_threads(1)
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    network = fit(keyword_spotter(width=16), load("fsdd:train"), standard, epochs=epochs, lr=1e-2).eval()
    x, labels = load("fsdd").take(range(100))
    goal, rng = Untargeted(labels), Streams.of(0, range(100))
    for ratio in (50, 40, 30, 20):
        threat = snr(ratio)  # whatever is that many decibels quieter than the recording
        rights = []
        for attack in (gaussian_noise(threat, draws=1), pgd(threat, steps=20, loss=margin)):
            z = sixteen_bits(attack(network, x, goal, rng))  # as a WAV file keeps it
            rights.append((network(z).argmax(1) == labels).float().mean())
        print(f"{ratio} dB: {rights[0]:5.1%} right under noise, {rights[1]:5.1%} under attack")
