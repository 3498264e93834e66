"""The settings of a run of training, as TOML and as values: what a recipe says, and what is saved with the run."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from sparring.attacks import pgd
from sparring.digests import digest
from sparring.errors import BadInput
from sparring.limits import LARGEST_SEED
from sparring.registry import Entry, find, members
from sparring.spelling import hint
from sparring.streams import Streams
from sparring.threats import Ball, parse
from sparring.training.augmentations import Mixup, each
from sparring.training.fitting import counted, fits, settings_of
from sparring.training.hardware import Precision
from sparring.training.objectives import INNER, Objective, maximiser
from sparring.training.rates import RATES, Rate, one_cycle
from sparring.training.schedules import RAMPS
from sparring.training.weights import AWP, SAM, Average, Neighbourhood, ema, swa
from sparring.types import Attack

Named = dict[str, Any]
"""A table with a `name`, and the settings of what is called so."""


A_LIST, A_TABLE, LOW_HIGH = "a list", "a table", "two numbers, low < high"
WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": A_LIST,
    "dict_type": A_TABLE,
    "model_type": A_TABLE,
    "too_long": "one of them",
}
"""What is needed, by the names that pydantic has for mistakes; for others its own words do."""


class Part(BaseModel):
    """A table of the settings: frozen, and without room for anything unknown.

    Whatever may be left out is left out where it says `none`. A table in it without a name is the default's, changed.
    """

    # strict: pydantic would read `epochs = true` as 1, and "3" as 3
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _understood(cls, given: Any) -> Any:
        """What was given, with `none` and defaults filled in."""
        if not isinstance(given, Mapping):
            return given
        known = cls.model_fields
        return {name: _meant(known[name], value) if name in known else value for name, value in given.items()}

    def written(self) -> dict[str, Any]:
        """All settings, as they are given; `none` where one is left out that has a default."""
        said = self.model_dump(mode="json", exclude_none=True, fallback=_made_in_python)
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, Part):
                said[name] = value.written()
            elif value is None and info.get_default(call_default_factory=True) is not None:
                said[name] = "none"
        return said


def _meant(info: FieldInfo, value: Any) -> Any:
    """What a value stands for in a setting."""
    if value == "none" and type(None) in get_args(info.annotation):
        return None
    if isinstance(value, np.generic):
        return value.item()
    usual = info.get_default(call_default_factory=True)
    if not isinstance(value, Mapping) or not isinstance(usual, Mapping) or "name" in value or "name" not in usual:
        return value
    return {**usual, **value}


def _text(value: Any) -> Any:
    """A whole number as text: TOML reads `--set precision=32` as one."""
    return str(value) if type(value) is int else value


class DataPart(Part):
    """[data]: what is trained on."""

    name: str = ""
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    validation: int = Field(default=500, ge=0)
    """Examples held out of training, for alarms and for the best weights."""
    extra: str | None = None
    """More data to draw a `share` of every batch from."""
    share: float = Field(default=0.5, gt=0, lt=1)
    labelled: bool = True
    """Whether the labels of the extra data are to be used; the objective `vat` does without."""


class OptimiserPart(Part):
    """[optimiser]: what turns gradients into steps."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=5e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd."""
    weight_decay: float = Field(default=0.0, ge=0)


class ValidationPart(Part):
    """[validation]: how often, and by what, the examples held out are attacked."""

    every: int = Field(default=1, ge=1)
    attack: Named = Field(default_factory=lambda: {"name": "pgd", "steps": 10})
    keep: Literal["best", "last"] = "best"
    patience: int | None = Field(default=None, ge=1)


class AuditPart(Part):
    """[audit]: the evaluator's word at the end, on other data."""

    suite: Literal["quick", "standard", "thorough", "none"] = "standard"
    split: str = "test"
    limit: int | None = Field(default=1000, ge=1)
    """How many examples; `none` for all of them."""


class CheckpointPart(Part):
    """[checkpoint]: how often what is needed to go on is written."""

    seconds: float = Field(default=60.0, gt=0)
    steps: int | None = Field(default=None, ge=1)


