"""Questions in VNN-LIB: an ONNX network, a box of inputs, and what its outputs must not do.

Read is the form of the VNN competitions: constants `X_i` and `Y_j`, bounds of every input, and comparisons of sums of
outputs, joined by `and` and `or`. The answer is `unsat` (no input of the box does it), `sat` with one that does, or
`timeout`.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sparring.certify.answers import Answer
from sparring.certify.branch import BranchAndBound, Claims, Question
from sparring.certify.graph import Graph
from sparring.certify.reading import graph
from sparring.certify.region import Region
from sparring.errors import BadInput
from sparring.models.victim import Victim, inference
from sparring.threats import linf
from sparring.types import Model

Tree = str | list["Tree"]
Sum = dict[str, Fraction]
"""A sum of constants by their names, each with its factor; a number stands under the empty name."""

MOST = 10_000
"""Cases that are told apart at most."""

LONGEST = 2000
"""Characters of a number at most: any float64 can be written with fewer, exactly."""


@dataclass(frozen=True)
class Case:
    """A box of inputs `(n,)`, float64, and sums of outputs that are all zero or less: `rows y + at <= 0`.

    Rows are `(J, K)`, `at` is `(J,)`.
    """

    low: Tensor
    high: Tensor
    rows: Tensor
    at: Tensor

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest inputs in float32: what a network can be fed.

        Where no float32 lies between the bounds, as where a decimal fixes an input, the one next to them.
        """
        low, high = _rounded(self.low, 1), _rounded(self.high, -1)
        near = ((self.low + self.high) / 2).float().double()
        return torch.where(low > high, near, low), torch.where(low > high, near, high)

    def holds(self, x: Tensor) -> bool:
        """Whether an input `(n,)` is in the box, as float32 has it."""
        low, high = self.ends
        return bool(((self.low <= self.high) & (x >= low) & (x <= high)).all())


@dataclass(frozen=True)
class Property:
    """What must not happen: any of the cases."""

    inputs: int
    outputs: int
    cases: tuple[Case, ...]


