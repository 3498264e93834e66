"""Reports: every one reads a Result and a gallery, nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparring.evaluate.result import Result
from sparring.writing import in_one_move

if TYPE_CHECKING:
    from sparring.report.gallery import Gallery
    from sparring.report.page import Section
    from sparring.report.words import Language


def write(
    folder: Path,
    results: Sequence[Result],
    galleries: Mapping[str, Gallery] | None = None,
    *,
    title: str | None = None,
    sections: Sequence[Section] = (),
    language: Language = "en",
) -> Path:
    """Write `report.html` into the folder, in one move, and return its path.

    `galleries` maps the names of the results to their pictures; the title is made of the names where none is given.
    """
    from sparring.report import derive
    from sparring.report.page import page
    from sparring.report.words import name_text, words

    named = " / ".join(name_text(result, words(language)) for result in derive.told_apart(results))
    heading = title if title is not None else named
    text = page(results, galleries or {}, title=heading, sections=sections, language=language)
    path = folder / "report.html"
    with in_one_move(path) as file:
        file.write(text.encode())
    return path


def read(folder: Path) -> tuple[Result, Gallery]:
    """The `result.json` of an audit and the `gallery.npz` beside it; an empty gallery where there is none.

    Raises:
        BadInput: no result there, or one of the two files is not what it should be.

    """
    from sparring.report.gallery import load

    result, pictures = Result.load(folder / "result.json"), folder / "gallery.npz"
    return result, load(pictures) if pictures.exists() else ()