class Settings(Part):
    """All settings of a run; what is not given has the defaults of `sparring.training.Trainer`."""

    model: str = ""
    weights: str | None = None
    threat: str = ""
    bounds: tuple[float, float] = Field(default=(0.0, 1.0), strict=False)  # TOML has lists alone
    data: DataPart = DataPart()
    objective: Named = Field(default_factory=lambda: {"name": "adversarial"})
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=1)
    seed: int = Field(default=0, ge=-LARGEST_SEED, le=LARGEST_SEED)
    optimiser: OptimiserPart = OptimiserPart()
    schedule: Named = Field(default_factory=lambda: {"name": "one-cycle"})
    ramp: Named = Field(default_factory=lambda: {"name": "linear", "share": 0.3})
    stretch: float = Field(default=1.0, gt=0)
    """The eps that training faces, as a multiple of the threat's: a little over 1 leaves room (Gowal et al., 2018)."""
    clip: float | None = Field(default=None, gt=0)
    precision: Annotated[Precision, BeforeValidator(_text)] = "32"
    augment: tuple[str | Named, ...] = Field(default=(), strict=False)
    average: dict[Literal["ema", "swa"], Annotated[float, Field(ge=0, lt=1)]] = Field({"ema": 0.999}, max_length=1)
    """`ema = decay`, `swa = share of the updates after which it begins`; neither: the last weights."""
    neighbourhood: dict[Literal["awp", "sam"], Annotated[float, Field(ge=0)]] = Field(default={}, max_length=1)
    """`awp = gamma` or `sam = rho`."""
    remedy: Named | None = Field(default_factory=lambda: {"name": "adversarial"})
    """The objective to go on with after catastrophic overfitting; `none`, or `name = "none"`, stops there."""
    validation: ValidationPart = ValidationPart()
    audit: AuditPart = AuditPart()
    checkpoint: CheckpointPart = CheckpointPart()
    reached: dict[str, Any] = Field(default_factory=dict)
    """What a recipe says of itself: figures, cost, command. Nothing depends on it."""

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> Self:
        """Settings from layers, the later ones over the earlier: tables are merged, but those with a name replaced.

        Raises:
            BadInput: an unknown setting, or a value that it cannot have.

        """
        merged: dict[str, Any] = {}
        for layer in layers:
            merged = _over(merged, layer)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"] if part not in ("[key]", "str"))  # which are pydantic's
            if first["type"] == "extra_forbidden":
                do = hint(str(first["loc"][-1]), _names(cls), "see docs/en/train.md")
                raise BadInput(f"the setting '{place}'", "one that there is", do) from None
            if first["loc"][0] == "bounds":
                raise BadInput(f"bounds = {merged['bounds']!r}", LOW_HIGH, "write for example [0.0, 1.0]") from None
            need = WORDS.get(first["type"], first["msg"].removeprefix("Input should be "))
            do = "see docs/en/train.md" if need in (A_LIST, A_TABLE) else "give another value"
            raise BadInput(f"{place} = {first['input']!r}", need, do) from None

    @property
    def digest(self) -> str:
        """What a training must have in common with a checkpoint to go on from it."""
        parts = self.model_dump(
            mode="json", exclude={"audit", "checkpoint", "reached", "weights"}, fallback=_made_in_python
        )
        return json.dumps(parts, sort_keys=True)

    def toml(self) -> str:
        """As a recipe, complete: `sparring train --recipe FILE` does the same again."""
        return "\n".join(_toml(self.written(), ())) + "\n"

    # What the settings stand for

    def ball(self) -> Ball:
        """The threat."""
        low, high = self.bounds
        if not low < high:
            raise BadInput(f"bounds = [{low:g}, {high:g}]", LOW_HIGH, "give the range of valid inputs")
        threat = parse(self.threat, low=low, high=high)
        if not isinstance(threat, Ball):
            raise BadInput(f"threat {self.threat}", "a norm: linf, l2, l1 or l0", "write for example linf:8/255")
        return threat

    def objectives(self, threat: Ball, classes: int) -> tuple[Objective, Objective | None]:
        """The objective, and the one to go on with after catastrophic overfitting, against the stretched threat."""
        threat = threat.times(self.stretch)
        remedy = (
            None
            if self.remedy is None or self.remedy.get("name") == "none"
            else _objective(self.remedy, threat, classes)
        )
        objective = _objective(self.objective, threat, classes)
        for one in map(_named, self.augment):
            if one.get("name") == "mixup":
                objective = _made("augment", partial(Mixup, objective, classes), one)
        return objective, remedy

    def suit(self, shape: Sequence[int]) -> None:
        """Refuse attacks on images, where inputs of this shape are none.

        Raises:
            BadInput: one of them, that of an objective too.

        """
        inner = [_named(table["attack"]) for table in (self.objective, self.remedy or {}) if "attack" in table]
        attacks = [one for one in (self.validation.attack, *inner) if one.get("name") not in INNER]
        for table in attacks if len(shape) != 3 else ():
            entry = members("attacks").get(str(table.get("name")))
            if entry is not None and entry.shape == "image":
                need = "images (C, H, W)"
                raise BadInput(f"{entry.name} on inputs of shape {tuple(shape)}", need, "choose another attack")

    def augmentation(self) -> Callable[[Tensor, Streams], Tensor] | None:
        """All augmentations but mixup, one after the other."""
        named = [table for table in map(_named, self.augment) if table.get("name") != "mixup"]
        found = [_made("augment", find("augmentations", _name("augment", table)).make, table) for table in named]
        return each(*found) if found else None

    def optimizer(self) -> Callable[..., Optimizer]:
        """What makes the optimiser, by torch's fused kernels."""
        decay, momentum = self.optimiser.weight_decay, self.optimiser.momentum
        if self.optimiser.name == "sgd":
            return partial(SGD, momentum=momentum, weight_decay=decay, nesterov=momentum > 0, fused=True)
        return partial(Adam if self.optimiser.name == "adam" else AdamW, weight_decay=decay, fused=True)

    def rate(self) -> Rate:
        """How the learning rate changes. One cycle moves the momentum of sgd only where its own table says so.

        Raises:
            BadInput: there is no such schedule, or a momentum for an sgd that has none.

        """
        make, table = _among("schedule", self.schedule, RATES), dict(self.schedule)
        if make is one_cycle:
            sgd, moved = self.optimiser.name == "sgd", table.get("momentum", "none")
            if sgd and moved != "none" and not self.optimiser.momentum:
                do = "give one, or leave it out of the schedule"
                raise BadInput(f"schedule.momentum = {moved} for an sgd of momentum 0", "an optimiser.momentum", do)
            if moved == "none" and (sgd or "momentum" in table):
                table["momentum"] = None
        made: Rate = _made("schedule", make, table)
        return made

    def strength(self) -> Callable[[float], float]:
        """How the threat grows in."""
        grown = _among("ramp", self.ramp, RAMPS)
        made: Callable[[float], float] = _made("ramp", partial(partial, grown), self.ramp, grown)
        made(0.0)  # a share that is none is refused no earlier
        return made

    def averaging(self) -> tuple[float | Callable[[nn.Module], Average], float]:
        """What averages the weights, and from which share of the updates on."""
        if "swa" in self.average:
            return swa, self.average["swa"]
        decay = self.average.get("ema", 0.0)
        return (partial(ema, decay=decay) if decay else 0.0), 0.0

    def neighbour(self) -> Neighbourhood | None:
        """The neighbourhood of the weights."""
        kinds: dict[str, Callable[[float], Neighbourhood]] = {"awp": AWP, "sam": SAM}
        return next((kinds[name](size) for name, size in self.neighbourhood.items() if size), None)

    def challenger(self) -> Callable[[Ball], Attack]:
        """The attack on the examples held out.

        Raises:
            BadInput: there is no such attack, it is not for this threat, or it learns from the examples.

        """
        name = _name("validation.attack", self.validation.attack)
        entry, rest = find("attacks", name), _rest(self.validation.attack)
        if entry.amortised:
            need = "one that attacks each example by itself"
            raise BadInput(f"validation.attack = {name!r}, which learns from many", need, "take pgd")
        made = pgd if name == "pgd" else entry.make
        _within(entry, self.ball())
        for look in (fits, counted):
            look("validation.attack", settings_of(made), rest)
        with _suiting("validation.attack", self.validation.attack):
            made(self.ball(), **rest)  # some settings are refused no earlier
        return partial(made, **rest)


