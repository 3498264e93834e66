"""Audit a support vector machine of scikit-learn: it is rewritten exactly in torch, so that gradients attack it too.

python examples/audit_sklearn.py [DIGITS TO TRAIN ON]
"""

import sys

from sklearn.svm import SVC

import sparring
from sparring.data import digits

if __name__ == "__main__":
    x, labels = digits("train").take(range(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
    machine = SVC(C=10, gamma=0.02).fit(x.flatten(1).numpy(), labels.numpy())
    victim = sparring.adopt(machine)
    print(f"{victim.name} gives an attacker its {victim.access}")
    result = sparring.audit(victim, digits("test"), sparring.linf(0.1), suite="quick", limit=200)
    print(f"{result.verdict}: {'; '.join(result.reasons)}")
    print(f"clean accuracy {result.clean_accuracy.estimate:.1%}, robust accuracy {result.robust_accuracy.estimate:.1%}")
