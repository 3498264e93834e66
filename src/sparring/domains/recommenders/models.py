"""The recommenders by name, and which feedback they learn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparring.domains.recommenders.alternating import MF, WRMF
from sparring.domains.recommenders.bpr import BPR
from sparring.domains.recommenders.ease import EASE
from sparring.domains.recommenders.neighbours import ItemCosine, ItemKNN, UserKNN
from sparring.domains.recommenders.recommender import Recommender
from sparring.errors import BadInput, named
from sparring.factories import locate
from sparring.spelling import hint


@dataclass(frozen=True)
class Known:
    """A recommender of this package, and whether all it learns from is what people looked at."""

    make: Callable[[], Recommender]
    implicit: bool


RECOMMENDERS: dict[str, Known] = {
    "user-knn": Known(UserKNN, implicit=False),
    "item-knn": Known(ItemKNN, implicit=False),
    "mf": Known(MF, implicit=False),
    "item-cosine": Known(ItemCosine, implicit=True),
    "ease": Known(EASE, implicit=True),
    "wrmf": Known(WRMF, implicit=True),
    "bpr": Known(BPR, implicit=True),
}


def recommender(spec: str) -> tuple[Recommender, bool]:
    """The recommender of this name, or of a factory (`file.py:factory`), and whether it wants implicit feedback.

    One's own is taken to want what the file holds.

    Raises:
        BadInput: there is none, or the factory does not return a function.
    """
    if ":" not in spec:
        if spec not in RECOMMENDERS:
            do = hint(spec, RECOMMENDERS, "or hand over your own as file.py:factory")
            raise BadInput(f"recommender {spec!r}", f"one of {', '.join(RECOMMENDERS)}", do)
        return RECOMMENDERS[spec].make(), RECOMMENDERS[spec].implicit
    make, need = locate(spec), "a factory () -> (data, rng) -> scores"
    if not callable(make):
        raise BadInput(f"{spec!r} is a {type(make).__name__}", need, "name another one")
    try:
        made = make()
    except Exception as error:
        raise BadInput(f"{spec!r} raised {named(error)}", need, "mend it") from error
    if not callable(made):
        raise BadInput(f"{spec!r} returned a {type(made).__name__}", need, "let it return the function that trains")
    return made, False
