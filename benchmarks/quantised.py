"""What 8 bits are worth as a defence: a published network before and after quantisation, by onnxruntime's own tools.

For the network and four files that were made of it: right; left standing by audits that see the scores alone, as of any
file whose gradients are out of reach; left standing by audits through the rounding. Images from the 1,000th of the test
set on: the translation was developed on earlier ones.

    SPARRING_DATA=... python benchmarks/quantised.py [--examples 200] [--eps 0.15]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from record import begin, published, save, told
from rich.console import Console
from rich.table import Table
from torch import Tensor

import sparring
from sparring.data import Arrays, load
from sparring.models import onnx
from sparring.models.victim import Victim

WEIGHTS = "wong_kolter_mnist_linf0.1.pth"
FIRST = 1000
"""The first image of the test set that is looked at here."""

CALIBRATED_ON = 200
STATIC: dict[str, dict[str, Any]] = {
    "static, QDQ": {"quant_format": QuantFormat.QDQ},
    "static, QDQ, by channel": {"quant_format": QuantFormat.QDQ, "per_channel": True},
    "static, operators": {"quant_format": QuantFormat.QOperator},
}


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Images by which the scales are set, one after the other."""

    def __init__(self, x: Tensor) -> None:
        self.rows = ({"x": row.unsqueeze(0).numpy()} for row in x)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.rows, None)


def files(folder: Path, x: Tensor) -> Iterator[tuple[str, Path]]:
    """The network as a file, and what is made of it."""
    whole, kinds = folder / "whole.onnx", {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    free = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(
        published(WEIGHTS).eval(),
        (x[:1],),
        whole,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes=free,
        dynamo=False,
    )
    yield "float32", whole
    for number, (name, settings) in enumerate(STATIC.items()):
        path = folder / f"{number}.onnx"
        quantize_static(whole, path, Calibration(x), **settings, **kinds)
        yield name, path
    quantize_dynamic(whole, folder / "dynamic.onnx", weight_type=QuantType.QUInt8)
    yield "dynamic", folder / "dynamic.onnx"


def measured(victim: Victim, data: Arrays, threat: str) -> dict[str, Any]:
    """What an audit says, and how long it took."""
    began = time.perf_counter()
    found = sparring.audit(victim, data, threat)
    return {**told(found), "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--examples", type=int, default=200)
    options.add_argument("--eps", type=float, default=0.15)
    given = options.parse_args()
    begin()
    logging.getLogger().setLevel(logging.ERROR)
    data = Arrays("later", *load("mnist").take(range(FIRST, FIRST + given.examples)))
    threat, cases = f"linf:{given.eps}", []
    table = Table(title=f"{given.examples} digits, {threat}")
    for column in ("file", "clean", "scores alone", "through the rounding", "verdicts", "seconds"):
        table.add_column(column, justify="left" if column in ("file", "verdicts") else "right")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files(Path(folder), load("mnist", split="train").take(range(CALIBRATED_ON))[0]):
            blind = measured(onnx.adopt(onnxruntime.InferenceSession(path)), data, threat)
            through = measured(onnx.load(path), data, threat)
            cases.append({"file": name, "scores alone": blind, "through the rounding": through})
            shares = [f"{share:.1%}" for share in (through["clean"], blind["robust"], through["robust"])]
            verdicts, seconds = (f"{blind[key]}, {through[key]}" for key in ("verdict", "seconds"))
            table.add_row(name, *shares, verdicts, seconds)
            print(name, *shares, verdicts, seconds, flush=True)
    Console(width=130).print(table)
    settings = {"weights": WEIGHTS, "first": FIRST, "examples": given.examples, "threat": threat}
    save("quantised", {"settings": settings, "cases": cases}, "onnxruntime")


if __name__ == "__main__":
    main()
