"""The example of a recommender of one's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "promote_an_item.py"


def test_a_recommender_of_ones_own_is_pushed_by_fake_users_and_one_that_learns_nothing_is_suspect() -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE)]
    place = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=place)
    assert done.returncode == 0, done.stderr
    said, means, *_ = done.stdout.splitlines()
    assert said.startswith("15 fake users beside 300 real ones")
    assert means.startswith("damped_means: suspect: ")
    own = done.stdout.partition("taste: ")[2]
    assert own.startswith("trusted: ")
    before, after, caught = (float(share) for share in re.findall(r"([\d.]+)%", own.splitlines()[1]))
    assert before < 5
    assert after > 50
    assert caught <= 100
