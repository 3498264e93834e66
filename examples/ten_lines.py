"""Ten lines: train a network, find out how robust it is, and whether that number can be trusted."""

import sparring
from sparring.data import digits
from sparring.networks import mlp
from sparring.training import fit, standard

if __name__ == "__main__":
    network = fit(mlp(), digits("train"), standard, epochs=5, lr=1e-2)  # or your model, of any framework
    result = sparring.audit(network, digits("test"), sparring.linf(0.1), suite="quick", limit=500)
    print(f"{result.verdict}: {'; '.join(result.reasons)}")
    print(f"clean accuracy {result.clean_accuracy.estimate:.1%}, robust accuracy {result.robust_accuracy.estimate:.1%}")
