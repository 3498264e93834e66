"""What a run has done so far, a line a bout: a run that was killed goes on from there, and loses one case at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sparring.domains.chat.result import Bout, Clean
from sparring.errors import BadInput, line

NAME = "journal.jsonl"


class Journal:
    """The bouts of a run, in memory without a folder. The first line of the file holds the settings.

    A last line that was being written when the run was killed is left out.

    Raises:
        BadInput: an unfinished run in the folder that is not to be resumed, or one of other settings.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, object], *, resume: bool) -> None:
        self.path = None if folder is None else folder / NAME
        self.clean: dict[str, Clean] = {}
        self.bouts: dict[tuple[str, str], Bout] = {}
        begun = [] if self.path is None or not self.path.exists() else _lines(self.path)
        if len(begun) > 1 and not resume and not begun[-1].get("finished"):
            do = "add --resume to go on with it, or give another --out"
            raise BadInput(f"{folder} holds an unfinished run", "a decision", do)
        if begun and resume:
            now = json.loads(json.dumps(settings))
            if changed := [key for key in now if begun[0].get(key) != now[key]]:
                do = "give the options of that run, or another --out"
                raise BadInput(f"the run in {folder} differs in {', '.join(changed)}", "the same settings", do)
            for row in begun[1:]:
                self._take(row)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = begun if begun and resume else [dict(settings)]
            self.path.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")

    def _take(self, row: dict[str, object]) -> None:
        if "clean" in row:
            known = Clean.model_validate(row["clean"])
            self.clean[known.case] = known
        elif "bout" in row:
            bout = Bout.model_validate(row["bout"])
            self.bouts[bout.attack, bout.case] = bout

    def knows(self, clean: Clean) -> Clean:
        """Keep what a case says by itself."""
        self._write({"clean": clean.model_dump(mode="json")})
        self.clean[clean.case] = clean
        return clean

    def keeps(self, bout: Bout) -> Bout:
        """Keep a bout."""
        self._write({"bout": bout.model_dump(mode="json")})
        self.bouts[bout.attack, bout.case] = bout
        return bout

    def finish(self) -> None:
        """Say that the result was written."""
        self._write({"finished": True})

    def _write(self, row: object) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(row)}\n")


def _lines(path: Path) -> list[dict[str, object]]:
    """The lines of a journal that are whole."""
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise BadInput(f"cannot read {path} ({line(error)})", "a journal", "give another --out") from None
    found = []
    for row in rows:
        try:
            found.append(json.loads(row))
        except ValueError:
            break
    return found
