"""What slopes of words are worth to an attacker, and what training against rewritings is worth to a network.

Networks of whole words are trained on SST-2's training sentences. Attacks are compared on the development set, by what
they break of what a network has right, and for how many passes; trainings by audits of test sentences from the 1,000th
on, with certificates. Hyper-parameters were chosen on the development set.

    SPARRING_DATA=... python benchmarks/words.py [--examples 100] [--epochs 8] [--only TRAINING ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import begin, last, save, told
from rich.console import Console
from rich.table import Table
from torch import nn

import sparring
from sparring.attacks import every_wording, hotflip, textfooler, word_beam
from sparring.data import sst2
from sparring.data.named import given
from sparring.data.texts import Texts, load_tsv
from sparring.domains.text.networks import bag, convolution, normalised
from sparring.domains.text.reader import reading
from sparring.domains.text.threats import Wording, rewriting
from sparring.domains.text.training import adversarial, augmented, certified, moved, plain, trained, virtual
from sparring.domains.text.vocabulary import Vocabulary
from sparring.goals import Untargeted
from sparring.models.victim import inference
from sparring.streams import Streams
from sparring.training.schedules import linear
from sparring.types import Attack
from sparring.views import Counted

FIRST = 1000
"""The first sentence of the test set that is looked at here."""

THREATS = ("synonyms:2", "typos:1")

ATTACKS: dict[str, Callable[[Wording], Attack]] = {
    "textfooler": textfooler,
    "hotflip, 5 tries": lambda threat: hotflip(threat, width=1, tries=5, each=1),
    "hotflip": lambda threat: hotflip(threat, width=1),
    "hotflip, 50 tries": lambda threat: hotflip(threat, width=1, tries=50, each=8),
    "word-beam": lambda threat: word_beam(threat, width=1),
    "every-wording": lambda threat: every_wording(threat, most=10**6),
}


def fought(network: nn.Module, words: Vocabulary, data: Texts, name: str, attacks: list[str]) -> dict[str, Any]:
    """What each attack breaks of what is right, and its passes an example, forward and backward."""
    threat = rewriting(name)
    assert threat is not None
    numbered, wording = threat.over(data)
    victim = reading((network, words), numbered.words, 2)
    x, y = numbered.take(range(len(numbered)))
    with inference(victim), torch.no_grad():
        right = victim(x).argmax(1) == y
        x, y = x[right], y[right]
        rows: dict[str, Any] = {"right": len(x)}
        for title in attacks:
            model = Counted(victim)
            z = ATTACKS[title](wording)(model, x, Untargeted(y), Streams.of(0, range(len(x))))
            fell = int(Untargeted(y).reached(victim(z)).sum())
            rows[title] = {"broke": fell, "passes": round((model.forward + model.backward) / len(x), 1)}
    return rows


def audited(network: nn.Module, words: Vocabulary, data: Texts, threat: str) -> dict[str, Any]:
    """What an audit with certificates says."""
    found = sparring.audit((network, words), data, threat, suite="quick", certify="crown")
    return {"threat": threat, **told(found)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--only", nargs="*", help="these trainings alone; the others stay as they were measured")
    asked = options.parse_args()
    begin()
    train, test = sst2("train"), sst2("test")
    place = given("text/sst2_dev.tsv")
    assert place is not None
    dev = load_tsv(Path(place))
    few = Texts("dev", dev.texts[:200], dev.y[:200])
    later = slice(FIRST, FIRST + asked.examples)
    data = Texts("later", test.texts[later], test.y[later], test.classes)
    words, threat = Vocabulary.of(train.texts), rewriting("synonyms:2")
    assert threat is not None
    counts = words.counted(train.texts)
    settings = {"epochs": asked.epochs, "batch_size": 64, "lr": 3e-3}
    slow = {**settings, "ramp": partial(linear, share=0.7)}
    plans: dict[str, tuple[nn.Module, Any, dict[str, Any]]] = {
        "plain": (bag(len(words)), plain, settings),
        "augmented": (bag(len(words)), augmented, settings),
        "adversarial": (bag(len(words)), adversarial, settings),
        "certified": (bag(len(words), drop=0.0), certified, slow),
        "normalised": (normalised(bag(len(words)), counts), plain, settings),
        "moved": (normalised(bag(len(words)), counts), moved, settings),
        "virtual": (normalised(bag(len(words)), counts), virtual, settings),
    }
    results: dict[str, Any] = {"settings": {"first": FIRST, **settings}}
    results |= {part: last("words").get(part, {}) for part in ("attacks", "trainings")}
    ways = Table(title="broken, and passes for each example that is right")
    found = Table(title="sentences right, left at most, and proved")
    for table, columns in (
        (ways, ("network, threat", "right", *ATTACKS)),
        (found, ("training", "seconds", *THREATS)),
    ):
        for column in columns:
            table.add_column(column)
    for name in asked.only or plans:
        network, against, more = plans[name]
        began = time.perf_counter()
        hardened = trained(network, words, train, threat, against, **more)
        seconds = round(time.perf_counter() - began)
        audits = [audited(hardened, words, data, one) for one in THREATS]
        results["trainings"][name] = {"seconds": seconds, "audits": audits}
        save("words", results)
        print(name, "done", flush=True)
        if name == "plain":
            filters = trained(convolution(len(words)), words, train, threat, plain, **{**settings, "epochs": 3})
            for title, one in (("bag", hardened), ("convolution", filters)):
                for wording in ("synonyms:2", "typos:2"):
                    some = [attack for attack in ATTACKS if attack != "every-wording" or wording == "synonyms:2"]
                    rows = fought(one, words, few, wording, some)
                    results["attacks"][f"{title}, {wording}"] = rows
    for title, rows in results["attacks"].items():
        cells = [f"{rows[one]['broke']} {rows[one]['passes']:g}" if one in rows else "" for one in ATTACKS]
        ways.add_row(title, str(rows["right"]), *cells)
    for name, case in results["trainings"].items():
        shares = [
            f"{a['clean']:.0%} {a['robust']:.0%} {a['certified'] or 0:.0%} {a['verdict']}" for a in case["audits"]
        ]
        found.add_row(name, str(case["seconds"]), *shares)
    Console(width=170).print(ways)
    Console(width=170).print(found)


if __name__ == "__main__":
    main()
