"""The example of a chatbot that reads pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "inject_a_text.py"


def test_a_chatbot_is_taken_over_and_marks_help_against_who_does_not_know_them() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE)]
    place = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=place)
    assert done.returncode == 0, done.stderr
    bare, unaware, adaptive = done.stdout.splitlines()
    assert bare == "trusted: 100% of 5 pages take it over (outright)"
    assert unaware.endswith(": 0%")
    assert adaptive.endswith(": 100%")