def read(path: Path) -> Property:
    """Read a `.vnnlib` file, or a `.vnnlib.gz`.

    Raises:
        BadInput: not VNN-LIB, or more than bounds of inputs and linear comparisons of outputs.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not a file", "a .vnnlib file", "check the path")
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:  # Windows writes a mark before the text
            text = file.read()
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile):
        raise _refused(path, "is not text") from None
    try:
        return _property(_trees(text))
    except _Odd as odd:
        raise _refused(path, str(odd)) from None
    except RecursionError:
        raise _refused(path, "is nested too deeply") from None
    except OverflowError:
        raise _refused(path, "has sums that are too large") from None


class _Odd(Exception):
    """What is wrong with a file."""


def _refused(path: Path, why: str) -> BadInput:
    return BadInput(
        f"{path}, which {why}",
        "a property of the VNN competitions: bounds of every X_i, and linear comparisons of Y_j",
        "check the file",
    )


def _trees(text: str) -> list[Tree]:
    """The s-expressions of a text."""
    stack: list[list[Tree]] = [[]]
    for token in re.findall(r"[()]|[^\s()]+", re.sub(r";[^\n]*", "", text)):
        match token:
            case "(":
                stack.append([])
            case ")" if len(stack) == 1:
                raise _Odd("closes a bracket that is not open")
            case ")":
                done = stack.pop()
                stack[-1].append(done)
            case name:
                stack[-1].append(name)
    if len(stack) > 1:
        raise _Odd("is cut short: a bracket is left open")
    return stack[0]


def _property(trees: list[Tree]) -> Property:
    declared: list[str] = []
    asserted: list[list[list[Sum]]] = []
    for tree in trees:
        match tree:
            case ["declare-const", str(name), "Real"] if re.fullmatch(r"[XY]_\d+", name):
                declared.append(name)
            case ["assert", claim]:
                asserted.append(_cases(claim))
            case _:
                raise _Odd(f"has {_shown(tree)} where a declaration or an assertion should be")
    counts = {letter: sum(name[0] == letter for name in declared) for letter in "XY"}
    if set(declared) != {f"{letter}_{i}" for letter in "XY" for i in range(counts[letter])} or not all(counts.values()):
        raise _Odd("does not declare X_0, X_1, ... and Y_0, Y_1, ... without gaps")
    cases, known = _joined(asserted), {*declared, ""}
    for one in itertools.chain.from_iterable(cases):
        if unknown := set(one) - known:
            raise _Odd(f"uses {min(unknown)}, which is not declared")
    return Property(counts["X"], counts["Y"], tuple(_case(sums, counts["X"], counts["Y"]) for sums in cases))


def _cases(tree: Tree) -> list[list[Sum]]:
    """A claim as cases, each of sums that are all zero or less."""
    match tree:
        case ["and", *parts]:
            return _joined([_cases(part) for part in parts])
        case ["or", *parts] if parts:
            return [case for part in parts for case in _cases(part)]
        case ["<=", one, other]:
            return [[_sum([(_linear(one), 1), (_linear(other), -1)])]]
        case [">=", one, other]:
            return [[_sum([(_linear(other), 1), (_linear(one), -1)])]]
        case ["=", one, other]:
            return _joined([_cases(["<=", one, other]), _cases([">=", one, other])])
        case ["<" | ">", *_]:
            raise _Odd(f"has {_shown(tree)}: the standard has <= and >= only")
    raise _Odd(f"has {_shown(tree)} where a comparison should be")


def _joined(parts: list[list[list[Sum]]]) -> list[list[Sum]]:
    """All of the parts: a case of each."""
    if math.prod(map(len, parts)) > MOST:
        raise _Odd(f"has more than {MOST} cases")
    return [list(itertools.chain.from_iterable(case)) for case in itertools.product(*parts)]


def _linear(tree: Tree) -> Sum:
    match tree:
        case str(name) if re.fullmatch(r"[XY]_\d+", name):
            return {name: Fraction(1)}
        case str(number):
            return {"": _number(number)}
        case ["+", *parts] if parts:
            return _sum([(_linear(part), 1) for part in parts])
        case ["-", one]:
            return _sum([(_linear(one), -1)])
        case ["-", one, *others]:
            return _sum([(_linear(one), 1), *((_linear(part), -1) for part in others)])
        case ["*", one, other]:
            left, right = _linear(one), _linear(other)
            if set(left) - {""} and set(right) - {""}:
                raise _Odd(f"has the product {_shown(tree)}, which is not linear")
            factor, rest = (left, right) if not set(left) - {""} else (right, left)
            return _sum([(rest, factor.get("", Fraction(0)))])
    raise _Odd(f"has {_shown(tree)} where a number or a constant should be")


def _number(text: str) -> Fraction:
    """A decimal number, exactly. Tried as a float first: to raise ten to any power that a file names takes forever."""
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        raise _Odd(f"has {_shown(text)} where a number or a constant should be")
    if len(text) > LONGEST:
        raise _Odd(f"has {_shown(text)}, a number of {len(text)} characters")
    near, zero = float(text), not re.search(r"[1-9]", re.split("[eE]", text)[0])
    if math.isinf(near) or (near == 0 and not zero):
        raise _Odd(f"has {_shown(text)}, which is too large or too small")
    return Fraction(0) if zero else Fraction(text)


def _sum(parts: list[tuple[Sum, int | Fraction]]) -> Sum:
    total: Sum = {}
    for one, factor in parts:
        for name, value in one.items():
            total[name] = total.get(name, Fraction(0)) + factor * value
    return {name: value for name, value in total.items() if value}


def _shown(tree: Tree) -> str:
    text = tree if isinstance(tree, str) else f"({' '.join(map(_shown, tree))})"
    return text if len(text) <= 40 else f"{text[:36]} ..."


def _case(sums: list[Sum], inputs: int, outputs: int) -> Case:
    low, high = [-math.inf] * inputs, [math.inf] * inputs
    asked: list[Sum] = []
    for one in sums:
        names = [name for name in one if name]
        if any(name[0] == "X" for name in names):
            if len(names) > 1:
                raise _Odd("compares an input with more than a number")
            i, factor = int(names[0][2:]), one[names[0]]
            bound = float(-one.get("", Fraction(0)) / factor)
            if factor > 0:
                high[i] = min(high[i], bound)
            else:
                low[i] = max(low[i], bound)
        else:
            asked.append(one)
    if not all(map(math.isfinite, (*low, *high))):
        raise _Odd("leaves an input without bounds")
    if not asked:
        asked = [{}]  # nothing is asked of the outputs: every input will do
    rows = [[float(one.get(f"Y_{j}", 0)) for j in range(outputs)] for one in asked]
    at = [float(one.get("", 0)) for one in asked]
    return Case(*(torch.tensor(part, dtype=torch.float64) for part in (low, high, rows, at)))


# --- the answer

Verdict = Literal["unsat", "sat", "timeout"]


@dataclass(frozen=True)
class Solved:
    """The answer, the input `(n,)` and outputs `(K,)` of a counterexample, and how many parts were bounded."""

    verdict: Verdict
    x: Tensor | None
    y: Tensor | None
    parts: int

    def __str__(self) -> str:
        """As the competitions want it: the verdict, then the counterexample."""
        if self.x is None or self.y is None:
            return self.verdict
        pairs = [
            f"({letter}_{i} {value!r})"
            for letter, values in (("X", self.x), ("Y", self.y))
            for i, value in enumerate(values.double().tolist())
        ]
        return self.verdict + "\n(" + "\n ".join(pairs) + ")"


def solve(victim: Model, shape: tuple[int, ...], asked: Property, how: BranchAndBound) -> Solved:
    """Whether any input of a case does what the case says, for a network of inputs of this shape.

    Holds for the network as float32 runs it, on all inputs that round into the box. Cases that share a box are decided
    together; `how.seconds` are for all boxes, what is left of them in equal shares.

    Raises:
        BadInput: a network of another size, or without bounds.
    """
    until = how.clock() + how.seconds
    if math.prod(shape) != asked.inputs:
        raise BadInput(
            f"a property of {asked.inputs} inputs for a network of {math.prod(shape)}",
            "a property of this network",
            "check which file belongs to which",
        )
    net = graph(victim, torch.zeros(1, *shape))
    if net.size(len(net.nodes)) != (asked.outputs,):
        raise BadInput(
            f"a property of {asked.outputs} outputs for a network of {net.size(len(net.nodes))}",
            "a property of this network",
            "check which file belongs to which",
        )
    parts, open_, boxes = 0, False, _boxes(asked.cases)
    with inference(victim):
        for i, box in enumerate(boxes):
            share = max(0.0, until - how.clock()) / (len(boxes) - i)
            answer, z = _decide(net, victim, shape, box, replace(how, seconds=share))
            parts += answer.parts
            if z is not None:
                return Solved("sat", z.flatten(), victim(z)[0].detach(), parts)
            open_ = open_ or answer.status != "certified"
    return Solved("timeout" if open_ else "unsat", None, None, parts)


def _boxes(cases: tuple[Case, ...]) -> list[list[Case]]:
    """Cases by their box; those of an empty one are left out."""
    boxes: dict[tuple[bytes, bytes], list[Case]] = {}
    for case in cases:
        if bool((case.low <= case.high).all()):
            boxes.setdefault((case.low.numpy().tobytes(), case.high.numpy().tobytes()), []).append(case)
    return list(boxes.values())


def _decide(
    net: Graph, model: Model, shape: tuple[int, ...], cases: list[Case], how: BranchAndBound
) -> tuple[Answer, Tensor | None]:
    low, high = cases[0].low.view(1, *shape), cases[0].high.view(1, *shape)
    region = Region((low + high) / 2, _rounded(low, -1), _rounded(high, 1), torch.zeros(1), "linf")
    least, most = (end.float().view(1, *shape) for end in cases[0].ends)

    def place(t: Tensor) -> Tensor:
        """A point of the unit box in the box."""
        return torch.minimum(torch.maximum(least + (most - least) * t, least), most)

    count = max(len(case.rows) for case in cases)
    claims = Claims(  # a case is ruled out where any of its sums is above zero; a sum more or less changes nothing
        torch.stack([torch.cat([one.rows, one.rows[-1:].expand(count - len(one.rows), -1)]) for one in cases]),
        torch.stack([torch.cat([one.at, one.at[-1:].expand(count - len(one.at))]) for one in cases]),
    )
    half = torch.full((1, *shape), 0.5)
    answer = how.decide(Question(net, region, claims, lambda t: model(place(t)), half, linf(0.5)))
    return answer, None if answer.z is None else place(answer.z)


def _rounded(bound: Tensor, way: int) -> Tensor:
    """The next float32 upwards or downwards, itself where it is one."""
    near = bound.float()
    over = near.double() < bound if way > 0 else near.double() > bound
    return torch.where(over, torch.nextafter(near, torch.tensor(way * torch.inf)), near).double()


def confirmed(path: Path, asked: Property, found: Solved) -> bool:
    """Whether a counterexample is one for onnxruntime too."""
    from sparring.models.onnx import Reference

    assert found.x is not None
    reference = Reference.of(_session(path))
    outputs = reference.scores(found.x.view(1, *(size or 1 for size in reference.shape)))
    x, y = found.x.double(), outputs.double().flatten()
    return any(one.holds(x) and bool((one.rows @ y + one.at <= 0).all()) for one in asked.cases)


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def load(path: Path) -> tuple[Victim, tuple[int, ...]]:
    """The network of an ONNX file, and the shape of its inputs.

    Raises:
        BadInput: no network with gradients, or one that leaves the shape open.
    """
    from sparring.models import onnx

    victim = onnx.load(path)
    shape = tuple(_session(path).get_inputs()[0].shape[1:])
    if victim.module is None:
        raise BadInput(f"{path} ({victim.notes[0]})", "a network that can be imported", "export it again")
    if not all(isinstance(size, int) for size in shape):
        raise BadInput(f"{path}, of inputs {shape}", "inputs of one shape", "export it with its shape")
    return victim, shape


def answer(network: Path, asked: Path, seconds: float) -> Solved:
    """Answer the question of a `.vnnlib` file about an `.onnx` file.

    Raises:
        BadInput: files that cannot be read, or a counterexample that onnxruntime does not agree with.
    """
    victim, shape = load(network)
    prop = read(asked)
    found = solve(victim, shape, prop, BranchAndBound(seconds=seconds))
    if found.x is not None and not confirmed(network, prop, found):
        raise BadInput(
            f"{network}, whose counterexample is none for onnxruntime",
            "a network that both compute alike",
            "the outputs are too close to tell",
        )
    return found
