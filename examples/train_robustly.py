"""Train a network on its own worst cases, watch it, and have the outcome audited by attacks that it has not seen."""

import argparse

import sparring
from sparring.data import digits, first
from sparring.networks import mlp
from sparring.training import Alarm, Looked


def watch(event):
    """Print what every epoch reached, and what goes wrong."""
    match event:
        case Looked(epoch=epoch):
            print(f"epoch {epoch.epoch}: clean {epoch.clean:.1%}, robust {epoch.robust:.1%}")
        case Alarm():
            print(f"alarm: {event}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    trained = sparring.train(
        mlp(),  # or your network, of torch or of Keras on torch
        first(digits("train"), given.examples),
        sparring.linf(0.1),
        test=digits("test"),
        method="adversarial",  # or trades, mart, n-fgsm, ...: sparring list objectives
        epochs=given.epochs,
        optimiser={"lr": 1e-2},
        augment=["shift"],
        audit={"suite": "quick", "limit": 500},
        watch=watch,
    )
    after = trained.after
    print(f"{after.verdict}: clean {after.clean_accuracy.estimate:.1%}, robust {after.robust_accuracy.estimate:.1%}")