SHELF = resources.files("sparring").joinpath("recipes")


def recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    files = [file.name for file in SHELF.iterdir()] if SHELF.is_dir() else []
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))


def recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by its name or as a TOML file.

    Raises:
        BadInput: neither, or no TOML.

    """
    known = recipes()
    source: Any = SHELF.joinpath(f"{name}.toml") if name in known else Path(name)
    if not source.is_file():
        raise BadInput(f"no recipe '{name}'", f"a TOML file, or one of {', '.join(known)}", "check the name")
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"'{name}' is no TOML ({error})", "a recipe as in docs/en/train.md", "mend it") from None


def assigned(text: str) -> dict[str, Any]:
    """What `--set key=value` says: a dotted key, and a value as in TOML (text needs no quotes).

    Raises:
        BadInput: no `=`, or no key.

    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--set {text}", "key=value", "write for example --set optimiser.lr=0.01")
    try:
        found: Any = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        found = value.strip()
    for part in reversed(key.strip().split(".")):
        found = {part: found}
    return dict(found)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One layer of settings over another; a table that names something else is another table."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if not isinstance(value, Mapping) or not isinstance(old, Mapping) or key in ("average", "neighbourhood"):
            merged[key] = value
            continue
        renamed = key not in ("data", "optimiser") and value.get("name", old.get("name")) != old.get("name")
        merged[key] = dict(value) if renamed else _over(old, value)
    return merged


