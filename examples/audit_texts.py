"""Audit a model that reads texts: a film critic that counts words, and typing errors in what it reads.

python examples/audit_texts.py
"""

from collections import Counter
from itertools import permutations
from math import log

import sparring

GOOD = "wonderful charming gripping clever moving splendid"
BAD = "tedious pointless clumsy boring grating hollow"


def reviews(part):
    """Sentences with three judgements each, and whether most of them are good."""
    words = [*GOOD.split(), *BAD.split()]
    rows = list(permutations(words, 3))[0 if part == "train" else 1 :: 7]
    texts = [f"a {one} film with {two} pictures and {three} music" for one, two, three in rows]
    return texts, [int(sum(word in GOOD for word in row) > 1) for row in rows]


def critic():
    """Naive Bayes: how much oftener a word is in good reviews than in bad ones."""
    counts = {0: Counter(), 1: Counter()}
    for text, label in zip(*reviews("train"), strict=True):
        counts[label].update(text.split())

    def scores(texts):
        leads = [sum(log((counts[1][word] + 1) / (counts[0][word] + 1)) for word in text.split()) for text in texts]
        return [[-lead, lead] for lead in leads]

    return scores


if __name__ == "__main__":
    for threat in ("typos:1", "typos:2"):
        result = sparring.audit(critic(), reviews("test"), threat, suite="quick")
        most, least = result.robust_accuracy.estimate, result.certified_accuracy.estimate
        print(f"{threat}, {result.verdict}: of {result.clean_accuracy.estimate:.1%}, {least:.1%} to {most:.1%} stand")
