"""What a keyword spotter and a speech recogniser stand: noise of so many decibels, found by attacks or drawn at random.

Spoken digits (`fsdd`): a network as usual and one trained against noise at 30 dB, the first 60 test recordings, audits
beside Gaussian noise of the same loudness. With `--whisper`, the folder of a Whisper that CTranslate2 converted: a
sentence is made another one, what every recording is written as when PGD climbs away from it, and an audit.

    SPARRING_DATA=... python benchmarks/speech.py [--networks FOLDER] [--whisper FOLDER] [--examples N] [--suite quick]
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from record import begin, last, save, told
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import sparring
from sparring.attacks import bim, pgd
from sparring.data import first, load
from sparring.data.sounds import sixteen_bits, wave
from sparring.domains.speech.networks import keyword_spotter
from sparring.domains.speech.threats import decibels, snr
from sparring.domains.speech.transcripts import word_error_rate
from sparring.losses import cross_entropy
from sparring.streams import Streams
from sparring.threats import Ball, linf

RATIOS = (40, 30, 20)
DRAWS = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "as usual": {"method": "standard", "epochs": 12, "optimiser": {"lr": 0.005}},
    "against 30 dB": {
        "objective": {"name": "adversarial", "attack": {"name": "ascent", "steps": 4}},
        "epochs": 12,
        "batch_size": 32,
        "optimiser": {"lr": 0.002},
        "average": {"ema": 0.99},
    },
}
"""Of the second the first weights are those that the first ends with."""

SENTENCE, COMMAND = "spk1_snt1", "Open the front door."
STEPS = 100


def networks(folder: Path) -> dict[str, nn.Module]:
    """The two networks, trained unless their weights are in the folder."""
    found: dict[str, nn.Module] = {}
    network: nn.Module = keyword_spotter()
    for name, settings in SETTINGS.items():
        place = folder / f"{name.replace(' ', '-')}.pt"
        if not place.exists():
            trained = sparring.train(
                network, {"name": "fsdd:train", "validation": 0}, snr(30), audit={"suite": "none"}, **settings
            )
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(trained.network.state_dict(), place)
        network = keyword_spotter()
        network.load_state_dict(torch.load(place, weights_only=True))
        found[name] = network.eval().requires_grad_(False)
    return found


def under_noise(network: nn.Module, x: Tensor, labels: Tensor, ratio: float) -> float:
    """The share that is right under Gaussian noise of this ratio, on average over some draws."""
    streams = Streams.of(0, range(len(x)))
    share = 0.0
    for draw in range(DRAWS):
        noise = streams.at(draw).normal(*x.shape[1:])
        noise *= (x.norm(dim=1) / noise.norm(dim=1) * 10 ** (-ratio / 20)).unsqueeze(1)
        share += float((network(sixteen_bits(x + noise)).argmax(1) == labels).float().mean()) / DRAWS
    return share


def spotters(folder: Path, examples: int, suite: str) -> dict[str, Any]:
    """Audits of both networks at every ratio, beside noise."""
    test = first(load("fsdd"), examples)
    x, labels = test.take(range(len(test)))
    table = Table(title=f"{len(test)} spoken digits, {suite}")
    for column in ("trained", "dB", "clean", "noise", "robust", "verdict", "passes", "seconds"):
        table.add_column(column, justify="left" if column in ("trained", "verdict") else "right")
    cases = []
    for name, network in networks(folder).items():
        for ratio in RATIOS:
            began = time.perf_counter()
            found = sparring.audit(network, test, snr(ratio), suite=suite)
            case = {
                "trained": name,
                "snr_db": ratio,
                "noise": under_noise(network, x, labels, ratio),
                **told(found),
                "seconds": round(time.perf_counter() - began, 1),
            }
            cases.append(case)
            shares = [f"{case[key]:.1%}" for key in ("clean", "noise", "robust")]
            row = (name, str(ratio), *shares, found.verdict, f"{case['passes']:.0f}", f"{case['seconds']:.0f}")
            table.add_row(*row)
            print(*row, flush=True)
    Console(width=120).print(table)
    return {"examples": len(test), "suite": suite, "training": SETTINGS, "cases": cases}


def recogniser(folder: Path) -> dict[str, Any]:
    """A sentence that becomes a command, and what other ones become that attacks climb away from."""
    from sparring.domains.speech.ctranslate2 import load_ctranslate2
    from sparring.domains.speech.whisper import RATE, Whisper

    whisper, short = (Whisper(*load_ctranslate2(folder), silence=silence) for silence in (None, 2.0))
    place = Path(os.environ["SPARRING_DATA"]) / "speech" / "utterances"

    def sound(name: str) -> Tensor:
        return torch.from_numpy(wave(place / f"{name}.wav", RATE)).unsqueeze(0)

    def struck(whisper: Whisper, attack: Any, x: Tensor, goal: Any) -> dict[str, Any]:
        calls, began = 0, time.perf_counter()

        def counted(z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return whisper(z)

        z = sixteen_bits(attack(counted, x, goal, Streams.of(0, [0])))
        seconds = round(time.perf_counter() - began, 1)
        ratio = decibels(float((z - x).norm() / x.norm()))
        loudest = -decibels(float((z - x).abs().max() / x.abs().max()))
        said = whisper.transcribe(z, most=40)[0]
        return {"written": said, "snr_db": ratio, "db_x": loudest, "passes": calls, "seconds": seconds}

    x = sound(SENTENCE)
    targeted = []
    for threat in (linf(0.008, low=-1.0), snr(25)):
        case = {"threat": str(threat), "was": whisper.transcribe(x, most=40)[0]}
        case |= struck(whisper, bim(threat, steps=STEPS), x, whisper.target([COMMAND]))
        targeted.append(case)
        print(case, flush=True)
    untargeted = [away(short, struck, sound, threat) for threat in (snr(40), snr(30))]
    return {"sentence": SENTENCE, "command": COMMAND, "targeted": targeted, "untargeted": untargeted}


def away(whisper: Any, struck: Any, sound: Any, threat: Ball) -> dict[str, Any]:
    """The word error rate against what Whisper writes of clean sentences, under noise and under PGD."""
    names = [f"spk{speaker}_snt{number}" for speaker in (1, 2) for number in (1, 2, 3)]
    before, noisy, after = [], [], []
    for row, name in enumerate(names):
        x = sound(name)
        before.append(whisper.transcribe(x, most=40)[0])
        noise = Streams.of(0, [row]).normal(*x.shape[1:])
        noise *= threat.eps * x.norm() / noise.norm()
        noisy.append(whisper.transcribe(sixteen_bits(x + noise), most=40)[0])
        goal = whisper.goal(before[-1:], right=0.5)
        after.append(struck(whisper, pgd(threat, steps=20, loss=cross_entropy), x, goal)["written"])
        print(threat, name, before[-1], "|", after[-1], flush=True)
    rates = {"under_noise": word_error_rate(before, noisy), "under_pgd": word_error_rate(before, after)}
    return {"threat": str(threat), "sentences": len(names), "steps": 20, **rates, "written": after}


def audited(folder: Path) -> dict[str, Any]:
    """An audit of Whisper on sentences, by the tokens that follow: labels are what was said."""
    import json

    from sparring.domains.speech.ctranslate2 import load_ctranslate2
    from sparring.domains.speech.whisper import RATE, Transcription, Whisper

    whisper = Whisper(*load_ctranslate2(folder), silence=2.0)
    place = Path(os.environ["SPARRING_DATA"]) / "speech" / "utterances"
    said: dict[str, str] = json.loads((place / "transcripts.json").read_text(encoding="utf-8"))
    names = [name for name in sorted(said) if (place / f"{name}.wav").exists()]
    waves = [torch.from_numpy(wave(place / f"{name}.wav", RATE)) for name in names]
    x = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    task = Transcription(whisper, right=0.5)
    data = task.data("sentences", x, [said[name].capitalize() + "." for name in names])
    cases = []
    for ratio in (50, 40):
        began = time.perf_counter()
        found = sparring.audit(whisper, data, snr(ratio), suite="quick", passes=40)
        cases.append(
            {
                "snr_db": ratio,
                "task": str(task),
                **told(found),
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        print(cases[-1], flush=True)
    return {"sentences": len(data), "cases": cases}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--networks", type=Path, default=Path("speech-networks"))
    options.add_argument("--whisper", type=Path)
    options.add_argument("--examples", type=int, default=60)
    options.add_argument("--suite", default="quick")
    options.add_argument("--only-whisper", action="store_true")
    options.add_argument("--only-audit", action="store_true", help="with --only-whisper: of it the audit alone")
    given = options.parse_args()
    begin()
    if not given.only_whisper:
        keep(spotters=spotters(given.networks, given.examples, given.suite))
    if given.whisper is not None and not given.only_audit:
        keep(whisper=recogniser(given.whisper))
    if given.whisper is not None:
        keep(audits=audited(given.whisper))


def keep(**found: Any) -> None:
    """Write what was measured, beside what was measured of the other part before."""
    parts = last("speech") | found
    save("speech", {name: parts[name] for name in ("spotters", "whisper", "audits") if name in parts}, "transformers")


if __name__ == "__main__":
    main()