def _names(part: type[BaseModel]) -> list[str]:
    """All names of settings, those of the tables too."""
    found = list(part.model_fields)
    for info in part.model_fields.values():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += _names(info.annotation)
    return found


def _name(place: str, table: Named) -> str:
    if not isinstance(table.get("name"), str):
        raise BadInput(f"{place} = {table}", "a name", f'write for example {place} = {{ name = "..." }}')
    return str(table["name"])


def _named(attack: Any) -> Named:
    """An inner attack, of which the name alone may be said."""
    return attack if isinstance(attack, dict) else {"name": attack}


def _among(place: str, table: Named, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    name = _name(place, table)
    if name not in known:
        raise BadInput(f"{place} = {name!r}", f"one of {', '.join(known)}", "check the spelling")
    return known[name]


def _made(place: str, make: Callable[..., Any], table: Named, judge: Callable[..., Any] | None = None) -> Any:
    """What a table stands for: `make` with the rest of its entries."""
    rest = _rest(table)
    fits(place, settings_of(judge or make), rest)
    with _suiting(place, table):
        return make(**rest)


def _objective(table: Named, threat: Ball, classes: int) -> Objective:
    """An objective by its name, for so many classes; its inner attack by name too."""
    entry = find("objectives", _name("objective", table))
    _within(entry, threat)
    make, rest = entry.make, _rest(table)
    if "attack" in rest:
        attack = _named(rest["attack"])
        name = _name("objective.attack", attack)
        rest["attack"] = maximiser(name, **_rest(attack))
        if name not in INNER:
            _within(members("attacks")[name], threat)
    fits("objective", settings_of(make), rest)
    if "classes" in signature(make).parameters:
        rest = {"classes": classes, **rest}
    with _suiting("objective", table):
        if "attack" in rest:
            rest["attack"](threat)  # some settings are refused no earlier
        made: Objective = make(threat, **rest)
    return made


def _within(entry: Entry, threat: Ball) -> None:
    """Refuse what is not for threats of this norm."""
    if threat.norm.name not in entry.kinds:
        fitting = f"a norm of {', '.join(entry.norms)}" if entry.norms else f"the threat {' or '.join(entry.threats)}"
        raise BadInput(f"{entry.name} for {threat}", fitting, "choose another one, or another threat")


def _rest(table: Named) -> dict[str, Any]:
    """The settings of what a table names."""
    return {key: value for key, value in table.items() if key != "name"}


@contextmanager
def _suiting(place: str, table: Named) -> Iterator[None]:
    """Refuse in one line what cannot be made of a table."""
    try:
        yield
    except BadInput:
        raise
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise BadInput(f"{place} = {table} ({error})", "settings that fit it", "mend them") from error


def _made_in_python(value: Any) -> str:
    """What text cannot say, in words: a network by its layers and a hash of its weights."""
    if not isinstance(value, nn.Module):
        return repr(value)
    return f"{value!r} {digest(*value.state_dict().values())}"


def _toml(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """A table and the tables in it, as lines."""
    table = {key: value for key, value in table.items() if value is not None}  # TOML has none
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    if path and (plain or not table):
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _toml(value, (*path, key))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    """A key, in quotes where it has to be."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def layers(given: Mapping[str, Any], single: Sequence[str]) -> dict[str, Any]:
    """What a command line said, as settings: its options, and over them every `--set`."""
    options = {
        "model": given["model"],
        "weights": given["weights"],
        "threat": given["threat"],
        "bounds": given["bounds"],
        "epochs": given["epochs"],
        "seed": given["seed"],
        "data": _given(name=given["data"], limit=given["limit"]),
        "objective": _given(name=given["method"]),
        "audit": _given(suite=given["budget"]),
    }
    merged = _given(**options)
    for text in single:
        merged = _over(merged, assigned(text))
    return merged


def _given(**values: Any) -> dict[str, Any]:
    """What has a value."""
    return {key: value for key, value in values.items() if value not in (None, {}, ())}
