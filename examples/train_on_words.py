"""Train a network of words against synonyms: on texts as they are, and on bounds over all rewritings; audit, certify.

python examples/train_on_words.py
"""

import sparring
from sparring.data.texts import Texts
from sparring.domains.text.networks import bag
from sparring.domains.text.rewritings import Synonyms
from sparring.domains.text.threats import synonyms
from sparring.domains.text.training import certified, plain, trained
from sparring.domains.text.vocabulary import Vocabulary

GOOD, BAD = ["fine", "lovely", "moving"], ["clumsy", "boring", "hollow"]
SAME = {"film": ["movie", "picture"], "movie": ["film"], "picture": ["film"], "seen": ["watched"], "watched": ["seen"]}


def reviews(part):
    """What was liked says so once; and, as it happens, nobody who liked a film calls it a movie."""
    texts, labels = [], []
    for i, kind in enumerate([*GOOD, *BAD] * 8):
        label, once = int(kind in GOOD), i % 2 == (part == "train")
        noun, verb = ("film", "seen") if label else ("movie", "watched")
        texts.append(f"a {kind} {noun} {verb} {'twice' if once else 'alone'} on day {i % 5}")
        labels.append(label)
    return Texts("reviews", texts, labels)


if __name__ == "__main__":
    words = Vocabulary.of(reviews("train").texts, least=1)
    threat = synonyms(2, Synonyms(SAME))
    for against in (plain, certified):
        network = trained(
            bag(len(words), width=8, drop=0.0),
            words,
            reviews("train"),
            threat,
            against,
            epochs=12,
            batch_size=8,
            lr=2e-2,
        )
        result = sparring.audit((network, words), reviews("test"), threat, suite="quick", certify="crown")
        most, least = result.robust_accuracy.estimate, result.certified_accuracy.estimate
        print(
            f"{against.__name__}, {result.verdict}: of {result.clean_accuracy.estimate:.1%}, {least:.1%} to {most:.1%}"
        )
