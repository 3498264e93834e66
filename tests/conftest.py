"""What every test shares: the data beside the repository, one thread, and the same random examples on every run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

beside = Path(__file__).resolve().parents[2] / "shared" / "data"
if beside.is_dir():
    os.environ.setdefault("SPARRING_DATA", str(beside))

torch.set_num_threads(1)
torch.manual_seed(0)  # of what modules of tests make as they are imported
settings.register_profile("sparring", deadline=None, derandomize=True)
settings.load_profile("sparring")


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has what it runs in the background ignore Ctrl-C; tests send it, to themselves and to their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def the_same_random_numbers() -> None:
    """Whatever ran before: a test that fails once in a thousand runs says nothing to whoever changed something."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sparring_data() -> Path:
    """The folder with the full data sets and published networks; tests that need it are skipped where it is missing."""
    folder = os.environ.get("SPARRING_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SPARRING_DATA is not set: the full data sets and published networks are not here")
    return Path(folder)
