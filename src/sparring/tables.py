"""The tables of `sparring list`: what there is to choose from, a row each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparring.registry import Entry, Kind

Row = tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """The heads of the columns, and what fills them; to fill them imports what they are about."""

    head: Row
    rows: Callable[[], Sequence[Row]]


def _members(kind: Kind, *head: str, facts: Callable[[Entry], Iterable[str]] = lambda entry: ()) -> Listed:
    """The members of a kind: their names, facts about them, and what they do."""

    def rows() -> list[Row]:
        from sparring.registry import members

        return [(entry.name, *facts(entry), entry.summary) for entry in members(kind).values()]

    return Listed(head, rows)


def _threats() -> list[Row]:
    from sparring.registry import members

    return [(f"{entry.name}:EPS", entry.summary) for entry in members("threats").values()]


def _rewritings() -> list[Row]:
    from sparring.registry import members

    return [(f"{entry.name}:WORDS", entry.summary) for entry in members("rewritings").values()]


def _tasks() -> list[Row]:
    from sparring.tasks import form, known

    return [(form(kind), kind.needs, str(kind.__doc__).split("\n")[0]) for kind in known().values()]


def _suites() -> list[Row]:
    from sparring.evaluate.suites import SUITES

    return [(name, str(make.__doc__).split("\n")[0]) for name, make in SUITES.items()]


def _gradient(entry: Entry) -> str:
    """What an attack has of a defence's gradient."""
    from sparring.types import Defence

    made = entry.make()
    if not isinstance(made, Defence):
        return "learns"
    return "random" if made.draws > 1 else "exact" if made.differentiable else "stand-in"


def _recipes() -> list[Row]:
    from sparring.training.settings import Settings, recipe, recipes

    return [
        (
            name,
            one.model.rpartition(":")[2] or "any",
            one.data.name or "any",
            one.threat or "any",
            str(one.objective["name"]),
            *(f"{share:.1%}" if (share := one.reached.get(kind)) is not None else "" for kind in ("clean", "robust")),
            f"{one.reached['minutes']:g} min" if "minutes" in one.reached else "",
        )
        for name, one in ((name, Settings.of(recipe(name))) for name in recipes())
    ]


def _datasets() -> list[Row]:
    from sparring.data import DATASETS

    return [(name, loader.description) for name, loader in DATASETS.items()]


def _models() -> list[Row]:
    from sparring.models.capabilities import CAPABILITIES

    return [(row.framework, row.access, row.loaded) for row in CAPABILITIES]


TABLES = {
    "attacks": _members(
        "attacks", "attack", "needs", "threats", "what it does", facts=lambda one: (one.needs, " ".join(one.kinds))
    ),
    "threats": Listed(("threat", "what it allows"), _threats),
    "rewritings": Listed(("threat on texts", "what may stand in place of a word"), _rewritings),
    "tasks": Listed(("task", "outputs and labels", "what is asked"), _tasks),
    "suites": Listed(("suite", "what it is for"), _suites),
    "defences": _members(
        "defences", "defence", "gradient", "inputs", "what it does", facts=lambda one: (_gradient(one), one.shape)
    ),
    "detectors": _members("detectors", "detector", "inputs", "what its score is", facts=lambda one: (one.shape,)),
    "objectives": _members(
        "objectives", "objective", "passes", "what training minimises", facts=lambda one: (one.passes,)
    ),
    "augmentations": _members(
        "augmentations", "augmentation", "inputs", "what it does", facts=lambda one: (one.shape,)
    ),
    "recipes": Listed(("recipe", "network", "data", "threat", "objective", "clean", "robust", "took"), _recipes),
    "certificates": _members(
        "certificates", "certificate", "threats", "what it does", facts=lambda one: (" ".join(one.kinds),)
    ),
    "datasets": Listed(("data set", "what it is"), _datasets),
    "models": Listed(("framework", "an attacker gets", "how it is handed over"), _models),
}
