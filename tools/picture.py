"""Take the picture in README.md: the top of the demo's report, in a browser without a window.

    python tools/picture.py sparring-demo/report.html

Needs Chromium or Chrome (`BROWSER_PATH` names another place). Run by `make picture`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

TARGET = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "report.png"
WIDTH, HEIGHT = 1180, 1205
"""Down to the end of the comparison."""
MOST = 300_000
"""Bytes: a README is opened more often than it is read."""


def browser() -> str:
    """The browser to use."""
    known = (os.environ.get("BROWSER_PATH", ""), "chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in known if name and (path := shutil.which(name))), None)
    return found or sys.exit("no Chromium here; install it, or name it in BROWSER_PATH")


def shoot(page: Path, shot: Path) -> None:
    """The page as a browser shows it in a tall window."""
    options = [f"--window-size={WIDTH},{HEIGHT + 200}", "--hide-scrollbars", f"--user-data-dir={shot.parent}/profile"]
    options += ["--no-sandbox"] if os.geteuid() == 0 else []  # as root, Chromium refuses to start with its sandbox
    command = [browser(), "--headless", "--disable-gpu", *options, f"--screenshot={shot}", page.resolve().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> None:
    """Shoot, crop, and refuse what is too large."""
    page = Path(sys.argv[1])
    if not page.is_file():
        sys.exit(f"no report at {page}; run: make demo")
    with tempfile.TemporaryDirectory() as scratch:
        shot = Path(scratch, "shot.png")
        shoot(page, shot)
        picture = Image.open(shot).convert("RGB").crop((0, 0, WIDTH, HEIGHT))
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    picture.save(TARGET, optimize=True)
    print(f"{TARGET.name}: {TARGET.stat().st_size:,} bytes")
    if TARGET.stat().st_size > MOST:
        sys.exit(f"more than {MOST:,} bytes: crop it further")


if __name__ == "__main__":
    main()
